"""What a model will take, before it is there: the same numbers as of the model that is."""

from pathlib import Path

import numpy as np
import pytest

from configs.errors import ModelError, UsageError
from configs.load import PRESETS, preset
from runtime.engine import Engine
from runtime.measuring import rehearsal
from runtime.measuring.planning import Report, plan_model, subject_of
from runtime.measuring.stand_in import StandIn
from runtime.model_folder import open_model
from runtime.packed_specs import with_embedding_bits
from runtime.random_model import random_b158
from runtime.sizing import Need, packed_bytes, suggestions


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(rehearsal, "_SECONDS", 0.05)
    monkeypatch.setattr(rehearsal, "_TURN_SECONDS", 0.005)


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("packed") / "model.b158"
    random_b158(preset("micro"), path)
    return path


def told(report: Report, *names: str) -> list[list[object]]:
    return [[mode[name] for name in names] for mode in report["modes"]]


@pytest.mark.parametrize("bits", [8, 4, 2])
def test_a_file_is_as_long_as_foreseen(tmp_path: Path, bits: int):
    config = with_embedding_bits(preset("micro"), bits)
    path = tmp_path / "model.b158"
    random_b158(config, path)
    # The one thing that a header holds besides is a seed among the metadata, padded to lines of 64 bytes.
    assert packed_bytes(config) <= path.stat().st_size <= packed_bytes(config) + 128


def test_a_plan_is_the_engines_own_account(packed: Path):
    report = plan_model("micro", num_threads=1)
    memory = report["memory"]
    with Engine.open(packed, num_threads=1) as engine:
        assert memory["buffer_bytes"] == engine.buffer_bytes
        assert told(report, "rounds") == [[1], [2], [4]]
        # A state in memory has each of its arrays begin at a line of the cache.
        for (num_bytes,), rounds in zip(told(report, "state_bytes"), (1, 2, 4), strict=True):
            assert engine.state_bytes(rounds) == pytest.approx(num_bytes, rel=1e-3)
    parts = memory["files_bytes"] + memory["buffer_bytes"] + memory["program_bytes"]
    assert memory["needed_bytes"] == parts + 2 * memory["state_bytes"]
    assert report["fits"]
    assert report["machine"]["threads"] == 1
    assert told(report, "name", "fits", "speed_is") == [
        [name, True, "measured"] for name in ("fast", "balanced", "reasoning")
    ]
    for mode in report["modes"]:
        assert mode["prefill_tokens_per_s"] > 0
        assert mode["decode_tokens_per_s"] > 0


def test_a_packed_model_is_planned_as_it_lies_there(packed: Path):
    for source in (packed, packed.parent):
        subject = subject_of(str(source), embedding_bits=None)
        assert (subject.files_bytes, subject.files_exist) == (packed.stat().st_size, True)
    other = subject_of(str(packed), embedding_bits=2)
    assert other.files_bytes < packed.stat().st_size
    assert not other.files_exist


def test_a_config_is_planned_as_it_would_be_packed(tmp_path: Path):
    path = tmp_path / "config.json"
    path.write_text('{"preset": "micro"}')
    for source in (path, tmp_path):
        subject = subject_of(str(source), embedding_bits=None)
        assert (subject.files_bytes, subject.files_exist) == (packed_bytes(subject.config), False)


def test_what_does_not_fit_is_not_rehearsed():
    report = plan_model("micro", memory_limit_bytes=10_000_000)
    assert not report["fits"]
    assert told(report, "fits", "decode_tokens_per_s", "speed_is") == [[False, None, None]] * 3
    assert report["memory"]["available_is"] == "the limit that was asked for"


def test_streams_share_the_files_and_the_time():
    one, four = (plan_model("micro", streams=streams) for streams in (1, 4))
    for name in ("files_bytes", "state_bytes", "buffer_bytes"):
        assert four["memory"][name] == one["memory"][name]
    for mode in four["modes"]:
        assert mode["stream_tokens_per_s"] == pytest.approx(mode["far_decode_tokens_per_s"] / 4)
    with pytest.raises(UsageError, match="at least one stream"):
        plan_model("micro", streams=0)


@pytest.mark.parametrize("short_bytes", [1, 10_000_000, 200_000_000, 400_000_000, 900_000_000])
@pytest.mark.parametrize("streams", [1, 6])
def test_every_suggestion_fits(short_bytes: int, streams: int):
    config = preset("chimera-5.1-sum")
    need = Need(
        files_bytes=packed_bytes(config),
        state_bytes=90_000_000,
        streams=streams,
        buffer_bytes=20_000_000,
        program_bytes=150_000_000,
    )
    available = need.total_bytes - short_bytes
    found = suggestions(config, need, rounds=2, available_bytes=available)
    assert found
    assert all(change.needed_bytes <= available for change in found)
    assert suggestions(config, need, rounds=2, available_bytes=1_000) == []


def test_a_model_that_is_not_there_is_refused(tmp_path: Path):
    with pytest.raises(ModelError, match="no such file, and no preset"):
        plan_model(str(tmp_path / "nothing"))


@pytest.mark.parametrize("name", PRESETS)
def test_a_stand_in_has_the_tensors_of_the_file(name: str):
    """In less memory than the file has where that is large; the file itself is not written."""
    config = preset(name)
    stand_in = StandIn(config, cache_bytes=0)
    assert stand_in.num_bytes <= packed_bytes(config)
    places = stand_in.model.file
    for tensor, spec in places.tensors.items():
        if spec.kind == "float32":
            assert places.floats(tensor).shape == spec.shape


def test_an_engine_on_a_stand_in_gives_sane_scores(packed: Path):
    model = open_model(packed)
    stand_in = StandIn(model.config, cache_bytes=0)
    assert dict(stand_in.model.file.tensors) == dict(model.file.tensors)
    model.file.close()
    stand_in.fill_rings()
    with Engine(stand_in.model, num_threads=1) as engine:
        state = engine.new_state()
        engine.prefill(state, np.arange(100))
        logits = engine.logits()
        assert np.isfinite(logits).all()
        assert logits.std() > 0
        assert all(visits.max() < visits.sum() for visits in engine.expert_visits().values())
