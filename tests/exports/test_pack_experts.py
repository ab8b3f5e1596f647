"""How experts are divided into files."""

from exports.pack_experts import joined


def test_no_more_files_than_a_process_may_open():
    clusters = [[(1, 0)], [(1, 1), (2, 0)], [(1, 2)], [(1, 3), (1, 4), (2, 1)], [(2, 2)]]
    assert joined(clusters, most=5) == clusters
    fewer = [[(1, 1), (2, 0)], [(1, 2), (1, 0)], [(1, 3), (1, 4), (2, 1)], [(2, 2)]]
    assert joined(clusters, most=4) == fewer
    found = joined([[(1, expert)] for expert in range(1000)], most=7)
    assert len(found) == 7
    assert sorted(key for keys in found for key in keys) == [(1, expert) for expert in range(1000)]
