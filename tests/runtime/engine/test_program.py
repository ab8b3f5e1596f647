"""Programs of small operations: what is passed over, what changes with a call, and what stands behind."""

from collections.abc import Iterator

import numpy as np
import pytest
from numpy.typing import NDArray

from quant.jit import kernel
from quant.kernels.arguments import argument
from quant.kernels.steering.kernels import add_integer, copy_integer
from quant.kernels.steering.places import NUM_PLACES, SOURCE, TARGET
from quant.pool import Pool
from quant.registers import i64
from quant.simd import load, put
from runtime.program import (
    TOKENS,
    Count,
    HeardRow,
    InState,
    PlaceOf,
    Program,
    ProgramBuilder,
    Step,
    TargetsOf,
)
from runtime.worker import run_records


@kernel
def fill(arguments: int, first: int, last: int) -> None:
    """Write the argument 1 to the integers from `first` to `last` at the argument 0."""
    for i in range(first, last):
        put(i64, argument(arguments, 0) + i * 8, argument(arguments, 1))


@kernel
def tell(arguments: int, first: int, last: int) -> None:
    """Write the argument 0 wherever the first list at the argument 1 says."""
    for _ in range(first, last):
        for i in range(load(i64, argument(arguments, 1))):
            put(i64, load(i64, argument(arguments, 1) + 8 + i * 8), argument(arguments, 0))


@pytest.fixture(scope="module", params=[1, 2, 3])
def pool(request: pytest.FixtureRequest) -> Iterator[Pool]:
    with Pool(run_records, num_threads=request.param) as made:
        yield made


def cell(value: int = 0) -> NDArray[np.int64]:
    return np.array([value], dtype=np.int64)


def filling(target: NDArray[np.int64], value: object, *, units: int = 0, units_per_token: int = 0) -> Step:
    arguments = {0: target.ctypes.data, 1: value}
    return Step(kernel=fill, arguments=arguments, num_places=2, units=units, units_per_token=units_per_token)


def copying(source: object, target: object) -> Step:
    return Step(
        kernel=copy_integer, arguments={SOURCE: source, TARGET: target}, num_places=NUM_PLACES, units=1
    )


def test_units_grow_with_tokens_and_threads_share_them(pool: Pool) -> None:
    found, tokens = np.zeros(40, dtype=np.int64), Count(cell=cell())
    builder = ProgramBuilder()
    builder.together(tokens, filling(found, TOKENS, units=2, units_per_token=5))
    program = builder.build(tokens=tokens)
    for count in (7, 3):
        found[:] = 0
        program.set_tokens(count)
        pool.run(program.job)
        assert found.tolist() == [count] * (2 + 5 * count) + [0] * (38 - 5 * count)


def test_a_group_without_tokens_is_passed_over_until_it_has_some(pool: Pool) -> None:
    found, inner_found = np.zeros((2, 4), dtype=np.int64)
    tokens, inner = Count(cell=cell()), Count(cell=cell())
    wanted = cell(3)
    announce = Step(
        kernel=tell,
        arguments={0: 2, 1: TargetsOf(inner)},
        num_places=2,
        units=1,
    )
    builder = ProgramBuilder()
    builder.together(tokens, copying(wanted.ctypes.data, inner.address), announce)
    builder.together(inner, filling(inner_found, TOKENS, units_per_token=1))
    builder.together(tokens, filling(found, 9, units=4))
    program = builder.build(tokens=tokens)
    program.set_tokens(1)
    pool.run(program.job)
    assert (inner_found.tolist(), found.tolist()) == ([2, 2, 2, 0], [9] * 4)
    wanted[0], inner_found[:], found[:] = 0, 0, 0
    pool.run(program.job)
    assert (inner_found.tolist(), found.tolist()) == ([0] * 4, [9] * 4)


def test_states_rows_and_places_follow_the_call(pool: Pool) -> None:
    states = np.array([[5, 6], [7, 8]], dtype=np.int64)
    rows, tokens = np.zeros((3, 1), dtype=np.int64), Count(cell=cell())
    seen = cell()
    later = filling(seen, 0, units=1)
    builder = ProgramBuilder()
    builder.together(
        tokens,
        copying(InState(8), HeardRow(rows.ctypes.data, rows.strides[0], 0)),
        copying(InState(0), PlaceOf(later, 1)),
    )
    builder.together(tokens, later)
    program = builder.build(tokens=tokens)
    for state, count in ((0, 1), (1, 3)):
        program.set_states(states[state].ctypes.data)
        program.set_tokens(count)
        program.set_heard(count - 1)
        pool.run(program.job)
        assert rows[count - 1, 0] == states[state, 1]
        assert seen[0] == states[state, 0]
    assert rows.tolist() == [[6], [0], [8]]


def test_a_tail_runs_behind_the_program_or_alone(pool: Pool) -> None:
    total, one, tokens = cell(), Count(cell=cell(1)), Count(cell=cell(1))
    ones = cell(1)
    hundred = cell(100)
    step = Step(
        kernel=add_integer,
        arguments={SOURCE: ones.ctypes.data, TARGET: total.ctypes.data},
        num_places=NUM_PLACES,
        units=1,
    )
    tail = Step(
        kernel=add_integer,
        arguments={SOURCE: hundred.ctypes.data, TARGET: total.ctypes.data},
        num_places=NUM_PLACES,
        units=1,
    )
    program = Program([(tokens, [step])], tokens=tokens)
    sums: list[int] = []
    for groups in (
        (),
        [(one, [tail])],
        [(one, [tail]), (one, [copying(ones.ctypes.data, total.ctypes.data)])],
    ):
        program.set_tail(groups)
        for job in (program.job, program.job_with_tail, program.job_of_tail):
            total[0] = 0
            pool.run(job)
            sums.append(int(total[0]))
    assert sums == [1, 1, 0, 1, 101, 100, 1, 1, 1]
    assert program.num_records == 1
