"""A kernel whose code waits in the cache is loaded without what Numba needs only to compile."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]

# The registries of a compiler take longer to make ready than thirty kernels to load.
RUN = """
from numba.core.cpu import CPUContext
made_ready = []
CPUContext.refresh = lambda self, refresh=CPUContext.refresh: (made_ready.append(1), refresh(self))
from quant.native import address_of
from quant.kernels.steering.kernels import add_integer
from quant.kernels.table import OPERATIONS
from quant.selfcheck import check
assert address_of(add_integer)
print(len(made_ready) > 0, repr(check("rms_norm", "plain")), len(made_ready) > 0)
"""


def test_the_compiler_is_made_ready_only_to_compile(tmp_path: Path) -> None:
    def told() -> str:
        done = subprocess.run(
            [sys.executable, "-c", RUN],
            cwd=ROOT,
            env={"XDG_CACHE_HOME": str(tmp_path), "PATH": "", "HOME": str(tmp_path)},
            capture_output=True,
            text=True,
            check=True,
        )
        return done.stdout.strip()

    assert told() == "True '' True"
    assert told() == "False '' False"
