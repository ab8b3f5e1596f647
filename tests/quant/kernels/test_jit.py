"""How kernels are compiled and where their code is kept."""

import os
import re
import shutil
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from quant import cache, jit, sources
from quant.compiling import on_compile
from quant.jit import kernel
from quant.registers import f32, f32x4, i64
from quant.simd import load, put, store

ROOT = Path(__file__).parents[3]

PROGRAM = """
import numpy as np
from quant import cache
from quant.compiling import on_compile
from quant.jit import kernel
from quant.registers import f32x16
from quant.simd import load, store


@kernel
def double(source: int, result: int) -> None:
    x = load(f32x16, source)
    store(result, x + x)


if __name__ == "__main__":
    x, y = np.arange(16, dtype=np.float32), np.zeros(16, dtype=np.float32)
    with on_compile(lambda name: print("compiled", name)):
        double(x.ctypes.data, y.ctypes.data)
    assert (y == 2 * x).all()
    for note in cache.notes():
        print("note:", note)
    print("folder:", cache.cache_folder())
"""


@kernel
def halve(source: int, result: int) -> None:
    store(result, load(f32x4, source))
    for i in range(4):
        put(f32, result + 4 * i, load(f32, source + 4 * i) / 2)


@kernel
def quotient(source: int, result: int) -> int:
    put(f32, result, load(f32, source) / load(f32, source + 4))
    return load(i64, source + 8) + 1


@pytest.fixture
def program(tmp_path: Path) -> Callable[..., str]:
    """Runs a program with a copy of our packages and a cache folder of its own."""
    for package in ("configs", "quant"):
        skip = shutil.ignore_patterns("__pycache__", "presets")
        shutil.copytree(ROOT / package, tmp_path / package, ignore=skip)
    (tmp_path / "program.py").write_text(PROGRAM)

    def run(**environment: str) -> str:
        settings = {"PATH": os.environ["PATH"], "PYTHONPATH": str(tmp_path), "HOME": str(tmp_path / "home")}
        settings |= {"TMPDIR": str(tmp_path), **environment}
        command = [sys.executable, "program.py"]
        return subprocess.run(
            command, cwd=tmp_path, env=settings, check=True, capture_output=True, text=True
        ).stdout

    return run


COMPILED = "compiled __main__.double"


def test_code_is_kept_until_a_source_that_it_uses_changes(
    program: Callable[..., str], tmp_path: Path
) -> None:
    assert COMPILED in program()
    assert COMPILED not in program(), "the second run takes it from the cache"
    (tmp_path / "quant" / "packing.py").write_text("# not imported by the kernel\n")
    assert COMPILED not in program()
    for used in ("simd.py", "cpu.py"):
        path = tmp_path / "quant" / used
        path.write_text(path.read_text() + "\n# edited\n")
        assert COMPILED in program(), f"an edit of {used} must be seen"
    assert COMPILED not in program()
    assert COMPILED in program(NUMBA_CPU_NAME="x86-64", NUMBA_CPU_FEATURES=""), "another target, other code"


def test_a_damaged_file_is_compiled_again(program: Callable[..., str], tmp_path: Path) -> None:
    program()
    (file,) = (tmp_path / "home" / ".cache" / "chimera" / "kernels").glob("*/*.bin")
    whole = file.read_bytes()
    for damage in (b"", whole[:-1], whole[:50] + b"?" + whole[51:]):
        file.write_bytes(damage)
        output = program()
        assert COMPILED in output
        assert ("was damaged" in output) == bool(damage)
        assert file.read_bytes() == whole or COMPILED not in program()


def test_nothing_is_written_beside_the_sources(program: Callable[..., str], tmp_path: Path) -> None:
    """An install may be read-only; root may write anywhere, so the files are counted too."""
    folders = [tmp_path / package for package in ("configs", "quant")]
    before = {path for folder in folders for path in folder.rglob("*")}
    places = [path for path in before if path.is_dir()] + folders
    for place in places:
        place.chmod(0o555)
    try:
        assert COMPILED in program(PYTHONDONTWRITEBYTECODE="1")
        assert COMPILED not in program(PYTHONDONTWRITEBYTECODE="1"), "its code was kept elsewhere"
        assert {path for folder in folders for path in folder.rglob("*")} == before
    finally:
        for place in places:
            place.chmod(0o755)


def test_a_cache_that_cannot_be_written_moves_to_a_temporary_folder(
    program: Callable[..., str], tmp_path: Path
) -> None:
    blocked = tmp_path / "a file"
    blocked.write_text("")
    output = program(XDG_CACHE_HOME=str(blocked))
    own = tmp_path / f"chimera-{os.getuid()}"
    assert f"folder: {own}" in output
    assert "cannot be written" in output
    assert COMPILED in output
    assert COMPILED not in program(XDG_CACHE_HOME=str(blocked)), "it outlives the process"
    own.chmod(0o777)
    output = program(XDG_CACHE_HOME=str(blocked))
    assert "belongs to somebody else" in output, "others could write there, and its files are unpickled"
    assert COMPILED in output
    shutil.rmtree(own)
    (tmp_path / "elsewhere").mkdir()
    own.symlink_to(tmp_path / "elsewhere")
    assert "belongs to somebody else" in program(XDG_CACHE_HOME=str(blocked))
    left = [path.name for path in tmp_path.iterdir() if path.name.startswith("chimera-") and path != own]
    assert left == [], "a folder of one run goes with it"


def test_old_code_is_forgotten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "cache_folder", lambda: tmp_path)
    name = f"{halve.__module__}.{halve.__qualname__}"
    folder = tmp_path / "kernels" / jit.compiler_key()
    ages = {
        f"{name}-{digit * 16}.bin": days for digit, days in zip("abcdef", (1, 2, 3, 4, 40, 50), strict=True)
    }
    other = tmp_path / "kernels" / "another-compiler"
    for place, days in [*((folder / file, days) for file, days in ages.items()), (other / "x.bin", 31)]:
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(b"old")
        os.utime(place, (time.time() - days * 86400,) * 2)
    kept = tmp_path / "kernels" / "a-compiler-in-use" / "x.bin"
    kept.parent.mkdir()
    kept.write_bytes(b"new")
    again = kernel(halve.py_func)
    jit.prepare(again)
    assert sum(1 for _ in folder.glob("*.bin")) == 4, "this one and the newest three"
    assert not (folder / f"{name}-{'e' * 16}.bin").exists()
    assert not other.exists()
    assert kept.exists()


def test_listeners_hear_what_is_compiled_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache, "cache_folder", lambda: tmp_path)
    heard: list[str] = []
    first, second = (kernel(halve.py_func) for _ in range(2))
    assert not jit.is_compiled(first)
    with on_compile(heard.append):
        jit.prepare(first)
        assert jit.is_compiled(first)
        assert jit.is_compiled(second), "it waits in the cache"
        jit.prepare(second)
        jit.prepare(second)
    assert heard == [f"{__name__}.halve"]
    x, y = np.arange(4, dtype=np.float32), np.empty(4, dtype=np.float32)
    second(x.ctypes.data, y.ctypes.data)
    assert (y == x / 2).all()


def test_a_full_disk_is_no_obstacle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "cache_folder", lambda: tmp_path)

    def refuse(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", refuse)
    jit.prepare(kernel(halve.py_func))
    assert "No space left on device" in cache.notes()[-1]
    assert not [path for path in tmp_path.rglob("*") if path.is_file()], "nothing is left half written"


@kernel
def plus(a: int, b: int) -> int:
    return a + b


@kernel
def plus_one(a: int) -> int:
    return plus(a, 1)


def test_a_call_with_a_literal_does_not_take_the_place_of_the_kernel() -> None:
    # Numba makes a variant for the literal; under the same file it would be loaded for all other calls.
    assert plus_one(41) == 42
    fresh = kernel(plus.py_func)  # type: ignore[attr-defined]
    assert fresh(40, 5) == 45
    assert plus(40, 5) == 45


def test_a_division_by_zero_gives_what_numpy_gives() -> None:
    numbers = np.array([1, 0, 0, 0], dtype=np.float32)
    result = np.empty(1, dtype=np.float32)
    assert quotient(numbers.ctypes.data, result.ctypes.data) == 1
    assert np.isposinf(result[0])


def test_no_other_module_calls_the_compiler() -> None:
    doors = {
        path.relative_to(ROOT).as_posix()
        for package in ("configs", "quant", "chronos_moe", "chimera", "runtime", "exports")
        for path in (ROOT / package).rglob("*.py")
        if re.search(r"\b(njit|vectorize|guvectorize|cfunc|prange)\b|numba import jit", path.read_text())
    }
    assert doors == {"quant/jit.py"}


def test_every_import_of_a_source_is_followed(tmp_path: Path) -> None:
    source = tmp_path / "kernels.py"
    source.write_text(
        textwrap.dedent(
            """
            import numpy
            import quant.cpu, os
            from quant import (
                lanes,
                sync,
            )
            def later():
                from quant.kernels.rows import int8
            """
        )
    )
    _, imported = sources._read_source(source, 0)
    names = {path.relative_to(ROOT / "quant").as_posix() for path in imported}
    assert names == {"cpu.py", "lanes.py", "sync.py", "kernels/rows/int8.py"}
