"""Run by a test in a process of its own: the digest of each operation's results on the target that is set.

python -m tests.quant.kernels.digests NAME... prints one JSON object; without a name, all operations.
"""

import hashlib
import json
import sys

import numpy as np

from quant import cpu
from quant.kernels.operation import Arrays, solve
from quant.kernels.table import OPERATIONS


def digest_of(results: list[Arrays]) -> str:
    found = hashlib.sha256()
    for arrays in results:
        for array in arrays:
            found.update(array.tobytes())
    return found.hexdigest()


def digests(names: list[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for name in names:
        operation = OPERATIONS[name]
        form = cpu.choose(operation.forms).form
        results: list[Arrays] = []
        for number, case in enumerate(operation.cases):
            problem = operation.problem(case, np.random.default_rng(number))
            results.append(solve(problem, operation.forms[form], parts=3))
        found[f"{name} {form}"] = digest_of(results)
    return found


if __name__ == "__main__":
    print(json.dumps(digests(sys.argv[1:] or list(OPERATIONS))))
