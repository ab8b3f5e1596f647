"""The gated delta rule by NumPy, step by step and operation by operation as the kernel computes it.

    u = e^A_log · softplus(a + dt_bias)        β = σ(b)
    rule `delta`:       α = e^{−u}             erase = write = β
    rule `exact_flow`:  α = e^{−g}             erase = ρ·M(ρλ)        write = β·M(g + ρλ)
                        g = 1 − e^{−u}         ρ = e^{−u}·β           λ = Σ k²        M(x) = (1 − e^{−x})/x
    q = q · (1/√(Σ q² + 1e-6) · 1/√K)          k = k · 1/√(Σ k² + 1e-6), under `delta` alone

    r_j = Σ_i k_i S_ij        p_j = Σ_i q_i S_ij
    w_j = write · v_j − (erase · α) · r_j
    o_j = α · p_j + (Σ q k) · w_j
    S_ij = α · S_ij + k_i · w_j
    y = RMSNorm(o) [· SiLU(gate)]

So the memory is read once for both sums, and once more to be written: the query meets the memory before the
update, and what the update would have given it comes as its product with the key. Sums over i run from the
first key to the last; Σ q², Σ k² and Σ q k in 16 lanes, as `dense.reference` has them. A NaN in the memory
may have other bits in a kernel.
Gated Delta Networks (Yang et al., 2025), section 3; the exact flow is that of error-free linear attention.
"""

from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np

from quant.kernels.dense.reference import sum_of_products
from quant.kernels.elementary import constants as c
from quant.kernels.elementary.reference import Floats, canonical, exp, quotient, sigmoid, silu, softplus
from quant.kernels.norm.reference import rms_norm

Rule: TypeAlias = Literal["delta", "exact_flow"]

SMALLEST_LENGTH = 1e-6
"""Added to the square of a length, so that nothing is divided by zero."""

SERIES_BELOW = 0.34
"""Where the polynomial of e^x stands for M; it is good up to ln(2)/2."""

_ONE = np.float32(1)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class DeltaTokens:
    """What the projections give for some tokens, float32; rows may lie apart in memory."""

    q: Floats
    """[tokens, heads · K], as k and v: behind convolution and SiLU."""
    k: Floats
    v: Floats
    alpha: Floats
    """[tokens, heads], as beta: before the activation."""
    beta: Floats
    gate: Floats | None = None
    """[tokens, heads · K], the output gate before its SiLU."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class DeltaWeights:
    """What a layer has learnt beside its projections, float32."""

    rates: Floats
    """[heads], by `decay_rates`."""
    dt_bias: Floats
    """[heads]"""
    gain: Floats
    """[K]"""
    eps: np.float32


def decay_rates(A_log: Floats) -> Floats:
    """e^A_log, made once when a model is loaded."""
    return exp(A_log)


def gated_delta(tokens: DeltaTokens, weights: DeltaWeights, memory_HKV: Floats) -> tuple[Floats, Floats]:
    """Results [tokens, heads · K] by the rule `delta`, and the new memory."""
    return _steps(tokens, weights, memory_HKV, rule="delta")


def exact_flow(tokens: DeltaTokens, weights: DeltaWeights, memory_HKV: Floats) -> tuple[Floats, Floats]:
    """Results [tokens, heads · K] by the rule `exact_flow`, and the new memory."""
    return _steps(tokens, weights, memory_HKV, rule="exact_flow")


def _steps(
    tokens: DeltaTokens, weights: DeltaWeights, memory_HKV: Floats, *, rule: Rule
) -> tuple[Floats, Floats]:
    num_tokens, (num_heads, size, _) = len(tokens.q), memory_HKV.shape
    q_THK, k_THK, v_THV = (x.reshape(num_tokens, num_heads, size) for x in (tokens.q, tokens.k, tokens.v))
    outputs: list[Floats] = []
    with np.errstate(all="ignore"):
        k_sums_TH = sum_of_products(k_THK, k_THK)
        q_scale_TH = inverse_length(sum_of_products(q_THK, q_THK)) * inverse_root(size)
        q_THK = np.multiply(q_THK, q_scale_TH[:, :, None])
        if rule == "delta":
            k_THK = k_THK * inverse_length(k_sums_TH)[:, :, None]
        alpha_TH, erase_TH, write_TH = _gates(tokens, weights, k_sums_TH, rule=rule)
        shared_TH = sum_of_products(q_THK, k_THK)
        for t in range(num_tokens):
            alpha_H_1, erase_H_1, write_H_1, shared_H_1 = (
                x[t, :, None] for x in (alpha_TH, erase_TH, write_TH, shared_TH)
            )
            recalled_HV = sum_over_keys(k_THK[t], memory_HKV)
            asked_HV = sum_over_keys(q_THK[t], memory_HKV)
            w_HV = write_H_1 * v_THV[t] - (erase_H_1 * alpha_H_1) * recalled_HV
            outputs.append(alpha_H_1 * asked_HV + shared_H_1 * w_HV)
            memory_HKV = alpha_H_1[:, :, None] * memory_HKV + k_THK[t][:, :, None] * w_HV[:, None, :]
        o_TD = np.stack(outputs).reshape(num_tokens, -1)
        y_TD = rms_norm(o_TD, weights.gain, weights.eps, num_heads)
        return y_TD if tokens.gate is None else canonical(y_TD * silu(tokens.gate)), memory_HKV


def sum_over_keys(x_HK: Floats, memory_HKV: Floats) -> Floats:
    """Σ_i x_i S_ij [heads, values], one key after another."""
    total_HV: Floats = np.zeros((memory_HKV.shape[0], memory_HKV.shape[2]), dtype=np.float32)
    for i in range(memory_HKV.shape[1]):
        total_HV = np.add(total_HV, x_HK[:, i, None] * memory_HKV[:, i, :])
    return total_HV


def inverse_length(sums: Floats) -> Floats:
    """1 / √(Σ x² + 1e-6)."""
    return quotient(_ONE, np.sqrt(sums + np.float32(SMALLEST_LENGTH)))


def inverse_root(size: int) -> np.float32:
    """1 / √K."""
    return np.float32(quotient(_ONE, np.sqrt(np.float32(size))))


def _gates(
    tokens: DeltaTokens, weights: DeltaWeights, k_sums_TH: Floats, *, rule: Rule
) -> tuple[Floats, Floats, Floats]:
    """α, erase and write, [tokens, heads] each."""
    u_TH = weights.rates * softplus(tokens.alpha + weights.dt_bias)
    beta_TH = sigmoid(tokens.beta)
    alpha_TH = exp(-u_TH)
    if rule == "delta":
        return alpha_TH, beta_TH, beta_TH
    lost_TH = np.where(u_TH < np.float32(SERIES_BELOW), u_TH * _mean_decay_series(u_TH), _ONE - alpha_TH)
    rho_TH = alpha_TH * beta_TH
    strength_TH = rho_TH * k_sums_TH
    erase_TH = rho_TH * mean_decay(strength_TH)
    write_TH = beta_TH * mean_decay(lost_TH + strength_TH)
    return exp(-lost_TH), erase_TH, write_TH


def mean_decay(x: Floats) -> Floats:
    """(1 − e^{−x})/x for x from 0 up: the mean of e^{−t} from 0 to x."""
    with np.errstate(all="ignore"):
        far = quotient(_ONE - exp(-x), x)
        return np.where(x < np.float32(SERIES_BELOW), _mean_decay_series(x), far)


def _mean_decay_series(x: Floats) -> Floats:
    """1 − x·P(−x), with the polynomial P of which e^r = 1 + r + r²·P(r)."""
    value: Floats = np.full_like(x, c.EXP[-1])
    for coefficient in reversed(c.EXP[:-1]):
        value = value * -x + np.float32(coefficient)
    return np.subtract(_ONE, x * value)
