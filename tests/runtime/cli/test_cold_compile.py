"""What a user sees while kernels are compiled for the first time."""

import os
import pty
import subprocess
import sys
from pathlib import Path

PROGRAM = """
from quant.selfcheck import chosen
from runtime.cli.compiling import compiling_told

with compiling_told():
    print([chosen(name).form for name in ("exp", "int8_lookup")])
"""


def run(cache: Path) -> tuple[str, str]:
    """What a process says to a pipe and to a terminal."""
    environment = {**os.environ, "XDG_CACHE_HOME": str(cache), "CHIMERA_JIT": "1"}
    ours, theirs = pty.openpty()
    with os.fdopen(ours, "rb", buffering=0) as terminal:
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=theirs,
            check=True,
        )
        os.write(theirs, b"the end")
        os.close(theirs)
        seen = b""
        while not seen.endswith(b"the end"):
            seen += terminal.read(4096)
    return done.stdout.decode(), seen.decode().removesuffix("the end")


def test_a_cold_compile_shows_a_bar_and_a_warm_start_shows_nothing(tmp_path: Path):
    cold, warm = run(tmp_path), run(tmp_path)
    assert " 1 of at most " in cold[1]
    assert " 2 of at most " in cold[1]
    assert "[........" in cold[1]
    assert cold[1].endswith("once on this machine\r\x1b[K")
    assert warm[1] == ""
    assert cold[0] == warm[0] == "['plain', 'plain']\n"
