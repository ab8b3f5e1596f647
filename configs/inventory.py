"""Every tensor of a model, computed from its config: what torch modules, packed files and accounting share.

A name is the one that the tensor has in a checkpoint. A ternary linear is [outputs, inputs]; stacked experts
have their number in front. `docs/notation.md` says what the letters in comments mean.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from math import prod
from typing import Literal

from configs.schema.backbone import LayerKind
from configs.schema.model import ModelConfig

Storage = Literal["ternary", "embedding", "int8", "float32"]
Part = Literal["embedding", "mixer", "feed_forward", "experts", "loop", "lookahead", "final_norm"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Tensor:
    """One stored tensor."""

    name: str
    shape: tuple[int, ...]
    storage: Storage
    part: Part
    layer: int | None = None
    """Index of the layer that owns it, if one does."""
    experts: int = 0
    """Number of routed experts stacked in it; 0 for a tensor that every token reads."""
    buffer: bool = False
    """Kept with the weights, but not learnt by gradient."""
    folded: bool = False
    """Learnt, and in packed files a factor of its neighbour: they do not hold it."""

    @property
    def size(self) -> int:
        """Numbers in the tensor."""
        return prod(self.shape)

    def apart(self) -> tuple["Tensor", ...]:
        """The tensor as files hold it: stacked experts one by one, each with its number in its name."""
        if not self.experts:
            return (self,)
        before, after = self.name.split(".experts.")
        return tuple(
            replace(self, name=f"{before}.experts.{expert}.{after}", shape=self.shape[1:])
            for expert in range(self.experts)
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Layer:
    """One layer of the plan."""

    index: int
    alias: str
    kind: LayerKind
    experts: bool
    looped: bool
    decided_behind: int | None = None
    """The layer whose output decides which experts a token visits; None is this layer's own input.

    From behind the loop, its last layer stands for what left it.
    """


def layers(config: ModelConfig) -> tuple[Layer, ...]:
    """The layers, in order."""
    moe, looping = config.backbone.moe, config.looping
    first, last = looping.loop

    def decided_behind(index: int) -> int | None:
        if not moe.route_ahead or index not in moe.layers or not moe.enabled or index == 0:
            return None
        source = max(index - moe.route_ahead, 0)
        return last if looping.enabled and first <= source <= last < index else source

    return tuple(
        Layer(
            index=index,
            alias=alias,
            kind=config.backbone.layer_aliases[alias],
            experts=moe.enabled and index in moe.layers,
            looped=looping.enabled and first <= index <= last,
            decided_behind=decided_behind(index),
        )
        for index, alias in enumerate(config.layer_aliases)
    )


def tensors(config: ModelConfig) -> tuple[Tensor, ...]:
    """Every tensor of the model, in the order of the file."""
    rank = config.quantization.hgf_correction.rank if has_correction(config) else 0
    return tuple(part for tensor in _model(config) for part in _corrected(tensor, rank=rank))


def has_correction(config: ModelConfig) -> bool:
    """Whether projections that every token meets have a low-rank correction beside them."""
    return config.quantization.hgf_correction.enabled


def packed_tensors(config: ModelConfig) -> tuple[Tensor, ...]:
    """Those that packed files hold."""
    return tuple(tensor for tensor in tensors(config) if not tensor.folded)


def _corrected(tensor: Tensor, *, rank: int) -> Iterator[Tensor]:
    """A tensor, and behind a projection that every token meets its correction, if there is one."""
    yield tensor
    if rank and tensor.storage == "ternary" and not tensor.experts:
        prefix, (num_outputs, num_inputs) = tensor.name.removesuffix("weight") + "correction.", tensor.shape
        yield replace(tensor, name=prefix + "down", shape=(rank, num_inputs), storage="int8")
        yield replace(tensor, name=prefix + "up", shape=(num_outputs, rank), storage="int8")
        yield replace(tensor, name=prefix + "gate", shape=(1,), storage="float32", folded=True)


def _model(config: ModelConfig) -> Iterator[Tensor]:
    D = config.hidden_size
    yield Tensor(name="embedding.weight", shape=(config.vocab_size, D), storage="embedding", part="embedding")
    for layer in layers(config):
        yield from _mixer(config, layer)
        yield from _experts(config, layer) if layer.experts else _feed_forward(config, layer)
    if config.looping.enabled:
        yield from _loop(config)
    if config.backbone.moe.enabled and config.backbone.moe.layers:
        yield from _lookahead(config)
    yield Tensor(name="final_norm.weight", shape=(D,), storage="float32", part="final_norm")


def _mixer(config: ModelConfig, layer: Layer) -> Iterator[Tensor]:
    prefix = f"layers.{layer.index}.mixer."
    for name, shape, storage in MIXERS[layer.kind](config):
        yield Tensor(name=prefix + name, shape=shape, storage=storage, part="mixer", layer=layer.index)


Row = tuple[str, tuple[int, ...], Storage]


def _projections(config: ModelConfig, *, gate: bool) -> Iterator[Row]:
    """The norms and ternary projections that every recurrent mixer has."""
    D, P = config.hidden_size, config.inner_width
    yield "norm.weight", (D,), "float32"
    for name in ("q_proj", "k_proj", "v_proj"):
        yield f"{name}.weight", (P, D), "ternary"
    if gate:
        yield "gate_proj.weight", (P, D), "ternary"
    yield "out_norm.weight", (P,), "float32"
    yield "o_proj.weight", (D, P), "ternary"


def _gated_deltanet(config: ModelConfig) -> Iterator[Row]:
    D, P, H, K = config.hidden_size, config.inner_width, config.num_heads, config.head_dim
    taps = config.gated_deltanet.conv_size
    yield from _projections(config, gate=config.gated_deltanet.use_output_gate)
    for name in ("q_conv", "k_conv", "v_conv"):
        yield f"{name}.weight", (P, taps), "float32"
    yield "alpha_proj.weight", (H, D), "float32"
    yield "beta_proj.weight", (H, D), "float32"
    yield "A_log", (H,), "float32"
    yield "dt_bias", (H,), "float32"
    yield "head_norm.weight", (K,), "float32"


def _mlstm(config: ModelConfig) -> Iterator[Row]:
    D, P, H = config.hidden_size, config.inner_width, config.num_heads
    yield from _projections(config, gate=config.xlstm.use_output_gate)
    yield "conv.weight", (D, config.xlstm.conv_size), "float32"
    for name in ("i", "f"):
        yield f"{name}_proj.weight", (H, D), "float32"
        yield f"{name}_bias", (H,), "float32"
    yield "head_norm.weight", (P,), "float32"


def _titans(config: ModelConfig) -> Iterator[Row]:
    D, P, H, K = config.hidden_size, config.inner_width, config.num_heads, config.head_dim
    slots = config.titans.persistent_memory_slots
    yield from _projections(config, gate=False)
    for name in ("q_conv", "k_conv", "v_conv"):
        yield f"{name}.weight", (P, config.titans.conv_size), "float32"
    for name in ("eta", "theta", "alpha"):
        yield f"{name}_proj.weight", (H, D), "float32"
        yield f"{name}_bias", (H,), "float32"
    yield "memory_w1", (H, K, K), "float32"
    yield "memory_w2", (H, K, K), "float32"
    if slots:
        yield "slot_keys", (slots, P), "float32"
        yield "slot_values", (slots, P), "float32"
    yield "attn_scale", (H,), "float32"
    yield "memory_key_gain", (P,), "float32"
    yield "gate_norm.weight", (K,), "float32"


def _grouped_attention(config: ModelConfig) -> Iterator[Row]:
    D, P = config.hidden_size, config.inner_width
    shared = (config.attention.num_key_value_heads or config.num_heads) * config.head_dim
    yield "norm.weight", (D,), "float32"
    yield "q_proj.weight", (P, D), "ternary"
    yield "k_proj.weight", (shared, D), "ternary"
    yield "v_proj.weight", (shared, D), "ternary"
    yield "out_norm.weight", (P,), "float32"
    yield "o_proj.weight", (D, P), "ternary"


def _latent_attention(config: ModelConfig) -> Iterator[Row]:
    D, P, H = config.hidden_size, config.inner_width, config.num_heads
    latent, rope = config.attention.latent_size, config.attention.rope_size
    yield "norm.weight", (D,), "float32"
    yield "q_proj.weight", (P + H * rope, D), "ternary"
    yield "kv_down_proj.weight", (latent + rope, D), "ternary"
    yield "kv_norm.weight", (latent,), "float32"
    yield "k_up_proj.weight", (P, latent), "ternary"
    yield "v_up_proj.weight", (P, latent), "ternary"
    yield "out_norm.weight", (P,), "float32"
    yield "o_proj.weight", (D, P), "ternary"


MIXERS: Mapping[LayerKind, Callable[[ModelConfig], Iterator[Row]]] = {
    "gated_deltanet": _gated_deltanet,
    "tsp_span_knot": _gated_deltanet,
    "xlstm_m": _mlstm,
    "titans_mac": _titans,
    "gqa": _grouped_attention,
    "swa": _grouped_attention,
    "mla": _latent_attention,
}


def _feed_forward(config: ModelConfig, layer: Layer) -> Iterator[Tensor]:
    D, F, prefix = config.hidden_size, config.intermediate_size, f"layers.{layer.index}.ffn."
    rows: tuple[Row, ...] = (("norm.weight", (D,), "float32"), *_swiglu(D, F, down_norm="down_norm.weight"))
    for name, shape, storage in rows:
        yield Tensor(name=prefix + name, shape=shape, storage=storage, part="feed_forward", layer=layer.index)


def _swiglu(width: int, inner: int, *, down_norm: str) -> tuple[Row, ...]:
    return (
        ("gate_proj.weight", (inner, width), "ternary"),
        ("up_proj.weight", (inner, width), "ternary"),
        (down_norm, (inner,), "float32"),
        ("down_proj.weight", (width, inner), "ternary"),
    )


def _experts(config: ModelConfig, layer: Layer) -> Iterator[Tensor]:
    moe, D, prefix = config.backbone.moe, config.hidden_size, f"layers.{layer.index}.ffn."
    E, inner = moe.n_routed_experts, moe.moe_intermediate_size

    def tensor(
        name: str, shape: tuple[int, ...], storage: Storage, *, experts: int = 0, buffer: bool = False
    ) -> Tensor:
        return Tensor(
            name=prefix + name, shape=shape, storage=storage, part="experts", layer=layer.index,
            experts=experts, buffer=buffer,
        )  # fmt: skip

    yield tensor("norm.weight", (D,), "float32")
    yield tensor("router", (E, D), "float32")
    yield tensor("router_bias", (E,), "float32", buffer=True)
    for name, shape, storage in _swiglu(D, moe.n_shared_experts * inner, down_norm="down_norm"):
        yield tensor(f"shared.{name}", shape, storage)
    for name, shape, storage in _swiglu(D, inner, down_norm="down_norm"):
        yield tensor(f"experts.{name}", (E, *shape), storage, experts=E)


def _loop(config: ModelConfig) -> Iterator[Tensor]:
    D = config.hidden_size
    matrix = (D,) if config.looping.injection == "diagonal" else (D, D)
    shapes = {"prelude_norm.weight": (D,), "A_log": (D,), "dt_bias": (D,), "B": matrix, "C": matrix}
    for name, shape in shapes.items():
        yield Tensor(name=f"loop.{name}", shape=shape, storage="float32", part="loop")


def _lookahead(config: ModelConfig) -> Iterator[Tensor]:
    moe, D = config.backbone.moe, config.hidden_size
    foreseen = len(moe.layers) * moe.n_routed_experts * (moe.lookahead_steps + 1)
    shapes = {"hidden": (D // 4, D), "out": (foreseen, D // 4)}
    for name, shape in shapes.items():
        yield Tensor(name=f"lookahead.{name}", shape=shape, storage="float32", part="lookahead")
