"""A small model to talk with, and processes that do."""

import fcntl
import os
import pty
import re
import select
import subprocess
import sys
import termios
import time
from pathlib import Path
from typing import Self

from configs.load import preset
from configs.text.training import train_sentencepiece
from runtime.random_model import random_b158

ROOT = Path(__file__).resolve().parents[3]
FOREVER = ["-n", "1000000", *(word for token in range(1, 6) for word in ("--logit-bias", f"{token}=off"))]
"""An answer that nothing but its reader ends: the special tokens are forbidden."""

# A terminal sends Ctrl-C to the processes whose controlling terminal it is.
_ON_TERMINAL = (
    "import fcntl, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); "
    "from runtime.cli.run import main; sys.exit(main(sys.argv[1:]))"
)


def make_model(folder: Path) -> Path:
    """The smallest preset with random weights, and a tokenizer."""
    random_b158(preset("micro"), folder / "model.b158", seed=1)
    make_tokenizer(folder)
    return folder


def make_tokenizer(folder: Path) -> None:
    """A tokenizer that the smallest preset has words for."""
    texts = [Path(os.__file__).with_name("textwrap.py").read_text()]
    train_sentencepiece(texts, out=folder / "tokenizer.model", vocab_size=500)


def chimera_run(*arguments: str, **given: object) -> "subprocess.Popen[bytes]":
    """The command in a process of its own."""
    pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | given
    return subprocess.Popen([sys.executable, "-m", "runtime.cli.run", *arguments], cwd=ROOT, **pipes)


class Terminal:
    """The command at a terminal of its own."""

    def __init__(self, *arguments: str, state: Path) -> None:
        self._master, slave = pty.openpty()
        attributes = termios.tcgetattr(slave)
        termios.tcsetattr(slave, termios.TCSANOW, attributes)
        fcntl.fcntl(self._master, fcntl.F_SETFL, os.O_NONBLOCK)
        self._process = subprocess.Popen(
            [sys.executable, "-c", _ON_TERMINAL, *arguments],
            cwd=ROOT,
            env=os.environ | {"XDG_STATE_HOME": str(state), "TERM": "dumb", "INPUTRC": "/dev/null"},
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
        )
        os.close(slave)
        self._seen = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        os.close(self._master)

    def type(self, text: str) -> None:
        self.type_bytes(text.encode())

    def type_bytes(self, data: bytes) -> None:
        os.write(self._master, data)

    def interrupt(self) -> None:
        """Ctrl-C at a person's pace: readline misses a signal between the echo of a key and its wait."""
        time.sleep(0.5)
        self.type("\x03")

    def wait_for(self, pattern: str, *, seconds: float = 60) -> str:
        """What comes up to the end of the pattern."""
        deadline = time.monotonic() + seconds
        while not (found := re.search(pattern, self._seen)):
            assert time.monotonic() < deadline, f"{pattern!r} never came after {self._seen!r}"
            assert self._read() or self._process.poll() is None, f"it left after {self._seen!r}"
        shown, self._seen = self._seen[: found.end()], self._seen[found.end() :]
        return shown

    def leaves(self, *, typing: str = "", seconds: float = 60) -> int:
        """The exit code; what comes until then is read and forgotten.

        `typing` is typed until it leaves: a signal that comes in the moment before Python waits for a key is
        seen at the next key only.
        """
        deadline = time.monotonic() + seconds
        while self._process.poll() is None:
            if typing and not self._read():
                self.type(typing)
            assert time.monotonic() < deadline, f"it does not leave: {self._seen[-500:]!r}"
            self._read()
        return self._process.returncode

    def _read(self) -> bool:
        if not select.select([self._master], [], [], 0.1)[0]:
            return False
        try:
            data = os.read(self._master, 65536)
        except OSError:  # the other end is closed
            return False
        self._seen += data.decode(errors="replace")
        return bool(data)
