"""Which weights fine-tuning moves, and what becomes of the others.

`all`: everything that a text meets. `ternary`: the ternary matrices. `light`: the projections of queries
and values, which is ZeroQAT's lightweight form; the others are quantised once, so that a pass costs less.
"""

from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn

from chimera.finetune.grid import GridTensor, on_grid
from chronos_moe.experts import ExpertLinear
from configs.errors import UsageError
from quant.qat.embedding import QuantEmbedding
from quant.qat.linear import BitLinear
from quant.ternary import GroupSize

Trained = Literal["all", "ternary", "light"]
LIGHT = ("q_proj.weight", "v_proj.weight")
_UNSEEN = "lookahead."
"""It foresees experts, and no text depends on it."""


def put_on_grid(model: nn.Module, *, trained: Trained) -> list[GridTensor]:
    """The tensors that are trained, by name, each on its grid; all others are frozen.

    A tensor that is used in two places is one parameter, and is moved once.
    """
    refuse_unfit(model)
    owners = {
        id(module.weight): module
        for module in model.modules()
        if isinstance(module, BitLinear | ExpertLinear | QuantEmbedding)
    }
    chosen = {
        name: parameter
        for name, parameter in sorted(model.named_parameters())
        if _is_trained(name, owners.get(id(parameter)), trained)
    }
    if not chosen:
        raise UsageError(f"the model has no weights of the kind {trained!r}", hint="Train all: trained=all.")
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    held = [
        on_grid(parameter, name=name, stream=stream, group=_group(owners.get(id(parameter)), parameter))
        for stream, (name, parameter) in enumerate(chosen.items())
    ]
    moved = {id(parameter) for parameter in chosen.values()}
    freeze([module for weight, module in owners.items() if weight not in moved])
    return held


def refuse_unfit(model: nn.Module) -> None:
    """Only free ternary weights, fully quantised, are moved in ways that this grid and its latents know."""
    for name, module in model.named_modules():
        if isinstance(module, BitLinear | ExpertLinear) and (
            module.weight_form != "ternary" or module.quant_mix is not None
        ):
            raise UsageError(
                f"{name} has weights of the form {module.weight_form}; MeZO is for free ternary weights",
                hint="Fine-tune the packed model with --method scales.",
            )


@torch.no_grad()
def freeze(modules: list[nn.Module]) -> None:
    """Quantise weights that stay as they are once and for all; the module can learn no more.

    Nothing is kept of what lay behind them. To pack such weights is to quantise them a second time, with
    smaller scales: whoever saves the model needs the latent ones from where it came.
    """
    for module in modules:
        owner: Any = module
        owner.weight.copy_(owner.quantized_weight())
        # On the object, so that whatever asks for the weights gets these.
        owner.quantized_weight = partial(getattr, owner, "weight")
        if isinstance(module, QuantEmbedding):
            owner.forward = partial(nn.functional.embedding, weight=owner.weight)


def _is_trained(name: str, owner: nn.Module | None, trained: Trained) -> bool:
    if name.startswith(_UNSEEN):
        return False
    if trained == "all":
        return True
    is_ternary = isinstance(owner, BitLinear | ExpertLinear)
    return is_ternary and (trained == "ternary" or name.endswith(LIGHT))


def _group(owner: nn.Module | None, parameter: Tensor) -> int | None:
    """Weights of a group along the last axis; None where the whole tensor is one."""
    if isinstance(owner, QuantEmbedding):
        return parameter.shape[-1]
    if not isinstance(owner, BitLinear | ExpertLinear):
        return None
    return columns_of_group(owner.group_size, columns=parameter.shape[-1])


def columns_of_group(size: GroupSize, *, columns: int) -> int | None:
    """A group size as a number of columns; None where a group is the whole tensor."""
    if size == "tensor":
        return None
    return columns if size == "row" else min(size, columns)
