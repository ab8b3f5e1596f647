"""What a model weighs: parameters, bytes on disk, state of a stream, bytes read for a token.

Everything is computed from the tensor list of `configs.inventory`. MB = 10⁶ bytes, MiB = 2²⁰ bytes. A *round*
is one pass through the looped layers; one round is a model that does not loop.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal, get_args

from configs.inventory import Layer, Part, Tensor, layers, tensors
from configs.schema.model import ModelConfig

TernaryFormat = Literal["2-bit", "1.6-bit", "1.25-bit"]
TERNARY_BITS: Mapping[TernaryFormat, float] = {"2-bit": 2.0, "1.6-bit": 1.6, "1.25-bit": 1.25}
SCALE_BYTES = 2
INPUTS_A_SCALE = 128
ROW_SCALE_BYTES = 4
FLOAT_BYTES = 4
TILE_ROWS, TILE_COLUMNS = 32, 64
ALIGNMENT = 64
PARTS: tuple[Part, ...] = get_args(Part)


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
    return sum(
        _met(config, tensor) * visits
        for tensor, visits in _visited(config, rounds)
        if tensor.storage == "ternary" and tensor.part == "experts"
    )


def parameters_by_layer(config: ModelConfig) -> tuple[int, ...]:
    """Stored parameters of each layer."""
    counts = [0] * config.num_hidden_layers
    for tensor in tensors(config):
        if tensor.layer is not None and not tensor.buffer:
            counts[tensor.layer] += tensor.size
    return tuple(counts)


def active_parameters(config: ModelConfig) -> int:
    """Stored parameters that one token meets; those of a loop count once."""
    return sum(_met(config, tensor) for tensor in tensors(config))


def applied_parameters(
    config: ModelConfig, *, rounds: int, experts: bool = True, matrices: bool = False
) -> int:
    """Parameters applied to a token, once for each use: rounds repeat the loop, the head the embedding.

    `matrices` leaves out what is stored as float32, as the figures do that a model's name quotes.
    """
    return sum(
        _met(config, tensor) * visits
        for tensor, visits in _visited(config, rounds)
        if (experts or tensor.part != "experts") and not (matrices and tensor.storage == "float32")
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Share:
    """What a part of the model, or the mixers of one alias, have of its parameters."""

    part: Part
    alias: str = ""
    stored: int
    applied: Mapping[int, int]
    """Rounds → parameters applied to one token, as `applied_parameters` counts them."""


def shares(config: ModelConfig) -> list[Share]:
    """The parts that hold parameters, in the order of the file, and below the mixers those of each alias."""
    aliases = {layer.index: layer.alias for layer in layers(config)}
    stored: dict[tuple[Part, str], int] = {}
    applied: dict[tuple[Part, str], dict[int, int]] = {}

    def holders(tensor: Tensor) -> list[tuple[Part, str]]:
        alias = aliases[tensor.layer] if tensor.part == "mixer" and tensor.layer is not None else ""
        return [(tensor.part, ""), (tensor.part, alias)] if alias else [(tensor.part, "")]

    for tensor in tensors(config):
        for holder in holders(tensor):
            stored[holder] = stored.get(holder, 0) + (0 if tensor.buffer else tensor.size)
    for rounds in round_counts(config):
        for tensor, visits in _visited(config, rounds):
            for holder in holders(tensor):
                met = applied.setdefault(holder, {})
                met[rounds] = met.get(rounds, 0) + _met(config, tensor) * visits
    return [
        Share(part=part, alias=alias, stored=number, applied=applied[part, alias])
        for (part, alias), number in sorted(stored.items(), key=lambda item: PARTS.index(item[0][0]))
    ]


def own_form(config: ModelConfig) -> TernaryFormat:
    """The form in which a config's own packed file holds ternary weights."""
    return "1.25-bit" if config.quantization.sherry_mode.enabled else "2-bit"


def tensor_bytes(config: ModelConfig, tensor: Tensor, *, form: TernaryFormat | None = None) -> int:
    """Bytes of one tensor in a packed file, its scales and its padding with it; in the config's own form."""
    copies = tensor.experts or 1
    if tensor.folded:
        return 0
    if tensor.storage == "float32":
        return copies * padded(tensor.size // copies * FLOAT_BYTES, ALIGNMENT)
    rows, columns = tensor.shape[-2:]
    rows, wide = padded(rows, TILE_ROWS), padded(columns, TILE_COLUMNS)
    if tensor.storage in ("embedding", "int8"):
        bits = config.quantization.embedding_bits if tensor.storage == "embedding" else 8
        return rows * wide * bits // 8 + rows * ROW_SCALE_BYTES
    # Scales of rows, of tensors and of larger groups are written out for groups of this size.
    scales = rows * -(-columns // INPUTS_A_SCALE) * SCALE_BYTES
    return copies * (round(rows * wide * TERNARY_BITS[form or own_form(config)] / 8) + scales)


def file_bytes(config: ModelConfig, *, form: TernaryFormat | None = None, experts: bool | None = None) -> int:
    """Bytes of all tensors, or of routed experts alone, or of all but them."""
    return sum(
        tensor_bytes(config, tensor, form=form)
        for tensor in tensors(config)
        if experts is None or experts == bool(tensor.experts)
    )


def part_bytes(config: ModelConfig, part: Part, *, form: TernaryFormat | None = None) -> int:
    """Bytes of the tensors of one part."""
    return sum(tensor_bytes(config, tensor, form=form) for tensor in tensors(config) if tensor.part == part)


def bytes_per_token(config: ModelConfig, *, rounds: int, form: TernaryFormat | None = None) -> int:
    """Weight bytes that one decoded token reads: those of the loop in each round, of the head all rows."""
    total = 0
    for tensor, visits in _visited(config, rounds):
        stored = tensor_bytes(config, tensor, form=form)
        if tensor.part == "embedding":
            total += stored + stored // padded(config.vocab_size, TILE_ROWS)
        elif tensor.experts:
            total += stored // tensor.experts * config.backbone.moe.num_experts_per_tok * visits
        else:
            total += stored * visits
    return total


@dataclass(frozen=True, kw_only=True, slots=True)
class StateBytes:
    """What one stream carries from token to token, in bytes. None of it grows with the text.

    The keys and values that `mla` and `gqa` layers keep do grow; `cache_growth` counts them.
    """

    recurrent: int = 0
    """Matrices of GD, SK and XM, running memory and momentum of TM."""
    convolution: int = 0
    """The last inputs of each causal convolution."""
    chunk: int = 0
    """Titans: the memory at the chunk's start, and what was read from it in this chunk."""
    window: int = 0
    """Rings of keys and values: of TM in int8 with a scale per token and head, of `swa` in float32."""

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
    """State of one layer in one round."""
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
        token = P + H * FLOAT_BYTES if titans.window_bits == 8 else P * FLOAT_BYTES
        ring = titans.local_window_size * 2 * token
        return StateBytes(
            recurrent=2 * memory,
            convolution=_tails(titans.conv_size, 3 * P),
            chunk=memory + reads,
            window=ring,
        )
    if layer.kind == "swa":
        return StateBytes(window=config.attention.window_size * 2 * _shared_width(config) * FLOAT_BYTES)
    return StateBytes()


def cache_growth(config: ModelConfig, *, rounds: int) -> int:
    """Bytes that each token adds to the cache of a stream; 0 where no layer is `mla` or `gqa`."""
    grown = {
        "mla": (config.attention.latent_size + config.attention.rope_size) * FLOAT_BYTES,
        "gqa": 2 * _shared_width(config) * FLOAT_BYTES,
    }
    return sum(grown.get(layer.kind, 0) * (rounds if layer.looped else 1) for layer in layers(config))


def stream_state(config: ModelConfig, *, rounds: int) -> StateBytes:
    """State of one stream: each layer of the loop has one for each round."""
    total = StateBytes()
    for layer in layers(config):
        total += layer_state(config, layer).times(rounds if layer.looped else 1)
    return total


def round_counts(config: ModelConfig) -> tuple[int, ...]:
    """The numbers of rounds worth a column: four from the least on, the default, the most."""
    least, most = config.looping.loop_range if config.looping.enabled else (1, 1)
    return tuple(sorted({*range(least, min(most, least + 3) + 1), config.rounds_default, most}))


def _visited(config: ModelConfig, rounds: int) -> Iterable[tuple[Tensor, int]]:
    """Each tensor with the number of its uses for one token: the embedding's second use is the head."""
    looped = {layer.index for layer in layers(config) if layer.looped}
    for tensor in tensors(config):
        if tensor.part == "embedding":
            yield tensor, 2
        else:
            yield tensor, rounds if tensor.layer in looped else 1


def _met(config: ModelConfig, tensor: Tensor) -> int:
    """Parameters of a tensor that a token meets in one use: of routed experts, the chosen ones."""
    if tensor.buffer:
        return 0
    if not tensor.experts:
        return tensor.size
    return tensor.size // tensor.experts * config.backbone.moe.num_experts_per_tok


def _shared_width(config: ModelConfig) -> int:
    """Width of the keys, and of the values, of a `gqa` or `swa` layer."""
    return (config.attention.num_key_value_heads or config.num_heads) * config.head_dim


def _tails(taps: int, channels: int) -> int:
    return (taps - 1) * channels * FLOAT_BYTES
