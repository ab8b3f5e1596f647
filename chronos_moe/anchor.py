"""The router anchor: KL(policy ‖ reference) of the routing, so that later training keeps the experts' layout.

Both routers see the same tokens in the same call, and the policy's side carries its gradient. Either is
easily lost: probabilities that were collected detached give a constant, and a stored batch of other tokens
compares nothing. So the reference is run here, on the tokens given, and a policy without gradient is
refused.
"""

import copy
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from chronos_moe.pairs import Segments, mean_where
from chronos_moe.passes import RoutingPass, num_sequences, pass_segments
from configs.errors import UsageError

# Runs a model on its inputs and returns every pass through every layer with experts.
RunRouting = Callable[..., Sequence[RoutingPass]]


class RouterAnchor:
    """A frozen copy of a model, and the distance of another's routing from it.

    No module, so that the copy is in nobody's parameters, checkpoint or device moves.
    """

    def __init__(self, reference: nn.Module, *, run_routing: RunRouting) -> None:
        self._reference = copy.deepcopy(reference).eval().requires_grad_(False)
        self._run_routing = run_routing

    def __call__(self, passes: Sequence[RoutingPass], *inputs: Any, mask_BT: Tensor | None = None) -> Tensor:
        """Mean KL over passes and real tokens.

        `inputs` are those that gave the policy its `passes`, the number of rounds of each sequence included.
        """
        with torch.no_grad():
            reference = self._run_routing(self._reference, *inputs)
        return routing_kl(passes, reference, mask_BT=mask_BT)


def routing_kl(
    policy: Sequence[RoutingPass], reference: Sequence[RoutingPass], *, mask_BT: Tensor | None = None
) -> Tensor:
    """Mean of Σ P_θ (log P_θ − log P_ref) over tokens and passes. The reference is a constant.

    The two may cut a round into passes differently, as training does where back-propagation begins.
    """
    if not policy:
        raise UsageError(
            "a model without experts has no routing to anchor", hint="Set the anchor's weight to 0."
        )
    # Early rounds of a truncated loop rightly have no gradient; all passes without one is a mistake.
    if torch.is_grad_enabled() and not any(one.record.log_probs.requires_grad for one in policy):
        raise UsageError(
            "the policy's routing carries no gradient, so the anchor would hold nothing",
            hint="Pass the records of the training forward as they are; to measure, use torch.no_grad().",
        )
    _check_same_tokens(policy, reference)
    whole = _by_layer_and_round(reference)
    sizes = [one.record.chosen.shape[0] for one in policy]
    losses = [size * _pass_kl(one, whole, mask_BT=mask_BT) for one, size in zip(policy, sizes, strict=True)]
    return torch.stack(losses).sum() / sum(sizes)


def _pass_kl(one: RoutingPass, reference: dict[tuple[int, int], Tensor], *, mask_BT: Tensor | None) -> Tensor:
    log_ref = reference[one.layer, one.round]
    log_ref = log_ref if one.rows is None else log_ref[one.rows]
    log_p = one.record.log_probs
    kl = (log_p.exp() * (log_p - log_ref)).sum(dim=-1)
    mask = pass_segments(Segments(mask_BT=mask_BT), one).mask_BT
    return kl.mean() if mask is None else mean_where(kl, mask)


def _by_layer_and_round(passes: Sequence[RoutingPass]) -> dict[tuple[int, int], Tensor]:
    """Log-probabilities of whole batches; a sequence in no pass stays NaN, and shows if it is asked for."""
    batch = num_sequences(passes)
    whole: dict[tuple[int, int], Tensor] = {}
    for layer, round, rows, record in passes:
        log_probs = record.log_probs.detach()
        if rows is None:
            whole[layer, round] = log_probs
            continue
        if (layer, round) not in whole:
            whole[layer, round] = log_probs.new_full((batch, *log_probs.shape[1:]), float("nan"))
        whole[layer, round].index_copy_(0, rows, log_probs)
    return whole


def _check_same_tokens(policy: Sequence[RoutingPass], reference: Sequence[RoutingPass]) -> None:
    """Refuse other layers, rounds, or numbers of sequences and tokens."""
    ours, theirs = (_sizes(passes) for passes in (policy, reference))
    for place in sorted(ours.keys() | theirs.keys()):
        if ours[place] != theirs[place]:
            layer, round, num_tokens, num_experts = place
            raise UsageError(
                f"in layer {layer}, round {round}, the policy routed {ours[place]} sequences of {num_tokens}"
                f" tokens to {num_experts} experts, the reference {theirs[place]}",
                hint="Run both on the same tokens, with the same number of rounds for each sequence.",
            )


def _sizes(passes: Sequence[RoutingPass]) -> Counter[tuple[int, int, int, int]]:
    """Sequences by layer, round, number of tokens and number of experts."""
    sizes: Counter[tuple[int, int, int, int]] = Counter()
    for one in passes:
        num_rows, num_tokens, num_experts = one.record.log_probs.shape
        sizes[one.layer, one.round, num_tokens, num_experts] += num_rows
    return sizes
