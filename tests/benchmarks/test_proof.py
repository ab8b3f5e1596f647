"""The first proof from needles to pictures at toy size, where nothing but PyTorch and NumPy may be loaded."""

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from benchmarks import proof
from benchmarks.proof_records import LINES, Records, Settings, best_run, read_records, write_lines
from benchmarks.proof_report import report
from benchmarks.proof_tasks import practice_recall
from benchmarks.proof_train import next_rate
from chimera.data.batches import IGNORED
from chimera.train.checkpoint import saved_steps
from configs.errors import DataError, UsageError
from tests.benchmarks.proofs import ABSENT, ROOT, ROWS, SEQ_LEN, environment, made_work, started

TOKENS = f"--tokens={6 * SEQ_LEN * ROWS}"
PATIENCE_SECONDS = 250.0
CHOSEN = ("transformer", "hybrid", "gated_delta")
"""Both kinds of models, and a part for its pictures. That every arm learns, test_proof_arms shows."""


def lines(arm: str, **more: Any) -> dict[str, Any]:
    return {"arm": arm, "plan": "p", "kind": "trained", "rate": 1e-3, **more}


def settings(**changes: Any) -> Settings:
    usual: dict[str, Any] = {
        "size": "micro", "tokens": 4096, "rows": 4, "seq_len": 256, "recall_rows": 1,
        "needle_rows": 1, "questions": 2,
    }  # fmt: skip
    return Settings(**(usual | changes))


@pytest.mark.slow
def test_killed_and_gone_on_with_arms_come_to_a_report(tmp_path: Path):
    work, out, blocked = made_work(tmp_path / "work"), tmp_path / "out", tmp_path / "blocked"
    # Killed as soon as an arm has a checkpoint: its processes end by themselves, and no line is lost.
    first = started(work, TOKENS, "--seconds=1500", "--arms=transformer,hybrid", blocked=blocked)
    checkpoints = work / "runs" / "transformer-0.004" / "checkpoints"
    begun = time.monotonic()
    while not saved_steps(checkpoints):
        assert first.poll() is None
        assert time.monotonic() - begun < PATIENCE_SECONDS
        time.sleep(0.05)
    first.kill()
    first.wait()
    before = read_records(work)
    assert {one["kind"] for one in before if one["arm"] == "transformer"} >= {"sizes"}

    # What was found so far comes to another machine as one file; here its arms go on from their checkpoints.
    arms = f"--arms={','.join(CHOSEN)}"
    second = started(work, TOKENS, "--seconds=1500", arms, f"--out={out}", blocked=blocked)
    assert second.wait() == 0
    found = read_records(work)
    assert all(one in found for one in before)
    for name in CHOSEN:
        assert len([one for one in found if one["arm"] == name and one["kind"] == "evaluated"]) == 1
        assert len([one for one in found if one["arm"] == name and one["kind"] == "trained"]) == 1
    assert json.loads((out / LINES).read_text().splitlines()[-1]) in found

    third = started(work, TOKENS, "--seconds=1500", arms, blocked=blocked)
    assert third.wait() == 0
    assert read_records(work) == found
    written = report(work, tmp_path / "pages")
    page = written[0].read_text()
    for head in (
        "Findings",
        "Sizes",
        "Bits per byte by source",
        "Associative recall",
        "Needles",
        "Bits per byte by learning rate",
    ):
        assert f"## {head}" in page
    assert {path.name for path in written if path.suffix == ".svg"} == {
        f"proof-{kind}-{family}.svg"
        for kind in ("validation", "recall")
        for family in ("peers", "parts", "forms")
    }


def test_what_runs_elsewhere_loads_nothing_that_may_be_absent(tmp_path: Path):
    program = "import benchmarks.proof, chimera.train.lent, sys; print(sorted(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=environment(tmp_path / "blocked"),
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert not {f"'{name}'" for name in ABSENT} & set(done.stdout.strip("[]\n").split(", "))


def test_a_rate_is_looked_for_beyond_the_highest_and_the_lowest():
    rates = (1.0, 2.0, 4.0)
    assert next_rate({}, rates) == 1.0
    assert next_rate({1.0: 3.0, 2.0: 2.0}, rates) == 4.0
    assert next_rate({1.0: 3.0, 2.0: 2.0, 4.0: 2.5}, rates) is None
    assert next_rate({1.0: 3.0, 2.0: 2.0, 4.0: 1.5}, rates) == 8.0
    assert next_rate({1.0: 1.0, 2.0: 2.0, 4.0: 3.0}, rates) == 0.5
    assert next_rate({1.0: 3.0, 2.0: 2.0, 4.0: 1.5, 8.0: 1.2, 16.0: 1.1}, rates) is None


def records(work: Path, arm: str, *, rate: float = 1e-3, plan: str = "p") -> Records:
    return Records(work, arm, rate=rate, plan=plan)


def test_an_arm_goes_on_beyond_its_first_or_last_rate_and_its_best_run_is_reported(tmp_path: Path):
    for rate, score in ((1e-3, 1.0), (2e-3, 0.9)):
        one = records(tmp_path, "hybrid", rate=rate)
        one.add("trained", {"memory_gb": rate})
        one.add("evaluated", {"bits_per_byte": {"all": score}})
    records(tmp_path, "transformer").add("evaluated", {"bits_per_byte": {"all": 1.0}})
    records(tmp_path, "transformer", rate=2e-3).add("evaluated", {"diverged_at": 7})
    assert proof._left(tmp_path, ["hybrid", "transformer"], [1e-3, 2e-3]) == [
        ("hybrid", 4e-3),
        ("transformer", 5e-4),
    ]
    assert best_run(read_records(tmp_path), "hybrid", "trained")["memory_gb"] == 2e-3
    assert "diverged_at" not in best_run(read_records(tmp_path), "transformer", "evaluated")


def test_lines_that_were_cut_short_are_done_again_and_others_are_kept(tmp_path: Path):
    records(tmp_path, "hybrid").add("trained", {"n": 1})
    path = tmp_path / "results" / "hybrid-0.001.jsonl"
    path.write_bytes(path.read_bytes() + b'{"arm": "hybrid", "pl')
    records(tmp_path, "hybrid").add("evaluated", {"n": 1})
    assert [one["kind"] for one in records(tmp_path, "hybrid").found] == ["trained", "evaluated"]
    assert records(tmp_path, "hybrid").is_finished


def test_one_file_of_lines_spares_another_machine_what_is_done(tmp_path: Path):
    records(tmp_path / "a", "hybrid").add("evaluated", {"n": 1})
    write_lines(read_records(tmp_path / "a"), tmp_path / "b" / "results")
    assert records(tmp_path / "b", "hybrid").is_finished
    assert not records(tmp_path / "b", "hybrid", rate=2e-3).is_finished
    records(tmp_path / "b", "transformer").add("trained", {"n": 2})
    assert len(read_records(tmp_path / "b")) == 2


def test_lines_of_another_proof_are_refused(tmp_path: Path):
    write_lines([lines("hybrid"), lines("transformer", plan="q")], tmp_path / "results")
    with pytest.raises(UsageError, match="another proof"):
        records(tmp_path, "hybrid", rate=2e-3, plan="r")
    with pytest.raises(DataError, match="several proofs"):
        report(tmp_path, tmp_path / "out")


def test_a_report_of_nothing_and_of_an_unknown_arm_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture):
    with pytest.raises(DataError, match="no results"):
        report(tmp_path, tmp_path / "out")
    assert proof.main(["run", str(tmp_path), "--arms=nobody"]) == UsageError.exit_code
    assert "nobody" in capsys.readouterr().err


@pytest.mark.parametrize("changes", [{"recall_rows": 4}, {"recall_rows": 0, "needle_rows": 0}, {"tokens": 9}])
def test_settings_without_text_practice_or_steps_are_refused(changes: dict[str, Any]):
    with pytest.raises(UsageError, match=r"rows are practice|two steps"):
        settings(**changes)


def test_a_proof_is_named_by_what_it_is_run_with():
    named = settings().digest("data")
    assert named == settings().digest("data")
    assert named not in {settings(tokens=8192).digest("data"), settings().digest("other")}


def test_practice_of_recall_is_never_the_same_twice_and_whole():
    rows = practice_recall(step=0, rows=4, seq_len=SEQ_LEN, vocab_size=448, seed=0)
    again = practice_recall(step=1, rows=4, seq_len=SEQ_LEN, vocab_size=448, seed=0)
    assert not (rows.ids_BT == again.ids_BT).all(axis=1).any()
    assert rows.resets_BT.sum(axis=1).tolist() == [8, 4, 2, 1]
    asked = rows.labels_BT != IGNORED
    # The value follows its query.
    assert (rows.ids_BT[:, 1:][asked[:, :-1]] == rows.labels_BT[asked]).all()
