"""The prompt line: edited and remembered by the system's readline where there is one."""

import importlib
import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

PROMPT = "> "
MORE = "… "
LINES_KEPT, LINES_OVER = 1000, 200


class Line:
    """Reads what a person types, or what is piped in. A line that ends with a backslash goes on."""

    def __init__(self) -> None:
        self._for_people = sys.stdin.isatty()
        self._readline: Any = None
        self._history: Path | None = None

    def __enter__(self) -> "Line":
        if self._for_people:
            # Not every Python is built with it; lines are then plain.
            with suppress(ImportError):
                self._readline = importlib.import_module("readline")
                self._history = history_path()
                self._remembered()
        return self

    def __exit__(self, *_: object) -> None:
        """What was said is remembered as it is said: a talk may end with its terminal."""

    def read(self) -> str | None:
        """What was said; None at the end of the input."""
        parts: list[str] = []
        while True:
            try:
                part = self._one(MORE if parts else PROMPT)
            except EOFError:
                if self._for_people:
                    print(file=sys.stderr)
                return "\n".join(parts) if parts else None
            self._remember(part)
            if not part.endswith("\\"):
                return "\n".join([*parts, part])
            parts.append(part[:-1])

    def _one(self, prompt: str) -> str:
        if not self._for_people:
            return _decoded_line()
        if sys.stdout.isatty():
            return _typed(input(prompt))
        # The prompt is no part of an answer, so it stays out of a pipe.
        print(prompt, end="", file=sys.stderr, flush=True)
        return _typed(input())

    def _remembered(self) -> None:
        """Read the history, and cut it to length. A home that cannot be used costs it, and nothing else."""
        if self._history is None:
            return
        with suppress(OSError):
            self._history.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            # What people say is theirs alone to read.
            os.close(os.open(self._history, os.O_RDWR | os.O_CREAT, 0o600))
            self._readline.read_history_file(str(self._history))
            self._readline.set_history_length(LINES_KEPT)
            if self._readline.get_current_history_length() > LINES_KEPT + LINES_OVER:
                self._readline.write_history_file(str(self._history))

    def _remember(self, line: str) -> None:
        """Write a line to the history's end, where other talks may be writing as well."""
        if self._history is not None and line:
            with suppress(OSError):
                descriptor = os.open(self._history, os.O_WRONLY | os.O_APPEND)
                try:
                    os.write(descriptor, f"{line}\n".encode())
                finally:
                    os.close(descriptor)


def history_path() -> Path | None:
    """Where lines are remembered; None for a user of whom no home is known."""
    try:
        base = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    except RuntimeError:
        return None
    return Path(base) / "chimera" / "history"


def _typed(line: str) -> str:
    """What was typed, with a sign in place of each byte that is not UTF-8."""
    return os.fsencode(line).decode("utf-8", errors="replace")


def _decoded_line() -> str:
    data = sys.stdin.buffer.readline()
    if not data:
        raise EOFError
    return data.decode("utf-8", errors="replace").rstrip("\r\n")
