"""The line on which a person sees what is being compiled."""

import io
import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager

import pytest

from quant import jit
from runtime.cli.compiling import compiling_told


class Terminal(io.StringIO):
    """A stream that a person looks at."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def compile_now(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Compiles a kernel of a name, as far as a listener can tell."""
    listeners: list[Callable[[str], None]] = []

    @contextmanager
    def on_compile(listener: Callable[[str], None]) -> Generator[None]:
        listeners.append(listener)
        yield
        listeners.remove(listener)

    monkeypatch.setattr(jit, "on_compile", on_compile)

    def compile_now(name: str) -> None:
        for listener in listeners:
            listener(name)

    return compile_now


def test_a_person_sees_each_kernel_and_then_an_empty_line(
    compile_now: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
):
    stderr = Terminal()
    monkeypatch.setattr(sys, "stderr", stderr)
    with compiling_told():
        pass
    assert stderr.getvalue() == "", "where nothing is compiled, nothing is said"
    with compiling_told():
        compile_now("quant.kernels.titans")
        assert stderr.getvalue().endswith("compiling titans, once on this machine")
    assert stderr.getvalue().endswith("machine\r\x1b[K")


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
