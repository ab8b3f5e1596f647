"""A step's passes through the layers with experts, put together per layer.

A pass is one round of one layer, over all sequences of the batch or over some: looped models drop a
sequence after its last round, and split a round where back-propagation begins. Every round counts, since
one bias serves them all, and what a layer needs in memory is the union over its rounds.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from chronos_moe.pairs import Segments
from chronos_moe.router import RoutingRecord
from chronos_moe.statistics import chosen_mask, expert_counts
from configs.errors import UsageError


class RoutingPass(NamedTuple):
    """Where the tokens of some sequences went in one round of one layer."""

    layer: int
    round: int
    rows: Tensor | None  # int64: which sequences of the batch the record holds; None for all, in order
    record: RoutingRecord  # [rows, T, …]


def counts_by_layer(
    passes: Sequence[RoutingPass], *, layers: Sequence[int], num_experts: int, mask_BT: Tensor | None = None
) -> Tensor:
    """Visits of a step, [L, E] int64, without padding. `layers` are those with experts, in the order of L."""
    device = passes[0].record.chosen.device if passes else None
    counts_LE = torch.zeros(len(layers), num_experts, dtype=torch.int64, device=device)
    for one in passes:
        mask = pass_segments(Segments(mask_BT=mask_BT), one).mask_BT
        counts = expert_counts(one.record.chosen, num_experts=num_experts, mask=mask)
        counts_LE[_place(one, layers)] += counts
    return counts_LE


def probs_by_layer(passes: Sequence[RoutingPass], *, layers: Sequence[int]) -> Tensor:
    """Probabilities per layer, [L, B, T, E]: the largest of each expert over the rounds, over their sum.

    The largest and not the mean, because an expert that any round needs must be there.
    """
    largest_LBTE = _merged(passes, ((one, one.record.probs) for one in passes), layers=layers)
    return largest_LBTE / largest_LBTE.sum(dim=-1, keepdim=True)


def sets_by_layer(passes: Sequence[RoutingPass], *, layers: Sequence[int]) -> Tensor:
    """The experts that each token visits per layer in any round, [L, B, T, E] bool."""
    sets = (
        (one, chosen_mask(one.record.chosen, num_experts=one.record.logits.shape[-1]).to(torch.uint8))
        for one in passes
    )
    return _merged(passes, sets, layers=layers).bool()


def pass_segments(segments: Segments | None, one: RoutingPass) -> Segments:
    """The segments of the sequences that a pass holds."""
    if segments is None or one.rows is None:
        return segments or Segments()
    return Segments(*(None if given is None else given[one.rows] for given in segments))


def num_sequences(passes: Sequence[RoutingPass]) -> int:
    """Sequences of the batch: every one is in the first round of every layer."""
    first = min((one.layer, one.round) for one in passes)
    return sum(one.record.chosen.shape[0] for one in passes if (one.layer, one.round) == first)


def _merged(
    passes: Sequence[RoutingPass], values: Iterable[tuple[RoutingPass, Tensor]], *, layers: Sequence[int]
) -> Tensor:
    """The largest value over the passes of each layer, [L, B, …]."""
    missing = sorted(set(layers) - {one.layer for one in passes})
    if missing:
        raise UsageError(
            f"no pass went through the layers {missing} of the layers with experts {list(layers)}"
        )
    merged: list[Tensor | None] = [None] * len(layers)
    batch = num_sequences(passes)
    for one, value in values:
        place = _place(one, layers)
        so_far = merged[place]
        if so_far is None:
            so_far = value.new_zeros(batch, *value.shape[1:])
        rows = torch.arange(batch, device=value.device) if one.rows is None else one.rows
        merged[place] = so_far.index_copy(0, rows, torch.maximum(so_far[rows], value))
    return torch.stack([part for part in merged if part is not None])


def _place(one: RoutingPass, layers: Sequence[int]) -> int:
    if one.layer not in layers:
        raise UsageError(
            f"a pass went through layer {one.layer}, but the layers with experts are {list(layers)}"
        )
    return layers.index(one.layer)
