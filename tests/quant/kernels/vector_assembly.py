"""Run by a test in a process of its own: machine code of the operations on vectors, for a CPU of any kind.

python -m tests.quant.kernels.vector_assembly NAME... prints a JSON object and runs none of them. The CPU is
Numba's target.
"""

import json
import sys

from quant import cpu, jit
from quant.kernels.table import OPERATIONS
from tests.quant.kernels.assembly import function_of

if __name__ == "__main__":
    everything = cpu.apply_features(
        frozenset(), spelled="+avx512vnni,+avx512bw,+avx512dq,+avx512vl,+avx512vbmi,+avxvnni"
    )
    cpu.machine_features = lambda: everything
    found = {name: jit.assembly(function_of(dict(OPERATIONS[name].forms)["plain"])) for name in sys.argv[1:]}
    print(json.dumps(found))
