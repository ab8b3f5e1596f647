"""Kernels out of objects made ahead of time: found for this machine, loaded by llvmlite alone.

Nothing here compiles. Where there is no object that is whole, fresh and fit for this machine, the reason is
told and somebody else compiles.
"""

import ctypes
import hashlib
import os
import sys
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from quant import cache, cpu
from quant.ahead.archive import FOLDER, Archive, ArchiveError, path_of, read_archive
from quant.ahead.levels import Level, runnable
from quant.parking import has_function
from quant.sources import ROOT, file_digest

JIT_VARIABLE = "CHIMERA_JIT"
NUMBA_VARIABLES = ("NUMBA_CPU_NAME", "NUMBA_CPU_FEATURES", "NUMBA_ENABLE_AVX", "NUMBA_OPT")
"""Who sets one of them asks for code of his own."""

# What the objects may call: the waiting threads' calls of the system, by the C library's names.
EXTERNALS = ("clock_gettime", "getrusage", "nanosleep", "sched_yield", "syscall")


@dataclass(frozen=True, kw_only=True, slots=True)
class Found:
    """Machine code of a kernel that was made ahead of time."""

    address: int
    level: str
    digest: str
    """Of the object."""


@dataclass(kw_only=True, slots=True, eq=False)
class Objects:
    """The archives that this machine can use, and what was loaded from them."""

    archives: tuple[Archive, ...]
    why_none: str = ""
    """In words, where there is no archive at all."""
    _stale: dict[str, str] = field(default_factory=dict[str, str])
    _loaded: dict[str, Found] = field(default_factory=dict[str, Found])

    def find(self, name: str) -> Found | str:
        """A kernel's code, or why there is none."""
        if name in self._loaded:
            return self._loaded[name]
        why = self.why_none or f"no object of it is made for {', '.join(self.levels)}"
        for archive in self.archives:
            made = archive.objects.get(name)
            if made is None:
                continue
            changed = [archive.sources[place] for place in made.sources]
            stale = [path for path, digest in changed if self._is_changed(path, digest)]
            if stale:
                why = f"its object is older than {stale[0]}"
                continue
            address = _engine().add(name, made.code)
            digest = hashlib.sha256(made.code).hexdigest()
            found = self._loaded[name] = Found(address=address, level=archive.level, digest=digest)
            return found
        return why

    @property
    def levels(self) -> tuple[str, ...]:
        """The levels whose archives are there, best first."""
        return tuple(archive.level for archive in self.archives)

    def _is_changed(self, path: str, digest: str) -> bool:
        if path not in self._stale:
            # A file that is not there is no newer than its object.
            self._stale[path] = file_digest(ROOT / path) or ""
        return self._stale[path] not in ("", digest)


@lru_cache(maxsize=1)
def objects() -> Objects:
    """The objects that this process may use; none where it is told to compile."""
    asked = [name for name in NUMBA_VARIABLES if name in os.environ]
    if os.environ.get(JIT_VARIABLE, "0") not in ("", "0"):
        asked.insert(0, JIT_VARIABLE)
    if asked:
        return Objects(archives=(), why_none=f"{asked[0]}={os.environ[asked[0]]} asks for it")
    if sys.platform != "linux":
        return Objects(archives=(), why_none=f"there are objects for Linux alone, this is {sys.platform}")
    levels = levels_here()
    if not levels:
        return Objects(archives=(), why_none=f"there are no objects for {cpu.architecture()}")
    return open_objects(levels)


def open_objects(levels: tuple[Level, ...], *, folder: Path = FOLDER) -> Objects:
    """The objects of some levels; who asks for them sees to it that this machine can run them."""
    archives: list[Archive] = []
    damaged: list[str] = []
    for level in levels:
        path = path_of(level.name, folder=folder)
        if not path.is_file():
            continue
        try:
            archive = read_archive(path)
            if archive.level != level.name:
                raise ArchiveError(f"{path} holds the objects of {archive.level}")
            archives.append(archive)
        except ArchiveError as error:
            cache.note(f"{error.message}; its kernels are compiled")
            damaged.append(error.message)
    missing = f"there are no objects in {folder}; `make kernels` makes them"
    return Objects(archives=tuple(archives), why_none="" if archives else "; ".join(damaged) or missing)


def levels_here() -> tuple[Level, ...]:
    """The levels whose code this machine can run, best first."""
    features = dict.fromkeys(cpu.machine_features(), True) | cpu.host_features()
    return runnable(cpu.architecture(), features)


class _Engine:
    """llvmlite's loader of objects. What it loaded stays as long as the process."""

    def __init__(self) -> None:
        llvm = cpu.llvm
        llvm.initialize_native_target()
        llvm.initialize_native_asmprinter()
        machine = llvm.Target.from_default_triple().create_target_machine()
        # On ARM parts of an object must not lie far apart, which llvmlite's own memory manager sees to.
        near = cpu.architecture() == "aarch64"
        self._engine: Any = llvm.create_mcjit_compiler(llvm.parse_assembly(""), machine, use_lmm=near)
        library = ctypes.CDLL(None)
        for name in filter(has_function, EXTERNALS):
            llvm.add_symbol(name, ctypes.cast(getattr(library, name), ctypes.c_void_p).value)

    def add(self, name: str, code: bytes) -> int:
        """Load an object and give the address of its kernel."""
        self._engine.add_object_file(cpu.llvm.ObjectFileRef.from_data(code))
        self._engine.finalize_object()
        address = int(self._engine.get_function_address(name))
        assert address, f"the object of {name} holds no such function"
        return address


@lru_cache(maxsize=1)
def _engine() -> _Engine:
    return _Engine()
