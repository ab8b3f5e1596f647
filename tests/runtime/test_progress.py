"""What a user sees while kernels are compiled for the first time."""

import os
import subprocess
import sys
from pathlib import Path

PROGRAM = """
from rich.console import Console
from runtime.cli.progress import kernels_ready

console = Console(stderr=True, force_terminal=True, width=100)
ready = kernels_ready(["exp", "int8_lookup"], console=console)
print(sorted(ready), {chosen.form for chosen in ready.values()} != set())
"""


def run(cache: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "XDG_CACHE_HOME": str(cache)}
    return subprocess.run(
        [sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True, check=True
    )


def test_a_cold_compile_shows_a_bar_and_a_warm_start_shows_nothing(tmp_path: Path):
    cold, warm = run(tmp_path), run(tmp_path)
    assert "once on this machine" in cold.stderr
    assert "/2" in cold.stderr
    assert warm.stderr == ""
    assert cold.stdout == warm.stdout == "['exp', 'int8_lookup'] True\n"
