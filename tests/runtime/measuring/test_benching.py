"""What a benchmark reports: every asked way of running, with figures that belong together."""

from dataclasses import replace
from pathlib import Path

import pytest

from configs import accounting
from configs.errors import ConfigError, ModelError, UsageError
from configs.load import preset
from runtime.engine import Engine
from runtime.measuring.answering import Answering
from runtime.measuring.benching import Asked, bench_model, bench_process, token_bytes, weights_of
from runtime.model_folder import open_model
from runtime.sizing import packed_bytes, state_bytes
from tests.runtime.engine.models import make_model


@pytest.fixture(scope="module")
def micro(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("bench"))


def test_all_ways_are_measured_and_told(micro: Path):
    told: list[tuple[int, int]] = []
    asked = Asked(prompt_tokens=(70, 0), answer_tokens=(5,), repeats=3, threads=(1, 2), rounds=(1, 3))
    report = bench_model(micro, asked, progress=lambda done, total: told.append((done, total)))
    found = [(test["test"], test["threads"], test["rounds"]) for test in report["tests"]]
    assert found == [
        (name, threads, rounds) for threads in (1, 2) for rounds in (1, 3) for name in ("pp70", "tg5")
    ]
    assert told == [(number, len(found) * 4) for number in range(1, len(found) * 4 + 1)]
    for test in report["tests"]:
        samples = test["samples_tokens_per_s"]
        assert len(samples) == 3
        assert test["tokens_per_s"] == pytest.approx(sum(samples) / 3)
        assert min(samples) <= test["median_tokens_per_s"] <= max(samples)
        assert test["sd_tokens_per_s"] >= 0
        assert test["read_bytes_per_s"] > 0
        assert 1 <= test["fewest_threads"] <= test["threads"]
        if test["test"].startswith("tg"):
            assert test["bytes_per_s"] == test["bytes_per_token"] * test["median_tokens_per_s"]
            assert test["share_of_reading"] > 0
            assert not test["is_bound_by_memory"]
        else:
            assert "bytes_per_token" not in test
    assert report["model"]["files_bytes"] == micro.stat().st_size
    assert report["model"]["parameters"] == accounting.parameters(open_model(micro).config)


def test_tokens_leave_the_loop_as_the_config_says_or_as_it_is_asked(micro: Path):
    asked = Asked(prompt_tokens=(), answer_tokens=(2,), repeats=1)
    threshold = open_model(micro).config.looping.adaptive_exit_threshold
    assert bench_model(micro, asked)["exit_threshold"] == threshold > 0
    assert bench_model(micro, replace(asked, exit_threshold=0.0))["exit_threshold"] == 0.0
    with Engine.open(micro, num_threads=1) as engine:
        for share, rounds in ((0.0, 4), (1.0, 2)):
            answering, state = Answering(engine, exit_threshold=share), engine.new_state(4)
            answering.read(state, answering.drawn(0, 5))
            assert set(engine.rounds_taken(5)) == {rounds}
            answering.step(state, (7,))
            assert (engine.rounds_taken(), state.position) == (rounds, 6)


def test_one_repetition_has_no_deviation(micro: Path):
    (test,) = bench_model(micro, Asked(prompt_tokens=(), answer_tokens=(2,), repeats=1))["tests"]
    assert test["sd_tokens_per_s"] == 0.0
    assert test["rounds"] == open_model(micro).config.rounds_default


def test_a_token_reads_no_empty_window():
    config = preset("chimera-5.1-sum")
    window = config.titans.local_window_size
    sizes = [token_bytes(config, rounds=1, position=at) for at in (0, window // 2, window, 10 * window)]
    assert sizes[-1] == accounting.bytes_per_token(config, rounds=1) + state_bytes(config, 1)
    full = accounting.stream_state(config, rounds=1).window
    assert [sizes[-1] - size for size in sizes] == [full, full - full // 2, 0, 0]


def test_processes_of_a_model_without_words(micro: Path):
    report = bench_process(micro, num_threads=1, rounds=1, starts=1)
    assert report["answered_by"] == "the engine alone"
    assert report["samples_first_token_s"] == [report["first_token_s"]]
    beside = report["peak_bytes"] - report["files_bytes"] - report["state_bytes"]
    assert report["beside_files_and_state_bytes"] == beside > 0


def test_a_preset_gets_random_weights_for_as_long_as_they_are_needed():
    told: list[int] = []
    with weights_of("micro", embedding_bits=4, progress=lambda done, total: told.append(done)) as path:
        assert open_model(path).config.quantization.embedding_bits == 4
        quantization = replace(preset("micro").quantization, embedding_bits=4)
        least = packed_bytes(replace(preset("micro"), quantization=quantization))
        assert least <= path.stat().st_size < least + 1024
    assert not path.exists()
    assert told == sorted(told)
    assert told


def test_a_packed_model_is_taken_as_it_is(micro: Path):
    with weights_of(str(micro)) as path:
        assert path == micro
    with pytest.raises(UsageError, match="is packed already"), weights_of(str(micro), embedding_bits=8):
        pass


def test_what_cannot_be_run_is_refused_before_weights_are_made(tmp_path: Path):
    config = tmp_path / "config.json"
    config.write_text('{"preset": "micro", "rms_norm_eps": 0}')
    with pytest.raises((ModelError, ConfigError), match="rms_norm_eps"), weights_of(str(config)):
        pass


@pytest.mark.parametrize("rounds", [0, 99])
def test_rounds_that_a_model_does_not_take(micro: Path, rounds: int):
    with pytest.raises(UsageError, match=f"{rounds} rounds of the loop; this model takes"):
        bench_model(micro, Asked(rounds=(rounds,)))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"repeats": 0}, "0 repetitions; at least 1"),
        ({"prompt_tokens": (5, -1)}, "no negative number"),
        ({"answer_tokens": (-1,)}, "no negative number"),
    ],
)
def test_what_cannot_be_asked(wrong: dict[str, object], message: str):
    with pytest.raises(UsageError, match=message):
        Asked(**wrong)
