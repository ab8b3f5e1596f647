"""BitLinear: a linear layer that computes with ternary weights and int8 activations while it learns.

    y = Q_w(W) · Q_a(RMSNorm(x))

Gradients are straight-through: dX = dY · Q_w(W) into the norm, dW = dYᵀ · Q_a(…). There is no bias.
Quantising happens in float32, the product in autocast's type. The latent weights stay float32: bfloat16 would
lose small updates, so do not let a mixed-precision policy cast them (under FSDP: no `param_dtype`).
"""

from typing import Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from configs.errors import UsageError
from quant.activations import BLOCK, ActBlock
from quant.qat.activations import RMSNorm, fake_quantize_activations
from quant.qat.correction import Correction
from quant.qat.sherry import fake_quantize_sherry
from quant.qat.straight_through import refuse_mixed
from quant.qat.weights import SOFT_CLIP, fake_quantize_weight, soft_clip_, warn_of_deep_zero_masking
from quant.sherry import quantize_sherry
from quant.ternary import GROUP, GroupSize, TernaryWeights, quantize_ternary

WeightForm = Literal["ternary", "sherry"]
"""Which patterns of −1, 0 and 1 the weights may take: any, or those with one zero in every four."""


class BitLinear(nn.Module):
    """`forward` norms, quantises and projects; `project` takes what is normed and quantised already.

    Projections of one input share one norm and one quantised input: build them with `norm=False`, call
    `norm_quant` once and each one's `project`.

    `quant_mix` is the gradual λ of weights and inputs: None is 1, fully quantised, which training from
    scratch uses from the first step; a tensor λ mixes the float value in, to convert a float model.

    `weight_form` and `arenas` are set by `quant.qat.sherry`, `correction` by `add_corrections`.
    """

    quant_mix: Tensor | None
    arenas: Tensor | None
    correction: Correction | None

    def __init__(
        self,
        num_inputs: int,
        num_outputs: int,
        *,
        group_size: GroupSize = GROUP,
        act_block: ActBlock = BLOCK,
        norm: bool = True,
        eps: float = 1e-6,
        init_std: float = 0.02,
        mask_deep_zeros: bool = False,
        device: torch.device | None = None,
    ) -> None:
        super().__init__()
        if mask_deep_zeros:
            warn_of_deep_zero_masking()
        self.group_size: GroupSize = group_size
        self.act_block: ActBlock = act_block
        self.init_std = init_std
        self.mask_deep_zeros = mask_deep_zeros
        self.norm = RMSNorm(num_inputs, eps=eps, device=device) if norm else None
        self.weight = nn.Parameter(torch.empty(num_outputs, num_inputs, device=device, dtype=torch.float32))
        self.weight_form: WeightForm = "ternary"
        self.register_module("correction", None)
        self.register_buffer("quant_mix", None, persistent=False)
        self.register_buffer("arenas", None, persistent=False)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.normal_(self.weight, std=self.init_std)

    def forward(self, x: Tensor) -> Tensor:
        normed = x if self.norm is None else self.norm(x)
        return self.project(fake_quantize_activations(normed, block=self.act_block, mix=self.quant_mix))

    def project(self, x_quantized: Tensor) -> Tensor:
        """The product with an input that is normed and quantised."""
        y = F.linear(x_quantized, self.quantized_weight())
        return y if self.correction is None else y + self.correction(x_quantized)

    def quantized_weight(self) -> Tensor:
        """The weights that the product sees, with their straight-through gradient."""
        if self.weight_form == "sherry":
            arenas = self.arenas if self.training else None
            return fake_quantize_sherry(
                self.weight, group_size=self.group_size, mix=self.quant_mix, arenas=arenas
            )
        return fake_quantize_weight(
            self.weight, group_size=self.group_size, mix=self.quant_mix, mask_deep_zeros=self.mask_deep_zeros
        )

    def extra_repr(self) -> str:
        num_outputs, num_inputs = self.weight.shape
        return f"{num_inputs}, {num_outputs}, group_size={self.group_size!r}, act_block={self.act_block!r}"


def set_quant_mix(module: nn.Module, mix: float | None) -> None:
    """Set λ in a module and all below it: 0 computes in float, 1 or None fully quantised."""
    if mix is not None and not 0 <= mix <= 1:
        raise UsageError(f"the quantisation mix must lie in 0 … 1, got {mix}")
    for child in module.modules():
        if "quant_mix" not in child._buffers:
            continue
        present = child._buffers["quant_mix"]
        if mix is None:
            child._buffers["quant_mix"] = None
        elif present is None:
            device = next(child.parameters()).device
            child._buffers["quant_mix"] = torch.tensor(mix, dtype=torch.float32, device=device)
        else:
            # In place, so that a compiled graph and a captured one see the new value.
            present.fill_(mix)


def add_corrections(module: nn.Module, *, rank: int) -> None:
    """Put a low-rank correction beside every linear layer below a module."""
    for child in list(module.modules()):
        if isinstance(child, BitLinear):
            num_outputs, num_inputs = child.weight.shape
            child.correction = Correction(
                num_inputs, num_outputs, rank=rank, act_block=child.act_block, device=child.weight.device
            )


def soft_clip(module: nn.Module, *, limit: float = SOFT_CLIP) -> None:
    """Clip all latent ternary weights of a module softly; call it after the optimiser's step."""
    for child in module.modules():
        # Stacked experts are no BitLinear, but have its group size and its latent weight.
        if "quant_mix" in child._buffers and hasattr(child, "group_size"):
            weight, group_size = cast(Tensor, child.weight), cast(GroupSize, child.group_size)
            soft_clip_(weight, group_size=group_size, limit=limit)


def export_ternary(linear: BitLinear) -> TernaryWeights:
    """The codes and scales that `forward` computes with, for a file."""
    refuse_mixed(linear.quant_mix, what="a linear layer")
    weight = linear.weight.detach().float().cpu().numpy()
    quantize = quantize_sherry if linear.weight_form == "sherry" else quantize_ternary
    return quantize(weight, group_size=linear.group_size)
