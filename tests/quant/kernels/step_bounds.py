"""How far float32 steps may stand from the truth: from norms and the rounding of one operation, nothing else.

`delta_truth` and `mlstm_truth` run the layers' own steps in float64 on the same inputs, and beside them the
bounds of what rounding can do to the memory and to the results. Each column of a memory, which belongs to one
value, goes its own way, and is bounded by its length. Roundings fall to either side: a sum of K products errs
by √K of them, and what a token adds to an error joins what is left of those before by the root of squares,
as the steps themselves never enlarge a difference.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from chimera.mixers.gated_delta.exact_flow import DeltaGates, exact_flow_gates
from chimera.mixers.gated_delta.step import gated_delta_step
from chimera.mixers.mlstm.state import DENOMINATOR_FLOOR, MemoryState
from chimera.mixers.mlstm.step import mlstm_step
from chimera.mixers.projections import unit
from quant.kernels.delta.reference import DeltaTokens, DeltaWeights, Rule
from quant.kernels.mlstm.reference import MLSTMState, MLSTMTokens, MLSTMWeights

ROUNDING = 2.0**-24
FEW = 8.0
"""Roundings on the way of a number that is no sum, those of the elementary functions among them."""
SMALLEST = 2.0**-149
"""The step between subnormals, which a rounding there may err by, however small its number is."""

Doubles = NDArray[np.float64]


class Truth(NamedTuple):
    """Results in float64 and how far float32 may be from them."""

    y_TD: Doubles
    y_bound_TD: Doubles
    memory_HKV: Doubles
    memory_bound_HV: Doubles
    """Length of the error of a column."""
    log_scale_H: Doubles | None


def delta_truth(
    tokens: DeltaTokens, weights: DeltaWeights, memory_HKV: NDArray[np.float32], *, rule: Rule
) -> Truth:
    size = memory_HKV.shape[-1]
    q, k, v = (heads(x, size) for x in (tokens.q, tokens.k, tokens.v))
    q = unit(q) * size**-0.5
    k = unit(k) if rule == "delta" else k
    gates = delta_gates(tokens, weights, k, rule=rule)
    memory = torch.from_numpy(memory_HKV).double().unsqueeze(0)
    outputs: list[Tensor] = []
    lengths = [memory.norm(dim=-2)]
    for t in range(len(q)):
        log_decay, erase, write = (gate[t : t + 1] for gate in gates)
        o, memory = gated_delta_step(
            *(x[t : t + 1] for x in (q, k, v)),
            log_decay_BH=log_decay,
            erase_BH=erase,
            write_BH=write,
            state_BHKV=memory,
        )
        outputs.append(o)
        lengths.append(memory.norm(dim=-2))
    o_THV, before_THV = torch.cat(outputs), torch.cat(lengths[:-1])

    log_decay, erase, write = (gate.unsqueeze(-1) for gate in gates)
    alpha, q_TH_1, k_TH_1 = log_decay.exp(), q.norm(dim=-1, keepdim=True), k.norm(dim=-1, keepdim=True)
    put_in, taken_out = write * v.abs(), erase * alpha * k_TH_1 * before_THV
    sum_error = FEW + size**0.5
    from_past = FEW * (1 + log_decay.abs()) * alpha * before_THV
    added = ROUNDING * (from_past + k_TH_1 * (FEW * put_in + sum_error * taken_out)) + size * SMALLEST
    error_THV = running(added, left=alpha)
    read = alpha * before_THV + k_TH_1 * (put_in + taken_out)
    o_error = q_TH_1 * (error_THV + ROUNDING * sum_error * read) + size * SMALLEST
    y, y_bound = normed(o_THV, o_error, weights.gain, eps=weights.eps, gate=tokens.gate, by=F.silu)
    return Truth(y, y_bound, memory[0].numpy(), error_THV[-1].numpy(), None)


def delta_gates(tokens: DeltaTokens, weights: DeltaWeights, k_THK: Tensor, *, rule: Rule) -> DeltaGates:
    """As `GatedDeltaNet._gates` has them."""
    log_alpha = -double(weights.rates) * F.softplus(double(tokens.alpha) + double(weights.dt_bias))
    beta = torch.sigmoid(double(tokens.beta))
    if rule == "exact_flow":
        return exact_flow_gates(k_THK, log_alpha_BTH=log_alpha, beta_BTH=beta)
    return DeltaGates(log_decay_BTH=log_alpha, erase_BTH=beta, write_BTH=beta)


def mlstm_truth(tokens: MLSTMTokens, weights: MLSTMWeights, state: MLSTMState) -> Truth:
    size = state.memory.shape[-1]
    q, k, v = (heads(x, size) for x in (tokens.q, tokens.k, tokens.v))
    log_input = double(tokens.input_gate) + double(weights.input_bias)
    log_input = log_input if weights.exponential_gating else F.logsigmoid(log_input)
    log_forget = F.logsigmoid(double(tokens.forget_gate) + double(weights.forget_bias))
    held = MemoryState(*(double(x).unsqueeze(0) for x in (state.memory, state.normaliser, state.log_scale)))
    outputs: list[Tensor] = []
    states = [held]
    for t in range(len(q)):
        h, held = mlstm_step(
            *(x[t : t + 1] for x in (q, k, v)),
            log_input_BH=log_input[t : t + 1],
            log_forget_BH=log_forget[t : t + 1],
            state=held,
        )
        outputs.append(h)
        states.append(held)
    h_THV, m_TH = torch.cat(outputs), torch.cat([held.log_scale_BH for held in states])
    normaliser_THK = torch.cat([held.normaliser_BHK for held in states])
    # The normaliser goes as a column of the memory whose value is one; here it is the last.
    columns = torch.cat([held.memory_BHKV.norm(dim=-2) for held in states])
    columns = torch.cat([columns, normaliser_THK.norm(dim=-1, keepdim=True)], dim=-1)
    values = torch.cat([v.abs(), torch.ones_like(v[..., :1])], dim=-1)

    forget = (log_forget + m_TH[:-1] - m_TH[1:]).exp().unsqueeze(-1)
    write = ((log_input - m_TH[1:]).exp() * size**-0.5).unsqueeze(-1)
    m_TH = m_TH[1:]
    q_TH_1, k_TH_1 = q.norm(dim=-1, keepdim=True), k.norm(dim=-1, keepdim=True)
    rounding = ROUNDING * FEW * (1 + log_forget.abs() + log_input.abs() + m_TH.abs()).unsqueeze(-1)
    added = rounding * (forget * columns[:-1] + write * k_TH_1 * values) + size * SMALLEST
    errors = running(added, left=forget)
    sums = q_TH_1 * (errors + ROUNDING * (FEW + size**0.5) * columns[1:]) + size * SMALLEST
    above, below = sums[..., :-1], sums[..., -1:]
    floor = (-m_TH).exp().clamp_min(DENOMINATOR_FLOOR).unsqueeze(-1)
    bound = torch.maximum((q * normaliser_THK[1:]).sum(-1, keepdim=True).abs(), floor)
    h_error = (above + h_THV.abs() * below) / torch.maximum(bound - below, floor)
    h_error = h_error + rounding * h_THV.abs() + SMALLEST
    gain = weights.gain.reshape(-1, size)
    y, y_bound = normed(h_THV, h_error, gain, eps=weights.eps, gate=tokens.gate, by=torch.sigmoid)
    memory, log_scale = held.memory_BHKV[0].numpy(), held.log_scale_BH[0].numpy()
    return Truth(y, y_bound, memory, errors[-1, :, :-1].numpy(), log_scale)


def running(added: Tensor, *, left: Tensor) -> Tensor:
    """Errors after each token: what is left of those before, and what it adds."""
    error = torch.zeros_like(added[0])
    errors: list[Tensor] = []
    for more, part in zip(added, left, strict=True):
        error = torch.hypot(part * error, more)
        errors.append(error)
    return torch.stack(errors)


def normed(
    o_THV: Tensor,
    error_THV: Tensor,
    gain: NDArray[np.float32],
    *,
    eps: np.float32,
    gate: NDArray[np.float32] | None,
    by: Callable[[Tensor], Tensor],
) -> tuple[Doubles, Doubles]:
    """Each head's norm and the gate, and what they make of the errors.

    y = o r with r = 1/√(mean o² + ε): errors e move it by r e, and r itself by at most r² √(mean e²).
    """
    size, weight = o_THV.abs(), double(gain)
    scale = (o_THV.square().mean(-1, keepdim=True) + float(eps)).rsqrt()
    y = (o_THV * scale * weight).flatten(1)
    moved = scale * (error_THV + size * scale * error_THV.square().mean(-1, keepdim=True).sqrt())
    bound = (weight.abs() * (moved + 2 * FEW * ROUNDING * size * scale)).flatten(1) + SMALLEST
    if gate is not None:
        factor = by(double(gate))
        y, bound = y * factor, bound * factor.abs() + FEW * ROUNDING * (y * factor).abs() + SMALLEST
    return y.numpy(), bound.numpy()


def heads(x: NDArray[np.float32], size: int) -> Tensor:
    """[tokens, heads, K]."""
    return double(x).unflatten(-1, (-1, size))


def double(x: NDArray[Any]) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(x)).double()
