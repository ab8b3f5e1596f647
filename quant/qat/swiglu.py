"""SwiGLU with ternary projections.

x̃ = Q(RMSNorm(x));  y = W_down · Q(RMSNorm(SiLU(W_gate · x̃) ⊙ (W_up · x̃)))
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from quant.activations import BLOCK, ActBlock
from quant.qat.activations import RMSNorm, norm_quant
from quant.qat.linear import BitLinear
from quant.ternary import GROUP, GroupSize


class SwiGLU(nn.Module):
    """Gate and up share one norm and one quantised input; down has its own."""

    def __init__(
        self,
        width: int,
        inner_width: int,
        *,
        group_size: GroupSize = GROUP,
        act_block: ActBlock = BLOCK,
        norm: bool = True,
        eps: float = 1e-6,
        init_std: float = 0.02,
        down_init_std: float | None = None,
        device: torch.device | None = None,
    ) -> None:
        super().__init__()

        def linear(num_inputs: int, num_outputs: int, *, std: float = init_std) -> BitLinear:
            return BitLinear(
                num_inputs,
                num_outputs,
                group_size=group_size,
                act_block=act_block,
                norm=False,
                init_std=std,
                device=device,
            )

        self.norm = RMSNorm(width, eps=eps, device=device) if norm else None
        self.gate_proj = linear(width, inner_width)
        self.up_proj = linear(width, inner_width)
        down_std = init_std if down_init_std is None else down_init_std
        self.down_norm = RMSNorm(inner_width, eps=eps, device=device)
        self.down_proj = linear(inner_width, width, std=down_std)

    def forward(self, x: Tensor) -> Tensor:
        if self.norm is None:
            return self.project(x)
        return self.project(
            norm_quant(x, self.norm, block=self.gate_proj.act_block, mix=self.gate_proj.quant_mix)
        )

    def project(self, x_quantized: Tensor) -> Tensor:
        """The layer behind its first norm, which experts of one router share."""
        gate = F.silu(self.gate_proj.project(x_quantized).float())
        inner = gate * self.up_proj.project(x_quantized).float()
        down = self.down_proj
        return down.project(norm_quant(inner, self.down_norm, block=down.act_block, mix=down.quant_mix))
