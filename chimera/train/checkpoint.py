"""Checkpoints of a run: one sealed file a step, whole or not there, read back before an older one goes.

A state is nested dicts and lists with tensors, `{"model": …, "optimizer": …, "rng": …, "extra": …}`; nothing
in a file is ever executed. One process writes a folder, which the lock of its `RunFolder` sees to; any number
may read it meanwhile.
"""

import errno
import os
import re
import sys
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from chimera.train.folders import make_folder
from chimera.train.sealed import read_sealed, verify_sealed, write_sealed
from chimera.train.tree_codec import from_json, to_json
from configs.errors import ChimeraError, ModelError, UsageError
from quant.atomic import atomic_file, sweep_unfinished

FORMAT = "chimera-checkpoint"
FORMAT_VERSION = "1"
NAME = re.compile(r"step-(\d{9,})\.safetensors")
SET_ASIDE = ".damaged"


class Checkpoint(NamedTuple):
    """A saved state, and the number of steps that led to it."""

    step: int
    state: dict[str, Any]


def save(folder: Path | str, state: Mapping[str, Any], *, step: int, keep: int = 2) -> Path:
    """Write a checkpoint, read it back from the disk, and only then remove all but the newest `keep`.

    A later step that can still be read is never hidden or removed by an earlier one: that is refused.
    """
    if step < 0 or keep < 1:
        raise UsageError(f"step {step}, keep {keep}: a step is at least 0, and at least 1 checkpoint is kept")
    path = Path(folder) / _name(step)
    tree, tensors = to_json(state)
    metadata = {"format": FORMAT, "format_version": FORMAT_VERSION, "step": str(step), "tree": tree}
    with _named_errors(path):
        make_folder(path.parent)
        sweep_unfinished(path.parent, names="step-*")
        _make_way(path.parent, step=step)
        with atomic_file(path) as file:
            write_sealed(file, tensors, metadata=metadata)
        _read_back(path)
        for old in saved_steps(path.parent)[:-keep]:
            (path.parent / _name(old)).unlink(missing_ok=True)
    return path


def saved_steps(folder: Path | str) -> list[int]:
    """The steps that have a file, rising; none for a folder that is not there."""
    folder = Path(folder)
    names = os.listdir(folder) if folder.is_dir() else []
    found = [int(match[1]) for match in map(NAME.fullmatch, names) if match]
    return sorted(step for step in found if _name(step) in names)


def load(path: Path | str) -> Checkpoint:
    """One checkpoint, its digest checked; tensors come to the CPU."""
    path = Path(path)
    try:
        with path.open("rb") as file:
            sealed = read_sealed(file, num_bytes=os.fstat(file.fileno()).st_size, source=str(path))
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror or error}") from error
    step = _checked_step(sealed.metadata, path)
    return Checkpoint(step, from_json(sealed.metadata["tree"], sealed.tensors, source=str(path)))


def load_latest(folder: Path | str, *, say: Callable[[str], None] | None = None) -> Checkpoint | None:
    """The newest checkpoint that can be read; None where none was ever saved.

    `say` is told of every damaged one that is passed over; unless given, standard error is.
    """
    folder, say = Path(folder), say or _to_stderr
    damaged: dict[int, ModelError] = {}
    while steps := [step for step in saved_steps(folder) if step not in damaged]:
        path = folder / _name(steps[-1])
        try:
            checkpoint = load(path)
        except ModelError as error:
            # A writer may have removed it since the folder was listed; then there is a newer one.
            if os.path.lexists(path):
                damaged[steps[-1]] = error
            continue
        for error in damaged.values():
            say(f"{error.message}; going back to step {checkpoint.step}")
        return checkpoint
    if damaged:
        lines = "".join(f"\n  {error.message}" for error in damaged.values())
        raise ModelError(
            f"{folder}: none of the {len(damaged)} checkpoints can be read{lines}",
            hint="Restore one from a copy, or begin the run anew in another folder.",
        )
    return None


def _name(step: int) -> str:
    return f"step-{step:09d}.safetensors"


def _make_way(folder: Path, *, step: int) -> None:
    """Later checkpoints that cannot be read are renamed, or they would be taken for the newest for ever."""
    for later in saved_steps(folder):
        if later <= step:
            continue
        path = folder / _name(later)
        if _damage(path) is None:
            raise UsageError(
                f"{folder}: step {step} cannot be saved, as the later step {later} is there and whole",
                hint="Resume from the newest checkpoint, or begin in another folder.",
            )
        _set_aside(path)


def _read_back(path: Path) -> None:
    if error := _damage(path):
        raise ChimeraError(
            f"{path}: what was written does not read back the same; it is now {_set_aside(path).name}",
            hint="The disk or the memory of this machine is faulty. Earlier checkpoints are unchanged.",
        ) from error


def _set_aside(path: Path) -> Path:
    return path.replace(path.with_name(path.name + SET_ASIDE))


def _damage(path: Path) -> Exception | None:
    """What is wrong with a checkpoint on the disk; an error that says nothing of the file is raised."""
    try:
        with path.open("rb") as file:
            if hasattr(os, "posix_fadvise"):
                # Without its pages in memory, the file is read from the disk itself.
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            num_bytes = os.fstat(file.fileno()).st_size
            _checked_step(verify_sealed(file, num_bytes=num_bytes, source=str(path)), path)
    except ModelError as error:
        return error
    except OSError as error:
        if error.errno != errno.EIO:
            raise
        return error
    return None


def _checked_step(metadata: Mapping[str, str], path: Path) -> int:
    kind = metadata.get("format"), metadata.get("format_version")
    if kind != (FORMAT, FORMAT_VERSION) or "tree" not in metadata:
        raise ModelError(
            f"{path}: not a checkpoint that this version reads: format {kind[0]!a}, version {kind[1]!a}",
            hint="If a newer version wrote the file, update: pip install --upgrade chimera-edge",
        )
    step, named = metadata.get("step", ""), NAME.fullmatch(path.name)
    if not re.fullmatch(r"\d{1,18}", step, re.ASCII) or (named and int(step) != int(named[1])):
        raise ModelError(f"{path}: it holds the step {step!a}, which is not what its name says")
    return int(step)


@contextmanager
def _named_errors(path: Path) -> Generator[None]:
    try:
        yield
    except OSError as error:
        raise ChimeraError(
            f"cannot save {path}: {error.strerror or error}",
            hint="Earlier checkpoints are unchanged. Check the folder and its free space, then resume.",
        ) from error


def _to_stderr(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
