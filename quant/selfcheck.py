"""The kernel of each operation on this machine: the best form that is allowed and gives the right bits.

Before a form is first used on a machine it solves a small case, and its bits are compared with the
reference's. A form that fails is passed over and the reason kept, to be told by `chimera doctor`. What was
found is remembered in the cache folder, under the digest of the kernel's sources and of the compilers; a
memory that cannot be read is made again.
"""

import functools
import json
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from configs.errors import KernelError
from quant import cache, cpu, native
from quant.cpu import Form
from quant.kernels.forms import FORMS
from quant.native import Kernel

_SEED = 20


@dataclass(frozen=True, kw_only=True, slots=True)
class Chosen:
    """A checked kernel and why it is this one."""

    kernel: Kernel
    form: Form
    reason: str


@functools.cache
def chosen(name: str) -> Chosen:
    """The kernel to use for an operation of the table; the first call may compile it."""
    forms = FORMS[name]
    refused: dict[Form, str] = {}
    while len(refused) < len(forms):
        choice = cpu.choose(forms, refused=refused)
        kernel = forms[choice.form]
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
    # What the check takes is loaded for it: mostly it was made before.
    import numpy as np

    from quant.kernels.operation import difference, expected, solve
    from quant.kernels.table import OPERATIONS

    operation = OPERATIONS[name]
    problem = operation.problem(operation.golden, np.random.default_rng(_SEED))
    return difference(solve(problem, operation.forms[form], parts=2), expected(operation, problem))


def _verdict(name: str, form: Form, kernel: Kernel) -> str:
    """What the check says, from memory where it was made before."""
    path = cache.cache_folder() / "checked" / f"{name}-{form}-{native.code_of(kernel).identity}.json"
    remembered = _read(path)
    if remembered is None:
        remembered = check(name, form)
        cache.remember(path, json.dumps({"wrong": remembered}).encode())
    return remembered


def _read(path: Path) -> str | None:
    try:
        found: object = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
    wrong = cast("dict[str, object]", found).get("wrong") if isinstance(found, dict) else None
    return wrong if isinstance(wrong, str) else None
