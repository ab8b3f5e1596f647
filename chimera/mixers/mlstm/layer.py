"""The matrix LSTM as a layer.

    x̂ = RMSNorm(x), x̃ = Q(x̂)        c = SiLU(conv(x̂))
    q, k = W Q(c)        v = W_v x̃        i = W_i x̂ + b_i        f = log σ(W_f x̂ + b_f)
    y = RMSNorm_head(h) [⊙ σ(W_gate x̃)]        out = W_o Q(RMSNorm(y))

i is the logarithm of the input gate; without exponential gating it is log σ of the same number.
xLSTM (Beck et al., 2024), section 2.3, without the widening around it.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from chimera.mixers.convolution import CausalConvolution
from chimera.mixers.mlstm.chunk import mlstm_chunks
from chimera.mixers.mlstm.state import MemoryState, empty_state
from chimera.mixers.mlstm.step import mlstm_step
from chimera.mixers.packing import Packing
from chimera.mixers.projections import GateProjection, HeadNorm, project_gates
from quant.activations import BLOCK, ActBlock
from quant.qat.activations import RMSNorm, fake_quantize_activations
from quant.qat.linear import BitLinear
from quant.ternary import GROUP, GroupSize

# Forget gates from 0.95 to 0.998 at the start, spread over the heads.
FORGET_BIAS_RANGE = (3.0, 6.0)
INPUT_BIAS_STD = 0.1


class MLSTMState(NamedTuple):
    """The state of a matrix LSTM layer, float32."""

    memory: MemoryState
    tail: Tensor  # [B, Y-1, D] last inputs of the convolution, the oldest first


class MLSTM(nn.Module):
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
        exponential_gating: bool = True,
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
        self.exponential_gating = exponential_gating
        self.act_block: ActBlock = act_block
        self.norm = RMSNorm(width, eps=eps)
        self.conv = CausalConvolution(channels=width, num_taps=conv_size)
        self.q_proj = linear(width, inner)
        self.k_proj = linear(width, inner)
        self.v_proj = linear(width, inner)
        self.i_proj = GateProjection(width=width, num_heads=num_heads, init_std=0.0)
        self.f_proj = GateProjection(width=width, num_heads=num_heads, init_std=0.0)
        self.i_bias = nn.Parameter(torch.empty(num_heads))
        self.f_bias = nn.Parameter(torch.empty(num_heads))
        self.head_norm = HeadNorm(num_heads=num_heads, head_dim=head_dim, eps=eps)
        self.gate_proj = linear(width, inner) if use_output_gate else None
        self.out_norm = RMSNorm(inner, eps=eps)
        self.o_proj = linear(inner, width, std=init_std if out_init_std is None else out_init_std)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """The gates' biases; the modules below reset their own."""
        self.f_bias.copy_(torch.linspace(*FORGET_BIAS_RANGE, self.num_heads))
        self.i_bias.normal_(std=INPUT_BIAS_STD)

    def initial_state(self, batch: int, *, device: torch.device | None = None) -> MLSTMState:
        """The state before a text."""
        device = self.i_bias.device if device is None else device
        return MLSTMState(
            memory=empty_state(
                batch,
                num_heads=self.num_heads,
                key_dim=self.head_dim,
                value_dim=self.head_dim,
                device=device,
            ),
            tail=self.conv.initial_tail(batch, device=device),
        )

    def forward(
        self, x_BTD: Tensor, state: MLSTMState | None = None, *, packing: Packing | None = None
    ) -> tuple[Tensor, MLSTMState]:
        """The output [B, T, D] and the state after it. One token takes the step, more the chunks."""
        if state is None:
            state = self.initial_state(x_BTD.shape[0], device=x_BTD.device)
        resets_BT = None if packing is None else packing.resets_BT
        mix, block = self.q_proj.quant_mix, self.act_block
        x_hat = self.norm(x_BTD)
        x_tilde = fake_quantize_activations(x_hat, block=block, mix=mix)
        convolved, tail = self.conv(x_hat, tail=state.tail, resets_BT=resets_BT)
        convolved = fake_quantize_activations(F.silu(convolved), block=block, mix=mix)
        q, k, v = (
            x.unflatten(-1, (self.num_heads, self.head_dim))
            for x in (
                self.q_proj.project(convolved),
                self.k_proj.project(convolved),
                self.v_proj.project(x_tilde),
            )
        )
        log_input, log_forget = self._gates(x_hat)

        if x_BTD.shape[1] == 1 and resets_BT is None:
            h_BHV, memory = mlstm_step(
                q.squeeze(1),
                k.squeeze(1),
                v.squeeze(1),
                log_input_BH=log_input.squeeze(1),
                log_forget_BH=log_forget.squeeze(1),
                state=state.memory,
            )
            h = h_BHV.unsqueeze(1)
        else:
            h, memory = mlstm_chunks(
                q,
                k,
                v,
                log_input_BTH=log_input,
                log_forget_BTH=log_forget,
                state=state.memory,
                resets_BT=resets_BT,
                chunk_size=self.chunk_size,
            )
        return self._output(h, x_tilde), MLSTMState(memory, tail)

    def step(self, x_BD: Tensor, state: MLSTMState | None = None) -> tuple[Tensor, MLSTMState]:
        """One token: the output [B, D] and the new state."""
        y_BTD, new_state = self(x_BD.unsqueeze(1), state)
        return y_BTD.squeeze(1), new_state

    def _gates(self, x_hat: Tensor) -> tuple[Tensor, Tensor]:
        """Logarithms of the input and the forget gate, [B, T, H] each."""
        log_input, forget = project_gates(x_hat, (self.i_proj, self.f_proj))
        log_input = log_input + self.i_bias
        if not self.exponential_gating:
            log_input = F.logsigmoid(log_input)
        return log_input, F.logsigmoid(forget + self.f_bias)

    def _output(self, h_BTHV: Tensor, x_tilde: Tensor) -> Tensor:
        y = self.head_norm(h_BTHV).flatten(-2)
        if self.gate_proj is not None:
            y = y * torch.sigmoid(self.gate_proj.project(x_tilde).float())
        y = fake_quantize_activations(self.out_norm(y), block=self.act_block, mix=self.o_proj.quant_mix)
        return self.o_proj.project(y)
