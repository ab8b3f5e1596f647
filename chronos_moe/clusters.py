"""Clusters of experts that fire together, so that what is read together lies together on the disk.

Louvain's method on a symmetric matrix A of weights: every node begins alone; nodes move to the neighbouring
cluster that raises the modularity most, until none wants to; clusters become nodes, and it begins anew.

    Q = (1/2m) Σ_ij [A_ij − k_i k_j / 2m] δ(c_i, c_j)        k_i = Σ_j A_ij,  2m = Σ_i k_i

Nodes take their turns in order and ties go to the lowest number, so a matrix has one answer, without a seed.
Some hundred nodes need no sparse graph and no package for graphs. Paper: Blondel et al., Fast unfolding of
communities in large networks (2008).
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from configs.errors import UsageError

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Expert = tuple[int, int]
"""A layer and the number of an expert in it."""
Clusters = tuple[tuple[Expert, ...], ...]

LEAST_GAIN = 1e-12
"""A move that raises the modularity by less is a rounding error, and two of those could go on for ever."""


def cluster(counts_EE: Floats, *, experts: Sequence[Expert], most: int | None = None) -> Clusters:
    """Every expert in one cluster. `counts_EE` says how often two of `experts` fire together.

    With `most`, no cluster has more experts: larger ones are cut where they hold together least. Clusters and
    the experts in them are in the order in which `experts` names them.
    """
    _check(counts_EE, experts, most)
    groups = _groups(louvain(counts_EE))
    if most is not None:
        groups = [part for group in groups for part in _cut(counts_EE, group, most=most)]
    groups.sort(key=lambda group: group[0])
    return tuple(tuple(experts[node] for node in group) for group in groups)


def louvain(weights_EE: Floats) -> Integers:
    """The cluster of each node, numbered by their first nodes."""
    weights = weights_EE.astype(np.float64)
    belongs_E = np.arange(len(weights))
    while True:
        moved = _moved(weights)
        number = int(moved.max(initial=-1)) + 1
        belongs_E = moved[belongs_E]
        if number == len(weights):
            return _numbered(belongs_E)
        member = np.zeros((number, len(weights)))
        member[moved, np.arange(len(weights))] = 1.0
        # A cluster's inner weight becomes a loop of its node, counted from both of its ends.
        weights = member @ weights @ member.T


def modularity(weights_EE: Floats, belongs_E: Integers) -> float:
    """Q of a division into clusters; 0 where nothing has a weight."""
    total = weights_EE.sum()
    if total <= 0:
        return 0.0
    degrees_E = weights_EE.sum(axis=1)
    same_EE = belongs_E[:, None] == belongs_E[None, :]
    return float(((weights_EE - np.outer(degrees_E, degrees_E) / total) * same_EE).sum() / total)


def _moved(weights_EE: Floats) -> Integers:
    """Where nodes are once none of them wants to move."""
    total, degrees_E = weights_EE.sum(), weights_EE.sum(axis=1)
    belongs_E = np.arange(len(weights_EE))
    sizes_E = degrees_E.copy()
    is_restless = total > 0
    while is_restless:
        is_restless = False
        for node, degree in enumerate(degrees_E):
            own = int(belongs_E[node])
            to_others = weights_EE[node].copy()
            to_others[node] = 0.0
            shared_E = np.bincount(belongs_E, weights=to_others, minlength=len(weights_EE))
            sizes_E[own] -= degree
            gains_E = 2.0 * (shared_E / total - sizes_E * degree / total**2)
            # Only a neighbour's cluster is worth a move, and the own one is where the node may stay.
            gains_E[shared_E <= 0.0] = -np.inf
            best = int(gains_E.argmax())
            stays = 2.0 * (shared_E[own] / total - sizes_E[own] * degree / total**2)
            chosen = best if gains_E[best] > stays + LEAST_GAIN else own
            sizes_E[chosen] += degree
            belongs_E[node] = chosen
            is_restless = is_restless or chosen != own
    return _numbered(belongs_E)


def _numbered(belongs_E: Integers) -> Integers:
    """The same clusters, numbered as their first nodes come."""
    _, firsts, inverse_E = np.unique(belongs_E, return_index=True, return_inverse=True)
    ranks = np.empty(len(firsts), dtype=np.int64)
    ranks[np.argsort(firsts)] = np.arange(len(firsts))
    return ranks[inverse_E]


def _groups(belongs_E: Integers) -> list[list[int]]:
    return [np.flatnonzero(belongs_E == number).tolist() for number in range(int(belongs_E.max()) + 1)]


def _cut(weights_EE: Floats, group: list[int], *, most: int) -> list[list[int]]:
    """A group in parts of at most `most`: by the clusters inside it, and where it has none, by nearness."""
    if len(group) <= most:
        return [group]
    inner = _groups(louvain(weights_EE[np.ix_(group, group)]))
    if len(inner) > 1:
        parts = [[group[place] for place in part] for part in inner]
        return [piece for part in parts for piece in _cut(weights_EE, part, most=most)]
    left, pieces = list(group), list[list[int]]()
    while left:
        piece = [left.pop(0)]
        while left and len(piece) < most:
            nearness = weights_EE[np.ix_(piece, left)].sum(axis=0)
            piece.append(left.pop(int(nearness.argmax())))
        pieces.append(sorted(piece))
    return pieces


def _check(counts_EE: Floats, experts: Sequence[Expert], most: int | None) -> None:
    if counts_EE.shape != (len(experts), len(experts)) or not len(experts):
        raise UsageError(f"counts of the shape {counts_EE.shape} for {len(experts)} experts")
    if len(set(experts)) != len(experts):
        raise UsageError("an expert is named twice; a cluster holds each once")
    if not np.isfinite(counts_EE).all() or (counts_EE < 0).any() or (counts_EE != counts_EE.T).any():
        raise UsageError("counts must be finite, not negative, and the same for a pair both ways round")
    if most is not None and most < 1:
        raise UsageError(f"clusters of at most {most} experts; allowed are whole numbers from 1")
