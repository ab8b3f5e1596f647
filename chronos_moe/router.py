"""Which experts a token visits: scores, selection balanced by a bias, weights that the bias never touches.

    logits = W u (+ pressure)      float32 whatever the surrounding dtype, never ternary
    s      = σ(logits)             "noaux_bias"; softmax(logits) with "softmax" routing
    chosen = the A largest of s + bias, the lower id first where two are equal
    weight = s_j / Σ_chosen s      P = s / Σ s over all experts

After each optimiser step the bias moves against the load: b_j += γ·sign(mean count − count_j).
Paper: Wang et al., Auxiliary-loss-free load balancing strategy for mixture-of-experts (2024).
"""

from collections.abc import Callable, Mapping
from typing import Final, NamedTuple

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from configs.errors import UsageError
from configs.schema.backbone import Routing

LOG_SCORES: Final[Mapping[Routing, Callable[[Tensor], Tensor]]] = {
    "noaux_bias": F.logsigmoid,
    "softmax": lambda logits: F.log_softmax(logits, dim=-1),
}
# The published step presumes sigmoid scores, which lie around 1/2. Softmax scores lie around 1/E, and the
# step is measured in scores: for the usual 16 experts it shrinks with them.
BIAS_RATE: Final[Mapping[Routing, float]] = {"noaux_bias": 1e-3, "softmax": 1e-3 / 16}


# A named tuple and not a dataclass: torch.compile, activation checkpointing and FSDP's hooks all look for the
# tensors of an output inside tuples, and would take a dataclass for something without gradients.
class RoutingRecord(NamedTuple):
    """What one pass through one layer decided, for the losses, the statistics and the store."""

    logits: Tensor  # [..., E] float32, the pressure included
    log_probs: Tensor  # [..., E] float32, log of the scores normalised over all experts
    chosen: Tensor  # [..., A] int64, the best first
    weights: Tensor  # [..., A] float32, their sum is 1

    @property
    def probs(self) -> Tensor:
        """Scores normalised over all experts, [..., E]."""
        return self.log_probs.exp()


def route(
    u: Tensor,  # [..., D] normalised input
    router_ED: Tensor,
    *,
    num_chosen: int,
    routing: Routing = "noaux_bias",
    bias_E: Tensor | None = None,
    logit_pressure_E: Tensor | None = None,
    chosen: Tensor | None = None,  # [..., A] reuse these experts and choose none
) -> RoutingRecord:
    """Choose `num_chosen` experts for every token."""
    num_experts = router_ED.shape[0]
    if not 1 <= num_chosen <= num_experts:
        raise UsageError(
            f"{num_chosen} experts per token asked of {num_experts}; allowed are 1 … {num_experts}"
        )
    if chosen is not None and chosen.shape != (*u.shape[:-1], num_chosen):
        raise UsageError(
            f"the experts to reuse have the shape {tuple(chosen.shape)}, but the tokens need"
            f" {(*u.shape[:-1], num_chosen)}",
            hint="Pass the `chosen` of the same layer's record for the same tokens.",
        )
    dtype = torch.promote_types(u.dtype, torch.float32)
    with torch.autocast(device_type=u.device.type, enabled=False):
        logits = F.linear(u.to(dtype), router_ED.to(dtype))
        if logit_pressure_E is not None:
            logits = logits + logit_pressure_E.to(dtype)
        log_scores = LOG_SCORES[routing](logits)
        if chosen is None:
            chosen = choose(log_scores.detach().exp(), bias_E=bias_E, num_chosen=num_chosen)
        # s_j / Σ s, from logarithms: a token whose scores all underflow still has finite weights.
        weights = torch.softmax(log_scores.gather(-1, chosen), dim=-1)
        log_probs = torch.log_softmax(log_scores, dim=-1)
    return RoutingRecord(logits=logits, log_probs=log_probs, chosen=chosen, weights=weights)


def choose(scores: Tensor, *, bias_E: Tensor | None, num_chosen: int) -> Tensor:
    """The ids of the `num_chosen` largest of scores + bias over the last axis; of equal ones the lower id.

    `topk` leaves the order of equal scores open and differs between devices; `argmax` promises the first.
    """
    left = scores if bias_E is None else scores + bias_E.to(scores.dtype)
    picks: list[Tensor] = []
    for _ in range(num_chosen):
        picks.append(left.argmax(dim=-1, keepdim=True))
        left = left.scatter(-1, picks[-1], float("-inf"))
    return torch.cat(picks, dim=-1)


@torch.no_grad()
def balance_bias(
    bias_E: Tensor,
    counts_E: Tensor,
    *,
    rate: float,
    group: dist.ProcessGroup | None = None,
) -> None:
    """Move the bias in place by `rate` towards experts with fewer tokens than the mean of the global batch.

    Only the sign counts, so a rate is a distance in scores. All processes of `group` must call it.
    """
    if counts_E.shape != bias_E.shape:
        raise UsageError(
            f"counts of {tuple(counts_E.shape)} for a bias of {tuple(bias_E.shape)}; shapes must agree"
        )
    if counts_E.is_floating_point():
        raise UsageError(f"counts must be whole numbers, got {counts_E.dtype}")
    total_E = counts_E.to(device=bias_E.device, dtype=torch.int64, copy=True)
    if dist.is_available() and dist.is_initialized():
        dist.all_reduce(total_E, group=group)
    # sign(mean − count) in whole numbers: no rounding decides a tie.
    direction_E = torch.sign(total_E.sum() - total_E.numel() * total_E)
    bias_E.add_(direction_E.to(bias_E.dtype), alpha=rate)
