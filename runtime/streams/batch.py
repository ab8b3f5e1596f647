"""A file of prompts to a file of answers, many at a time, in order, and from where it was left.

An answer is written when all those before it are: so what is written of a run that was broken off is a whole
number of lines from the beginning, and the next run goes on behind them. Each line carries a name of its
prompt and of the run's own settings; a file of another run is not gone on with.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from configs.errors import ChimeraError, DataError, UsageError
from runtime.streams.jobs import LONGEST_LINE_BYTES, Defaults, parsed_job, request_of
from runtime.streams.request import Ticket
from runtime.streams.scheduler import Scheduler

AHEAD = 4
"""Prompts that are prepared for each place, at most: an answer waits in memory for those before it."""
NAME_CHARACTERS = 16

Progress = Callable[[int, int], None]
"""Is given how many bytes of prompts are answered, and how many there are."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Line:
    """A prompt's line."""

    number: int
    data: bytes
    end: int
    """Where it ends in the file."""

    def name(self, run: str) -> str:
        """What tells it from other prompts, and from itself in another run."""
        return hashlib.sha256(run.encode() + b"\n" + self.data).hexdigest()[:NAME_CHARACTERS]


@dataclass(kw_only=True, slots=True)
class Tally:
    """What a run did."""

    num_answered: int = 0
    num_failed: int = 0
    num_found: int = 0
    """Lines that were there already."""
    answer_tokens: int = 0
    prompt_tokens: int = 0


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Pending:
    line: Line
    id: object
    ticket: Ticket | None
    error: ChimeraError | None


def answer_all(
    scheduler: Scheduler,
    prompts: Path,
    answers: Path,
    *,
    defaults: Defaults,
    run: str,
    is_cancelled: Callable[[], bool] = lambda: False,
    progress: Progress | None = None,
) -> Tally:
    """Answer every line. Cancelled, it ends with what is whole, and another call goes on."""
    tally, total = Tally(), prompts.stat().st_size
    with answers.open("ab+") as out:
        lines = lines_of(prompts)
        tally.num_found = _skip_answered(out, lines, answers=answers, run=run)
        pending: list[_Pending] = []
        most = AHEAD * scheduler.num_places
        while not is_cancelled():
            while len(pending) < most and (line := next(lines, None)) is not None:
                pending.append(_asked(scheduler, line, defaults, source=f"{prompts}:{line.number}"))
            if not pending:
                break
            if not _is_done(pending[0]):
                scheduler.step()
            while pending and _is_done(pending[0]):
                first = pending.pop(0)
                _write(out, first, run=run, tally=tally)
                if progress is not None:
                    progress(first.line.end, total)
        for left in pending:
            if left.ticket is not None:
                left.ticket.cancel()
        scheduler.run()
        out.flush()
        os.fsync(out.fileno())
    return tally


def lines_of(path: Path) -> Iterator[Line]:
    """The lines of a file that hold something, with their numbers from 1."""
    with path.open("rb") as file:
        number = 0
        while data := file.readline(LONGEST_LINE_BYTES + 1):
            number += 1
            if len(data) > LONGEST_LINE_BYTES:
                raise DataError(f"{path}:{number}: a line of more than {LONGEST_LINE_BYTES:,} bytes")
            if data.strip():
                yield Line(number=number, data=data.strip(), end=file.tell())


def _skip_answered(out: IO[bytes], lines: Iterator[Line], *, answers: Path, run: str) -> int:
    """Go behind the prompts that are answered already; a last line that was torn is cut off."""
    out.seek(0)
    found = whole = 0
    for data in out:
        if not data.endswith(b"\n"):
            break
        line = next(lines, None)
        if line is None or _name_in(data) != line.name(run):
            asked = "a prompt" if line is None else f"line {line.number}"
            raise UsageError(
                f"{answers}:{found + 1} does not answer {asked} of this file with this model and these "
                "settings",
                hint="Name another file to write to, or remove this one.",
            )
        found, whole = found + 1, whole + len(data)
    out.truncate(whole)
    out.seek(0, os.SEEK_END)
    return found


def _name_in(data: bytes) -> object:
    try:
        found: object = json.loads(data)
    except ValueError:
        return None
    return found.get("name") if isinstance(found, dict) else None  # pyright: ignore[reportUnknownVariableType, reportUnknownMemberType]


def _asked(scheduler: Scheduler, line: Line, defaults: Defaults, *, source: str) -> _Pending:
    name: object = None
    try:
        job, name = parsed_job(line.data, source=source)
        ticket = scheduler.submit(request_of(job, defaults))
        return _Pending(line=line, id=name, ticket=ticket, error=None)
    except ChimeraError as error:
        return _Pending(line=line, id=name, ticket=None, error=error)


def _is_done(pending: _Pending) -> bool:
    return pending.ticket is None or pending.ticket.is_done


def _write(out: IO[bytes], pending: _Pending, *, run: str, tally: Tally) -> None:
    record: dict[str, object] = {"line": pending.line.number, "name": pending.line.name(run)}
    if pending.id is not None:
        record["id"] = pending.id
    error = pending.error if pending.ticket is None else pending.ticket.error
    answer = None if pending.ticket is None else pending.ticket.answer
    if error is not None or answer is None:
        if not isinstance(error, ChimeraError):
            assert error is not None, "what is done has an answer or an error"
            raise error
        tally.num_failed += 1
        record["error"] = {"kind": type(error).__name__, "message": error.message}
    else:
        tally.num_answered += 1
        tally.answer_tokens += len(answer.ids)
        tally.prompt_tokens += answer.timings.prompt_tokens
        record |= {
            "text": answer.text,
            "finish": answer.finish,
            "stop": answer.stop,
            "prompt_tokens": answer.timings.prompt_tokens,
            "answer_tokens": len(answer.ids),
        }
    out.write(json.dumps(record).encode() + b"\n")
    out.flush()
