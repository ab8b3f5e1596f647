"""The straight-through estimator: the value of one tensor, the gradient of another."""

import torch
from torch import Tensor

from configs.errors import UsageError


def straight_through(latent: Tensor, value: Tensor, *, mix: Tensor | None = None) -> Tensor:
    """`value`, exactly, with `latent`'s gradient; with a `mix` λ, latent + λ (value − latent).

    The gradient is that of `latent` for every λ.
    """
    value = value.detach()
    if mix is not None:
        # lerp is exact at both ends.
        value = torch.lerp(latent.detach(), value, mix)
    # The bracket is exactly zero. The usual `latent + (value - latent).detach()` rounds once more, so that a
    # file would not hold what training saw; a function of its own saves two passes, but not once compiled.
    return value + (latent - latent.detach())


def refuse_mixed(mix: Tensor | None, *, what: str) -> None:
    """Weights that are still part float have no codes."""
    if mix is not None and mix.item() != 1:
        raise UsageError(
            f"{what} still computes with a quantisation mix of {mix.item():g}, so that no file can hold it",
            hint="Finish the conversion: train until the mix is 1.",
        )
