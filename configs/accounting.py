"""What a model weighs: parameters, bytes on disk, state of a stream, bytes read for a token.

Everything is computed from the tensor list of `configs.inventory`. MB = 10⁶ bytes, MiB = 2²⁰ bytes. A *round*
is one pass through the looped layers; one round is a model that does not loop.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from configs.inventory import Layer, Part, Tensor, layers, tensors
from configs.schema.model import ModelConfig

TernaryFormat = Literal["2-bit", "1.6-bit", "1.25-bit"]
TERNARY_BITS: Mapping[TernaryFormat, float] = {"2-bit": 2.0, "1.6-bit": 1.6, "1.25-bit": 1.25}
SCALE_BITS = 16
ROW_SCALE_BYTES = 4
FLOAT_BYTES = 4
TILE_ROWS, TILE_COLUMNS = 32, 64
ALIGNMENT = 64


def padded(count: int, step: int) -> int:
    """The next multiple of `step`."""
    return -(-count // step) * step


def parameters(config: ModelConfig, *, part: Part | None = None, layer: int | None = None) -> int:
    """Stored parameters, of the whole model, a part or a layer. Buffers are not parameters."""
    return sum(
        tensor.size
        for tensor in tensors(config)
        if not tensor.buffer and part in (None, tensor.part) and layer in (None, tensor.layer)
    )


def projection_parameters(config: ModelConfig) -> int:
    """The embedding and the ternary matrices that every token meets: the figure that model names quote."""
    return sum(
        tensor.size for tensor in tensors(config) if tensor.storage != "float32" and tensor.part != "experts"
    )


def expert_matrix_parameters(config: ModelConfig) -> int:
    """The ternary matrices of all experts, shared ones among them."""
    return sum(t.size for t in tensors(config) if t.storage == "ternary" and t.part == "experts")


def active_expert_parameters(config: ModelConfig, *, rounds: int = 1) -> int:
    """Ternary expert weights that a token meets, counted once for each visit."""
    moe = config.backbone.moe
    share = moe.num_experts_per_tok / moe.n_routed_experts
    return sum(
        round(tensor.size * (share if tensor.experts else 1)) * visits
        for tensor, visits in _visited(config, rounds)
        if tensor.storage == "ternary" and tensor.part == "experts"
    )


def active_parameters(config: ModelConfig) -> int:
    """Stored parameters that one token meets; those of a loop count once."""
    moe = config.backbone.moe
    unused = sum(
        round(tensor.size * (1 - moe.num_experts_per_tok / tensor.experts))
        for tensor in tensors(config)
        if tensor.experts
    )
    return parameters(config) - unused


def applied_parameters(config: ModelConfig, *, rounds: int, experts: bool = True) -> int:
    """Parameters applied to a token, once for each use: rounds repeat the loop, the head the embedding."""
    moe = config.backbone.moe
    total = config.vocab_size * config.hidden_size
    for tensor, visits in _visited(config, rounds):
        if tensor.buffer or (tensor.part == "experts" and not experts):
            continue
        share = moe.num_experts_per_tok / tensor.experts if tensor.experts else 1
        total += round(tensor.size * share) * visits
    return total


def tensor_bytes(config: ModelConfig, tensor: Tensor, *, form: TernaryFormat = "2-bit") -> int:
    """Bytes of one tensor in a packed file, its scales and its padding with it."""
    if tensor.storage == "float32":
        return padded(tensor.size * FLOAT_BYTES, ALIGNMENT)
    *stack, rows, columns = tensor.shape
    copies = 1
    for count in stack:
        copies *= count
    rows, wide = padded(rows, TILE_ROWS), padded(columns, TILE_COLUMNS)
    if tensor.storage == "embedding":
        return rows * wide * config.quantization.embedding_bits // 8 + rows * ROW_SCALE_BYTES
    scales = rows * _groups(config, columns) * SCALE_BITS // 8
    return copies * (round(rows * wide * TERNARY_BITS[form] / 8) + scales)


def file_bytes(config: ModelConfig, *, form: TernaryFormat = "2-bit", experts: bool | None = None) -> int:
    """Bytes of all tensors, or of routed experts alone, or of all but them."""
    return sum(
        tensor_bytes(config, tensor, form=form)
        for tensor in tensors(config)
        if experts is None or experts == bool(tensor.experts)
    )


def bytes_per_token(config: ModelConfig, *, rounds: int, form: TernaryFormat = "2-bit") -> int:
    """Weight bytes that one decoded token reads from memory: the loop's in each round, the head once."""
    moe = config.backbone.moe
    total = config.hidden_size * config.quantization.embedding_bits // 8
    for tensor, visits in _visited(config, rounds):
        share = moe.num_experts_per_tok / tensor.experts if tensor.experts else 1
        total += round(tensor_bytes(config, tensor, form=form) * share) * visits
    return total


@dataclass(frozen=True, kw_only=True, slots=True)
class StateBytes:
    """What one stream carries from token to token, in bytes. None of it grows with the text."""

    recurrent: int = 0
    """Matrices of GD, SK and XM, running memory and momentum of TM."""
    convolution: int = 0
    """The last inputs of each causal convolution."""
    chunk: int = 0
    """Titans: the memory at the chunk's start, and what was read from it in this chunk."""
    window: int = 0
    """Titans: the ring of keys and values, int8 with a scale per token and head."""

    @property
    def total(self) -> int:
        """All of it."""
        return self.recurrent + self.convolution + self.chunk + self.window

    def __add__(self, other: "StateBytes") -> "StateBytes":
        return StateBytes(
            recurrent=self.recurrent + other.recurrent,
            convolution=self.convolution + other.convolution,
            chunk=self.chunk + other.chunk,
            window=self.window + other.window,
        )

    def times(self, count: int) -> "StateBytes":
        """The state of `count` equal layers, or of one layer in `count` rounds."""
        return StateBytes(
            recurrent=self.recurrent * count,
            convolution=self.convolution * count,
            chunk=self.chunk * count,
            window=self.window * count,
        )


def layer_state(config: ModelConfig, layer: Layer) -> StateBytes:
    """State of one layer in one round. The cache of an attention layer grows and is not counted here."""
    P, H, K = config.inner_width, config.num_heads, config.head_dim
    matrix = H * K * K * FLOAT_BYTES
    if layer.kind in ("gated_deltanet", "tsp_span_knot"):
        return StateBytes(recurrent=matrix, convolution=_tails(config.gated_deltanet.conv_size, 3 * P))
    if layer.kind == "xlstm_m":
        vector = H * (K + 1) * FLOAT_BYTES
        return StateBytes(
            recurrent=matrix + vector, convolution=_tails(config.xlstm.conv_size, config.hidden_size)
        )
    if layer.kind == "titans_mac":
        memory = 2 * matrix
        titans = config.titans
        reads = titans.memory_chunk * (P + H) * FLOAT_BYTES
        ring = titans.local_window_size * 2 * (P + H * FLOAT_BYTES)
        return StateBytes(
            recurrent=2 * memory,
            convolution=_tails(titans.conv_size, 3 * P),
            chunk=memory + reads,
            window=ring,
        )
    return StateBytes()


def stream_state(config: ModelConfig, *, rounds: int) -> StateBytes:
    """State of one stream: each layer of the loop has one for each round."""
    total = StateBytes()
    for layer in layers(config):
        total += layer_state(config, layer).times(rounds if layer.looped else 1)
    return total


def round_counts(config: ModelConfig) -> tuple[int, ...]:
    """The numbers of rounds worth a column: all up to four, then the most."""
    least, most = config.looping.loop_range if config.looping.enabled else (1, 1)
    return tuple(sorted({*range(least, min(most, 4) + 1), most}))


def _visited(config: ModelConfig, rounds: int) -> Iterable[tuple[Tensor, int]]:
    """Each tensor with the number of times that a token meets it."""
    looped = {layer.index for layer in layers(config) if layer.looped}
    for tensor in tensors(config):
        if tensor.part == "embedding":
            yield tensor, 1
        else:
            yield tensor, rounds if tensor.layer in looped else 1


def _groups(config: ModelConfig, columns: int) -> int:
    """Weight scales of one row in the file, where row and tensor scales are spread over groups of 128."""
    quantization = config.quantization
    size = quantization.group_size if quantization.weight_scale == "absmean_per_group" else 128
    return -(-columns // size)


def _tails(taps: int, channels: int) -> int:
    return (taps - 1) * channels * FLOAT_BYTES
