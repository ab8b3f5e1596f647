"""A Titans layer between its projections and its output norm by NumPy, operation by operation.

For each token in order and each head, with M the memory at the start of the token's chunk:

    q, k ← x / √(Σx² + ε)        x̃ = √K · x        M(x) = x̃ + W2 · SiLU(W1 · x̃)
    h = M(q)                      remembered with r = 1 / √(Σh² + ε) until the chunk ends
    window ← int8 of k turned by its position, and of v, with a scale each
    y = softmax-weighted values of   the slots     s_j = (scale q) · key_j
                                     the answers   s_j = ((scale q) ⊙ gain · h_j) · r_j
                                     the window    s_j = (turned scale q · codes_j) · key scale_j
    out = y ⊙ σ(RMSNorm(M(y / √(Σy² + ε))))
    e = M(k) − v,  a = SiLU(W1 k̃),  δ = (W2ᵀ e) ⊙ SiLU'(W1 k̃)
    S ← η S − (θ c · [k̃, a]) [δ, e],  running M ← (1 − α) M + S

c bounds the gradient's norm √(‖e‖²‖a‖² + ‖δ‖²‖k̃‖²) at 1; η = σ(·), 1 − α = σ(−·), θ = 0.01 σ(·).

Sums over a head's channels run in 16 lanes, then join lanes 8 apart, 4, 2 and 1; those of a matrix's inputs
run in order. The softmax's sum runs in 16 lanes over slots, answers and places of the window in this order,
each padded with zeros to whole registers; the weighted values are added one by one in the same order.
Chunks begin at multiples of their size in the stream, so cutting a text into calls changes nothing.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from quant.activations import MAX_CODE, SMALLEST_MAXIMUM
from quant.kernels.elementary.reference import Floats, canonical, exp, quotient, sigmoid
from quant.kernels.titans.parameters import TitansParameters, padded
from quant.kernels.titans.shapes import LANES, TitansShape, TitansState

UNIT_EPS = np.float32(1e-6)
LARGEST_RATE = np.float32(1e-2)
_ONE = np.float32(1)


class TitansTokens(NamedTuple):
    """What the tokens of a call bring."""

    q: Floats  # [T, H·K] after the convolution and SiLU
    k: Floats
    v: Floats
    eta: Floats  # [T, H] gates before their biases
    theta: Floats
    alpha: Floats
    sines: Floats  # [T, K/2] of `rotation_angles`
    cosines: Floats


class _Hidden(NamedTuple):
    """The memory's hidden layer for one vector."""

    preact: Floats
    gate: Floats
    value: Floats


def titans(
    shape: TitansShape,
    parameters: TitansParameters,
    tokens: TitansTokens,
    state: TitansState,
    position: int,
) -> tuple[Floats, Floats, *tuple[NDArray[np.generic], ...]]:
    """Outputs [T, H·K], surprise [T, H], and the arrays of the new state; the given one stays as it is."""
    new_state = TitansState._make(array.copy() for array in state)
    num_tokens = len(tokens.q)
    y = np.empty(tokens.q.shape, dtype=np.float32)
    surprise = np.empty((num_tokens, shape.num_heads), dtype=np.float32)
    with np.errstate(all="ignore"):
        for t in range(num_tokens):
            one = TitansTokens(*(part[t] for part in tokens))
            y[t], surprise[t] = _step(shape, parameters, one, new_state, position + t)
    return y, surprise, *new_state


def _step(
    shape: TitansShape, parameters: TitansParameters, token: TitansTokens, state: TitansState, position: int
) -> tuple[Floats, Floats]:
    """One token, given by rows; writes the state."""
    q, k, v = (padded(x.reshape(shape.num_heads, -1), shape=shape) for x in token[:3])
    q, k = unit(q), unit(k)
    border = state.memory[:, position // shape.memory_chunk % 2]
    root = np.sqrt(np.float32(shape.head_dim))

    answer = _read(border, q * root)
    place = position % shape.memory_chunk
    state.answers[:, place], state.answer_scales[:, place] = answer, _inverse_length(answer)
    turned_k = _rotated(k, token.sines, token.cosines)
    place = position % shape.window
    state.keys[:, place], state.key_scales[:, place] = _codes(turned_k)
    state.values[:, place], state.value_scales[:, place] = _codes(v)

    scaled_q = q * parameters.attn_scale[:, None]
    y = _attend(shape, parameters, state, scaled_q, _rotated(scaled_q, token.sines, token.cosines), position)
    z = _read(border, unit(y) * root)
    mean = quotient(_squares(z), np.float32(shape.head_dim))
    r = quotient(_ONE, np.sqrt(mean + parameters.eps))
    out = y * sigmoid((z * r[:, None]) * parameters.gate_gain)
    surprise = _write(shape, parameters, token, state, k * root, v, position)
    return canonical(out[:, : shape.head_dim].reshape(-1)), canonical(surprise)


def _attend(
    shape: TitansShape,
    parameters: TitansParameters,
    state: TitansState,
    q: Floats,  # [H, padded K] with the scale
    turned_q: Floats,
    position: int,
) -> Floats:
    """The weighted mean of all that is seen, [H, padded K]."""
    num_answers = position % shape.memory_chunk + 1
    held = min(position + 1, shape.window)
    answers, keys = state.answers[:, :num_answers], state.keys[:, :held].astype(np.float32)
    gained_q = q * parameters.memory_key_gain
    scores = (
        lane_sum(q[:, None] * parameters.slot_keys),
        lane_sum(gained_q[:, None] * answers) * state.answer_scales[:, :num_answers],
        lane_sum(turned_q[:, None] * keys) * state.key_scales[:, :held],
    )
    top = np.concatenate(scores, axis=1).max(axis=1, keepdims=True)
    shares = [exp(part - top) for part in scores]
    registers: Floats = np.concatenate([_whole_registers(part) for part in shares], axis=1)
    total = lane_sum(registers)
    shares[2] = shares[2] * state.value_scales[:, :held]
    values = (parameters.slot_values, answers, state.values[:, :held].astype(np.float32))
    weighted = [share[:, :, None] * value for share, value in zip(shares, values, strict=True)]
    return quotient(sum_in_order(np.concatenate(weighted, axis=1)), total[:, None])


def _write(
    shape: TitansShape,
    parameters: TitansParameters,
    token: TitansTokens,
    state: TitansState,
    k: Floats,  # [H, padded K] of length √K
    v: Floats,
    position: int,
) -> Floats:
    """Learn k → v; the norm of the gradient before it was clipped, [H]."""
    chunk = position // shape.memory_chunk
    border, running = state.memory[:, chunk % 2], state.memory[:, (chunk + 1) % 2]
    last = border if position % shape.memory_chunk == 0 else running
    hidden = _hidden(border, k)
    error: Floats = np.subtract(k + _product(border[:, 1], hidden.value), v)
    back = padded(lane_sum(border[:, 1] * error[:, None]), shape=shape)
    back: Floats = np.multiply(back, hidden.gate * ((hidden.preact + _ONE) - hidden.value))
    squared_norm = _squares(error) * _squares(hidden.value) + _squares(back) * _squares(k)
    clip = quotient(_ONE, np.sqrt(np.where(squared_norm > _ONE, squared_norm, _ONE)))

    pushed = sigmoid(token.eta + parameters.eta_bias)[:, None, None]
    kept = sigmoid(-(token.alpha + parameters.alpha_bias))[:, None, None]
    rate = (LARGEST_RATE * sigmoid(token.theta + parameters.theta_bias)) * clip
    for layer, (right, left) in enumerate(((k, back), (hidden.value, error))):
        factor = rate[:, None] * right[:, : shape.head_dim]
        momentum = pushed * state.momentum[:, layer] - factor[:, :, None] * left[:, None]
        state.momentum[:, layer] = momentum
        running[:, layer] = kept * last[:, layer] + momentum
    return np.sqrt(squared_norm)


def _read(weights: Floats, x: Floats) -> Floats:
    """M(x) for x of length √K, [H, padded K]."""
    return x + _product(weights[:, 1], _hidden(weights, x).value)


def _hidden(weights: Floats, x: Floats) -> _Hidden:
    preact = _product(weights[:, 0], x)
    gate = sigmoid(preact)
    return _Hidden(preact=preact, gate=gate, value=preact * gate)


def _product(weights: Floats, x: Floats) -> Floats:
    """Σ over a matrix's inputs in order: weights [H, K, padded K] are transposed."""
    return sum_in_order(weights * x[:, : weights.shape[1], None])


def unit(x: Floats) -> Floats:
    """Scaled to length one; zero stays zero."""
    return x * _inverse_length(x)[..., None]


def _inverse_length(x: Floats) -> Floats:
    return quotient(_ONE, np.sqrt(_squares(x) + UNIT_EPS))


def _squares(x: Floats) -> Floats:
    return lane_sum(x * x)


def _rotated(x: Floats, sines: Floats, cosines: Floats) -> Floats:
    """Both halves of the head's channels turned against each other."""
    half = len(sines)
    first, second = x[:, :half], x[:, half : 2 * half]
    turned = np.zeros_like(x)
    turned[:, :half] = first * cosines - second * sines
    turned[:, half : 2 * half] = second * cosines + first * sines
    return turned


def _codes(x: Floats) -> tuple[NDArray[np.int8], Floats]:
    """int8 codes with a scale a head, as `quant.activations` has them; zeros for what is not finite."""
    largest = np.maximum(np.abs(x).max(axis=1), SMALLEST_MAXIMUM)
    scaled = x * quotient(np.float32(MAX_CODE), largest)[:, None]
    is_finite = largest < np.float32(np.inf)
    codes = np.rint(np.where(is_finite[:, None], scaled, np.float32(0))).astype(np.int8)
    return codes, canonical(quotient(largest, np.float32(MAX_CODE)))


def lane_sum(x: Floats) -> Floats:
    """Sums over the last axis, whole registers: in 16 lanes, then lanes 8 apart, 4, 2 and 1."""
    parts = x.reshape(*x.shape[:-1], x.shape[-1] // LANES, LANES)
    lanes = np.add.accumulate(parts, axis=-2)[..., -1, :]
    while lanes.shape[-1] > 1:
        half = lanes.shape[-1] // 2
        lanes = lanes[..., :half] + lanes[..., half:]
    return lanes[..., 0]


def sum_in_order(x: Floats) -> Floats:
    """Sums over the middle axis of [H, n, K], in order; they begin with zero, so none is minus zero."""
    return np.add.accumulate(x, axis=1)[:, -1] + np.float32(0)


def _whole_registers(x: Floats) -> Floats:
    """Zeros up to a multiple of the lanes."""
    return np.pad(x, ((0, 0), (0, -x.shape[1] % LANES)))
