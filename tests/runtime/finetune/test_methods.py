"""Methods of packed models: looks are taken back exactly, and replays are live runs."""

from contextlib import closing
from math import inf
from pathlib import Path
from typing import cast

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from configs.errors import ModelError, UsageError
from configs.load import build_config
from quant.adapter import AdapterHeader, Record
from quant.adapter_log import AdapterLog
from quant.container import open_b158
from quant.packing import first_invalid_code, has_dirty_padding
from quant.philox import random_signs
from runtime.adapting.codes import WHOLE, Codes
from runtime.adapting.drift import HIGHEST, LOWEST, UNIT, Drift, look_length, whole_length
from runtime.adapting.learnt import take
from runtime.adapting.scales import Scales
from runtime.cli import finetune as command
from runtime.engine import Engine
from runtime.finetune.method import METHODS, Method, load_method
from runtime.finetune.packed import PackedMethod
from runtime.model_folder import open_model
from runtime.random_model import random_b158
from tests.runtime.finetune.learning import PACKED, items_of, prepared

LENGTHS = {"scales": (3.0, -200.0), "codes": (WHOLE / 2, -WHOLE / 4), "state": (50.0, -7.0)}
SETTINGS = {"scales": {}, "codes": {"settings": {"spread": "64"}}, "state": {}}
IDS = np.arange(1, 70, dtype=np.int64) * 5 % 400


def all_weights(method: Method) -> NDArray[np.uint8]:
    """Every byte that a method may move: the file's map, and what streams begin with."""
    engine = cast(PackedMethod, method).engine
    file = engine._tensors.files[0]  # pyright: ignore
    mapped = np.frombuffer(cast(bytes, file._mapped), dtype=np.uint8)  # pyright: ignore
    return np.concatenate([mapped, engine.new_state().arena])


@pytest.mark.parametrize("name", PACKED)
def test_a_look_moves_and_is_taken_back_to_the_bit(folder: Path, name: str) -> None:
    with closing(prepared(folder, name, **SETTINGS[name])) as method:
        start = all_weights(method)
        method.look(0, side=0)
        assert np.array_equal(all_weights(method), start)
        seen: list[NDArray[np.uint8]] = []
        for pair, side in ((0, 1), (0, -1), (1, 1), (1, -1)):
            method.look(5, pair=pair, side=side)
            seen.append(all_weights(method))
        assert len({weights.tobytes() for weights in seen}) == len(seen)
        assert all(np.count_nonzero(weights != start) for weights in seen)
        method.look(5, side=0)
        assert np.array_equal(all_weights(method), start)


@pytest.mark.parametrize("name", PACKED)
def test_the_file_stays_as_it_is_and_a_replay_is_the_live_run(
    folder: Path, name: str, tmp_path: Path
) -> None:
    before = (folder / "model" / "model.b158").read_bytes()
    records: list[Record] = []
    for step in range(5):
        lengths = tuple(length / (step + 1) // 1 for length in LENGTHS[name])
        records.append(Record(step=step, rate=0.5 / (step + 1), numbers=lengths))
    with closing(prepared(folder, name, **SETTINGS[name])) as method:
        header = AdapterHeader(
            method=name,
            base=method.base,
            seed=7,
            numbers=2,
            settings={**method.settings, "rate": 0.5, "decay": 0.04},
        )
        with AdapterLog.begin(tmp_path / "a.cza", header) as log:
            for record in records:
                method.look(record.step, pair=1, side=-1)  # a look between steps changes nothing
                log.append(record)
                take(record, method, settings=header.settings)
        method.look(0, side=0)
        live, state = all_weights(method), cast(PackedMethod, method).engine.new_state()
        cast(PackedMethod, method).engine.prefill(state, IDS)
        logits = cast(PackedMethod, method).engine.logits().copy()
    model = open_model(folder / "model", adapters=[tmp_path / "a.cza"])
    with Engine(model, num_threads=2) as engine:
        state = engine.new_state()
        mapped = np.frombuffer(cast(bytes, model.file._mapped), dtype=np.uint8)  # pyright: ignore
        assert np.array_equal(np.concatenate([mapped, state.arena]), live)
        engine.prefill(state, IDS)
        assert np.array_equal(engine.logits(), logits)
        assert engine.digest != model.file.digest
    with Engine.open(folder / "model") as engine:
        state = engine.new_state()
        engine.prefill(state, IDS)
        assert not np.array_equal(engine.logits(), logits)
    assert (folder / "model" / "model.b158").read_bytes() == before
    with open_b158(folder / "model" / "model.b158", is_own=True) as file:
        file.floats("final_norm.weight")[...] = 7
        assert not file.verify()


def test_a_sequence_has_the_loss_that_it_has_alone(folder: Path) -> None:
    with closing(prepared(folder, "scales")) as method:
        items = items_of(folder, method)
        together = method.losses(items)
        assert np.array_equal(together[::-1], method.losses(items[::-1]))
        engine = cast(PackedMethod, method).engine
        for item, loss in zip(items, together.tolist(), strict=True):
            log_probs = engine.scores(engine.new_state(), item.ids_T)[item.counted_T[1:]]
            assert loss == pytest.approx(-log_probs.mean(), rel=1e-12)
            (alone,) = method.losses([item])
            assert loss == alone


def test_what_is_counted_and_what_is_answered(folder: Path) -> None:
    with closing(prepared(folder, "scales")) as method:
        items = items_of(folder, method)
        prompt, text, chat = items[0], items[9], items[10]
        said = method.tokenizer.decode(prompt.ids_T[prompt.num_prompt :].tolist())
        assert prompt.answer in said
        assert not prompt.counted_T[: prompt.num_prompt].any()
        assert text.counted_T.tolist() == [False] + [True] * (len(text.ids_T) - 1)
        # Both replies of a conversation are counted, and nothing of the questions.
        assert np.count_nonzero(np.diff(chat.counted_T.astype(np.int8)) == 1) == 2
        engine = cast(PackedMethod, method).engine
        state = engine.new_state()
        engine.prefill(state, prompt.ids_T[: prompt.num_prompt])
        ids: list[int] = []
        for _ in range(4):
            ids.append(int(engine.logits()[: method.tokenizer.vocab_size].argmax()))
            engine.step(state, ids[-1])
        assert method.answer(prompt, max_tokens=4) in method.tokenizer.decode(ids)


def test_looks_at_codes_shrink_with_the_rate_and_no_step_takes_more_than_it_looked_at(folder: Path) -> None:
    with closing(prepared(folder, "codes", **SETTINGS["codes"])) as method:
        start, moved = all_weights(method), dict[float, int]()
        for share in (1.0, 0.5, 0.125, 1e-3):
            method.begin(share)
            method.look(3, side=1)
            moved[share] = int(np.count_nonzero(all_weights(method) != start))
            assert method.length(1e300) == -method.length(-inf) == int(WHOLE * share**2)
            # What one in s² as many codes change is usually s times as much, and tells of as much.
            assert method.slope(share * 3.0, share * 1.0) == pytest.approx(1.0)
            assert method.length(0.5) == pytest.approx(min(0.5 * share, share**2) * WHOLE, abs=1)
        assert moved[1.0] > 300
        assert moved[0.5] == pytest.approx(moved[1.0] / 4, rel=0.2)
        assert 0 < moved[0.125] < moved[1.0] / 40
        assert moved[1e-3] == 0
        method.look(3, side=0)
        assert np.array_equal(all_weights(method), start)


def test_padding_never_moves_and_codes_stay_codes(tmp_path: Path) -> None:
    """Widths that no tile divides: half of the places that are drawn are padding."""
    wide = {"hidden_size": 144, "num_heads": 3, "head_dim": 48, "intermediate_size": 200}
    path = tmp_path / "odd.b158"
    random_b158(build_config({"preset": "micro", **wide}, source="odd"), path, seed=3)
    with open_b158(path, is_own=True) as file:
        codes = Codes(file, seed=1, settings={"spread": 4})
        names = [name for name, spec in file.tensors.items() if spec.kind == "ternary"]
        before = {name: file.ternary(name).codes.copy() for name in names}
        for step in range(6):
            codes.look(step, side=1)
            codes.apply(step, [float(WHOLE) if step % 2 else -WHOLE / 3])
        codes.settle()
        moved = 0
        for name, was in before.items():
            packed = file.ternary(name)
            assert first_invalid_code(packed.codes, bits=2) is None
            assert not has_dirty_padding(packed)
            moved += np.count_nonzero(packed.codes != was)
        assert moved > 1000
        _check_together(path, {name: file.ternary(name).codes for name in names})


def _check_together(path: Path, stepwise: dict[str, NDArray[np.uint8]]) -> None:
    """Steps that wait for each other, where many meet, leave what steps left that were taken one by one."""
    with open_b158(path, is_own=True) as file:
        codes = Codes(file, seed=1, settings={"spread": 4})
        for step in range(6):
            codes.apply(step, [float(WHOLE) if step % 2 else -WHOLE / 3])
        codes.settle()
        for name, expected in stepwise.items():
            assert np.array_equal(file.ternary(name).codes, expected)


def test_models_with_one_zero_in_four_keep_their_codes(tmp_path: Path) -> None:
    sherry = {"quantization": {"sherry_mode": {"enabled": True}}}
    path = tmp_path / "sherry.b158"
    random_b158(build_config({"preset": "micro", **sherry}, source="sherry"), path, seed=3)
    with open_b158(path, is_own=True) as file:
        with pytest.raises(ModelError, match="one zero in every four"):
            Codes(file, seed=1, settings={"spread": 4})
        Scales(file, seed=1, settings={"epsilon": 0.1}).look(0, side=1)


def numbers(drift: Drift) -> NDArray[np.int32]:
    return drift.at(0, step=0, pair=0, by=0)


def test_decay_gives_up_what_was_learnt_and_lengths_are_bounded() -> None:
    drift = Drift([1000], seed=1)
    drift.apply(0, [4096.0], decay=0.0)
    assert set(np.abs(numbers(drift))) == {4096}
    for step in range(1, 65):
        drift.apply(step, [0.0], decay=1 / 64)
    # Sixteen times a sixteenth.
    assert np.abs(np.abs(numbers(drift)) - 4096 * (15 / 16) ** 16).max() < 20
    assert whole_length(1e9) == -whole_length(-1e9) == 4096
    assert whole_length(2.4 * UNIT) == 2
    for wrong in (0.0, -1.0, 1.5, float("nan"), UNIT / 2):
        with pytest.raises(UsageError, match="epsilon"):
            look_length(wrong)


@given(
    steps=st.lists(
        st.tuples(
            st.lists(st.integers(-4096, 4096), min_size=2, max_size=2), st.sampled_from([0.0, 0.03, 0.5])
        ),
        max_size=100,
    )
)
def test_moves_that_wait_for_each_other_are_made_as_if_alone(
    steps: list[tuple[list[int], float]],
) -> None:
    """Also where numbers stop at their borders."""
    waiting, alone = Drift([300, 5], seed=3), Drift([300, 5], seed=3)
    plain, owed = np.zeros(300, dtype=np.int64), 0.0
    for step, (lengths, decay) in enumerate(steps):
        waiting.apply(step, [float(length) for length in lengths], decay=decay)
        alone.apply(step, [float(length) for length in lengths], decay=decay)
        numbers(alone)
        owed += decay
        if owed >= 1 / 16:
            plain -= plain * round(min(owed, 1.0) * 65536) + 32768 >> 16
            owed = 0.0
        for pair, length in enumerate(lengths):
            signs = random_signs(300, seed=3, step=step, pair=pair).astype(np.int64)
            plain = np.clip(plain + signs * length, LOWEST, HIGHEST)
    assert np.array_equal(numbers(waiting), plain)
    assert np.array_equal(numbers(alone), plain)


def test_every_method_of_the_table_can_be_asked_for_and_loads() -> None:
    assert tuple(METHODS) == command.METHODS
    for name in METHODS:
        module = load_method(name)
        assert callable(module.prepare)
        assert callable(module.options_of)


def test_settings_that_a_method_does_not_have_are_refused(folder: Path) -> None:
    with pytest.raises(UsageError, match="no setting 'spread'; it has none"):
        prepared(folder, "scales", settings={"spread": "4"})
    for wrong in ("0", "6", "x", "-4", "99999999999"):
        with pytest.raises(UsageError, match="spread"):
            prepared(folder, "codes", settings={"spread": wrong})
    with pytest.raises(UsageError, match="no epsilon"):
        prepared(folder, "codes", epsilon=0.5)
    with pytest.raises(UsageError, match="no method 'none'"):
        load_method("none")
