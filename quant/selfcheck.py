"""The kernel of each operation on this machine: the best form that is allowed and gives the right bits.

Before a form is first used on a machine it solves a small case, and its bits are compared with the
reference's. A form that fails is passed over and the reason kept, to be told by `chimera doctor`. What was
found is remembered in the cache folder, under the digest of the kernel's sources and of the compilers; a
memory that cannot be read is made again.
"""

import inspect
import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, cast

import numpy as np

from configs.errors import KernelError
from quant import cpu, jit
from quant.cpu import Form
from quant.kernels.operation import Kernel, difference, expected, solve
from quant.kernels.table import OPERATIONS

_SEED = 20


@dataclass(frozen=True, kw_only=True, slots=True)
class Chosen:
    """A checked kernel and why it is this one."""

    kernel: Kernel
    form: Form
    reason: str


@cache
def chosen(name: str) -> Chosen:
    """The kernel to use for an operation of the table; the first call may compile it."""
    operation = OPERATIONS[name]
    refused: dict[Form, str] = {}
    while len(refused) < len(operation.forms):
        choice = cpu.choose(operation.forms, refused=refused)
        kernel = operation.forms[choice.form]
        wrong = _verdict(name, choice.form, kernel)
        if not wrong:
            return Chosen(kernel=kernel, form=choice.form, reason=choice.reason)
        refused[choice.form] = wrong
    raise KernelError(
        f"no form of {name} gives the right result on this machine: "
        + "; ".join(f"{form}: {wrong}" for form, wrong in refused.items()),
        hint="Please report it with the output of `chimera doctor`.",
    )


def check(name: str, form: Form) -> str:
    """Solve the small case of an operation by one of its forms: what is wrong in words, or nothing."""
    operation = OPERATIONS[name]
    problem = operation.problem(operation.golden, np.random.default_rng(_SEED))
    return difference(solve(problem, operation.forms[form], parts=2), expected(operation, problem))


def _verdict(name: str, form: Form, kernel: Kernel) -> str:
    """What the check says, from memory where it was made before."""
    path = jit.cache_folder() / "checked" / f"{name}-{form}-{_key(kernel)}.json"
    remembered = _read(path)
    if remembered is None:
        remembered = check(name, form)
        jit.remember(path, json.dumps({"wrong": remembered}).encode())
    return remembered


def _key(kernel: Kernel) -> str:
    file = Path(inspect.getfile(cast(Any, kernel).py_func))
    return f"{jit.compiler_key()}-{jit.source_digest(file)[:16]}"


def _read(path: Path) -> str | None:
    try:
        found: object = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
    wrong = cast("dict[str, object]", found).get("wrong") if isinstance(found, dict) else None
    return wrong if isinstance(wrong, str) else None
