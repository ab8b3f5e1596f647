"""What runs a model loads no PyTorch, and `--help` loads next to nothing."""

import json
import os
import subprocess
import sys

import pytest

from runtime.cli.main import VERBS, load_verb
from tests.house.files import ROOT, python_files

# Each costs a tenth of a second or more, or memory, before the first word of help.
HEAVY = {"jinja2", "llvmlite", "numba", "numpy", "psutil", "rich", "safetensors", "sentencepiece", "torch"}

LOAD = """
import importlib, json, sys
for name in json.loads(sys.argv[1]):
    importlib.import_module(name)
print(json.dumps(sorted({name.partition(".")[0] for name in sys.modules})))
"""
HELP = """
import contextlib, io, json, sys
from runtime.cli.main import main
with contextlib.redirect_stdout(io.StringIO()) as shown:
    try:
        code = main(json.loads(sys.argv[1]))
    except SystemExit as stop:
        code = stop.code
assert not code and shown.getvalue().startswith("usage: chimera"), (code, shown.getvalue())
print(json.dumps(sorted({name.partition(".")[0] for name in sys.modules})))
"""


def loaded_by(script: str, argument: list[str]) -> set[str]:
    """The top-level modules that a fresh interpreter holds after running `script`."""
    result = subprocess.run(
        [sys.executable, "-c", script, json.dumps(argument)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert result.returncode == 0, result.stderr
    return set(json.loads(result.stdout))


def modules_under(package: str) -> list[str]:
    """Every module of a package that may be imported without PyTorch."""
    return [
        ".".join(path.with_suffix("").parts).removesuffix(".__init__")
        for path in python_files(package)
        if not path.is_relative_to("quant/qat")
    ]


@pytest.mark.parametrize("package", ["configs", "quant", "runtime"])
def test_no_module_loads_torch(package: str):
    assert "torch" not in loaded_by(LOAD, modules_under(package))


def test_what_a_model_is_loads_nothing_heavy():
    # A model's words need their libraries; what a model is needs none.
    modules = [name for name in modules_under("configs") if not name.startswith("configs.text")]
    assert loaded_by(LOAD, modules) & HEAVY == set()


@pytest.mark.parametrize("arguments", [["--help"], *([verb, "--help"] for verb in VERBS)], ids=" ".join)
def test_help_loads_nothing_heavy(arguments: list[str]):
    assert loaded_by(HELP, arguments) & HEAVY == set()


ANSWER = """
import json, sys
from runtime.cli.run import main
code = main(["Hi", "--seed", "1", "-n", "2"])
print()
print(json.dumps(sorted(name for name in sys.modules)))
assert code == 0
"""


def test_an_answer_loads_no_compiler_and_no_source_of_a_kernel():
    """All kernels come from objects, so what would compile them stays away."""
    ours = {name: value for name, value in os.environ.items() if not name.startswith(("CHIMERA_", "NUMBA_"))}
    result = subprocess.run(
        [sys.executable, "-c", ANSWER], cwd=ROOT, capture_output=True, text=True, timeout=300, env=ours
    )
    assert result.returncode == 0, result.stderr
    loaded = set(json.loads(result.stdout.splitlines()[-1]))
    heavy = {"numba", "psutil", "rich", "safetensors", "torch", "numpy.random"}
    assert loaded & heavy == set(), "perhaps the objects are stale; run: make kernels"
    assert {name for name in loaded if name.count(".") == 3 and name.endswith(".kernels")} == set()
    assert loaded & {"quant.jit", "quant.simd", "quant.pool_kernels", "runtime.worker_kernels"} == set()


@pytest.mark.parametrize("name", VERBS)
def test_a_verb_is_what_the_table_says(name: str):
    verb = load_verb(name)
    assert callable(verb.add_arguments)
    assert callable(verb.run)
    summary = VERBS[name].summary
    assert summary
    assert summary == summary.strip().removesuffix(".")
