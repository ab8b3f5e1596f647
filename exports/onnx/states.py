"""What a graph carries from call to call: names, shapes, and what is in them.

Every state begins as zeros. Names and axes are those that onnxruntime-genai knows: each layer in each round
of the loop is a layer of its own there, with a `conv_state` [batch, channels, taps − 1] and a
`recurrent_state` [batch, heads, keys, values]. A layer of the matrix LSTM has its normaliser, its log scale
and whether it has begun in channels behind those of its convolution, in the first column. genai wants one
shape for all layers; where its padding costs little, all have that. A Titans layer has states of its own,
which genai cannot carry.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod
from typing import Literal, TypeAlias

from configs.inventory import Layer, layers
from configs.schema.backbone import LayerKind
from configs.schema.model import ModelConfig

Dtype: TypeAlias = Literal["float32", "int8", "int64"]
ITEM_BYTES: Mapping[Dtype, int] = {"float32": 4, "int8": 1, "int64": 8}
MOST_PADDING = 2.0
"""States that are padded for genai may be so many times as large."""
POSITION = "past_position"


@dataclass(frozen=True, kw_only=True, slots=True)
class StateTensor:
    """An input and the output that takes its place in the next call."""

    past: str
    present: str
    dtype: Dtype
    shape: tuple[int, ...]
    """Without the batch, which is the first axis."""
    holds: str
    layer: int | None = None
    round: int | None = None

    @property
    def num_bytes(self) -> int:
        """Bytes for one stream."""
        return prod(self.shape) * ITEM_BYTES[self.dtype]


@dataclass(frozen=True, kw_only=True, slots=True)
class Visit:
    """A layer in one round, with its states by what they hold."""

    layer: Layer
    round: int
    number: int
    states: Mapping[str, StateTensor]


@dataclass(frozen=True, kw_only=True, slots=True)
class StatePlan:
    """All states of a graph."""

    visits: tuple[Visit, ...]
    position: StateTensor | None
    """Tokens read so far, where a layer needs to know."""
    padded_bytes: int
    """Of one stream with one shape for all layers."""
    plain_bytes: int

    @property
    def tensors(self) -> tuple[StateTensor, ...]:
        own = tuple(state for visit in self.visits for state in visit.states.values())
        return own if self.position is None else (*own, self.position)

    @property
    def num_bytes(self) -> int:
        return sum(state.num_bytes for state in self.tensors)

    @property
    def genai_refusal(self) -> str:
        """Why onnxruntime-genai cannot run the graph; empty where it can."""
        titans = [visit.layer.index for visit in self.visits if visit.layer.kind == "titans_mac"]
        more = f"padding would make them {self.padded_bytes / self.plain_bytes:.1f} times as large"
        if titans:
            return (
                f"layer {titans[0]} is of the kind titans_mac: onnxruntime-genai has one shape for the "
                f"states of all layers, and {more}"
            )
        if self.padded_bytes > MOST_PADDING * self.plain_bytes:
            return f"onnxruntime-genai has one shape for the states of all layers, and {more}"
        return ""


Shapes: TypeAlias = dict[str, tuple[Dtype, tuple[int, ...], str]]
CONV, RECURRENT = "conv_state", "recurrent_state"


def state_plan(config: ModelConfig, *, rounds: int) -> StatePlan:
    """The states of a graph whose loop is unrolled so often."""
    order = visits(config, rounds=rounds)
    plain = [SHAPES[layer.kind](config) for layer, _ in order]
    common = _common(plain)
    plain_bytes, padded_bytes = sum(map(_bytes, plain)), len(order) * _bytes(common)
    has_titans = any(layer.kind == "titans_mac" for layer, _ in order)
    if not has_titans and padded_bytes <= MOST_PADDING * plain_bytes:
        plain = [{name: (*common[name][:2], shape[name][2]) for name in shape} for shape in plain]
    position = StateTensor(
        past=POSITION, present="present_position", dtype="int64", shape=(), holds="tokens read so far"
    )
    return StatePlan(
        visits=tuple(
            Visit(layer=layer, round=number, number=index, states=_states(shapes, layer, number, index))
            for index, ((layer, number), shapes) in enumerate(zip(order, plain, strict=True))
        ),
        position=position if has_titans else None,
        padded_bytes=padded_bytes,
        plain_bytes=plain_bytes,
    )


def visits(config: ModelConfig, *, rounds: int) -> list[tuple[Layer, int]]:
    """Layers in the order in which a token meets them, with the round of the loop."""
    plan = layers(config)
    if not config.looping.enabled:
        return [(layer, 0) for layer in plan]
    before = [(layer, 0) for layer in plan if layer.index < config.looping.loop[0]]
    after = [(layer, 0) for layer in plan if layer.index > config.looping.loop[1]]
    return [*before, *((layer, n) for n in range(rounds) for layer in plan if layer.looped), *after]


def _states(shapes: Shapes, layer: Layer, number: int, index: int) -> dict[str, StateTensor]:
    return {
        name: StateTensor(
            past=f"past_key_values.{index}.{name}",
            present=f"present.{index}.{name}",
            dtype=dtype,
            shape=shape,
            holds=holds,
            layer=layer.index,
            round=number,
        )
        for name, (dtype, shape, holds) in shapes.items()
    }


def _gated_delta(config: ModelConfig) -> Shapes:
    P, H, K = config.inner_width, config.num_heads, config.head_dim
    return {
        CONV: ("float32", (3 * P, config.gated_deltanet.conv_size - 1), "last inputs of q, k, v"),
        RECURRENT: ("float32", (H, K, K), "memory, keys before values"),
    }


def _mlstm(config: ModelConfig) -> Shapes:
    D, H, K = config.hidden_size, config.num_heads, config.head_dim
    holds = f"last inputs, then in column 0: normaliser [{H * K}], log scale [{H}], begun [{H}]"
    return {
        CONV: ("float32", (D + H * K + 2 * H, config.xlstm.conv_size - 1), holds),
        RECURRENT: ("float32", (H, K, K), "memory, keys before values, over e^(log scale)"),
    }


def _titans(config: ModelConfig) -> Shapes:
    P, H, K = config.inner_width, config.num_heads, config.head_dim
    W, C = config.titans.local_window_size, config.titans.memory_chunk
    memory: Shapes = {
        f"{name}_{number}": ("float32", (H, K, K), f"{holds}, layer {number} of the memory, inputs first")
        for name, holds in (
            ("border", "weights at the chunk's start"),
            ("running", "weights now"),
            ("momentum", "momentum"),
        )
        for number in (1, 2)
    }
    return {
        CONV: ("float32", (3 * P, config.titans.conv_size - 1), "last inputs of q, k, v"),
        **memory,
        "answers": ("float32", (H, C, K), "what the memory answered to this chunk's tokens"),
        "answer_scales": ("float32", (H, C), "1 / length of an answer"),
        "keys": ("int8", (H, W, K), "turned keys; token p lies in place p mod window"),
        "key_scales": ("float32", (H, W), "scales of keys"),
        "values": ("int8", (H, W, K), "values"),
        "value_scales": ("float32", (H, W), "scales of values"),
    }


SHAPES: Mapping[LayerKind, Callable[[ModelConfig], Shapes]] = {
    "gated_deltanet": _gated_delta,
    "tsp_span_knot": _gated_delta,
    "xlstm_m": _mlstm,
    "titans_mac": _titans,
}


def _bytes(shapes: Shapes) -> int:
    return sum(prod(shape) * ITEM_BYTES[dtype] for dtype, shape, _ in shapes.values())


def _common(plain: list[Shapes]) -> Shapes:
    """One `conv_state` and one `recurrent_state` that hold the states of any layer."""
    conv = tuple(max(shapes[CONV][1][axis] for shapes in plain) for axis in range(2))
    heads, keys, _ = next((shapes[RECURRENT][1] for shapes in plain if RECURRENT in shapes), (1, 1, 1))
    most = max(_bytes(shapes) - 4 * prod(shapes[CONV][1]) for shapes in plain)
    values = -(-most // (4 * heads * keys))
    return {CONV: ("float32", conv, ""), RECURRENT: ("float32", (heads, keys, values), "")}
