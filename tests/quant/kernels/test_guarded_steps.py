"""The recurrent operations touch nothing beyond the ends of arrays."""

import os
import subprocess
import sys


def test_nothing_beyond_the_ends_of_arrays_is_touched() -> None:
    command = [sys.executable, "-m", "tests.quant.kernels.guarded_steps"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("NUMBA_CPU")}
    output = subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout
    assert output == "done\n"
