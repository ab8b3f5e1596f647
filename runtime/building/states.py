"""The fields of a layer's state, for every kind of layer; what they mean stands with their kernels."""

from collections.abc import Callable, Mapping

import numpy as np

from configs.errors import ModelError
from configs.inventory import Layer, layers
from configs.schema.backbone import LayerKind
from configs.schema.model import ModelConfig
from quant.kernels.titans.parameters import TitansParameters, titans_parameters
from quant.kernels.titans.shapes import TitansShape, state_arrays
from quant.packing import ROW_PAIR
from runtime.arena import StateField, StateLayout
from runtime.building.tensors import Tensors

HEAD_STEP, LARGEST_HEAD = 16, 256
ATTENTION_HINT = "What runs is gated_deltanet, xlstm_m, titans_mac and tsp_span_knot."


def state_layout(config: ModelConfig, tensors: Tensors) -> StateLayout:
    """Where everything lies that a stream of this model carries."""
    plan = layers(config)
    return StateLayout(
        (FIELDS[layer.kind](config, layer, tensors) for layer in plan),
        looped=(layer.looped for layer in plan),
        rounds=config.rounds_most,
    )


def check_runnable(config: ModelConfig) -> None:
    """Refuse what a config may describe and no kernel here computes."""
    for layer in layers(config):
        if layer.kind not in FIELDS:
            raise ModelError(
                f"layer {layer.index} is of the kind {layer.kind}, which cannot be run", hint=ATTENTION_HINT
            )
    if config.head_dim % HEAD_STEP or config.head_dim > LARGEST_HEAD:
        raise ModelError(
            f"heads of {config.head_dim} channels cannot be run; allowed are multiples of {HEAD_STEP} up to "
            f"{LARGEST_HEAD}"
        )
    if config.titans.window_bits != 8 and any(layer.kind == "titans_mac" for layer in layers(config)):
        raise ModelError(
            f"titans.window_bits is {config.titans.window_bits}; what runs keeps its window in 8 bits",
            hint="Train with 8, so that a model learns with the codes that it will run with.",
        )
    if config.rms_norm_eps <= 0:
        raise ModelError(f"rms_norm_eps is {config.rms_norm_eps}; a norm that is run needs one above 0")


def three_wide(config: ModelConfig) -> int:
    """Columns that queries, keys and values have side by side: each is padded to whole row pairs."""
    return 3 * padded_width(config)


def padded_width(config: ModelConfig) -> int:
    """Columns of one of them."""
    return -(-config.inner_width // ROW_PAIR) * ROW_PAIR


def titans_shape(config: ModelConfig) -> TitansShape:
    return TitansShape(
        num_heads=config.num_heads,
        head_dim=config.head_dim,
        num_slots=config.titans.persistent_memory_slots,
        window=config.titans.local_window_size,
        memory_chunk=config.titans.memory_chunk,
    )


def titans_weights(config: ModelConfig, layer: Layer, tensors: Tensors) -> TitansParameters:
    """A Titans layer's float parameters as its kernel reads them."""
    prefix = f"layers.{layer.index}.mixer."
    has_slots = config.titans.persistent_memory_slots > 0
    return titans_parameters(
        titans_shape(config),
        eta_bias=tensors.floats(prefix + "eta_bias"),
        theta_bias=tensors.floats(prefix + "theta_bias"),
        alpha_bias=tensors.floats(prefix + "alpha_bias"),
        attn_scale=tensors.floats(prefix + "attn_scale"),
        slot_keys=tensors.floats(prefix + "slot_keys") if has_slots else None,
        slot_values=tensors.floats(prefix + "slot_values") if has_slots else None,
        memory_key_gain=tensors.floats(prefix + "memory_key_gain"),
        gate_gain=tensors.floats(prefix + "gate_norm.weight"),
        memory_w1=tensors.floats(prefix + "memory_w1"),
        memory_w2=tensors.floats(prefix + "memory_w2"),
        eps=config.rms_norm_eps,
    )


def _gated_delta(config: ModelConfig, layer: Layer, tensors: Tensors) -> tuple[StateField, ...]:
    H, K = config.num_heads, config.head_dim
    return (
        StateField(name="memory", shape=(H, K, K)),
        StateField(name="tail", shape=(config.gated_deltanet.conv_size - 1, three_wide(config))),
    )


def _mlstm(config: ModelConfig, layer: Layer, tensors: Tensors) -> tuple[StateField, ...]:
    H, K = config.num_heads, config.head_dim
    return (
        StateField(name="memory", shape=(H, K, K)),
        StateField(name="normaliser", shape=(H, K)),
        StateField(name="log_scale", shape=(H,), initial=-np.inf),
        StateField(name="tail", shape=(config.xlstm.conv_size - 1, config.hidden_size)),
    )


def _titans(config: ModelConfig, layer: Layer, tensors: Tensors) -> tuple[StateField, ...]:
    shape = titans_shape(config)
    fields = [
        StateField(name=array.name, shape=array.shape, dtype=array.dtype)
        for array in state_arrays(shape)
        if array.name != "memory"
    ]
    memory = next(array for array in state_arrays(shape) if array.name == "memory")
    initial = np.zeros(memory.shape, dtype=np.float32)
    initial[:, 0] = titans_weights(config, layer, tensors).initial_memory
    return (
        StateField(name="memory", shape=memory.shape, initial=initial),
        *fields,
        StateField(name="tail", shape=(config.titans.conv_size - 1, three_wide(config))),
        StateField(name="position", shape=(1,), dtype="int64"),
    )


FIELDS: Mapping[LayerKind, Callable[[ModelConfig, Layer, Tensors], tuple[StateField, ...]]] = {
    "gated_deltanet": _gated_delta,
    "tsp_span_knot": _gated_delta,
    "xlstm_m": _mlstm,
    "titans_mac": _titans,
}
