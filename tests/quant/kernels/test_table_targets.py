"""The same bits from code made for other CPUs, each in a process of its own."""

import json
import os
import subprocess
import sys
from functools import cache

import numpy as np
import pytest

from quant import cpu
from quant.cpu import Form
from quant.kernels.operation import Kernel, expected
from quant.kernels.table import OPERATIONS
from tests.quant.kernels.digests import digest_of

TARGETS = ("", "x86-64", "x86-64-v2", "x86-64-v3")
"""An empty name is this machine as it is."""


def runnable() -> list[str]:
    """Targets whose code this machine can run; on another architecture it is the only one."""
    if cpu.target().architecture != "x86_64":
        return [""]
    machine = cpu.machine_features()
    return [name for name in TARGETS if (cpu.named_features(name) or frozenset()) <= machine]


def best_form(forms: dict[Form, Kernel], target: str) -> Form:
    """The best form that a target allows."""
    features = (cpu.named_features(target) or frozenset[str]()) if target else cpu.target().features
    return next(form for form in cpu.FORMS if form in forms and cpu.NEEDS[form] <= features)


@cache
def right_digests() -> dict[str, str]:
    found: dict[str, str] = {}
    for name, operation in OPERATIONS.items():
        cases = enumerate(operation.cases)
        problems = [operation.problem(case, np.random.default_rng(number)) for number, case in cases]
        found[name] = digest_of([expected(operation, problem) for problem in problems])
    return found


@pytest.mark.parametrize("target", runnable())
def test_a_target_gives_the_bits_of_the_references(target: str) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("NUMBA_CPU")}
    environment.pop("CHIMERA_CPU", None)
    if target:
        environment |= {"NUMBA_CPU_NAME": target, "NUMBA_CPU_FEATURES": ""}
    command = [sys.executable, "-m", "tests.quant.kernels.digests"]
    output = subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout
    found: dict[str, str] = {}
    for key, digest in json.loads(output).items():
        name, form = key.split()
        found[name] = digest
        assert form == best_form(OPERATIONS[name].forms, target)
    assert found == right_digests()
