"""The prompt line: edited and remembered by the system's readline where there is one."""

import importlib
import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

PROMPT = "> "
MORE = "… "
LINES_KEPT = 1000


class Line:
    """Reads what a person types, or what is piped in. A line that ends with a backslash goes on."""

    def __init__(self) -> None:
        self._for_people = sys.stdin.isatty()
        self._readline: Any = None

    def __enter__(self) -> "Line":
        if self._for_people:
            # Not every Python is built with it; lines are then plain.
            with suppress(ImportError):
                self._readline = importlib.import_module("readline")
                self._readline.set_history_length(LINES_KEPT)
            self._remembered()
        return self

    def __exit__(self, *_: object) -> None:
        if self._readline is not None:
            # A home that cannot be written costs the history, and nothing else.
            with suppress(OSError):
                history_path().parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                self._readline.write_history_file(str(history_path()))

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
            if not part.endswith("\\"):
                return "\n".join([*parts, part])
            parts.append(part[:-1])

    def _one(self, prompt: str) -> str:
        if not self._for_people:
            return _decoded_line()
        if sys.stdout.isatty():
            return input(prompt)
        # The prompt is no part of an answer, so it stays out of a pipe.
        print(prompt, end="", file=sys.stderr, flush=True)
        return input()

    def _remembered(self) -> None:
        if self._readline is not None:
            with suppress(OSError):
                self._readline.read_history_file(str(history_path()))


def history_path() -> Path:
    """Where lines are remembered."""
    base = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(base) / "chimera" / "history"


def _decoded_line() -> str:
    data = sys.stdin.buffer.readline()
    if not data:
        raise EOFError
    return data.decode("utf-8", errors="replace").rstrip("\r\n")
