"""A program as a table of kernels' addresses."""

import numpy as np
import pytest

from quant import jit
from quant.indirect import call_kernel
from quant.jit import kernel
from quant.kernels.operation import difference, expected, solve
from quant.kernels.table import OPERATIONS
from quant.native import address_of
from quant.registers import i64
from quant.simd import load, put


@kernel
def add_all(arguments: int, first: int, last: int) -> None:
    total = 0
    for i in range(first, last):
        total += load(i64, arguments + 8 * i)
    put(i64, arguments, total)


@kernel
def negate(arguments: int, first: int, last: int) -> None:
    for i in range(first, last):
        put(i64, arguments + 8 * i, -load(i64, arguments + 8 * i))


@kernel
def two_arguments(arguments: int, last: int) -> None:
    put(i64, arguments, last)


@kernel
def run_program(program: int, count: int) -> None:
    for step in range(count):
        at = program + 32 * step
        call_kernel(load(i64, at), load(i64, at + 8), load(i64, at + 16), load(i64, at + 24))


@kernel
def run_one(arguments: int, first: int, last: int) -> None:
    call_kernel(load(i64, arguments), load(i64, arguments + 8), first, last)


def test_a_program_calls_kernels_by_address() -> None:
    numbers = np.arange(1, 6, dtype=np.int64)
    memory = numbers.ctypes.data
    program = np.array(
        [
            [address_of(negate), memory, 1, 3],
            [address_of(add_all), memory, 0, 5],
            [address_of(negate), memory, 0, 1],
        ],
        dtype=np.int64,
    )
    run_program(program.ctypes.data, 3)
    assert numbers.tolist() == [-(1 - 2 - 3 + 4 + 5), -2, -3, 4, 5]


def test_code_from_the_cache_has_an_address_too() -> None:
    numbers = np.arange(4, dtype=np.int64)
    again = kernel(add_all.py_func)
    assert jit.is_compiled(add_all)
    program = np.array([[address_of(again), numbers.ctypes.data, 0, 4]], dtype=np.int64)
    run_program(program.ctypes.data, 1)
    assert numbers[0] == 6


def test_a_product_by_address_gives_the_same_bits() -> None:
    operation = OPERATIONS["ternary_matmul"]
    problem = operation.problem(operation.golden, np.random.default_rng(0))
    plain = operation.forms["plain"]

    def by_address(arguments: int, first: int, last: int) -> None:
        table = np.array([address_of(plain), arguments], dtype=np.int64)
        run_one(table.ctypes.data, first, last)

    assert not difference(solve(problem, by_address, parts=3), expected(operation, problem))


def test_another_kind_of_kernel_has_no_address() -> None:
    with pytest.raises(AssertionError, match="arguments, first, last"):
        address_of(two_arguments)
