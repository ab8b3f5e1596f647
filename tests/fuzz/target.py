"""What a search needs of a loader: valid inputs, changes that know the format, a call that judges itself."""

import atexit
import os
import random
import resource
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TypeAlias

from configs.errors import ChimeraError

Mutate: TypeAlias = Callable[[bytes, random.Random], bytes]
SCRATCH = "CHIMERA_FUZZ_SCRATCH"
"""The variable that names a folder for what loaders are given. libFuzzer leaves no time to tidy up."""
# Beyond what stands when the first input comes.
MEMORY_BYTES = 1 << 30
ROOT = Path(__file__).resolve().parents[2]
SEPARATOR = b"\n\x00--file--\x00\n"


@dataclass(frozen=True, kw_only=True, slots=True)
class Target:
    """A loader. `load` raises nothing but `refusals`, and asserts what must hold of what it took."""

    name: str
    load: Callable[[bytes], None]
    seeds: Callable[[], list[bytes]]
    """Inputs from which the search sets out; the first is valid."""
    mutate: Mutate
    refusals: tuple[type[ChimeraError], ...]
    sources: tuple[str, ...]
    """The modules whose branches count as reached."""
    max_bytes: int = 1 << 16


def refusal(target: Target, data: bytes) -> str | None:
    """The words with which a loader refuses an input; None if it takes it. Any other error goes on."""
    try:
        target.load(data)
    except target.refusals as error:
        words = str(error)
    else:
        return None
    assert words.strip(), "a refusal without words"
    return words


def joined(files: Mapping[str, bytes], names: tuple[str, ...]) -> bytes:
    """Several files as one input, in the order of `names`; one that is not there is empty."""
    return SEPARATOR.join(files.get(name, b"") for name in names)


def separated(data: bytes, names: tuple[str, ...]) -> dict[str, bytes]:
    """The files of an input. What is too little or too much is left out."""
    return dict(zip(names, data.split(SEPARATOR), strict=False))


def limit_memory() -> None:
    """Let the process have little more memory, so that a loader that asks for much fails and is noticed."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + MEMORY_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (limit, resource.getrlimit(resource.RLIMIT_AS)[1]))


@cache
def _scratch() -> Path:
    """The folder that SCRATCH names, for the caller to remove, or one that goes with this process."""
    if SCRATCH in os.environ:
        return Path(os.environ[SCRATCH])
    folder = tempfile.mkdtemp(prefix="chimera-fuzz-", dir=memory_folder())
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)


def memory_folder() -> str | None:
    """A place for files in memory, where the system has one."""
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


def scratch(name: str) -> Path:
    """A path in a folder for what loaders are given."""
    return _scratch() / name


def put(name: str, data: bytes) -> Path:
    """A file in the scratch folder, written anew."""
    path = scratch(name)
    path.write_bytes(data)
    return path
