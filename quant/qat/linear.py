"""BitLinear: a linear layer that computes with ternary weights and int8 activations while it learns.

    y = Q_w(W) · Q_a(RMSNorm(x))

Gradients are straight-through: dX = dY · Q_w(W) into the norm, dW = dYᵀ · Q_a(…). There is no bias.
Quantising happens in float32, the product in autocast's type. The latent weights stay float32: bfloat16 would
lose small updates, so do not let a mixed-precision policy cast them (under FSDP: no `param_dtype`).
"""

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from configs.errors import UsageError
from quant.activations import BLOCK, ActBlock
from quant.qat.activations import RMSNorm, fake_quantize_activations
from quant.qat.weights import SOFT_CLIP, fake_quantize_weight, soft_clip_, warn_of_deep_zero_masking
from quant.ternary import GROUP, GroupSize, TernaryWeights, quantize_ternary


class BitLinear(nn.Module):
    """`forward` norms, quantises and projects; `project` takes what is normed and quantised already.

    Projections of one input share one norm and one quantised input: build them with `norm=False`, call
    `norm_quant` once and each one's `project`.

    `quant_mix` is the gradual λ of weights and inputs: None is 1, fully quantised, which training from
    scratch uses from the first step; a tensor λ mixes the float value in, to convert a float model.
    """

    quant_mix: Tensor | None

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
        self.register_buffer("quant_mix", None, persistent=False)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.normal_(self.weight, std=self.init_std)

    def forward(self, x: Tensor) -> Tensor:
        normed = x if self.norm is None else self.norm(x)
        return self.project(fake_quantize_activations(normed, block=self.act_block, mix=self.quant_mix))

    def project(self, x_quantized: Tensor) -> Tensor:
        """The product with an input that is normed and quantised."""
        return F.linear(x_quantized, self.quantized_weight())

    def quantized_weight(self) -> Tensor:
        """The weights that the product sees, with their straight-through gradient."""
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
    return quantize_ternary(weight, group_size=linear.group_size)


def refuse_mixed(mix: Tensor | None, *, what: str) -> None:
    """Weights that are still part float have no codes."""
    if mix is not None and mix.item() != 1:
        raise UsageError(
            f"{what} still computes with a quantisation mix of {mix.item():g}, so that no file can hold it",
            hint="Finish the conversion: train until the mix is 1.",
        )
