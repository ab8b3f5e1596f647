"""Argument tables of the Titans step, made of arrays whose shapes and types are checked before."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from configs.errors import UsageError
from quant.kernels.elementary.calls import VectorCall, check_array, set_rows
from quant.kernels.titans import places as at
from quant.kernels.titans.parameters import TitansParameters
from quant.kernels.titans.reference import TitansTokens
from quant.kernels.titans.shapes import TitansShape, TitansState, state_arrays

_STATE_PLACES = (
    at.MEMORY, at.MOMENTUM, at.ANSWERS, at.ANSWER_SCALES,
    at.KEYS, at.KEY_SCALES, at.VALUES, at.VALUE_SCALES,
)  # fmt: skip


def titans_call(
    shape: TitansShape,
    parameters: TitansParameters,
    tokens: TitansTokens,
    state: TitansState,  # written
    *,
    position: NDArray[np.int64],  # [1] of the first token
) -> VectorCall:
    """Outputs [T, H·K] and surprise [T, H]; the work is the layer's heads."""
    num_tokens, num_heads = len(tokens.q), shape.num_heads
    table = np.zeros(at.NUM_PLACES, dtype=np.int64)
    table[at.NUM_TOKENS] = num_tokens
    check_array(position, shape=(1,), dtype=np.int64, what="the position")
    table[at.POSITION] = position.ctypes.data
    set_tokens(table, shape, tokens)
    set_parameters(table, shape, parameters)
    set_state(table, shape, state)
    scores = np.empty((num_heads, shape.num_scores), dtype=np.float32)
    table[at.SCORES], table[at.SCORE_STRIDE] = scores.ctypes.data, scores.strides[0]
    y = np.empty((num_tokens, num_heads * shape.head_dim), dtype=np.float32)
    surprise = np.empty((num_tokens, num_heads), dtype=np.float32)
    table[at.Y], table[at.Y_STRIDE] = y.ctypes.data, y.strides[0]
    table[at.SURPRISE], table[at.SURPRISE_STRIDE] = surprise.ctypes.data, surprise.strides[0]
    held: tuple[NDArray[Any], ...] = (position, *tokens, *_arrays(parameters), *state, scores)
    return VectorCall(table=table, outputs=(y, surprise), units=num_heads, held=held)


def set_shape(table: NDArray[np.int64], shape: TitansShape) -> None:
    table[at.HEAD_DIM], table[at.NUM_SLOTS] = shape.head_dim, shape.num_slots
    table[at.WINDOW], table[at.MEMORY_CHUNK] = shape.window, shape.memory_chunk
    table[at.ROOT] = np.sqrt(np.float32(shape.head_dim)).view(np.int32)


def set_parameters(table: NDArray[np.int64], shape: TitansShape, parameters: TitansParameters) -> None:
    """Name a layer's parameters, and its sizes, in a table."""
    set_shape(table, shape)
    H, padded = shape.num_heads, shape.padded_dim
    wanted = (
        (at.ETA_BIAS, parameters.eta_bias, (H,), "eta_bias"),
        (at.THETA_BIAS, parameters.theta_bias, (H,), "theta_bias"),
        (at.ALPHA_BIAS, parameters.alpha_bias, (H,), "alpha_bias"),
        (at.ATTN_SCALE, parameters.attn_scale, (H,), "attn_scale"),
        (at.SLOT_KEYS, parameters.slot_keys, (H, shape.num_slots, padded), "slot_keys"),
        (at.SLOT_VALUES, parameters.slot_values, (H, shape.num_slots, padded), "slot_values"),
        (at.MEMORY_KEY_GAIN, parameters.memory_key_gain, (H, padded), "memory_key_gain"),
        (at.GATE_GAIN, parameters.gate_gain, (padded,), "gate_gain"),
    )
    for place, array, size, what in wanted:
        check_array(array, shape=size, dtype=np.float32, what=what)
        table[place] = array.ctypes.data
    table[at.EPSILON] = np.float32(parameters.eps).view(np.int32)


def set_state(table: NDArray[np.int64], shape: TitansShape, state: TitansState) -> None:
    """Name a stream's state in a table."""
    for place, array, wanted in zip(_STATE_PLACES, state, state_arrays(shape), strict=True):
        check_array(array, shape=wanted.shape, dtype=np.dtype(wanted.dtype), what=wanted.name)
        table[place] = array.ctypes.data


def set_tokens(table: NDArray[np.int64], shape: TitansShape, tokens: TitansTokens) -> None:
    """Name what tokens bring in a table. Rows may lie apart, in the same way in arrays of one kind."""
    num_tokens, H, K = len(tokens.q), shape.num_heads, shape.head_dim
    groups = (
        (at.X_STRIDE, H * K, ((at.Q, tokens.q), (at.K, tokens.k), (at.V, tokens.v))),
        (at.GATE_STRIDE, H, ((at.ETA, tokens.eta), (at.THETA, tokens.theta), (at.ALPHA, tokens.alpha))),
        (at.ANGLE_STRIDE, K // 2, ((at.SINES, tokens.sines), (at.COSINES, tokens.cosines))),
    )
    for stride, width, rows in groups:
        for place, array in rows:
            set_rows(
                table,
                array,
                shape=(num_tokens, width),
                address=place,
                stride=stride,
                what="what tokens bring",
            )
        if len({array.strides[0] for _, array in rows}) > 1:
            raise UsageError("arrays of one kind must have their rows equally far apart")


def _arrays(parameters: TitansParameters) -> tuple[NDArray[np.float32], ...]:
    return (
        parameters.eta_bias, parameters.theta_bias, parameters.alpha_bias, parameters.attn_scale,
        parameters.slot_keys, parameters.slot_values, parameters.memory_key_gain, parameters.gate_gain,
    )  # fmt: skip
