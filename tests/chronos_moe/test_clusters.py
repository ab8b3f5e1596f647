"""Clusters: planted ones are found, every expert is in one, and what is read together lies together."""

import networkx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from chronos_moe.clusters import cluster, louvain, modularity
from chronos_moe.visit_log import VisitLog, clusters_read, co_occurrence
from configs.errors import UsageError


def weights_of(size: int, seed: int, *, share: float = 0.3) -> NDArray[np.float64]:
    """A random symmetric matrix, some of its rows perhaps empty."""
    rng = np.random.default_rng(seed)
    half = np.triu(rng.random((size, size)) * (rng.random((size, size)) < share), 1)
    return half + half.T


def planted_log(*, num_tokens: int = 600, seed: int = 0) -> tuple[VisitLog, list[set[tuple[int, int]]]]:
    """Texts of four themes over two layers of eight experts: a theme has two experts of each layer."""
    rng = np.random.default_rng(seed)
    members = [rng.permutation(8).reshape(4, 2) for _ in range(2)]
    themes = rng.integers(0, 4, num_tokens // 20).repeat(20)
    chosen = np.empty((num_tokens, 2, 2), dtype=np.uint16)
    for token, theme in enumerate(themes):
        for layer in range(2):
            strays = rng.random(2) < 0.1
            chosen[token, layer] = np.where(strays, rng.permutation(8)[:2], members[layer][theme])
    log = VisitLog(
        model="m",
        vocab_size=10,
        num_experts=8,
        passes=((3, 0), (7, 0)),
        ids_T=np.zeros(num_tokens, dtype=np.uint32),
        begins=np.arange(0, num_tokens + 1, 20),
        chosen=chosen,
    )
    layers = log.layers
    groups = [
        {(layers[at], int(expert)) for at in range(2) for expert in members[at][theme]} for theme in range(4)
    ]
    return log, groups


@pytest.mark.parametrize("seed", range(5))
def test_a_planted_partition_is_found(seed: int):
    rng = np.random.default_rng(seed)
    belongs = rng.permutation(np.repeat(np.arange(4), 4))
    weights = np.where(belongs[:, None] == belongs, 10.0, 1.0) * rng.uniform(0.5, 1.5, (16, 16))
    experts = [(number // 8, number % 8) for number in range(16)]
    found = cluster(weights + weights.T, experts=experts)
    assert {frozenset(members) for members in found} == {
        frozenset(experts[node] for node in np.flatnonzero(belongs == number)) for number in range(4)
    }


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 40), st.integers(0, 10**6), st.floats(0.0, 1.0), st.none() | st.integers(1, 9))
def test_every_expert_is_in_one_cluster_and_none_is_too_large(
    size: int, seed: int, share: float, most: int | None
):
    experts = [(number % 3, number) for number in range(size)]
    found = cluster(weights_of(size, seed, share=share), experts=experts, most=most)
    assert sorted(expert for members in found for expert in members) == sorted(experts)
    assert most is None or max(map(len, found)) <= most
    assert found == cluster(weights_of(size, seed, share=share), experts=experts, most=most)


@settings(max_examples=60, deadline=None)
@given(st.integers(2, 40), st.integers(0, 10**6))
def test_moves_never_lower_the_modularity(size: int, seed: int):
    weights = weights_of(size, seed)
    found = modularity(weights, louvain(weights))
    assert found >= modularity(weights, np.arange(size)) - 1e-12
    assert found >= modularity(weights, np.zeros(size, dtype=np.int64)) - 1e-12


@pytest.mark.oracle
def test_modularity_is_networkxs_and_as_high():
    ours, theirs = [], []
    for seed in range(12):
        weights = weights_of(50, seed, share=0.15)
        graph = networkx.from_numpy_array(weights)
        belongs = louvain(weights)
        groups = [set(np.flatnonzero(belongs == number).tolist()) for number in range(belongs.max() + 1)]
        ours.append(modularity(weights, belongs))
        assert ours[-1] == pytest.approx(networkx.community.modularity(graph, groups), abs=1e-12)
        other = networkx.community.louvain_communities(graph, seed=seed)
        theirs.append(networkx.community.modularity(graph, other))
    assert np.mean(ours) > np.mean(theirs) - 0.005


def test_experts_of_a_theme_lie_together_and_less_is_read():
    log, groups = planted_log()
    found = cluster(co_occurrence(log), experts=log.experts)
    assert sorted(map(sorted, found)) == sorted(map(sorted, groups))
    in_order = [log.experts[first : first + 4] for first in range(0, len(log.experts), 4)]
    read, experts_read = clusters_read(log, found)
    read_before, experts_before = clusters_read(log, in_order)
    assert read < 0.6 * read_before
    assert experts_read < 0.6 * experts_before


def test_a_border_of_documents_is_no_neighbourhood():
    chosen = np.array([[[0]], [[1]]], dtype=np.uint16)
    together, apart = (
        VisitLog(
            model="m",
            vocab_size=4,
            num_experts=2,
            passes=((0, 0),),
            ids_T=np.zeros(2, dtype=np.uint32),
            begins=np.array(begins),
            chosen=chosen,
        )
        for begins in ([0, 2], [0, 1, 2])
    )
    assert co_occurrence(together)[0, 1] == 1.0
    assert co_occurrence(together, window=0).sum() == co_occurrence(apart).sum() == 0.0


def test_what_cannot_be_counts_is_refused():
    experts = [(0, 0), (0, 1)]
    for counts in (np.zeros((3, 3)), np.array([[0.0, 1.0], [2.0, 0.0]]), np.full((2, 2), -1.0)):
        with pytest.raises(UsageError, match="counts"):
            cluster(counts, experts=experts)
    with pytest.raises(UsageError, match="twice"):
        cluster(np.zeros((2, 2)), experts=[(0, 0), (0, 0)])
    with pytest.raises(UsageError, match="at most 0"):
        cluster(np.zeros((2, 2)), experts=experts, most=0)
    log, _ = planted_log(num_tokens=20)
    with pytest.raises(UsageError, match="no cluster holds the expert 1 of layer 3"):
        clusters_read(log, [[(3, 0)]])
