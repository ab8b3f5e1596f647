"""Imports point down only, and each floor loads no more of the world than it may."""

import ast
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from importlinter.cli import lint_imports

from tests.house.files import PACKAGES, ROOT, python_files

# What each place may import of other people's packages. The longest matching path decides.
MAY_IMPORT: dict[str, set[str]] = {
    "configs": set(),
    "configs/text": {"jinja2", "sentencepiece", "splintr", "tokenizers", "zstandard"},
    "quant": {"llvmlite", "numba", "numpy"},
    "quant/qat": {"numpy", "torch"},
    "chronos_moe": {"numpy", "safetensors", "torch"},
    "chronos_moe/store": {"numpy", "psutil"},
    "chimera": {"matplotlib", "numpy", "optuna", "psutil", "rich", "safetensors", "torch", "zstandard"},
    "runtime": {"jinja2", "llguidance", "llvmlite", "numba", "numpy", "psutil", "rich"},
    "runtime/measuring/plotting.py": {"matplotlib"},
    "exports": {"numpy", "onnx", "onnxruntime", "rich", "safetensors", "torch"},
    "exports/handover": {"numpy", "safetensors", "torch", "transformers"},
    "exports/huggingface.py": {"transformers"},
}
# Flags, caching and threads of compiled code are decided in one file.
COMPILERS = {"cfunc", "guvectorize", "jit", "njit", "prange", "stencil", "vectorize"}
COMPILER_MODULE = Path("quant/jit.py")
# In the folder of the process, whose packages come first on the path.
LINT = "import sys; from importlinter.cli import lint_imports; sys.exit(lint_imports(no_cache=True))"


def imported_names(source: str) -> set[str]:
    """Every module, and every `module.name`, that a source imports, wherever in the file it does so."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Import():
                names |= {alias.name for alias in node.names}
            case ast.ImportFrom(level=0, module=str(module)):
                names |= {module, *(f"{module}.{alias.name}" for alias in node.names)}
            case ast.ImportFrom():
                raise AssertionError("an import is written from the top, never relative")
            case _:
                pass
    return names


def foreign_roots(source: str) -> set[str]:
    """The packages imported by a source that are neither ours nor Python's own."""
    roots = {name.partition(".")[0] for name in imported_names(source)}
    # _typeshed exists for type checkers alone.
    return roots - set(PACKAGES) - sys.stdlib_module_names - {"_typeshed"}


def compilers_in(source: str) -> set[str]:
    """Numba's compiling decorators and loops that a source imports, or reaches through the package."""
    names = {name for name in imported_names(source) if name.startswith("numba.")}
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Attribute(value=ast.Name(id="numba" | "nb"), attr=attribute):
                names.add(f"numba.{attribute}")
            case _:
                pass
    return {name for name in names if name.rpartition(".")[2] in COMPILERS}


def allowed(path: Path) -> set[str]:
    """What the table allows a file to import."""
    return MAY_IMPORT[max((place for place in MAY_IMPORT if path.is_relative_to(place)), key=len)]


def test_the_contracts_hold():
    assert lint_imports(config_filename=str(ROOT / "pyproject.toml"), no_cache=True, no_logo=True) == 0


@pytest.mark.parametrize(
    ("file", "statement", "contract"),
    [
        ("runtime/offence.py", "import torch", "knows no PyTorch"),
        ("quant/kernels/offence.py", "import torch.nn", "knows no PyTorch"),
        ("configs/offence.py", "import quant.kernels", "Imports point down only"),
        ("chimera/offence.py", "import runtime.cli", "Imports point down only"),
        ("runtime/offence.py", "import quant.qat", "Only what learns"),
    ],
)
def test_a_contract_notices_an_offence(tmp_path: Path, file: str, statement: str, contract: str):
    for package in PACKAGES:
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    (tmp_path / file).write_text(f'"""An offence."""\n\n{statement}\n')
    result = subprocess.run(
        [sys.executable, "-c", LINT], cwd=tmp_path, capture_output=True, text=True, timeout=120
    )
    assert result.returncode == 1, result.stdout + result.stderr
    # The linter may add how many imports a contract was told to ignore.
    broken = re.findall(r"^(.+) BROKEN\b", result.stdout, re.MULTILINE)
    assert len(broken) == 1
    assert contract in broken[0]


def test_a_file_imports_no_more_than_its_floor_may():
    sources = {path: (ROOT / path).read_text() for path in python_files(*PACKAGES)}
    excess = {str(path): foreign_roots(source) - allowed(path) for path, source in sources.items()}
    assert {path: names for path, names in excess.items() if names} == {}


def test_the_table_of_floors_is_read_as_meant():
    assert allowed(Path("configs/text/template.py")) == MAY_IMPORT["configs/text"]
    assert allowed(Path("configs/codec.py")) == set()
    assert foreign_roots("def f():\n    import torch.nn\n    from numba import njit\n    import os") == {
        "numba",
        "torch",
    }
    with pytest.raises(AssertionError, match="never relative"):
        foreign_roots("from . import packing")


def test_only_one_file_chooses_how_code_is_compiled():
    choosers = {path for path in python_files(*PACKAGES) if compilers_in((ROOT / path).read_text())}
    assert choosers <= {COMPILER_MODULE}
    assert compilers_in("from numba import njit, types") == {"numba.njit"}
    assert compilers_in("import numba\n@numba.vectorize\ndef f(x): return x") == {"numba.vectorize"}


def test_a_reference_never_compiles():
    references = [path for path in python_files(*PACKAGES) if "reference" in path.name]
    assert references
    assert [
        path for path in references if foreign_roots((ROOT / path).read_text()) & {"llvmlite", "numba"}
    ] == []


def test_a_package_file_holds_a_docstring_only():
    for path in (path for path in python_files(*PACKAGES) if path.name == "__init__.py"):
        tree = ast.parse((ROOT / path).read_text())
        assert ast.get_docstring(tree), path
        rest = [ast.unparse(statement) for statement in tree.body[1:]]
        assert rest == (["__distribution__ = 'chimera-edge'"] if len(path.parts) == 2 else []), path


def test_every_folder_of_code_is_a_package():
    folders = {path.parent for path in python_files(*PACKAGES)}
    assert {folder for folder in folders if not (ROOT / folder / "__init__.py").is_file()} == set()
