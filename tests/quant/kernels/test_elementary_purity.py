"""No float function of NumPy or of a library stands on the way of a token, in sources or machine code."""

import ast
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from quant import cpu
from tests.house.files import ROOT, python_files
from tests.house.float_functions import BARRED

ROOMS = (
    *("elementary", "norm", "swiglu", "ternary", "rows", "titans", "vocabulary"),
    *("dense", "convolution", "delta", "mlstm"),
    *("residual", "rounds", "experts", "steering"),
)

# These hold every function and every way to norm, gate and quantise; the others are made of the same parts.
NAMES = (
    *("log", "softplus", "tanh", "rotation_angles", "swiglu_norm_quantize", "vocabulary_weights"),
    *("short_convolution", "exact_flow", "mlstm"),
    *("choose_experts", "keep_rounds"),
)
TARGETS = ["x86-64", "haswell", "znver4"] if cpu.target().architecture == "x86_64" else [""]

# What a kernel's machine code and its wrapper for Python may name: constants, itself, and Python.
OWN_SYMBOL = re.compile(r"\.?LCPI|\.const\.|_?Py|_ZN|numba_|NRT_")


def sources() -> list[Path]:
    return [path for path in python_files("quant/kernels") if path.parts[2] in ROOMS]


def test_the_rooms_are_all_looked_at() -> None:
    assert {path.parts[2] for path in sources()} == set(ROOMS)


@pytest.mark.parametrize("path", sources(), ids=str)
def test_a_source_calls_no_float_function_of_numpy_or_math(path: Path) -> None:
    for node in ast.walk(ast.parse((ROOT / path).read_text())):
        match node:
            case ast.Attribute(value=ast.Name(id="np" | "numpy" | "math" | "cmath"), attr=name):
                assert name not in BARRED, f"{path}:{node.lineno} uses {name}"
            case ast.Import(names=names):
                assert not {"math", "cmath", "scipy"} & {name.name for name in names}, path
            case ast.ImportFrom(module=module):
                assert module not in {"math", "cmath", "scipy", "numpy"}, path
            case ast.BinOp(op=ast.Pow(), left=left):
                assert isinstance(left, ast.Constant), f"{path}:{node.lineno} takes a power"
            case _:
                pass


@pytest.mark.parametrize("target", TARGETS)
def test_machine_code_fuses_nothing_and_calls_nothing(target: str) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("NUMBA_CPU")}
    if target:
        environment |= {"NUMBA_CPU_NAME": target, "NUMBA_CPU_FEATURES": ""}
    command = [sys.executable, "-m", "tests.quant.kernels.vector_assembly", *NAMES]
    output = subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout
    for name, text in json.loads(output).items():
        assert not re.search(r"\b(vfn?m(add|sub)|fmadd|fmla|vrcp|rcpps|vrsqrt|rsqrtps)", text), name
        named = set(re.findall(r"(?:\$|\b(?:callq?|(?<!%)bl)[ \t]+)([A-Za-z_.][\w.]*)", text))
        assert "_Py_NoneStruct" in named or not target, "the pattern finds what is named"
        strangers = {symbol for symbol in named if not OWN_SYMBOL.match(symbol)}
        assert not strangers, f"{name} names {sorted(strangers)}"
        if target == "znver4":
            assert "%zmm" in text, f"{name} uses whole registers"


def test_a_reference_never_sees_numba() -> None:
    rooms = ("elementary", "norm", "swiglu", "titans", "dense", "convolution", "delta", "mlstm")
    rooms = (*rooms, "residual", "rounds", "experts")
    modules = ", ".join(f"quant.kernels.{room}.reference" for room in rooms)
    program = f"import sys, {modules}; sys.exit('numba' in sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True, cwd=ROOT)
