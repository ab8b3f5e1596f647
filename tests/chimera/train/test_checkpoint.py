"""Checkpoints: bit-identical resumption, damage, killed writers, a full disk, what is kept."""

import json
import os
import resource
import shutil
import subprocess
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from chimera.train.checkpoint import load, load_latest, save, saved_steps
from configs.errors import ChimeraError, ModelError, UsageError
from tests.chimera.train.processes import python
from tests.chimera.train.small_run import SmallRun

SMALL_DISK = ("unshare", "-Urm", "sh", "-c", 'mount -t tmpfs -o size=1m none "$0" && exec "$@"')


def state_of(number: float, *, size: int = 5000) -> dict[str, Any]:
    return {"model": {"weight": torch.full((size,), float(number))}, "extra": {"number": number}}


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def damage(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@contextmanager
def no_file_longer_than(num_bytes: int) -> Generator[None]:
    """A real limit of the system: a write beyond it fails as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_resumed_run_is_the_uninterrupted_one_byte_for_byte(tmp_path: Path):
    run, resumed = SmallRun(), tmp_path / "resumed"
    for _ in range(2):
        run.step()
    begun = save(resumed, run.state(), step=2)
    for _ in range(3):
        run.step()
    whole = save(tmp_path / "whole", run.state(), step=5)
    python("-m", "tests.chimera.train.small_run", resumed, "5")
    assert names(resumed) == [begun.name, whole.name]
    assert (resumed / whole.name).read_bytes() == whole.read_bytes()
    early, late = load(begun).state, load(whole).state
    read: dict[str, Callable[[dict[str, Any]], torch.Tensor]] = {
        "weight": lambda state: state["model"]["layers.0.mixer.q_proj.weight"],
        "moment": lambda state: state["optimizer"]["state"][0]["exp_avg_sq"],
        "bias": lambda state: state["model"]["layers.2.ffn.router_bias"],
        "sampler": lambda state: state["extra"]["sampler"],
    }
    for what, value in read.items():
        assert not torch.equal(value(early), value(late)), f"{what} did not move, so nothing was shown"


@pytest.mark.parametrize("left_out", ["python", "numpy", "torch"])
def test_every_shared_generator_is_needed_to_go_on_alike(tmp_path: Path, left_out: str):
    run = SmallRun()
    run.step()
    save(tmp_path, run.state(), step=1)
    run.step()
    resumed, state = SmallRun(), load(tmp_path / "step-000000001.safetensors").state
    resumed.step()
    fresh = SmallRun().state()["rng"]
    resumed.restore({**state, "rng": {**state["rng"], left_out: fresh[left_out]}})
    resumed.step()
    ours, theirs = resumed.model.state_dict(), run.model.state_dict()
    assert not all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.mark.oracle
def test_a_checkpoint_is_a_safetensors_file(tmp_path: Path):
    dtypes = [torch.float64, torch.float32, torch.bfloat16, torch.float16, torch.int64, torch.int32]
    dtypes += [torch.int16, torch.int8, torch.uint8, torch.bool, torch.uint16, torch.uint32, torch.uint64]
    tensors = {str(index): torch.arange(index + 1).to(dtype) for index, dtype in enumerate(dtypes)}
    tensors |= {"none": torch.zeros(0, 3), "one": torch.tensor(2.5), "turned": torch.rand(3, 4).T}
    path = save(tmp_path, {"t": tensors}, step=7)
    theirs = load_file(path)
    ours = load(path).state["t"]
    assert set(theirs) == {f"t/{name}" for name in tensors}
    for name, tensor in tensors.items():
        for found in (ours[name], theirs[f"t/{name}"]):
            assert found.dtype == tensor.dtype
            assert torch.equal(found, tensor)
    with safe_open(path, framework="pt") as file:
        assert file.metadata()["step"] == "7"


@given(data=st.data())
@settings(max_examples=150)
def test_no_changed_byte_goes_unnoticed(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject):
    folder = tmp_path_factory.mktemp("run")
    path = save(folder, state_of(1, size=40), step=1)
    content = path.read_bytes()
    at = data.draw(st.integers(0, len(content) - 1))
    change = data.draw(st.sampled_from(["flip", "cut", "insert", "zeros"]))
    match change:
        case "flip":
            bit = 1 << data.draw(st.integers(0, 7))
            changed = content[:at] + bytes([content[at] ^ bit]) + content[at + 1 :]
        case "cut":
            changed = content[:at]
        case "insert":
            changed = content[:at] + b"\0" + content[at:]
        case _:
            changed = content[:at] + bytes(len(content) - at)
    path.write_bytes(changed)
    if changed == content:
        assert load(path).step == 1
    else:
        with pytest.raises(ModelError, match=r"step-000000001"):
            load(path)


def test_foreign_files_and_other_steps_are_refused(tmp_path: Path):
    path = tmp_path / "step-000000001.safetensors"
    save_file({"weight": torch.ones(3)}, path, metadata={"format": "pt"})
    with pytest.raises(ModelError, match="carries no digest of itself"):
        load(path)
    save(tmp_path, state_of(2), step=2).rename(path)
    with pytest.raises(ModelError, match="holds the step '2', which is not what its name says"):
        load(path)
    with pytest.raises(ModelError, match="cannot be read: No such file"):
        load(tmp_path / "step-000000003.safetensors")


def test_a_damaged_newest_gives_the_one_before_and_says_so(tmp_path: Path):
    for step in (10, 20, 30):
        save(tmp_path, state_of(step), step=step, keep=3)
    damage(tmp_path / "step-000000030.safetensors")
    (tmp_path / "step-000000020.safetensors").write_bytes(b"")
    said: list[str] = []
    latest = load_latest(tmp_path, say=said.append)
    assert latest is not None
    assert latest.step == 10
    assert latest.state["extra"] == {"number": 10}
    assert [line.partition(": ")[0] for line in said] == [
        str(tmp_path / f"step-0000000{step}.safetensors") for step in (30, 20)
    ]
    assert all(line.endswith("; going back to step 10") for line in said)


def test_without_a_listener_standard_error_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    save(tmp_path, state_of(1), step=1)
    damage(save(tmp_path, state_of(2), step=2))
    assert load_latest(tmp_path) is not None
    assert "going back to step 1" in capsys.readouterr().err


def test_nothing_saved_is_none_and_all_damaged_is_an_error(tmp_path: Path):
    assert load_latest(tmp_path / "none") is None
    assert load_latest(tmp_path) is None
    for step in (1, 2):
        save(tmp_path, state_of(step), step=step)
    for step in (1, 2):
        damage(tmp_path / f"step-00000000{step}.safetensors")
    with pytest.raises(ModelError, match=r"none of the 2 checkpoints can be read\n.*0002.*\n.*0001"):
        load_latest(tmp_path)


def test_a_damaged_later_step_is_set_aside_by_the_run_that_goes_on(tmp_path: Path):
    save(tmp_path, state_of(10), step=10)
    damage(save(tmp_path, state_of(20), step=20))
    save(tmp_path, state_of(15), step=15)
    assert names(tmp_path) == [
        "step-000000010.safetensors",
        "step-000000015.safetensors",
        "step-000000020.safetensors.damaged",
    ]
    said: list[str] = []
    latest = load_latest(tmp_path, say=said.append)
    assert latest is not None
    assert (latest.step, said) == (15, [])


def test_a_run_that_forgot_to_resume_cannot_remove_what_it_did_not_load(tmp_path: Path):
    save(tmp_path, state_of(20), step=20)
    with pytest.raises(UsageError, match="later step 20 is there and whole"):
        save(tmp_path, state_of(5), step=5, keep=1)
    assert names(tmp_path) == ["step-000000020.safetensors"]


@pytest.mark.parametrize("keep", [1, 2, 3])
def test_the_newest_are_kept(tmp_path: Path, keep: int):
    for step in range(5):
        save(tmp_path, state_of(step), step=step, keep=keep)
        assert saved_steps(tmp_path) == list(range(max(0, step + 1 - keep), step + 1))


def test_a_step_may_be_saved_again(tmp_path: Path):
    save(tmp_path, state_of(1), step=1)
    path = save(tmp_path, state_of(9), step=1)
    assert load(path).state["extra"] == {"number": 9}


def test_a_disk_that_forgets_is_noticed_before_the_last_good_one_goes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    save(tmp_path, state_of(1), step=1)
    replace = Path.replace

    def faulty(self: Path, target: Path) -> Path:
        if self.suffix == ".partial":
            damage(self)
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", faulty)
    with pytest.raises(ChimeraError, match="does not read back the same"):
        save(tmp_path, state_of(2), step=2, keep=1)
    assert names(tmp_path) == ["step-000000001.safetensors", "step-000000002.safetensors.damaged"]
    latest = load_latest(tmp_path)
    assert latest is not None
    assert latest.step == 1


@pytest.mark.parametrize("limit", [100, 10_000, -1])
def test_a_limit_on_files_loses_nothing(tmp_path: Path, limit: int):
    """It is hit in the header, among the weights, and by the last byte."""
    for step in (1, 2):
        size = save(tmp_path, state_of(step), step=step).stat().st_size
    before = {name: (tmp_path / name).read_bytes() for name in names(tmp_path)}
    with (
        no_file_longer_than(limit if limit > 0 else size - 1),
        pytest.raises(ChimeraError, match=r"cannot save .*3\.safetensors: File too large"),
    ):
        save(tmp_path, state_of(3), step=3, keep=1)
    assert {name: (tmp_path / name).read_bytes() for name in names(tmp_path)} == before
    save(tmp_path, state_of(3), step=3, keep=1)
    assert saved_steps(tmp_path) == [3]


FULL_DISK = """
import json, os, sys
from pathlib import Path
from chimera.train.checkpoint import load_latest, save, saved_steps
from configs.errors import ChimeraError
from tests.chimera.train.test_checkpoint import names, state_of

folder, filler = Path(sys.argv[1]) / "checkpoints", Path(sys.argv[1]) / "filler"
for step in (1, 2):
    save(folder, state_of(step, size=50_000), step=step)
filler.write_bytes(bytes(500_000))
try:
    save(folder, state_of(3, size=50_000), step=3)
    message = ""
except ChimeraError as error:
    message = error.message
full = [names(folder), load_latest(folder).step]
filler.unlink()
save(folder, state_of(3, size=50_000), step=3)
print(json.dumps([message, *full, saved_steps(folder), load_latest(folder).state["extra"]]))
"""


def small_disk_can_be_mounted() -> bool:
    if shutil.which("unshare") is None:
        return False
    return subprocess.run([*SMALL_DISK, "/mnt", "true"], capture_output=True, check=False).returncode == 0


@pytest.mark.parametrize("disk", ["small" if small_disk_can_be_mounted() else "limit"])
def test_a_full_disk_loses_nothing(tmp_path: Path, disk: str):
    """A disk of 1 MiB where this machine lets us mount one, else a limit on the process."""
    if disk == "small":
        out = python("-c", FULL_DISK, tmp_path, before=(*SMALL_DISK, str(tmp_path)))
        failure = "No space left on device"
    else:
        # The first two saves stay under the limit; the filler is what makes the third too large.
        script = FULL_DISK.replace(
            "filler.write_bytes(bytes(500_000))", "filler.touch(); limit(1000)"
        ).replace("filler.unlink()", "limit(-1)")
        setup = (
            "import resource\n"
            "def limit(most): resource.setrlimit(resource.RLIMIT_FSIZE, (most, resource.RLIM_INFINITY))\n"
        )
        out = python("-c", setup + script, tmp_path)
        failure = "File too large"
    message, while_full, latest, after, extra = json.loads(out)
    assert message.endswith(f"step-000000003.safetensors: {failure}")
    assert while_full == ["step-000000001.safetensors", "step-000000002.safetensors"]
    assert latest == 2
    assert after == [2, 3]
    assert extra == {"number": 3}


@pytest.mark.parametrize(("mode", "rounds"), [("calls", 200), ("random", 20)])
def test_killed_writers_lose_nothing(tmp_path: Path, mode: str, rounds: int):
    """Before each call of the system in turn until a writer of two steps gets through; at random moments."""
    out = json.loads(python("-m", "tests.chimera.train.killed_writers", mode, tmp_path / "run", str(rounds)))
    assert out["said"] == []
    if mode == "calls":
        assert out["ends"][-1] == 0
        assert len(out["ends"]) > 30
        assert set(out["ends"][:-1]) == {-9}
        assert not list(tmp_path.rglob("*.partial"))
    else:
        assert out["ends"] == [-9] * rounds
        assert out["kept"] > 0


def test_a_reader_may_look_on_while_old_ones_are_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    save(tmp_path, state_of(1), step=1)
    listdir, moved = os.listdir, []

    def list_then_move_on(folder: Path) -> list[str]:
        found = listdir(folder)
        if not moved:
            moved.append(True)
            save(tmp_path, state_of(2), step=2, keep=1)
        return found

    monkeypatch.setattr(os, "listdir", list_then_move_on)
    latest = load_latest(tmp_path)
    assert latest is not None
    assert latest.step == 2


@pytest.mark.parametrize(
    ("tensor", "what"),
    [
        (torch.empty(2, device="meta"), "on meta"),
        (torch.eye(2).to_sparse(), "a Tensor of torch.float32"),
        (torch.zeros(2, dtype=torch.complex64), "complex64"),
    ],
)
def test_tensors_that_no_file_can_hold_are_refused(tmp_path: Path, tensor: torch.Tensor, what: str):
    with pytest.raises(UsageError, match=f"model/w cannot be written: .*{what}"):
        save(tmp_path, {"model": {"w": tensor}}, step=1)
    assert names(tmp_path) == []


@pytest.mark.parametrize(("step", "keep"), [(-1, 2), (1, 0)])
def test_counts_that_cannot_be(tmp_path: Path, step: int, keep: int):
    with pytest.raises(UsageError, match="a step is at least 0"):
        save(tmp_path, state_of(1), step=step, keep=keep)
