"""The only door to Numba's compiler: how kernels are compiled, where their code is kept, when it is stale.

A kernel takes and gives integers, addresses among them; nothing of Python's is inside. Its code is kept in
the user's cache folder under a digest of every source file that the kernel's module imports, the versions of
the compilers and the code-generation target. Numba's own key sees only the file of the function itself, so an
edit of `simd.py` would leave stale code behind.
"""

import atexit
import hashlib
import importlib.metadata
import inspect
import os
import pickle
import re
import shutil
import stat
import sys
import tempfile
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from functools import cache, lru_cache
from pathlib import Path
from types import FunctionType
from typing import Any, TypeVar, cast

import numba as _numba
from numba.core import compiler as _compiler
from numba.core import registry as _registry
from numba.core import serialize as _serialize
from numba.core.runtime import nrt as _nrt

from configs.errors import UsageError
from quant import cpu
from quant.atomic import atomic_file

numba, compiler = cast(Any, _numba), cast(Any, _compiler)
registry, serialize, nrt = cast(Any, _registry), cast(Any, _serialize), cast(Any, _nrt)

F = TypeVar("F", bound=Callable[..., Any])

_FLAGS: dict[str, Any] = {
    "nogil": True,
    "fastmath": False,
    "parallel": False,
    "error_model": "numpy",  # a division by zero gives inf or nan, as in NumPy; no exception leaves a kernel
    "boundscheck": False,
}

_PACKAGES = ("configs", "quant", "chronos_moe", "chimera", "runtime", "exports")
_ROOT = Path(__file__).resolve().parents[1]
_IMPORT = re.compile(
    r"^[ \t]*(?:from[ \t]+([\w.]+)[ \t]+import[ \t]+(\([^)]*\)|[^\n]*)|import[ \t]+([^\n]*))", re.MULTILINE
)

_KEPT_DIGESTS = 4
_KEPT_SECONDS = 30 * 24 * 3600

_listeners: list[Callable[[str], None]] = []
_cache_notes: list[str] = []


def kernel(function: F) -> F:
    """A C-like function of int64 arguments: compiled at its first call or by `prepare`, kept in the cache."""
    if numba.config.DISABLE_JIT:
        raise UsageError("NUMBA_DISABLE_JIT is set, and a kernel means nothing to Python", hint="Unset it.")
    dispatcher = numba.njit(**_FLAGS)(function)
    dispatcher._cache = _KernelCache(cast(FunctionType, function))
    return cast(F, dispatcher)


def helper(function: F) -> F:
    """A piece of a kernel, always put inline; it may take and give registers."""
    return cast(F, numba.njit(forceinline=True, **_FLAGS)(function))


def prepare(function: Callable[..., Any]) -> None:
    """Compile a kernel now, or load it from the cache."""
    dispatcher = cast(Any, function)
    dispatcher.compile((numba.int64,) * len(inspect.signature(dispatcher.py_func).parameters))


def native_address(function: Callable[..., Any]) -> int:
    """Address of a kernel's machine code in Numba's calling convention."""
    prepare(function)
    (compiled,) = cast(Any, function).overloads.values()
    return int(compiled.library.get_pointer_to_function(compiled.fndesc.llvm_func_name))


def fresh(function: Callable[..., Any]) -> Callable[..., Any]:
    """The same kernel with no code yet and no cache: what it compiles to here and now."""
    return cast("Callable[..., Any]", numba.njit(**_FLAGS)(cast(Any, function).py_func))


def assembly(function: Callable[..., Any]) -> str:
    """Machine code of a kernel as text. It is compiled for this, as code from the cache cannot be shown."""
    again = fresh(function)
    prepare(again)
    return "\n".join(cast(Any, again).inspect_asm().values())


@contextmanager
def on_compile(listener: Callable[[str], None]) -> Generator[None]:
    """While inside, `listener` is told the name of each kernel that has to be compiled, as it begins."""
    _listeners.append(listener)
    try:
        yield
    finally:
        _listeners.remove(listener)


def is_compiled(function: Callable[..., Any]) -> bool:
    """True when a kernel is ready in this process or waits in the cache."""
    dispatcher = cast(Any, function)
    return bool(dispatcher.overloads) or dispatcher._cache.is_stored()


def cache_notes() -> tuple[str, ...]:
    """What went wrong with the cache and was worked around, in words, for `chimera doctor`."""
    return tuple(_cache_notes)


@lru_cache(maxsize=1)
def cache_folder() -> Path:
    """Where compiled kernels and what was learnt about this machine are kept; always writable."""
    try:
        base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        return _writable(Path(base) / "chimera")
    except (OSError, RuntimeError) as error:
        _cache_notes.append(f"the user's cache folder cannot be written ({error}); a temporary one is used")
    return _temporary_folder()


def remember(path: Path, data: bytes) -> bool:
    """Write a file of the cache, whole or not at all; a full disk costs time at the next start, no more."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(path) as file:
            file.write(data)
    except OSError as error:
        _cache_notes.append(f"{path} could not be written ({error}); it is made again when it is needed")
        return False
    return True


def source_digest(path: Path) -> str:
    """Digest of a source file and of every file of our packages that it imports, at any depth."""
    found: dict[Path, str] = {}
    waiting = [path.resolve()]
    while waiting:
        file = waiting.pop()
        if file not in found:
            text, imported = _read_source(file, file.stat().st_mtime_ns)
            found[file] = text
            waiting += imported
    digest = hashlib.sha256()
    for file in sorted(found):
        digest.update(f"{file.name}\n{found[file]}\n".encode())
    return digest.hexdigest()


@lru_cache(maxsize=1)
def compiler_key() -> str:
    """Digest of what decides the machine code besides the sources: versions and target."""
    parts = [
        sys.version,
        *(importlib.metadata.version(package) for package in ("numba", "llvmlite")),
        repr(registry.cpu_target.target_context.codegen().magic_tuple()),
        ",".join(sorted(cpu.target().features)),
        str(cpu.llvm.get_host_cpu_name()),
        str(cpu.numba_config.OPT),
    ]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


class _KernelCache:
    """One kernel's machine code on disk, in the place where Numba's dispatcher looks for its cache.

    A file is a digest and what it is the digest of, so that a damaged one is seen before it is unpickled.
    """

    def __init__(self, function: FunctionType) -> None:
        assert function.__closure__ is None, (
            "a kernel's key is its source, which does not show what a closure holds"
        )
        self._function = function
        self._name = f"{function.__module__}.{function.__qualname__}"

    @property
    def cache_path(self) -> str:
        return str(self._path().parent)

    def is_stored(self) -> bool:
        return self._path().is_file()

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        if not _takes_int64(sig):
            return None
        # Not `refresh`: that makes ready all of the compiler, which does it itself before it compiles.
        nrt.rtsys.initialize(target_context)
        path = self._path()
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            data = b""
        except OSError as error:
            _cache_notes.append(
                f"{path} cannot be read: {error.strerror or error}; the kernel was compiled again"
            )
            data = b""
        if hashlib.sha256(data[32:]).digest() == data[:32]:
            with suppress(OSError):  # another user's, or just cleaned away: it is used all the same
                os.utime(path)  # what is used is not old
            return compiler.CompileResult._rebuild(target_context, *pickle.loads(data[32:]))
        if data:
            _cache_notes.append(f"{path} was damaged; the kernel was compiled again")
        for listener in _listeners:
            listener(self._name)
        return None

    def save_overload(self, sig: Any, data: Any) -> None:
        if not _takes_int64(sig):
            return
        assert not data.library.has_dynamic_globals, f"{self._name} holds an address of this process"
        path = self._path()
        payload = cast(bytes, serialize.dumps(data._reduce()))
        if remember(path, hashlib.sha256(payload).digest() + payload):
            with suppress(
                OSError
            ):  # another process cleans too, and another user's code is not ours to clean
                _clean(path, name=self._name)

    def enable(self) -> None:
        raise AssertionError("a kernel's cache is always on")

    def disable(self) -> None:
        raise AssertionError("a kernel's cache is always on")

    def flush(self) -> None:
        self._path().unlink(missing_ok=True)

    def _path(self) -> Path:
        digest = source_digest(Path(self._function.__code__.co_filename))
        return cache_folder() / "kernels" / compiler_key() / f"{self._name}-{digest[:16]}.bin"


def _takes_int64(signature: Any) -> bool:
    """Whether these are a kernel's own arguments. A literal makes a variant, which is not kept."""
    return all(argument == numba.int64 for argument in getattr(signature, "args", signature))


@cache
def _read_source(file: Path, _changed_ns: int) -> tuple[str, list[Path]]:
    """Digest of one file, and the files of our packages that it names in imports."""
    text = file.read_text(encoding="utf-8")
    imported: list[Path] = []
    for module, names, plain in _IMPORT.findall(text):
        wanted = [part.split()[0] for part in plain.split(",")] if plain else [module]
        for dotted in wanted:
            path = _ROOT.joinpath(*dotted.split("."))
            if dotted.split(".")[0] in _PACKAGES:
                imported += [
                    path.with_suffix(".py"),
                    *(path / f"{name}.py" for name in re.findall(r"\w+", names)),
                ]
    return hashlib.sha256(text.encode()).hexdigest(), [path for path in imported if path.is_file()]


def _clean(path: Path, *, name: str) -> None:
    """Forget code of older sources of this kernel, and folders of compilers and targets long unused."""
    oldest = time.time() - _KEPT_SECONDS
    same = [other for other in path.parent.glob(f"{name}-*.bin") if len(other.stem) == len(path.stem)]
    newest_first = sorted(same, key=lambda other: other.stat().st_mtime, reverse=True)
    for place, other in enumerate(newest_first):
        if place >= _KEPT_DIGESTS or other.stat().st_mtime < oldest:
            other.unlink(missing_ok=True)
    for folder in path.parent.parent.iterdir():
        if folder != path.parent and all(file.stat().st_mtime < oldest for file in folder.iterdir()):
            shutil.rmtree(folder, ignore_errors=True)


def _writable(folder: Path) -> Path:
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    tempfile.TemporaryFile(dir=folder).close()
    return folder


def _temporary_folder() -> Path:
    """One that outlives the process, if it is surely ours (its files are unpickled); else one of our own."""
    user = os.getuid() if hasattr(os, "getuid") else 0
    shared = Path(tempfile.gettempdir()) / f"chimera-{user}"
    try:
        _writable(shared)
        found = shared.lstat()
        if stat.S_ISDIR(found.st_mode) and found.st_uid == user and not found.st_mode & 0o022:
            return shared
        _cache_notes.append(f"{shared} belongs to somebody else; kernels are compiled anew in each run")
    except OSError as error:
        _cache_notes.append(f"{shared} cannot be written ({error}); kernels are compiled anew in each run")
    private = Path(tempfile.mkdtemp(prefix="chimera-"))
    atexit.register(shutil.rmtree, private, ignore_errors=True)
    return private
