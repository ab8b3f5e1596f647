"""Every operation of the table: all forms give the bits of the reference, however the work is cut."""

import numpy as np
import pytest

from quant import cpu
from quant.cpu import FORMS, Form
from quant.kernels.operation import Case, Operation, Problem, difference, expected, solve
from quant.kernels.table import OPERATIONS

ALL_FORMS = [(name, form) for name, operation in OPERATIONS.items() for form in operation.forms]


# On a target that lacks a form's instructions the same source is compiled with their arithmetic spelled out,
# so every form is tested on every machine.
@pytest.mark.parametrize(("name", "form"), ALL_FORMS)
def test_a_form_gives_the_bits_of_the_reference(name: str, form: Form) -> None:
    operation = OPERATIONS[name]
    for number, case in enumerate(operation.cases):
        problem = operation.problem(case, np.random.default_rng(number))
        right = expected(operation, problem)
        for parts in (1, 2, 3, 4):
            wrong = difference(solve(problem, operation.forms[form], parts=parts), right)
            assert not wrong, f"{case} in {parts} parts: {wrong}"


@pytest.mark.parametrize("name", OPERATIONS)
def test_an_operation_runs_anywhere(name: str) -> None:
    forms = OPERATIONS[name].forms
    assert "plain" in forms
    assert [form for form in FORMS if form in forms] == list(forms), "forms stand best first"
    assert not cpu.NEEDS["plain"]


def test_a_gap_in_the_outputs_shows() -> None:
    values = np.arange(9, dtype=np.float32)
    right = (values.copy(),)

    def fill(kernel: object, first: int, last: int) -> None:
        values[first:last] = np.arange(first, last)

    def fill_all_but_one(kernel: object, first: int, last: int) -> None:
        values[first : last - 1] = np.arange(first, last - 1)

    whole = Problem(run=fill, units=9, outputs=(values,), inputs=())
    assert difference(solve(whole, print, parts=4), right) == ""
    lazy = Problem(run=fill_all_but_one, units=9, outputs=(values,), inputs=())
    found = difference(solve(lazy, print), right)
    assert "1 of 9 elements of array 0 are wrong, the first at (8,)" in found


def test_padding_is_expected_to_be_zero() -> None:
    outputs = (np.ones((2, 4), dtype=np.float32), np.ones(3, dtype=np.int8))
    problem = Problem(run=print, units=0, outputs=outputs, inputs=(2,))
    operation = Operation(
        reference=lambda n: (np.full((n, 3), 5, dtype=np.float32), np.full(n, 7, dtype=np.int8)),
        forms={},
        problem=lambda case, rng: problem,
        cases=(),
        golden=Case(inputs=1),
    )
    one, other = expected(operation, problem)
    assert one.tolist() == [[5, 5, 5, 0]] * 2
    assert other.tolist() == [7, 7, 0]


def test_a_difference_is_seen_in_bits_shape_and_type() -> None:
    zero = np.zeros(3, dtype=np.float32)
    assert difference((zero,), (zero.copy(),)) == ""
    assert "(0,)" in difference((zero,), (-zero,)), "minus zero is not zero"
    assert "float64" in difference((zero.astype(np.float64),), (zero,))
    assert "(4,)" in difference((np.zeros(4, dtype=np.float32),), (zero,))
    assert "0 arrays" in difference((), (zero,))
