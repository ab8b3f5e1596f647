"""The log of a run: one JSON object a line, a line a step, each on its way to the disk before the next step.

A killed run leaves at most one line cut short, and lines of steps after its last checkpoint. A run that goes
on drops both, so that every step stands in the log once. What is no number (a loss that has diverged) is
written as text, since JSON has no such numbers.
"""

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from configs.errors import DataError
from quant.atomic import atomic_file

LOG_NAME = "log.jsonl"


class RunLog:
    """A log that is being written. One process writes it: the one that holds the run's folder."""

    def __init__(self, path: Path, *, steps_done: int) -> None:
        """Open the log of a run of which `steps_done` steps count; records of later steps are cut off."""
        kept = [record for record in read_log(path) if record["step"] <= steps_done] if path.exists() else []
        with atomic_file(path) as file:
            for record in kept:
                file.write(_line(record))
        self.records_kept = len(kept)
        self._path = path

    def write(self, record: Mapping[str, Any]) -> None:
        """Add one record. It names its `step`: how many steps were done when it was made."""
        assert isinstance(record["step"], int)
        # Opened for each line: it costs some microseconds a step, and no end of a run can forget to close it.
        with self._path.open("ab", buffering=0) as file:
            file.write(_line(record))

    def close(self) -> None:
        """Put what was written on the disk."""
        with self._path.open("ab") as file:
            os.fsync(file.fileno())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def read_log(path: Path) -> list[dict[str, Any]]:
    """The records of a log, without a last line that was cut short."""
    # Whole lines end in a newline: what follows the last one was being written.
    *lines, _ = path.read_bytes().split(b"\n")
    return [_record(line, place=f"{path}:{number}") for number, line in enumerate(lines, start=1)]


def _line(record: Mapping[str, Any]) -> bytes:
    return json.dumps(_plain(record), allow_nan=False).encode() + b"\n"


def _plain(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, Mapping):
        return {name: _plain(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return value


def _record(line: bytes, *, place: str) -> dict[str, Any]:
    try:
        record = json.loads(line)
    except ValueError:
        record = None
    if not isinstance(record, dict) or type(record.get("step")) is not int:
        raise DataError(
            f"{place}: not a record of a run's log: {line[:60]!a}",
            hint="Only a last line can be cut short. Move the file away, and the run begins another.",
        )
    return record
