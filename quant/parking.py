"""How threads can wait for each other on this system."""

import ctypes
import sys
from functools import cache, lru_cache
from typing import Literal

from quant import cpu

Parking = Literal["futex", "naps", "none"]
"""How a thread waits long: woken by the kernel, by naps that grow, or not at all."""

# Linux numbers its calls by architecture; the C library has no name for this one.
FUTEX_CALLS: dict[str, int] = {"x86_64": 202, "aarch64": 98}


@lru_cache(maxsize=1)
def parkings() -> tuple[Parking, ...]:
    """The ways of waiting that this system has, best first."""
    if not all(map(has_function, ("sched_yield", "nanosleep", "clock_gettime"))) or sys.maxsize < 1 << 62:
        return ("none",)
    return ("futex", "naps") if has_futex(cpu.architecture()) else ("naps",)


def has_futex(architecture: str) -> bool:
    """Whether code for an architecture can sleep until it is woken, on this system."""
    return sys.platform == "linux" and architecture in FUTEX_CALLS and has_function("syscall")


@cache
def has_function(name: str) -> bool:
    """LLVM ends the process when code calls what it cannot find, so each function is looked for first."""
    return hasattr(ctypes.CDLL(None), name)
