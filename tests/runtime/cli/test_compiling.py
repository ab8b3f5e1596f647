"""The line on which a person sees what is being compiled."""

import fcntl
import io
import os
import pty
import struct
import sys
import termios
from collections.abc import Callable

import pytest

from quant.compiling import tell
from runtime.cli.compiling import compiling_told


class Terminal(io.StringIO):
    """A stream that a person looks at."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def compile_now() -> Callable[[str], None]:
    """Compiles a kernel of a name, as far as a listener can tell."""
    return tell


def test_a_person_sees_each_kernel_and_then_an_empty_line(
    compile_now: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
):
    stderr = Terminal()
    monkeypatch.setattr(sys, "stderr", stderr)
    monkeypatch.setenv("TERM", "xterm")
    with compiling_told():
        pass
    assert stderr.getvalue() == "", "where nothing is compiled, nothing is said"
    with compiling_told():
        compile_now("quant.kernels.titans")
        assert stderr.getvalue().endswith("compiling titans, once on this machine")
    assert stderr.getvalue().endswith("machine\r\x1b[K")


def test_a_line_is_as_long_as_can_be_taken_back(
    compile_now: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("TERM", "xterm")
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 30, 0, 0))
    with os.fdopen(slave, "w", buffering=1) as stderr:
        monkeypatch.setattr(sys, "stderr", stderr)
        with compiling_told():
            compile_now("quant.kernels.titans")
        assert _shown(master, ends=b" 1 \r\x1b[K") == b"\r\x1b[K[........................] 1 \r\x1b[K"
        monkeypatch.setenv("TERM", "dumb")
        with compiling_told():
            compile_now("quant.kernels.titans")
        print("nothing", file=stderr)
        shown = _shown(master, ends=b"nothing\r\n")
        assert shown == b"nothing\r\n", "what could not be taken back is not said"
    os.close(master)


def _shown(terminal: int, *, ends: bytes) -> bytes:
    """What came to a terminal up to that end: it may come in pieces."""
    shown = b""
    while not shown.endswith(ends):
        shown += os.read(terminal, 1000)
    return shown


def test_a_pipe_is_told_nothing_and_a_look_out_can_end_it(
    compile_now: Callable[[str], None], capsys: pytest.CaptureFixture[str]
):
    def look_out() -> None:
        raise KeyboardInterrupt

    with compiling_told():
        compile_now("quant.kernels.titans")
    with pytest.raises(KeyboardInterrupt), compiling_told(look_out):
        compile_now("quant.kernels.titans")
    assert capsys.readouterr() == ("", "")
