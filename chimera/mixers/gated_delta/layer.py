"""Gated DeltaNet: short convolutions on query, key and value, the gated delta rule, a norm of each head.

    x̂ = RMSNorm(x), x̃ = Q(x̂)        q, k, v = SiLU(conv(W x̃))        q, k of unit length, q times K^{−1/2}
    β = σ(W_β x̂)        log α = −exp(A_log) · softplus(W_α x̂ + dt_bias)
    y = RMSNorm_head(o) [⊙ SiLU(W_gate x̃)]        out = W_o Q(RMSNorm(y))

Under the rule `exact_flow` keys keep their length, and the gates come from `exact_flow.py`.
Gated Delta Networks (Yang et al., 2025), section 3.4.
"""

import math
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from chimera.mixers.convolution import CausalConvolution
from chimera.mixers.gated_delta.chunk import gated_delta_chunks
from chimera.mixers.gated_delta.exact_flow import DeltaGates, exact_flow_gates
from chimera.mixers.gated_delta.step import gated_delta_step
from chimera.mixers.packing import Packing
from chimera.mixers.projections import GateProjection, project_gates, unit
from quant.activations import BLOCK, ActBlock
from quant.qat.activations import RMSNorm, fake_quantize_activations
from quant.qat.linear import BitLinear
from quant.ternary import GROUP, GroupSize

DeltaRule = Literal["delta", "exact_flow"]

# α lies between about 0.2 and 0.9999 at the start: heads of short and of long memory.
LARGEST_RATE = 16.0
STEP_RANGE = (1e-3, 0.1)
SMALLEST_STEP = 1e-4


class GatedDeltaState(NamedTuple):
    """The state of a Gated DeltaNet layer, float32."""

    memory_BHKV: Tensor
    q_tail: Tensor  # [B, Y-1, H·K] last inputs of the convolution, the oldest first
    k_tail: Tensor
    v_tail: Tensor


class GatedDeltaNet(nn.Module):
    """The layer. The caller adds the residual."""

    def __init__(
        self,
        *,
        width: int,
        num_heads: int,
        head_dim: int = 64,
        conv_size: int = 4,
        chunk_size: int = 64,
        use_output_gate: bool = False,
        rule: DeltaRule = "delta",
        eps: float = 1e-6,
        group_size: GroupSize = GROUP,
        act_block: ActBlock = BLOCK,
        init_std: float = 0.006,
        out_init_std: float | None = None,
    ) -> None:
        super().__init__()
        inner = num_heads * head_dim

        def linear(num_inputs: int, num_outputs: int, *, std: float = init_std) -> BitLinear:
            return BitLinear(
                num_inputs, num_outputs, group_size=group_size, act_block=act_block, norm=False, init_std=std
            )

        self.num_heads = num_heads
        self.head_dim = head_dim
        self.chunk_size = chunk_size
        self.rule: DeltaRule = rule
        self.act_block: ActBlock = act_block
        self.norm = RMSNorm(width, eps=eps)
        self.q_proj = linear(width, inner)
        self.k_proj = linear(width, inner)
        self.v_proj = linear(width, inner)
        self.q_conv = CausalConvolution(channels=inner, num_taps=conv_size)
        self.k_conv = CausalConvolution(channels=inner, num_taps=conv_size)
        self.v_conv = CausalConvolution(channels=inner, num_taps=conv_size)
        self.alpha_proj = GateProjection(width=width, num_heads=num_heads, init_std=init_std)
        self.beta_proj = GateProjection(width=width, num_heads=num_heads, init_std=init_std)
        self.A_log = nn.Parameter(torch.empty(num_heads))
        self.dt_bias = nn.Parameter(torch.empty(num_heads))
        self.head_norm = RMSNorm(head_dim, eps=eps)
        self.gate_proj = linear(width, inner) if use_output_gate else None
        self.out_norm = RMSNorm(inner, eps=eps)
        self.o_proj = linear(inner, width, std=init_std if out_init_std is None else out_init_std)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """The decay's parameters; the modules below reset their own."""
        self.A_log.uniform_(0.0, LARGEST_RATE).clamp_min_(1e-4).log_()
        low, high = map(math.log, STEP_RANGE)
        step = torch.empty_like(self.dt_bias).uniform_(low, high).exp_().clamp_min_(SMALLEST_STEP)
        self.dt_bias.copy_(step + torch.log(-torch.expm1(-step)))  # softplus of it is the step

    def initial_state(self, batch: int, *, device: torch.device | None = None) -> GatedDeltaState:
        """The state before a text."""
        device = self.A_log.device if device is None else device
        shape = (batch, self.num_heads, self.head_dim, self.head_dim)
        return GatedDeltaState(
            memory_BHKV=torch.zeros(shape, device=device),
            q_tail=self.q_conv.initial_tail(batch, device=device),
            k_tail=self.k_conv.initial_tail(batch, device=device),
            v_tail=self.v_conv.initial_tail(batch, device=device),
        )

    def forward(
        self, x_BTD: Tensor, state: GatedDeltaState | None = None, *, packing: Packing | None = None
    ) -> tuple[Tensor, GatedDeltaState]:
        """The output [B, T, D] and the state after it. One token takes the step, more the chunks."""
        if state is None:
            state = self.initial_state(x_BTD.shape[0], device=x_BTD.device)
        resets_BT = None if packing is None else packing.resets_BT
        x_hat = self.norm(x_BTD)
        x_tilde = fake_quantize_activations(x_hat, block=self.act_block, mix=self.q_proj.quant_mix)
        q, q_tail = self.q_conv(self.q_proj.project(x_tilde), tail=state.q_tail, resets_BT=resets_BT)
        k, k_tail = self.k_conv(self.k_proj.project(x_tilde), tail=state.k_tail, resets_BT=resets_BT)
        v, v_tail = self.v_conv(self.v_proj.project(x_tilde), tail=state.v_tail, resets_BT=resets_BT)
        q, k, v = (F.silu(x).unflatten(-1, (self.num_heads, self.head_dim)) for x in (q, k, v))
        q = unit(q) * self.head_dim**-0.5
        k = unit(k) if self.rule == "delta" else k
        gates = self._gates(x_hat, k)

        if x_BTD.shape[1] == 1 and resets_BT is None:
            o_BHV, memory = gated_delta_step(
                q.squeeze(1),
                k.squeeze(1),
                v.squeeze(1),
                log_decay_BH=gates.log_decay_BTH.squeeze(1),
                erase_BH=gates.erase_BTH.squeeze(1),
                write_BH=gates.write_BTH.squeeze(1),
                state_BHKV=state.memory_BHKV,
            )
            o = o_BHV.unsqueeze(1)
        else:
            o, memory = gated_delta_chunks(
                q,
                k,
                v,
                log_decay_BTH=gates.log_decay_BTH,
                erase_BTH=gates.erase_BTH,
                write_BTH=gates.write_BTH,
                state_BHKV=state.memory_BHKV,
                resets_BT=resets_BT,
                chunk_size=self.chunk_size,
            )
        return self._output(o, x_tilde), GatedDeltaState(memory, q_tail, k_tail, v_tail)

    def step(self, x_BD: Tensor, state: GatedDeltaState | None = None) -> tuple[Tensor, GatedDeltaState]:
        """One token: the output [B, D] and the new state."""
        y_BTD, new_state = self(x_BD.unsqueeze(1), state)
        return y_BTD.squeeze(1), new_state

    def _gates(self, x_hat: Tensor, k_BTHK: Tensor) -> DeltaGates:
        alpha, beta = project_gates(x_hat, (self.alpha_proj, self.beta_proj))
        log_alpha = -self.A_log.exp() * F.softplus(alpha + self.dt_bias)
        beta = torch.sigmoid(beta)
        if self.rule == "exact_flow":
            return exact_flow_gates(k_BTHK, log_alpha_BTH=log_alpha, beta_BTH=beta)
        return DeltaGates(log_decay_BTH=log_alpha, erase_BTH=beta, write_BTH=beta)

    def _output(self, o_BTHV: Tensor, x_tilde: Tensor) -> Tensor:
        y = self.head_norm(o_BTHV).flatten(-2)
        if self.gate_proj is not None:
            y = y * F.silu(self.gate_proj.project(x_tilde).float())
        y = fake_quantize_activations(self.out_norm(y), block=self.act_block, mix=self.o_proj.quant_mix)
        return self.o_proj.project(y)
