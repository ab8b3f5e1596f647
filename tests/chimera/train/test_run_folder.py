"""A run's folder: one writer, and the same run or none."""

import json
import os
import re
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from chimera.train.run_folder import RunFolder
from configs.errors import ChimeraError, ConfigError, ModelError, UsageError
from configs.load import build_config, load_config, preset, to_json
from configs.schema.model import ModelConfig
from tests.chimera.train.processes import python, started

CONFIG = preset("micro")
SETTINGS: dict[str, Any] = {
    "seed": 3,
    "lr": 3e-4,
    "data": {"digest": "a" * 64, "sources": ["stories", "letters"]},
    "machine": {"devices": 1},
    "betas": (0.9, 0.95),
}

HOLD = """
import os, sys, time
from pathlib import Path
from chimera.train.run_folder import RunFolder
from configs.load import preset
run = RunFolder.open(Path(sys.argv[1]), config=preset("micro"), settings={"seed": 3})
if sys.argv[2] == "fork" and os.fork() == 0:
    print(os.getpid(), flush=True)
    time.sleep(600)
if sys.argv[2] == "hold":
    print(os.getpid(), flush=True)
sys.stdin.read()
"""


def begin(path: Path, *, config: ModelConfig = CONFIG, **changes: Any) -> RunFolder:
    may_change = changes.pop("may_change", ())
    return RunFolder.open(path, config=config, settings={**SETTINGS, **changes}, may_change=may_change)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    with begin(tmp_path / "runs" / "one") as made:
        assert made.is_new
        return made.path


def test_a_run_goes_on_with_what_it_was_begun_with(run: Path):
    assert sorted(path.name for path in run.iterdir()) == ["checkpoints", "config.json", "lock", "run.json"]
    assert load_config(run) == CONFIG
    before = (run / "run.json").read_bytes()
    with begin(run) as again:
        assert not again.is_new
        assert again.changed == ()
        assert again.checkpoints == run / "checkpoints"
        assert again.settings["betas"] == [0.9, 0.95]
    assert (run / "run.json").read_bytes() == before


def test_an_edited_config_is_refused_by_its_keys(run: Path):
    other = build_config(
        {"preset": "micro", "intermediate_size": 192, "looping": {"loop_range": [1, 2]}}, source="test"
    )
    with pytest.raises(UsageError, match="the config was edited:") as refused:
        begin(run, config=other)
    assert "\n  intermediate_size: 256 in the run, 192 now" in refused.value.message
    assert re.search(r"\n  looping.loop_range\[1\]: \d in the run, 2 now", refused.value.message)
    assert "hidden_size" not in refused.value.message
    begin(run).close()


def test_other_data_and_settings_are_refused_by_their_keys(run: Path):
    data = {"digest": "b" * 64, "sources": ["stories"]}
    with pytest.raises(UsageError, match="the settings differ:") as refused:
        begin(run, data=data, lr=1e-3, warmup=5, machine={"devices": 2}, may_change=["machine"])
    lines = refused.value.message.split("\n")[2:]
    assert lines == [
        "  lr: 0.0003 in the run, 0.001 now",
        f'  data.digest: "{"a" * 60}…" in the run, "{"b" * 60}…" now',
        '  data.sources[1]: "letters" in the run, not set now',
        "  warmup: not set in the run, 5 now",
    ]


def test_what_may_change_is_named_and_then_recorded(run: Path):
    with begin(run, machine={"devices": 4}, log_every=10, may_change=["machine.devices", "log_every"]) as on:
        assert [str(one) for one in on.changed] == [
            "machine.devices: 1 in the run, 4 now",
            "log_every: not set in the run, 10 now",
        ]
    begin(run, machine={"devices": 4}, log_every=10).close()
    with pytest.raises(UsageError, match="devices: 4 in the run, 1 now"):
        begin(run, log_every=10, may_change=["machine.device", "dev"])


@pytest.mark.parametrize(("was", "now"), [(True, 1), ("1", 1), (None, 0), ([], {}), ([1], 1)])
def test_values_of_another_kind_are_other_values(tmp_path: Path, was: Any, now: Any):
    begin(tmp_path / "run", value=was).close()
    with pytest.raises(UsageError, match="value"):
        begin(tmp_path / "run", value=now)


def test_a_whole_number_equals_its_float(tmp_path: Path):
    begin(tmp_path / "run", value=1).close()
    begin(tmp_path / "run", value=1.0).close()


def test_the_copy_of_the_config_is_not_for_editing(run: Path):
    other = replace(CONFIG, intermediate_size=192)
    (run / "config.json").write_text(to_json(other))
    for config in (CONFIG, other):
        with pytest.raises(
            UsageError, match=r"the folder's config.json was edited:\n  intermediate_size: 256"
        ):
            begin(run, config=config)
    (run / "config.json").write_text("{")
    with pytest.raises(ConfigError, match=r"config.json:1:"):
        begin(run)


def test_a_run_of_before_a_key_existed_goes_on(run: Path):
    record = json.loads((run / "run.json").read_text())
    del record["config"]["chronos"]["lambda_anchor"]
    (run / "run.json").write_text(json.dumps(record))
    begin(run).close()


def test_a_folder_with_other_things_is_left_alone(tmp_path: Path):
    (tmp_path / "config.json").write_text("mine")
    with pytest.raises(UsageError, match=r"is not empty \('config.json'\) and holds no run.json"):
        begin(tmp_path)
    assert (tmp_path / "config.json").read_text() == "mine"
    (tmp_path / "file").touch()
    with pytest.raises(ChimeraError, match="cannot be used: File exists"):
        begin(tmp_path / "file")


def test_what_a_killed_beginning_left_is_no_obstacle(tmp_path: Path):
    (tmp_path / "lock").touch()
    (tmp_path / ".run.json.12-ab.partial").touch()
    with begin(tmp_path) as made:
        assert made.is_new
    (tmp_path / "config.json").unlink()
    with begin(tmp_path) as again:
        assert not again.is_new
    assert load_config(tmp_path) == CONFIG
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize(
    ("content", "what"),
    [
        ("{", "run.json:1:2"),
        ("{}", "format None"),
        ('{"format": "chimera-run", "format_version": 2}', "version 2; this version reads"),
        ('{"format": "chimera-run", "format_version": 1}', "the config or the settings are missing"),
    ],
)
def test_a_damaged_record_is_refused(run: Path, content: str, what: str):
    (run / "run.json").write_text(content)
    with pytest.raises(ModelError, match=what):
        begin(run)


@pytest.mark.parametrize("value", [float("nan"), {1, 2}, "\ud800"])
def test_settings_must_be_json(tmp_path: Path, value: Any):
    with pytest.raises(UsageError, match="settings of"):
        begin(tmp_path / "run", value=value)


def test_a_second_process_is_told_who_is_there(tmp_path: Path):
    with started("-c", HOLD, tmp_path, "hold") as holder:
        assert holder.stdout is not None
        pid = int(holder.stdout.readline())
        assert pid == holder.pid
        with pytest.raises(ChimeraError, match=f"is in use by process {pid}\n"):
            RunFolder.open(tmp_path, config=CONFIG, settings={"seed": 3})
        holder.communicate()
    RunFolder.open(tmp_path, config=CONFIG, settings={"seed": 3}).close()


def test_the_lock_holds_within_a_process_and_is_given_up_once(tmp_path: Path):
    first = begin(tmp_path / "run")
    with pytest.raises(ChimeraError, match=f"in use by process {os.getpid()}"):
        begin(tmp_path / "run")
    first.close()
    second = begin(tmp_path / "run")
    first.close()
    with pytest.raises(ChimeraError, match="in use by process"):
        begin(tmp_path / "run")
    second.close()


def test_a_refused_run_is_not_left_locked(run: Path):
    with pytest.raises(UsageError, match="seed: 3 in the run, 4 now"):
        begin(run, seed=4)
    begin(run).close()


@pytest.mark.parametrize("mode", ["hold", "fork"])
def test_the_lock_of_a_killed_process_is_no_obstacle(tmp_path: Path, mode: str):
    """Nor is it where a worker that the process had forked is still alive."""
    with started("-c", HOLD, tmp_path, mode) as holder:
        assert holder.stdout is not None
        printed = int(holder.stdout.readline())
        assert (printed == holder.pid) == (mode == "hold")
        try:
            os.kill(holder.pid, signal.SIGKILL)
            assert holder.wait() == -signal.SIGKILL
            assert str(holder.pid) in (tmp_path / "lock").read_text()
            RunFolder.open(tmp_path, config=CONFIG, settings={"seed": 3}).close()
        finally:
            if mode == "fork":
                os.kill(printed, signal.SIGKILL)
            holder.communicate()


def test_a_living_process_keeps_its_lock_when_its_worker_ends(tmp_path: Path):
    script = HOLD.replace("time.sleep(600)", "os._exit(0)")
    with started("-c", script, tmp_path, "fork") as holder:
        assert holder.stdout is not None
        assert int(holder.stdout.readline()) != holder.pid
        with pytest.raises(ChimeraError, match=f"in use by process {holder.pid}"):
            RunFolder.open(tmp_path, config=CONFIG, settings={"seed": 3})
        holder.communicate()


def test_the_folder_is_opened_without_torch(tmp_path: Path):
    script = "import sys, chimera.train.run_folder; print('torch' in sys.modules)"
    assert python("-c", script) == "False\n"
