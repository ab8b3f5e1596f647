"""`chimera-run` where the system fails it: streams closed or full, no memory, interrupts at any time."""

import os
import pty
import select
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from runtime.cli.out import interrupted_late
from tests.runtime.cli.talking import FOREVER, ROOT, chimera_run, make_model

RUN = f"{sys.executable} -m runtime.cli.run"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("model"))


def shell(command: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    """What a command of the shell gives."""
    return subprocess.run(
        ["bash", "-c", command],
        cwd=ROOT,
        env=os.environ | environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_a_stream_that_is_missing_is_taken_for_an_empty_one(model: Path):
    unread = shell(f"{RUN} -m {model} -n 3 <&-")
    assert (unread.returncode, unread.stdout) == (2, "")
    assert "stdin holds no text to answer" in unread.stderr
    unheard = shell(f"{RUN} -m {model} -n 3 --stats Hello >&-")
    assert unheard.returncode == 0
    assert "surface_tps" in unheard.stderr
    silent = shell(f"{RUN} -m {model} -n 3 --seed 1 --stats Hello <&- 2>&-")
    assert silent.returncode == 0
    assert "surface_tps" not in silent.stdout


def test_a_full_disk_is_one_message_and_keeps_the_exit_code(model: Path):
    answer = shell(f"{RUN} -m {model} -n 3 Hello > /dev/full")
    assert answer.returncode == 1
    assert answer.stderr.startswith("chimera: error: the answer cannot be written: No space left on device\n")
    talk = shell(
        f"printf 'one\\ntwo\\n' | {sys.executable} -m runtime.cli.main chat -m {model} -n 3 > /dev/full"
    )
    assert talk.returncode == 1
    assert talk.stderr.count("cannot be written") == 1
    assert shell(f"{RUN} --no-such-option 2> /dev/full").returncode == 2


def test_too_little_memory_is_its_own_exit_code(model: Path):
    result = shell(f"ulimit -v 250000; {RUN} -m {model} -n 3 Hello", OPENBLAS_NUM_THREADS="1")
    assert (result.returncode, result.stdout) == (4, "")
    assert result.stderr.startswith("chimera: error: not enough memory\nhint: ")


def test_a_reader_who_leaves_a_talk_is_no_error(model: Path):
    lines = "".join(f"message {number}\\n" for number in range(200))
    command = f"{sys.executable} -m runtime.cli.main chat -m {model} -n 300 {' '.join(FOREVER[2:])}"
    result = shell(f"printf '{lines}' | {command} | head -c 20 > /dev/null; echo ${{PIPESTATUS[1]}}")
    assert (result.stdout, result.stderr) == ("0\n", "")


def test_words_that_the_locale_cannot_read_are_utf_8(model: Path):
    latin = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    spoken = f"{RUN} -m {model} -n 3 --seed 1 --json Höre"
    plain, other = shell(spoken), shell(spoken, **latin)
    assert (other.returncode, other.stderr) == (0, "")
    assert plain.stdout.partition('"stats"')[0] == other.stdout.partition('"stats"')[0]


def test_a_bar_on_the_terminal_leaves_a_pipe_alone(model: Path, tmp_path: Path):
    text = tmp_path / "long.txt"
    text.write_text("word " * 6000)
    master, slave = pty.openpty()
    arguments = ("-m", str(model), "-n", "8", "--seed", "1", "--raw", "-f", str(text))
    with chimera_run(*arguments, stderr=slave, env=os.environ | {"TERM": "xterm"}) as process:
        os.close(slave)
        assert process.stdout is not None
        answer = process.stdout.read()
    os.close(master)
    with chimera_run(*arguments) as process:
        assert process.communicate(timeout=60) == (answer, b"")
    assert answer.strip()


def test_a_prompt_of_ten_megabytes_is_read_until_somebody_has_enough(model: Path, tmp_path: Path):
    text = tmp_path / "huge.txt"
    text.write_bytes(b"all work and no play " * (10 * 2**20 // 21))
    master, slave = pty.openpty()
    environment = os.environ | {"TERM": "xterm"}
    with chimera_run("-m", str(model), "--raw", "-f", str(text), stderr=slave, env=environment) as process:
        os.close(slave)
        shown, stopped = b"", False
        deadline = time.monotonic() + 60
        while process.poll() is None:
            assert time.monotonic() < deadline, shown
            if b"%" in shown and not stopped:
                stopped = True
                process.send_signal(signal.SIGINT)
            # A bar that nobody reads would hold the process up. What is closed cannot be read.
            if select.select([master], [], [], 0.1)[0]:
                with suppress(OSError):
                    shown += os.read(master, 65536)
        assert b"reading the prompt" in shown
        assert process.stdout is not None
        assert process.stdout.read() == b""
    os.close(master)
    assert process.returncode == 130


def test_an_interrupt_that_a_library_swallows_is_not_lost():
    def called_from_c() -> None:
        signal.raise_signal(signal.SIGINT)

    def opened(*, looks_out: bool) -> None:
        with interrupted_late() as look_out:
            called_from_c()
            reached.append("after the callback")
            if looks_out:
                look_out()
            reached.append("the end")

    reached: list[str] = []
    with pytest.raises(KeyboardInterrupt):
        opened(looks_out=True)
    assert reached == ["after the callback"]
    with pytest.raises(KeyboardInterrupt):
        opened(looks_out=False)
    assert reached[1:] == ["after the callback", "the end"]
    with interrupted_late() as look_out:
        look_out()


@pytest.mark.parametrize("seconds", [0.3, 0.6, 0.9])
def test_an_interrupt_at_the_start_leaves_quietly(model: Path, seconds: float):
    """Wherever the start has got to by then, on a slow machine or a fast one."""
    with chimera_run("-m", str(model), *FOREVER, "Hello") as process:
        time.sleep(seconds)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    # Before Python looks at signals the system itself ends the process, which shells call 130 as well.
    assert process.returncode in (130, -signal.SIGINT)
    assert errors == b""
