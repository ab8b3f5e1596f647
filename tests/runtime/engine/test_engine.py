"""What an engine gives besides bits: scores, other heads, counts; and what it refuses."""

import shutil
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from configs.accounting import stream_state
from configs.errors import ContainerError, ModelError, NotEnoughMemory, UsageError
from configs.load import build_config, preset
from quant.container import open_b158
from quant.container_writer import B158Writer
from runtime import footprint as module
from runtime.arena import aligned_zeros
from runtime.building.states import check_runnable
from runtime.building.steps import head_product
from runtime.building.workspace import Rows
from runtime.engine import Engine
from runtime.head import Speaker
from runtime.packed_inspection import routed_tensors
from runtime.random_model import random_b158
from runtime.state import State
from runtime.stream import Stream
from tests.runtime.engine.models import make_model, same_bits, same_states, tokens_of


def test_scores_are_the_logarithms_of_what_the_logits_say(engine: Engine) -> None:
    ids = tokens_of(engine.config, 150)
    stepped, right = engine.new_state(), []
    for token, following in pairwise(ids):
        engine.step(stepped, int(token))
        logits = engine.logits().astype(np.float64)
        shares = np.exp(logits - logits.max())
        right.append(np.log(shares[following] / shares.sum()))
    state = engine.new_state()
    found = engine.scores(state, ids)
    np.testing.assert_allclose(found, right, rtol=0, atol=2e-6)
    assert same_states(state, stepped)
    split = engine.new_state()
    parts = [engine.scores(split, ids[:71]), engine.scores(split, ids[70:])]
    assert same_bits(np.concatenate(parts), found), "a text goes on with the id that was not read"


def test_logits_are_there_after_a_prompt_and_after_a_step(engine: Engine) -> None:
    ids = tokens_of(engine.config, 9)
    read, stepped = engine.new_state(), engine.new_state()
    engine.prefill(read, ids)
    after_prompt = engine.logits().copy()
    for token in ids:
        engine.step(stepped, int(token))
    assert same_bits(engine.logits(), after_prompt)
    assert after_prompt.shape == (engine.config.vocab_size,)


def test_a_step_can_end_with_another_head(engine: Engine) -> None:
    ids = tokens_of(engine.config, 5)
    state = engine.new_state()
    engine.prefill(state, ids)
    right = engine.logits().copy()
    own = np.full((1, -(-right.size // 64) * 64), np.nan, dtype=np.float32)
    y = Rows(array=own, width=right.size)
    try:
        engine.set_head([[head_product(engine.head_rows, acts=engine.hidden, y=y, num_tokens=1)]])
        engine.run_head()
        assert same_bits(own[0, : right.size], right)
        again = engine.new_state()
        engine.prefill(again, ids[:-1])
        own[...] = np.nan
        engine.step(again, int(ids[-1]))
        assert same_bits(own[0, : right.size], right)
        assert same_bits(engine.logits(), right), "the full head can still be asked for"
        engine.set_head(())
        engine.step(again, int(ids[0]))
        without = engine.logits().copy()
    finally:
        engine.set_head(None)
    engine.step(state, int(ids[0]))
    assert same_bits(engine.logits(), without)


def test_visits_are_counted(micro: Path) -> None:
    with Engine.open(micro, num_threads=1) as engine:
        ids = tokens_of(engine.config, 70)
        engine.prefill(engine.new_state(3), ids)
        visits = engine.expert_visits()
        chosen = engine.config.backbone.moe.num_experts_per_tok
        assert {layer: int(counts.sum()) for layer, counts in visits.items()} == {
            2: 70 * 3 * chosen,  # in the loop
            3: 70 * chosen,
        }
        assert engine.round_visits().tolist() == [70, 70, 70, 0]
        assert engine.rounds_taken(6).tolist() == [3] * 6


def test_a_state_weighs_what_accounting_says(engine: Engine) -> None:
    for rounds in (1, 4):
        planned = stream_state(engine.config, rounds=rounds).total
        fields = len([place for place in engine.layout.places if place[1] < rounds])
        assert 0 <= engine.state_bytes(rounds) - planned <= 64 * (fields + 1)


def test_no_id_reads_nothing(engine: Engine) -> None:
    state = engine.new_state()
    engine.prefill(state, [])
    assert state.position == 0
    assert same_states(state, engine.new_state())


def test_a_long_reading_that_is_cancelled_ends_behind_a_slice(engine: Engine) -> None:
    ids = tokens_of(engine.config, 3 * engine.slice_tokens)
    state, other, seen = engine.new_state(), engine.new_state(), list[int]()

    def is_cancelled() -> bool:
        seen.append(state.position)
        return len(seen) == 2

    engine.prefill(state, ids, is_cancelled=is_cancelled)
    assert seen == [engine.slice_tokens, 2 * engine.slice_tokens]
    engine.prefill(other, ids[: 2 * engine.slice_tokens])
    assert same_states(state, other)
    stream, looks = Stream(Speaker(engine, num_ids=engine.config.vocab_size)), list[int]()

    def is_enough() -> bool:
        looks.append(stream.state.position)
        return len(looks) > 2

    stream.accept(ids.tolist())
    assert not stream.catch_up(is_cancelled=is_enough)
    assert stream.num_waiting == engine.slice_tokens


@pytest.mark.parametrize("ids", [[0, 512], [-1], np.array([1.5]), np.array([[1, 2]])])
def test_what_is_no_row_of_ids_is_refused(engine: Engine, ids) -> None:
    state = engine.new_state()
    with pytest.raises(UsageError, match="ids"):
        engine.prefill(state, ids)
    assert state.position == 0


def test_a_step_refuses_what_it_cannot_do(engine: Engine, tmp_path: Path) -> None:
    state = engine.new_state(2)
    with pytest.raises(UsageError, match="vocabulary holds 0 to 511"):
        engine.step(state, 512)
    with pytest.raises(UsageError, match="this state takes 1 to 2"):
        engine.step(state, 1, rounds=3)
    with pytest.raises(UsageError, match="exit threshold"):
        engine.step(state, 1, exit_threshold=1.5)
    with pytest.raises(UsageError, match="takes 1 to 4"):
        engine.new_state(5)
    with pytest.raises(UsageError, match="at least 2"):
        engine.scores(state, [1])
    other = make_model(tmp_path, seed=9)
    with Engine.open(other, num_threads=1) as foreign, pytest.raises(UsageError, match="is of the model"):
        foreign.step(state, 1)
    engine.step(state, 1)
    assert state.position == 1


def test_a_closed_engine_says_so(micro: Path) -> None:
    engine = Engine.open(micro, num_threads=2)
    state = engine.new_state()
    engine.step(state, 1)
    engine.close()
    with pytest.raises(UsageError, match="closed"):
        engine.step(state, 1)


def test_a_folder_is_opened_by_its_path(micro: Path, tmp_path: Path) -> None:
    shutil.copy(micro, tmp_path / "model.b158")
    with Engine.open(tmp_path, num_threads=1, verify=True) as engine:
        engine.step(engine.new_state(), 3)


def test_memory_is_refused_before_it_is_taken(micro: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(NotEnoughMemory, match=r"at least .* are needed.* for the program.*limit is 0 MiB"):
        Engine.open(micro, num_threads=1, memory_limit_bytes=1000)
    plenty = 2**40
    with Engine.open(micro, num_threads=1, memory_limit_bytes=plenty) as engine:
        need, least = engine.need(), engine.need(1)
        assert need.files_bytes == micro.stat().st_size
        assert need.buffer_bytes == engine.buffer_bytes > 0
        assert engine.check_memory() == plenty - need.total_bytes
        # Nothing but what the program takes in this process can differ from one opening to the next.
        built = need.total_bytes - need.program_bytes
        monkeypatch.setattr(module, "bytes_beside", lambda files: 1000)
    enough = built + 1000
    with Engine.open(micro, num_threads=1, memory_limit_bytes=enough) as engine:
        assert engine.new_state().rounds == 2
        assert engine.check_memory(1) == 2 * (engine.state_bytes(2) - engine.state_bytes(1))
        with pytest.raises(NotEnoughMemory, match=r"for buffers.* for the state and a copy of it"):
            engine.new_state(4)
    before_buffers = least.files_bytes + least.states_bytes + 1000
    with pytest.raises(NotEnoughMemory, match="for buffers"):
        Engine.open(micro, num_threads=1, memory_limit_bytes=before_buffers)


def test_code_that_was_loaded_counts_as_memory(micro: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    taken = iter([1000, 10**9])
    monkeypatch.setattr(module, "bytes_beside", lambda files: next(taken))
    with pytest.raises(NotEnoughMemory, match="954 MiB for the program"):
        Engine.open(micro, num_threads=1, memory_limit_bytes=5 * 10**8)


def test_a_damaged_file_is_found(micro: Path, tmp_path: Path) -> None:
    data = bytearray(micro.read_bytes())
    data[-5000] ^= 0xFF
    path = tmp_path / "damaged.b158"
    path.write_bytes(data)
    with pytest.raises(ContainerError, match="is damaged"):
        Engine.open(path, verify=True)


def test_what_is_no_model_is_refused(micro: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no file"):
        Engine.open(tmp_path / "none.b158")
    short = tmp_path / "short.b158"
    short.write_bytes(micro.read_bytes()[:3000])
    with pytest.raises(ModelError):
        Engine.open(short)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_heads": 16, "head_dim": 8}, "heads of 8 channels"),
        ({"titans": {"window_bits": 32}}, "window_bits is 32"),
        ({"rms_norm_eps": 0.0}, "rms_norm_eps"),
    ],
)
def test_a_config_that_no_kernel_computes_is_refused(tmp_path: Path, change, message: str) -> None:
    path = tmp_path / "model.b158"
    random_b158(build_config({"preset": "micro", **change}, source="test"), path)
    with pytest.raises(ModelError, match=message):
        Engine.open(path)


def test_presets_can_all_be_run() -> None:
    for name in ("micro", "demo", "tiny", "small", "chimera-5.1-sum", "chimera-5.1"):
        check_runnable(preset(name))


def test_routed_experts_may_lie_in_a_file_of_their_own(micro: Path, engine: Engine, tmp_path: Path) -> None:
    with open_b158(micro) as file:
        routed = routed_tensors(engine.config)
        for name, is_routed in (("model.b158", False), ("experts.b158", True)):
            specs = [spec for spec in file.tensors.values() if (spec.name in routed) == is_routed]
            with B158Writer(tmp_path / name, tensors=specs, config=file.config) as writer:
                for spec in specs:
                    writer.write(spec.name, file.tensor(spec.name))
    ids = tokens_of(engine.config, 12)
    engine.prefill(engine.new_state(), ids)
    with Engine.open(tmp_path / "model.b158", num_threads=1, verify=True) as apart:
        apart.prefill(apart.new_state(), ids)
        assert same_bits(apart.logits(), engine.logits())
    (tmp_path / "experts.b158").rename(tmp_path / "others.b158")
    with pytest.raises(ModelError, match=r"no .*experts\.b158"):
        Engine.open(tmp_path / "model.b158")
    shutil.copy(micro, tmp_path / "experts.b158")
    with pytest.raises(ModelError, match="does not hold this model's routed experts"):
        Engine.open(tmp_path / "model.b158")


def test_a_state_of_another_size_is_refused(engine: Engine) -> None:
    whole = engine.new_state(2)
    engine.step(whole, 1)
    cut = State(aligned_zeros(whole.num_bytes - 64), rounds=2, digest=engine.digest)
    with pytest.raises(UsageError, match="not this model's"):
        engine.step(cut, 1)
    with pytest.raises(UsageError, match="not this model's"):
        engine.step(State(whole.arena, rounds=4, digest=engine.digest), 1, rounds=1)
