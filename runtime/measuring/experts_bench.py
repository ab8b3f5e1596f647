"""Experts on disk beside plain mapped files, in one limit of memory: tokens a second, and what bounds them.

Every side is a process of its own in a control group with one limit, which counts pages of files as well.
Before each, the page cache forgets the files of experts. All sides read the same tokens and have to give the
same logits to the last bit. The limit is what a process takes without experts, which is measured, and the
budget of the experts.
"""

import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from chronos_moe.store.choice import measure, peak_of
from chronos_moe.store.manifest import Manifest
from configs.errors import ChimeraError, ModelError, UsageError
from quant.pool_threads import default_threads
from runtime.building.tensors import Tensors
from runtime.measuring.experts_child import Side, Task
from runtime.measuring.memory_group import memory_group
from runtime.model_folder import open_model

SIDES: tuple[Side, ...] = ("store", "pages", "random pages")
"""What is measured under the limit."""
ALL_SIDES: tuple[Side, ...] = ("resident", *SIDES)
SLACK_BYTES = 24 * 2**20
"""For tables of pages, threads' stacks and reading ahead; both sides have it."""
BUDGET_SHARE = 0.25
_KILLED = -9

Report = dict[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class ExpertsBench:
    """What is asked."""

    model: Path
    budget_bytes: int | None = None
    """For experts; None is a quarter of all of them."""
    tokens: int = 64
    warm_tokens: int = 16
    threads: int | None = None
    rounds: int | None = None
    policy: str = "lru"
    predictor: str | None = None
    repeats: int = 3

    def __post_init__(self) -> None:
        for name in ("tokens", "warm_tokens", "repeats"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name.replace('_', ' ')}: {getattr(self, name)}; at least 1 is needed")


def bench_experts(asked: ExpertsBench, *, done: Callable[[int, int], None] | None = None) -> Report:
    """All sides in turns, and the disk."""
    model = open_model(asked.model)
    tensors = Tensors(model)
    manifest, folder = tensors.manifest, model.folder
    tensors.close()
    if manifest is None:
        raise ModelError(
            f"{asked.model} has no experts on disk",
            hint=f"Lay them there first: chimera pack-experts {asked.model}",
        )
    count = len(manifest.places())
    all_bytes = count * manifest.form.block_bytes
    budget = int(all_bytes * BUDGET_SHARE) if asked.budget_bytes is None else asked.budget_bytes
    task = Task(
        model=str(asked.model),
        side="resident",
        members=None,
        experts_bytes=budget,
        threads=default_threads().count if asked.threads is None else asked.threads,
        warm_tokens=asked.warm_tokens,
        tokens=asked.tokens,
        rounds=asked.rounds,
        policy=asked.policy,
        predictor=asked.predictor,
    )
    total, steps = 2 + asked.repeats * (1 + len(SIDES)), 0

    def advance() -> None:
        nonlocal steps
        steps += 1
        if done is not None:
            done(steps, total)

    paths = [folder / cluster.file for cluster in manifest.clusters]
    disk = measure(list(manifest.places().values()), paths, block_bytes=manifest.form.block_bytes)
    advance()
    first = _run(task, manifest, folder)
    advance()
    base = first["resident_bytes"] - all_bytes
    limit = base + budget + SLACK_BYTES
    found: dict[Side, list[Report]] = {side: list[Report]() for side in ALL_SIDES}
    for _ in range(asked.repeats):
        for side, runs in found.items():
            runs.append(_in_turn(replace(task, side=side), manifest, folder, limit_bytes=limit))
            advance()
    _check_equal(found)
    return {
        "model": {
            "name": model.config.name_or_path,
            "experts": count,
            "expert_bytes": manifest.form.block_bytes,
        },
        "experts_bytes": all_bytes,
        "budget_bytes": budget,
        "limit_bytes": limit,
        "without_experts_bytes": base,
        "threads": task.threads,
        "tokens": asked.tokens,
        "disk": [
            {"reader": name, "readers": threads, "bytes_per_s": max(rates)}
            for (name, threads), rates in disk.items()
        ],
        "disk_peak_bytes_per_s": peak_of(disk),
        "sides": [_figures(side, found, peak=peak_of(disk)) for side in ALL_SIDES],
    }


def timeline(asked: ExpertsBench, report: Report, *, tokens: int) -> list[list[Any]]:
    """What went on in some tokens of the store under the report's limit: kind, begin and end in seconds."""
    model = open_model(asked.model)
    tensors = Tensors(model)
    manifest = tensors.manifest
    tensors.close()
    assert manifest is not None, "its experts were measured"
    task = Task(
        model=str(asked.model),
        side="store",
        members=None,
        experts_bytes=report["budget_bytes"],
        threads=report["threads"],
        warm_tokens=asked.warm_tokens,
        tokens=tokens,
        rounds=asked.rounds,
        policy=asked.policy,
        predictor=asked.predictor,
        spans=True,
    )
    return _in_turn(task, manifest, model.folder, limit_bytes=report["limit_bytes"])["spans"]


def _in_turn(task: Task, manifest: Manifest, folder: Path, *, limit_bytes: int) -> Report:
    if task.side == "resident":
        return _run(task, manifest, folder)
    with memory_group("chimera-bench", limit_bytes=limit_bytes) as group:
        found = _run(replace(task, members=str(group.members)), manifest, folder)
        return {**found, "group_peak_bytes": group.peak_bytes}


def _run(task: Task, manifest: Manifest, folder: Path) -> Report:
    """A process of its own, that finds nothing of the experts in memory."""
    for cluster in manifest.clusters:
        _forget(folder / cluster.file)
    home = str(Path(__file__).resolve().parents[2])
    others = os.environ.get("PYTHONPATH")
    paths = os.pathsep.join([home, others] if others else [home])
    command = [sys.executable, "-P", "-m", "runtime.measuring.experts_child", task.to_json()]
    ended = subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        env=os.environ | {"PYTHONPATH": paths},
        check=False,
    )
    if ended.returncode:
        why = "it was killed, most likely for the memory that it took" if ended.returncode == _KILLED else ""
        last = " ".join(ended.stderr.splitlines()[-3:])
        raise ChimeraError(
            f"the side `{task.side}` ended with {ended.returncode}: {why or last}",
            hint="Give experts less, or run the same command by hand.",
        )
    return json.loads(ended.stdout.splitlines()[-1])


def _forget(path: Path) -> None:
    """Have the page cache let go of a file."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(handle)


def _check_equal(found: dict[Side, list[Report]]) -> None:
    """No figure counts where the text is another one."""
    expected = found["resident"][0]["logits"]
    different = [side for side, runs in found.items() if any(run["logits"] != expected for run in runs)]
    if different:
        raise ChimeraError(f"the logits of {', '.join(different)} are not those with all experts in memory")


def _figures(side: Side, found: dict[Side, list[Report]], *, peak: float) -> Report:
    """A side's row: the run in the middle of all, what bounds it, and its turns beside those of the first."""
    runs, resident = found[side], found["resident"]
    middle = _middle(runs)
    rate, read = middle["tokens_per_s"], middle["disk_bytes_a_token"]
    compute_s = 1 / _middle(resident)["tokens_per_s"]
    turns = [run["tokens_per_s"] / first["tokens_per_s"] for run, first in zip(runs, resident, strict=True)]
    return {
        "side": side,
        "tokens_per_s": rate,
        "samples_tokens_per_s": [run["tokens_per_s"] for run in runs],
        "of_resident": statistics.median(turns),
        "disk_bytes_a_token": read,
        "disk_share": read * rate / peak,
        "floor_tokens_per_s": 1 / max(compute_s, read / peak),
        "stall_ms_a_token": middle["stall_ms_a_token"],
        "hit_rate": middle["experts"]["hit_rate"] if side == "store" else None,
        "wasted_a_useful": middle["experts"]["wasted_a_useful"] if side == "store" else None,
        "group_peak_bytes": middle.get("group_peak_bytes"),
    }


def _middle(runs: list[Report]) -> Report:
    """The run with as many faster as slower ones; of two the slower."""
    return sorted(runs, key=lambda run: run["tokens_per_s"])[(len(runs) - 1) // 2]
