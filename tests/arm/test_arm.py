"""On emulated 64-bit ARM, with dot product and without, kernels and the shipped model give the bytes of x86.

`make test-arm` runs these; they need a machine of .cache/arm, which it makes.
"""

import json
import subprocess
import sys
from functools import cache
from typing import Any

import pytest

from quant.cpu import Form
from quant.kernels.table import OPERATIONS
from tests.arm.machine import CORTEX_A72, NEOVERSE_N1, Processor, machine

pytestmark = pytest.mark.arm

FORMS: dict[str, tuple[Form, ...]] = {
    NEOVERSE_N1.name: ("neon-dot", "neon", "plain"),
    CORTEX_A72.name: ("neon", "plain"),
}
PROCESSORS = [NEOVERSE_N1, CORTEX_A72]
NAMED = pytest.mark.parametrize("processor", PROCESSORS, ids=lambda processor: processor.name)


@cache
def here(*arguments: str) -> dict[str, Any]:
    """What this machine gives."""
    command = [sys.executable, "-m", "tests.arm.results", *arguments]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def there(processor: Processor, *arguments: str) -> dict[str, Any]:
    """What the emulated machine gives."""
    return json.loads(machine(processor).run("-m", "tests.arm.results", *arguments))


@NAMED
def test_every_operation_gives_the_bytes_of_this_machine(processor: Processor) -> None:
    found, right = there(processor, "operations"), here("operations")
    assert found["cpu"] == processor.name
    assert found["forms"] == {
        name: next(form for form in FORMS[processor.name] if form in operation.forms)
        for name, operation in OPERATIONS.items()
    }
    assert {origin.split()[0] for origin in found["origins"].values()} == {"object"}, found["origins"]
    assert found["digests"] == right["digests"]


@NAMED
def test_the_shipped_model_says_the_same(processor: Processor) -> None:
    found = there(processor, "model")
    assert not found["numba"], "all its code comes from objects"
    right = here("model")
    assert found["text"] == right["text"]
    assert found["digest"] == right["digest"]


@NAMED
def test_a_kernel_compiled_there_gives_the_same_bytes(processor: Processor) -> None:
    asked, environment = ("operations", "int8_selected"), {"CHIMERA_JIT": "1"}
    found = json.loads(machine(processor).run("-m", "tests.arm.results", *asked, environment=environment))
    assert found["origins"]["int8_selected"].startswith("compiled")
    assert found["forms"]["int8_selected"] == FORMS[processor.name][0]
    assert found["digests"] == here(*asked)["digests"]
