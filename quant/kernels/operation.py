"""What an operation is, for the table that lists them all, its tests, its benchmarks and the self-check."""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from quant.cpu import Form
from quant.native import Kernel

Arrays: TypeAlias = tuple[NDArray[Any], ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """A size at which an operation is tested. Each operation says what it makes of the three numbers."""

    rows: int = 1
    inputs: int
    tokens: int = 1


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Problem:
    """An operation with inputs, ready to run by any of its kernels and to be judged by its reference."""

    run: Callable[[Kernel, int, int], None]
    """Do the units of work from the first number up to the second; threads share an operation so."""
    units: int
    outputs: Arrays
    """What `run` writes, every element of it."""
    inputs: tuple[Any, ...]
    """What the reference takes."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Operation:
    """A plain reference and its fast forms, which give the same bits."""

    reference: Callable[..., NDArray[Any] | Arrays]
    """By NumPy; it never sees Numba."""
    forms: dict[Form, Kernel]
    # Quoted: random numbers are a large part of NumPy, and no start needs them.
    problem: "Callable[[Case, np.random.Generator], Problem]"
    cases: tuple[Case, ...]
    golden: Case
    """A small case that goes through every branch of every form; the self-check runs it on a new machine."""


def solve(problem: Problem, kernel: Kernel, *, parts: int = 1) -> Arrays:
    """Outputs by a kernel, with the work cut into parts. They are poisoned before, so that a gap shows."""
    for output in problem.outputs:
        output.view(np.uint8)[...] = 0xFF
    bounds = [problem.units * part // parts for part in range(parts + 1)]
    for first, last in pairwise(bounds):
        problem.run(kernel, first, last)
    return problem.outputs


def expected(operation: Operation, problem: Problem) -> Arrays:
    """What the outputs have to be: the reference's results, with zeros where kernels write padding."""
    results = operation.reference(*problem.inputs)
    arrays = results if isinstance(results, tuple) else (results,)
    padded = tuple(np.zeros_like(output) for output in problem.outputs)
    for whole, array in zip(padded, arrays, strict=True):
        assert whole.dtype == array.dtype, "a reference gives the type that kernels write"
        whole[tuple(slice(size) for size in array.shape)] = array
    return padded


def difference(found: Arrays, expected: Arrays) -> str:
    """What is wrong in words, or nothing where every bit is as it must be."""
    if len(found) != len(expected):
        return f"{len(found)} arrays in place of {len(expected)}"
    for place, (one, other) in enumerate(zip(found, expected, strict=True)):
        if one.shape != other.shape or one.dtype != other.dtype:
            return f"array {place} is {one.dtype} {one.shape} in place of {other.dtype} {other.shape}"
        bits = np.dtype(f"u{one.itemsize}")
        wrong = np.argwhere(np.ascontiguousarray(one).view(bits) != np.ascontiguousarray(other).view(bits))
        if len(wrong):
            at = tuple(int(index) for index in wrong[0])
            count = f"{len(wrong)} of {one.size} elements of array {place} are wrong"
            return f"{count}, the first at {at}: {one[at]!r} in place of {other[at]!r}"
    return ""
