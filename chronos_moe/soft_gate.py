"""The soft gate: where an expert is not there, the shared expert stands in for it.

    out_e = avail_e E_e(x) + (1 − avail_e) E_shared(x)
    y     = E_shared(x) + Σ_chosen p_e out_e  =  (1 + Σ p_e (1 − avail_e)) E_shared(x) + Σ p_e avail_e E_e(x)

With all experts there the two factors are 1 + 0 and p_e · 1, both exact, so the result equals the plain
layer's bit for bit. With none it is (1 + Σ p) times the shared expert.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from configs.errors import UsageError


class GatedWeights(NamedTuple):
    """What the two parts of a layer are multiplied with."""

    experts_TA: Tensor  # float32; exactly 0 where an expert is away
    shared_T: Tensor  # float32


def gate_weights(weights_TA: Tensor, expert_TA: Tensor, *, available: Tensor) -> GatedWeights:
    """Split the weights between experts and fallback. `available` is [E] or [T, E]: 1 there, 0 away."""
    num_tokens = expert_TA.shape[0]
    if available.dim() not in (1, 2) or (available.dim() == 2 and available.shape[0] != num_tokens):
        raise UsageError(
            f"the availability has the shape {tuple(available.shape)}; allowed are (experts,) or"
            f" ({num_tokens}, experts) for these tokens"
        )
    share = available.to(weights_TA.dtype)
    share_TA = share[expert_TA] if share.dim() == 1 else share.gather(1, expert_TA)
    return GatedWeights(
        experts_TA=weights_TA * share_TA,
        shared_T=1 + (weights_TA * (1 - share_TA)).sum(dim=1),
    )


def draw_available(
    *shape: int, drop: float, generator: torch.Generator, device: torch.device | str | None = None
) -> Tensor:
    """A random availability of `shape` (its last axis the experts), each expert away with probability `drop`.

    For training, so that the fallback is trained too. Draw it outside of a checkpointed region and pass it
    in: a generator of one's own is not rewound when the region is computed again.
    """
    if not 0 <= drop <= 1:
        raise UsageError(f"a share of experts to mask must lie in 0 … 1, got {drop}")
    there = torch.rand(*shape, generator=generator, device=generator.device) >= drop
    return there.to(device=device or generator.device, dtype=torch.float32)
