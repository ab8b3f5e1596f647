"""The matrix LSTM by NumPy, step by step and operation by operation as the kernel computes it.

    f = −softplus(−(f~ + b_f))        i = i~ + b_i, or −softplus(−(i~ + b_i)) without exponential gating
    m' = max(f + m, i)
    forget = e^{(f + m) − m'}         write = e^{i − m'} · 1/√K
    n'_i = forget · n_i + write · k_i
    C'_ij = forget · C_ij + (write · k_i) · v_j
    h_j = (Σ_i q_i C'_ij) / max(|Σ q n'|, max(e^{−m'}, 1e-6))
    y = RMSNorm(h) [· σ(gate)]

The sum over i runs from the first key to the last; Σ q n' in 16 lanes, as `dense.reference` has them. A NaN
in the state may have other bits in a kernel.
xLSTM (Beck et al., 2024), section 2.3.
"""

from dataclasses import dataclass

import numpy as np

from quant.kernels.delta.reference import inverse_root, sum_over_keys
from quant.kernels.dense.reference import sum_of_products
from quant.kernels.elementary.reference import Floats, canonical, exp, quotient, sigmoid, softplus
from quant.kernels.norm.reference import rms_norm

DENOMINATOR_FLOOR = 1e-6


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class MLSTMTokens:
    """What the projections give for some tokens, float32; rows may lie apart in memory."""

    q: Floats
    """[tokens, heads · K], as k and v."""
    k: Floats
    v: Floats
    input_gate: Floats
    """[tokens, heads], as forget_gate: before bias and activation."""
    forget_gate: Floats
    gate: Floats | None = None
    """[tokens, heads · K], the output gate before its sigmoid."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class MLSTMWeights:
    """What a layer has learnt beside its projections, float32."""

    input_bias: Floats
    """[heads]"""
    forget_bias: Floats
    """[heads]"""
    gain: Floats
    """[heads · K]"""
    eps: np.float32
    exponential_gating: bool = True


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class MLSTMState:
    """What the heads remember, divided by e^m."""

    memory: Floats
    """[heads, K, K], keys before values."""
    normaliser: Floats
    """[heads, K]"""
    log_scale: Floats
    """m [heads], −∞ before a text."""


def mlstm(
    tokens: MLSTMTokens, weights: MLSTMWeights, state: MLSTMState
) -> tuple[Floats, Floats, Floats, Floats]:
    """Results [tokens, heads · K], and the new memory, normaliser and scale."""
    memory_HKV, normaliser_HK, log_scale_H = state.memory, state.normaliser, state.log_scale
    num_tokens, (num_heads, size, _) = len(tokens.q), memory_HKV.shape
    q_THK, k_THK, v_THV = (x.reshape(num_tokens, num_heads, size) for x in (tokens.q, tokens.k, tokens.v))
    outputs: list[Floats] = []
    with np.errstate(all="ignore"):
        log_input_TH = tokens.input_gate + weights.input_bias
        if not weights.exponential_gating:
            log_input_TH = -softplus(-log_input_TH)
        log_forget_TH = -softplus(-(tokens.forget_gate + weights.forget_bias))
        for t in range(num_tokens):
            faded_H: Floats = np.add(log_forget_TH[t], log_scale_H)
            log_scale_H = _maximum(faded_H, log_input_TH[t])
            forget_H_1 = exp(faded_H - log_scale_H)[:, None]
            write_H_1 = (exp(log_input_TH[t] - log_scale_H) * inverse_root(size))[:, None]
            written_HK = write_H_1 * k_THK[t]
            normaliser_HK = forget_H_1 * normaliser_HK + written_HK
            memory_HKV = forget_H_1[:, :, None] * memory_HKV + written_HK[:, :, None] * v_THV[t][:, None, :]
            denominator_H = np.abs(sum_of_products(q_THK[t], normaliser_HK))
            bound_H = _maximum(denominator_H, _maximum(exp(-log_scale_H), np.float32(DENOMINATOR_FLOOR)))
            outputs.append(quotient(sum_over_keys(q_THK[t], memory_HKV), bound_H[:, None]))
        h_TD = np.stack(outputs).reshape(num_tokens, -1)
        y_TD = rms_norm(h_TD, weights.gain, weights.eps, num_heads)
        y_TD = y_TD if tokens.gate is None else canonical(y_TD * sigmoid(tokens.gate))
        return y_TD, memory_HKV, normaliser_HK, log_scale_H


def _maximum(x: Floats, y: Floats | np.float32) -> Floats:
    """x where it is larger, else y."""
    return np.where(x > y, x, y)
