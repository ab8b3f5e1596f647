"""Objects made ahead of time: the bits of the references, nothing foreign in them, never stale."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from quant.ahead import loader, make
from quant.ahead.archive import FOLDER, Archive, Made, path_of, read_archive, to_bytes
from quant.ahead.levels import Level
from quant.kernels.forms import FORMS
from quant.kernels.operation import Problem, difference, expected, solve
from quant.kernels.table import OPERATIONS
from quant.native import NamedKernel, caller
from quant.sources import ROOT, file_digest

HERE = loader.levels_here()


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Archives of all levels that this machine can run, of the sources as they are now."""
    made = tmp_path_factory.mktemp("objects")
    make.make(HERE, folder=made, jobs=len(os.sched_getaffinity(0)))
    return made


@cache
def problems(name: str) -> list[tuple[Problem, tuple[Any, ...]]]:
    """The cases of an operation with what their outputs have to be."""
    operation = OPERATIONS[name]
    found: list[tuple[Problem, tuple[Any, ...]]] = []
    for number, case in enumerate(operation.cases):
        problem = operation.problem(case, np.random.default_rng(number))
        found.append((problem, expected(operation, problem)))
    return found


def function_of(objects: loader.Objects, kernel: NamedKernel) -> Callable[..., int] | None:
    found = objects.find(str(kernel))
    return caller(found.address, 3) if isinstance(found, loader.Found) else None


@pytest.mark.parametrize("level", HERE, ids=lambda level: level.name)
def test_objects_give_the_bits_of_the_references(folder: Path, level: Level) -> None:
    objects = loader.open_objects((level,), folder=folder)
    (archive,) = objects.archives
    met: set[str] = set()
    for name, forms in FORMS.items():
        for form, kernel in forms.items():
            assert isinstance(kernel, NamedKernel)
            function = function_of(objects, kernel)
            if function is None:
                continue
            met.add(str(kernel))
            for problem, right in problems(name):
                wrong = difference(solve(problem, function, parts=2), right)
                assert not wrong, f"{name}, {form}, {level.name}: {wrong}"
    of_the_table = {str(kernel) for forms in FORMS.values() for kernel in forms.values()}
    assert met == of_the_table & archive.objects.keys()
    assert met, "a level has kernels of its own"


@pytest.mark.parametrize("level", HERE, ids=lambda level: level.name)
def test_objects_call_nothing_but_the_system(folder: Path, level: Level) -> None:
    from quant.ahead.back import undefined_in

    objects = read_archive(path_of(level.name, folder=folder)).objects
    calls = {name: undefined_in(made.code) for name, made in objects.items()}
    callers = {name for name, foreign in calls.items() if foreign}
    assert {name.rpartition(".")[0] for name in callers} <= {
        "quant.kernels.experts.asking",
        "quant.kernels.experts.foresight",
        "quant.kernels.experts.reading",
        "quant.kernels.experts.waiting",
        "quant.pool_barrier",
        "quant.pool_kernels",
        "runtime.worker_kernels",
    }
    assert set().union(*calls.values()) <= set(loader.EXTERNALS)


def test_what_this_checkout_has_is_no_older_than_its_sources() -> None:
    remedy = "the objects are older than their sources; run: make kernels"
    archives = [
        read_archive(path_of(level.name)) for level in make.levels_of_host() if path_of(level.name).is_file()
    ]
    assert archives, f"there are no objects in {FOLDER}; run: make kernels"
    for archive in archives:
        stale = [path for path, digest in archive.sources if file_digest(ROOT / path) != digest]
        assert not stale, remedy
    held = frozenset[str]().union(*(archive.objects for archive in archives))
    assert make.wanted_at(make.levels_of_host()[-1]) <= held, remedy


def test_a_changed_source_makes_its_kernels_stale_and_no_others(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "quant").mkdir()
    for name in ("one", "other"):
        (tmp_path / "quant" / f"{name}.py").write_text(name)
    sources = tuple(
        (f"quant/{name}.py", str(file_digest(tmp_path / "quant" / f"{name}.py"))) for name in ("one", "other")
    )
    name, made = next(iter(read_archive(path_of(HERE[-1].name, folder=folder)).objects.items()))
    alone = Archive(
        level=HERE[-1].name, versions={}, sources=sources, objects={name: Made(code=made.code, sources=(0,))}
    )
    path_of(HERE[-1].name, folder=tmp_path).write_bytes(to_bytes(alone))
    monkeypatch.setattr(loader, "ROOT", tmp_path)

    def find() -> object:
        return loader.open_objects((HERE[-1],), folder=tmp_path).find(name)

    assert isinstance(find(), loader.Found)
    (tmp_path / "quant" / "other.py").write_text("edited")
    assert isinstance(find(), loader.Found)
    (tmp_path / "quant" / "one.py").write_text("edited")
    assert find() == "its object is older than quant/one.py"
    (tmp_path / "quant" / "one.py").unlink()
    assert isinstance(find(), loader.Found), "an installation without sources has none that is newer"


SCRIPT = """
import json, sys
from quant import native
from quant.kernels.forms import FORMS
code = native.code_of(FORMS["scale_rows"]["plain"])
print(json.dumps([code.origin, code.reason, "numba" in sys.modules]))
"""


def told(**environment: str) -> list[Any]:
    ours = {name: value for name, value in os.environ.items() if not name.startswith(("NUMBA_", "CHIMERA_"))}
    command = [sys.executable, "-c", SCRIPT]
    done = subprocess.run(
        command, cwd=ROOT, env=ours | environment, check=True, capture_output=True, text=True, timeout=300
    )
    return json.loads(done.stdout)


def test_a_kernel_comes_from_its_object_unless_somebody_asks_for_the_compiler() -> None:
    origin, level, has_numba = told()
    assert (origin, has_numba) == ("object", False)
    assert level in {level.name for level in HERE}
    assert told(CHIMERA_JIT="0")[0] == "object"
    assert told(CHIMERA_JIT="1") == ["compiled", "CHIMERA_JIT=1 asks for it", True]
