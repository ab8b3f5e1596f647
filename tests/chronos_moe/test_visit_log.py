"""Logs of activations: what is written is what is read, and nothing else is believed."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from chronos_moe.checked_file import write_checked
from chronos_moe.visit_log import KIND, NOT_TAKEN, VisitLog, read_visits, write_visits
from configs.errors import ModelError


def log_of(**changes: object) -> VisitLog:
    """Seven tokens of two documents through a layer once and another twice."""
    rng = np.random.default_rng(0)
    chosen = rng.integers(0, 4, (7, 3, 2)).astype(np.uint16)
    chosen[4, 2] = NOT_TAKEN
    log = VisitLog(
        model="a" * 64,
        vocab_size=50,
        num_experts=4,
        passes=((5, 0), (3, 0), (3, 1)),
        ids_T=rng.integers(0, 50, 7).astype(np.uint32),
        begins=np.array([0, 3, 7]),
        chosen=chosen,
    )
    return dataclasses.replace(log, **changes)


def test_a_log_is_read_as_it_was_written(tmp_path: Path):
    log = log_of()
    write_visits(tmp_path / "log", log)
    found = read_visits(tmp_path / "log", model="a" * 64)
    for field in dataclasses.fields(VisitLog):
        assert np.array_equal(getattr(found, field.name), getattr(log, field.name)), field.name


def test_sets_are_unions_over_rounds():
    log = log_of()
    sets_TLE = log.sets_TLE()
    assert log.layers == (3, 5)
    for token in range(7):
        taken = [log.chosen[token, place].tolist() for place in (1, 2)]
        wanted = {expert for some in taken for expert in some if expert != NOT_TAKEN}
        assert set(np.flatnonzero(sets_TLE[token, 0])) == wanted
        assert set(np.flatnonzero(sets_TLE[token, 1])) == set(log.chosen[token, 0].tolist())


WRONG: dict[str, Callable[[], VisitLog]] = {
    "other types": lambda: log_of(ids_T=np.zeros(7, dtype=np.int64)),
    "other shapes": lambda: log_of(chosen=np.zeros((7, 6), dtype=np.uint16)),
    "0 passes": lambda: log_of(passes=(), chosen=np.zeros((7, 0, 2), dtype=np.uint16)),
    "3 passes": lambda: log_of(passes=((3, 0), (3, 0), (5, 0))),
    "choices of the shape": lambda: log_of(chosen=np.zeros((6, 3, 2), dtype=np.uint16)),
    "do not follow each other": lambda: log_of(begins=np.array([0, 5, 4, 7])),
    "a word 49 of 10": lambda: log_of(vocab_size=10, ids_T=np.full(7, 49, dtype=np.uint32)),
    "an expert that its model does not have": lambda: log_of(num_experts=1),
}


@pytest.mark.parametrize("said", WRONG)
def test_what_no_model_does_is_refused(tmp_path: Path, said: str):
    write_visits(tmp_path / "log", WRONG[said]())
    with pytest.raises(ModelError, match=said):
        read_visits(tmp_path / "log")


def test_a_foreign_a_damaged_and_a_missing_file_are_refused(tmp_path: Path):
    path = tmp_path / "log"
    write_visits(path, log_of())
    with pytest.raises(ModelError, match="recorded with the model aaaaaaaaaaaa…"):
        read_visits(path, model="b" * 64)
    whole = path.read_bytes()
    for place in range(len(whole) - 60, len(whole), 7):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 64]) + whole[place + 1 :])
        with pytest.raises(ModelError, match="damaged"):
            read_visits(path)
    for length in (0, 5, 200, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(ModelError, match="is no log of expert visits"):
            read_visits(path)
    with pytest.raises(ModelError, match="No such file"):
        read_visits(tmp_path / "missing")


def test_another_kind_of_file_is_refused(tmp_path: Path):
    write_checked(tmp_path / "log", {"x": np.zeros(2)}, kind="something else", about={})
    with pytest.raises(ModelError, match="its format is 'something else'"):
        read_visits(tmp_path / "log")
    write_checked(tmp_path / "log", {"x": np.zeros(2)}, kind=KIND, about={"passes": json.dumps([[1, 0]])})
    with pytest.raises(ModelError, match="description cannot be read"):
        read_visits(tmp_path / "log")
