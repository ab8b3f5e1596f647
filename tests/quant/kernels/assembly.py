"""Run by a test in a process of its own: machine code of a kernel for a CPU that this machine need not be.

python -m tests.quant.kernels.assembly OPERATION FORM prints it and runs nothing. The CPU is Numba's target.
"""

import sys

from quant import cpu, jit
from quant.kernels.table import OPERATIONS

if __name__ == "__main__":
    name, form = sys.argv[1:]
    everything = cpu.apply_features(frozenset(), spelled="+avx512vnni,+avx512bw,+avx512dq,+avx512vl,+avxvnni")
    cpu.machine_features = lambda: everything
    print(jit.assembly(dict(OPERATIONS[name].forms)[form]))
