"""The only door to Numba's compiler: how kernels are compiled, where their code is kept, when it is stale.

A kernel takes and gives integers, addresses among them; nothing of Python's is inside. Its code is kept in
the user's cache folder under a digest of every source file that the kernel's module imports, the versions of
the compilers and the code-generation target. Numba's own key sees only the file of the function itself, so an
edit of `simd.py` would leave stale code behind.
"""

import hashlib
import importlib.metadata
import inspect
import os
import pickle
import shutil
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from types import FunctionType
from typing import Any, TypeVar, cast

import numba as _numba
from numba.core import compiler as _compiler
from numba.core import config as _config
from numba.core import registry as _registry
from numba.core import serialize as _serialize
from numba.core.runtime import nrt as _nrt

from configs.errors import UsageError
from quant import cache, cpu
from quant.cache import note, remember
from quant.compiling import tell
from quant.sources import source_digest

numba, compiler, config = cast(Any, _numba), cast(Any, _compiler), cast(Any, _config)
registry, serialize, nrt = cast(Any, _registry), cast(Any, _serialize), cast(Any, _nrt)

F = TypeVar("F", bound=Callable[..., Any])

_FLAGS: dict[str, Any] = {
    "nogil": True,
    "fastmath": False,
    "parallel": False,
    "error_model": "numpy",  # a division by zero gives inf or nan, as in NumPy; no exception leaves a kernel
    "boundscheck": False,
}

# Who is only called by compiled code needs no door for Python's. To make them takes a third of the time.
_NOT_FOR_PYTHON: dict[str, Any] = {"no_cpython_wrapper": True, "no_cfunc_wrapper": True}

_TARGET_ASKED = (os.environ.get("NUMBA_CPU_NAME"), os.environ.get("NUMBA_CPU_FEATURES"))

_KEPT_DIGESTS = 4
_KEPT_SECONDS = 30 * 24 * 3600


def kernel(function: F) -> F:
    """A C-like function of int64 arguments: compiled at its first call or by `prepare`, kept in the cache."""
    if config.DISABLE_JIT:
        raise UsageError("NUMBA_DISABLE_JIT is set, and a kernel means nothing to Python", hint="Unset it.")
    if (config.CPU_NAME, config.CPU_FEATURES) != _TARGET_ASKED:
        raise UsageError(
            f"Numba is set to the target {config.CPU_NAME} {config.CPU_FEATURES} by a file of its own",
            hint="Say so by NUMBA_CPU_NAME and NUMBA_CPU_FEATURES, and take it out of .numba_config.yaml.",
        )
    dispatcher = numba.njit(**_FLAGS)(function)
    dispatcher._cache = _KernelCache(cast(FunctionType, function))
    return cast(F, dispatcher)


def helper(function: F) -> F:
    """A piece of a kernel, always put inline; it may take and give registers."""
    return cast(F, numba.njit(forceinline=True, **_NOT_FOR_PYTHON, **_FLAGS)(function))


def prepare(function: Callable[..., Any]) -> None:
    """Compile a kernel now, or load it from the cache."""
    dispatcher = cast(Any, function)
    dispatcher.compile((numba.int64,) * len(inspect.signature(dispatcher.py_func).parameters))


def native_address(function: Callable[..., Any]) -> int:
    """Address of a kernel's machine code in Numba's calling convention."""
    prepare(function)
    (compiled,) = cast(Any, function).overloads.values()
    return int(compiled.library.get_pointer_to_function(compiled.fndesc.llvm_func_name))


def identity(function: Callable[..., Any]) -> str:
    """What names a kernel's code: its sources, the compilers and the target."""
    file = Path(inspect.getfile(cast(Any, function).py_func))
    return f"{compiler_key()}-{source_digest(file)[:16]}"


def fresh(function: Callable[..., Any]) -> Callable[..., Any]:
    """The same kernel with no code yet and no cache: what it compiles to here and now."""
    return cast("Callable[..., Any]", numba.njit(**_FLAGS)(cast(Any, function).py_func))


def apart(function: Callable[..., Any]) -> Callable[..., Any]:
    """The same kernel for whoever takes its text and never runs it."""
    return cast("Callable[..., Any]", numba.njit(**_NOT_FOR_PYTHON, **_FLAGS)(cast(Any, function).py_func))


def forget_cache() -> None:
    """From here on this process neither takes code from the cache nor leaves any there."""
    _KernelCache.is_used = False


def assembly(function: Callable[..., Any]) -> str:
    """Machine code of a kernel as text. It is compiled for this, as code from the cache cannot be shown."""
    again = fresh(function)
    prepare(again)
    return "\n".join(cast(Any, again).inspect_asm().values())


def is_compiled(function: Callable[..., Any]) -> bool:
    """True when a kernel is ready in this process or waits in the cache."""
    dispatcher = cast(Any, function)
    return bool(dispatcher.overloads) or dispatcher._cache.is_stored()


@lru_cache(maxsize=1)
def compiler_key() -> str:
    """Digest of what decides the machine code besides the sources: versions and target."""
    parts = [
        sys.version,
        *(importlib.metadata.version(package) for package in ("numba", "llvmlite")),
        repr(registry.cpu_target.target_context.codegen().magic_tuple()),
        ",".join(sorted(cpu.target().features)),
        str(cpu.llvm.get_host_cpu_name()),
        str(config.OPT),
    ]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


class _KernelCache:
    """One kernel's machine code on disk, in the place where Numba's dispatcher looks for its cache.

    A file is a digest and what it is the digest of, so that a damaged one is seen before it is unpickled.
    """

    is_used = True

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
        if not self.is_used or not _takes_int64(sig):
            return None
        # Not `refresh`: that makes ready all of the compiler, which does it itself before it compiles.
        nrt.rtsys.initialize(target_context)
        path = self._path()
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            data = b""
        except OSError as error:
            note(f"{path} cannot be read: {error.strerror or error}; the kernel was compiled again")
            data = b""
        if hashlib.sha256(data[32:]).digest() == data[:32]:
            with suppress(OSError):  # another user's, or just cleaned away: it is used all the same
                os.utime(path)  # what is used is not old
            return compiler.CompileResult._rebuild(target_context, *pickle.loads(data[32:]))
        if data:
            note(f"{path} was damaged; the kernel was compiled again")
        tell(self._name)
        return None

    def save_overload(self, sig: Any, data: Any) -> None:
        if not self.is_used or not _takes_int64(sig):
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
        return cache.cache_folder() / "kernels" / compiler_key() / f"{self._name}-{digest[:16]}.bin"


def _takes_int64(signature: Any) -> bool:
    """Whether these are a kernel's own arguments. A literal makes a variant, which is not kept."""
    return all(argument == numba.int64 for argument in getattr(signature, "args", signature))


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
