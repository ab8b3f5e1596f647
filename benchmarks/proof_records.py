"""Results of a proof as lines of JSON, in one folder for all arms.

An arm has a file for each learning rate, with a line for each thing found: `sizes`, `trained`, `evaluated`.
Each line names its arm, its rate and the digest of what the proof was run with, so that files of several
machines can lie side by side, and results of other data or another budget are refused. What has a line is not
done again.
"""

import hashlib
import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.proof_arms import SizeName
from configs.errors import DataError, UsageError
from quant.atomic import atomic_file

FOLDER, LINES = "results", "proof.jsonl"
LAST = "evaluated"


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """What a proof is run with; every arm the same."""

    size: SizeName
    tokens: int
    """Places of rows that an arm learns from, padding and practice among them."""
    rows: int
    """Of a step."""
    seq_len: int
    recall_rows: int
    """Of a step's rows, those of associative recall."""
    needle_rows: int
    """Of a step's rows, those of needles."""
    questions: int
    """Rows of recall for each number of pairs, in the evaluation."""
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.recall_rows + self.needle_rows < self.rows:
            raise UsageError(
                f"{self.recall_rows} + {self.needle_rows} of {self.rows} rows are practice; "
                "allowed are 1 to all but one"
            )
        if self.num_steps < 2:
            raise UsageError(f"{self.tokens} tokens by {self.step_tokens} a step; two steps are needed")

    @property
    def step_tokens(self) -> int:
        """Places of one step."""
        return self.rows * self.seq_len

    @property
    def num_steps(self) -> int:
        """Steps of an arm."""
        return self.tokens // self.step_tokens

    def digest(self, *data: str) -> str:
        """Of the settings, and of the data that they are run on."""
        return hashlib.sha256(json.dumps([asdict(self), *data]).encode()).hexdigest()[:16]


class Records:
    """The lines of one arm at one rate, which this process adds to, beside those that are there."""

    def __init__(self, work: Path, arm: str, *, rate: float, plan: str) -> None:
        self.arm, self.rate, self.plan = arm, rate, plan
        self._path = work / FOLDER / f"{self.name}.jsonl"
        self._path.parent.mkdir(parents=True, exist_ok=True)
        of_arm = [one for one in read_records(work) if one["arm"] == arm]
        self.found = [one for one in of_arm if one["rate"] == rate]
        foreign = {one["plan"] for one in of_arm} - {plan}
        if foreign:
            raise UsageError(
                f"{self._path.parent} holds {arm} of another proof: {', '.join(sorted(foreign))}",
                hint=f"This one is {plan}: other settings, data or needles. Name another folder.",
            )

    @property
    def name(self) -> str:
        """Of the run, for files and for whoever watches."""
        return f"{self.arm}-{self.rate:g}"

    def of(self, kind: str) -> list[dict[str, Any]]:
        """The lines of one kind."""
        return [one for one in self.found if one["kind"] == kind]

    @property
    def is_finished(self) -> bool:
        """Whether nothing of the arm is left to do."""
        return bool(self.of(LAST))

    def add(self, kind: str, values: Mapping[str, Any]) -> None:
        """Write a line, to the disk."""
        record = {"arm": self.arm, "rate": self.rate, "plan": self.plan, "kind": kind, **values}
        # A line that a killed process cut short is ended first: it is dropped when it is read.
        cut = self._path.exists() and not self._path.read_bytes().endswith(b"\n")
        with self._path.open("ab") as file:
            file.write((b"\n" if cut else b"") + json.dumps(record).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
        self.found.append(record)


def read_records(work: Path) -> list[dict[str, Any]]:
    """Every line of every file in the folder of results, each arm's in their order, none twice."""
    found: list[dict[str, Any]] = []
    for path in sorted((work / FOLDER).glob("*.jsonl")):
        for number, line in enumerate(path.read_bytes().split(b"\n"), start=1):
            record = _record(line)
            if record is not None and not all(key in record for key in ("arm", "rate", "plan", "kind")):
                raise DataError(f"{path}:{number}: not a result of a proof: {line[:60]!a}")
            if record is not None and record not in found:
                found.append(record)
    return found


def write_lines(records: Sequence[Mapping[str, Any]], out: Path) -> Path:
    """All lines as one file, which a folder of results can hold as it is."""
    out.mkdir(parents=True, exist_ok=True)
    with atomic_file(out / LINES) as file:
        file.write("".join(json.dumps(one) + "\n" for one in records).encode())
    return out / LINES


def scores_of(records: Sequence[Mapping[str, Any]], arm: str) -> dict[float, float]:
    """Bits per byte of an arm by learning rate, of what is finished; infinite where it diverged."""
    return {
        one["rate"]: math.inf if "diverged_at" in one else one["bits_per_byte"]["all"]
        for one in records
        if one["arm"] == arm and one["kind"] == LAST
    }


def best_run(records: Sequence[Mapping[str, Any]], arm: str, kind: str) -> Mapping[str, Any] | None:
    """The line of a kind of an arm's best run, or of any while none is finished; None where there is none."""
    fitting = [one for one in records if one["arm"] == arm and one["kind"] == kind]
    scores = scores_of(records, arm)
    return min(fitting, key=lambda one: scores.get(one["rate"], math.inf), default=None)


def _record(line: bytes) -> dict[str, Any] | None:
    """A line's content; None for an empty line and for one that was cut short."""
    try:
        value = json.loads(line)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None
