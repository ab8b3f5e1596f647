"""Nothing that makes a token calls a float function of NumPy or libm: machines disagree on those."""

from pathlib import Path

import pytest

from tests.house.files import ROOT, python_files
from tests.house.float_functions import float_functions_in

# What speaks of models and measures them; no token depends on these.
BESIDE = {"inspection.py", "packed_inspection.py", "packed_specs.py", "random_model.py"}
ROOMS_BESIDE = {"cli", "measuring", "reference"}


def sources() -> list[Path]:
    return [
        path
        for path in python_files("runtime")
        if path.name not in BESIDE and path.parts[1] not in ROOMS_BESIDE
    ]


def test_the_way_of_a_token_is_looked_at():
    names = {path.name for path in sources()}
    assert {
        "engine.py",
        "sampler.py",
        "head.py",
        "screen.py",
        "session.py",
        "stream.py",
        "telling.py",
    } <= names


@pytest.mark.parametrize("path", sources(), ids=str)
def test_no_float_function_that_machines_disagree_on(path: Path):
    assert float_functions_in((ROOT / path).read_text()) == []


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("y = np.exp(x)", ["line 1: exp"]),
        ("import math", ["line 1: math"]),
        ("from math import log, prod", ["line 1: log"]),
        ("y = x ** 0.5", ["line 1: a power"]),
        ("y = a @ b", ["line 1: a matrix product"]),
        ("y = np.sqrt(x ** 2) * 2.0 ** n", []),
    ],
)
def test_the_scan_sees_what_it_should(source: str, found: list[str]):
    assert float_functions_in(source) == found
