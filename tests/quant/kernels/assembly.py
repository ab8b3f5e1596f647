"""Run by a test in a process of its own: machine code of a kernel for a CPU that this machine need not be.

python -m tests.quant.kernels.assembly OPERATION FORM prints it and runs nothing. The CPU is Numba's target.
"""

import sys
from collections.abc import Callable
from typing import Any

from quant import cpu, jit
from quant.kernels.table import OPERATIONS
from quant.native import Kernel, NamedKernel


def function_of(kernel: Kernel) -> Callable[..., Any]:
    """The compiler's own, also where a kernel is known by its name."""
    return kernel.function() if isinstance(kernel, NamedKernel) else kernel


if __name__ == "__main__":
    name, form = sys.argv[1:]
    everything = cpu.apply_features(
        frozenset(), spelled="+avx512vnni,+avx512bw,+avx512dq,+avx512vl,+avx512vbmi,+avxvnni"
    )
    cpu.machine_features = lambda: everything
    print(jit.assembly(function_of(dict(OPERATIONS[name].forms)[form])))
