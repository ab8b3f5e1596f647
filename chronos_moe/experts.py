"""The experts: stacked ternary SwiGLUs, each token visiting a few of them.

    E_e(x̃) = W_down,e · Q(RMSNorm_e(SiLU(W_gate,e x̃) ⊙ W_up,e x̃))        x̃ = Q(RMSNorm(x)), shared by all
    y_t    = Σ_a weight_ta · E_(expert ta)(x̃_t)

Numbers and gradients are those of `quant.qat.linear.BitLinear`, one expert at a time.
"""

from collections.abc import Callable, Mapping
from typing import Final, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from chronos_moe.dispatch import dispatch, expert_rows, gather_pairs, spread
from chronos_moe.grouped import grouped_linear
from quant.activations import BLOCK, ActBlock
from quant.qat.activations import fake_quantize_activations
from quant.qat.linear import BitLinear, WeightForm
from quant.qat.sherry import fake_quantize_sherry
from quant.qat.weights import fake_quantize_weight
from quant.ternary import GROUP, GroupSize

DispatchForm = Literal["sorted", "dense"]


class ExpertLinear(nn.Module):
    """A ternary matrix per expert, stacked: [experts, outputs, inputs]."""

    quant_mix: Tensor | None
    arenas: Tensor | None

    def __init__(
        self,
        num_inputs: int,
        num_outputs: int,
        *,
        num_experts: int,
        group_size: GroupSize = GROUP,
        init_std: float = 0.006,
        device: torch.device | None = None,
    ) -> None:
        super().__init__()
        self.group_size: GroupSize = group_size
        self.init_std = init_std
        self.weight = nn.Parameter(
            torch.empty(num_experts, num_outputs, num_inputs, device=device, dtype=torch.float32)
        )
        self.weight_form: WeightForm = "ternary"
        self.register_buffer("quant_mix", None, persistent=False)
        self.register_buffer("arenas", None, persistent=False)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.normal_(self.weight, std=self.init_std)

    def quantized_weight(self) -> Tensor:
        """The weights that the products see, with their straight-through gradient."""
        if self.weight_form == "sherry":
            arenas = self.arenas if self.training else None
            return fake_quantize_sherry(
                self.weight, group_size=self.group_size, mix=self.quant_mix, arenas=arenas
            )
        return fake_quantize_weight(self.weight, group_size=self.group_size, mix=self.quant_mix)

    def extra_repr(self) -> str:
        num_experts, num_outputs, num_inputs = self.weight.shape
        return f"{num_inputs}, {num_outputs}, num_experts={num_experts}, group_size={self.group_size!r}"


class Experts(nn.Module):
    """The routed experts of a layer. They read an input that is normed and quantised already."""

    quant_mix: Tensor | None

    def __init__(
        self,
        width: int,
        inner_width: int,
        *,
        num_experts: int,
        group_size: GroupSize = GROUP,
        act_block: ActBlock = BLOCK,
        eps: float = 1e-6,
        init_std: float = 0.006,
        down_init_std: float | None = None,
        form: DispatchForm = "sorted",
        device: torch.device | None = None,
    ) -> None:
        super().__init__()

        def linear(num_inputs: int, num_outputs: int, *, std: float) -> ExpertLinear:
            return ExpertLinear(
                num_inputs,
                num_outputs,
                num_experts=num_experts,
                group_size=group_size,
                init_std=std,
                device=device,
            )

        self.act_block: ActBlock = act_block
        self.eps = eps
        self.form: DispatchForm = form
        self.gate_proj = linear(width, inner_width, std=init_std)
        self.up_proj = linear(width, inner_width, std=init_std)
        self.down_norm = nn.Parameter(
            torch.ones(num_experts, inner_width, device=device, dtype=torch.float32)
        )
        self.down_proj = linear(inner_width, width, std=init_std if down_init_std is None else down_init_std)
        self.register_buffer("quant_mix", None, persistent=False)

    def reset_parameters(self) -> None:
        """The norm's gains; the matrices reset their own."""
        nn.init.ones_(self.down_norm)

    def forward(self, x_TD: Tensor, expert_TA: Tensor, weights_TA: Tensor) -> Tensor:
        """The weighted sum of each token's experts, float32. `x_TD` is normed and quantised.

        An expert whose weight is exactly 0 adds nothing, whatever stands in its memory.
        """
        rows_TAD = FORMS[self.form](self, x_TD, expert_TA)
        weights = weights_TA.unsqueeze(-1)
        return torch.where(weights != 0, rows_TAD.float() * weights, 0.0).sum(dim=1)

    def inner(self, gate: Tensor, up: Tensor, *, gain: Tensor) -> Tensor:
        """What goes into the last product: SwiGLU, norm with the expert's gain, quantiser."""
        hidden = F.silu(gate.float()) * up.float()
        normed = F.rms_norm(hidden, hidden.shape[-1:], None, self.eps) * gain
        return fake_quantize_activations(normed, block=self.act_block, mix=self.quant_mix)


def sorted_rows(experts: Experts, x_TD: Tensor, expert_TA: Tensor) -> Tensor:
    """Each pair's output [T, A, D]: pairs sorted by expert, one product per contiguous block."""
    to = dispatch(expert_TA, num_experts=experts.down_norm.shape[0])
    dtype = product_dtype(x_TD)
    x_UD = spread(x_TD.to(dtype), to=to)
    # One product for gate and up, which read the same rows: a fifth less time for a layer of small experts.
    # Joined after the cast, so that the gradients come apart before theirs and need no copy.
    projections = (experts.gate_proj, experts.up_proj)
    weight_EOI = torch.cat([linear.quantized_weight().to(dtype) for linear in projections], dim=1)
    gate_UF, up_UF = grouped_linear(x_UD, weight_EOI, ends_E=to.ends_E).chunk(2, dim=-1)
    h_UF = experts.inner(gate_UF, up_UF, gain=expert_rows(experts.down_norm, of=to)).to(dtype)
    y_UD = grouped_linear(h_UF, experts.down_proj.quantized_weight().to(dtype), ends_E=to.ends_E)
    return gather_pairs(y_UD, back=to)


def dense_rows(experts: Experts, x_TD: Tensor, expert_TA: Tensor) -> Tensor:
    """Each pair's output [T, A, D] by computing all experts for all tokens: plain, and for tiny sizes."""
    weights = (
        linear.quantized_weight() for linear in (experts.gate_proj, experts.up_proj, experts.down_proj)
    )
    outputs = []
    for gate, up, down, gain in zip(*weights, experts.down_norm, strict=True):
        hidden = experts.inner(F.linear(x_TD, gate), F.linear(x_TD, up), gain=gain)
        outputs.append(F.linear(hidden, down))
    return torch.stack(outputs, dim=1).gather(1, expert_TA.unsqueeze(-1).expand(-1, -1, x_TD.shape[-1]))


FORMS: Final[Mapping[DispatchForm, Callable[[Experts, Tensor, Tensor], Tensor]]] = {
    "sorted": sorted_rows,
    "dense": dense_rows,
}


def product_dtype(x: Tensor) -> torch.dtype:
    """The type that autocast gives to products of `x`; the grouped product does not ask for it itself."""
    device = x.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype


class SharedExpert(nn.Module):
    """The expert that every token visits. Several are one of their joint width."""

    def __init__(
        self,
        width: int,
        inner_width: int,
        *,
        group_size: GroupSize = GROUP,
        act_block: ActBlock = BLOCK,
        eps: float = 1e-6,
        init_std: float = 0.006,
        down_init_std: float | None = None,
        device: torch.device | None = None,
    ) -> None:
        super().__init__()

        def linear(num_inputs: int, num_outputs: int, *, std: float) -> BitLinear:
            return BitLinear(
                num_inputs,
                num_outputs,
                group_size=group_size,
                act_block=act_block,
                norm=False,
                init_std=std,
                device=device,
            )

        self.eps = eps
        self.gate_proj = linear(width, inner_width, std=init_std)
        self.up_proj = linear(width, inner_width, std=init_std)
        self.down_norm = nn.Parameter(torch.ones(inner_width, device=device, dtype=torch.float32))
        self.down_proj = linear(inner_width, width, std=init_std if down_init_std is None else down_init_std)

    def reset_parameters(self) -> None:
        """The norm's gains; the matrices reset their own."""
        nn.init.ones_(self.down_norm)

    def forward(self, x: Tensor) -> Tensor:
        """`x` [..., D] is normed and quantised."""
        hidden = F.silu(self.gate_proj.project(x).float()) * self.up_proj.project(x).float()
        # Without its own norm, the projection quantises its input and nothing more.
        return self.down_proj(F.rms_norm(hidden, self.down_norm.shape, self.down_norm, self.eps))
