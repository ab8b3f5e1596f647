"""Kernels by name, and their machine code: out of an object made ahead of time, or else compiled here.

Who knows a kernel by its name alone loads neither its module nor Numba; both come in only where there is no
object for this machine, where the source is newer than the object, or where CHIMERA_JIT asks for it.
"""

import ctypes
import hashlib
import importlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal, TypeAlias, cast

from quant import cpu
from quant.ahead import loader

Origin: TypeAlias = Literal["object", "compiled"]


@dataclass(frozen=True, slots=True)
class NamedKernel:
    """A kernel by the name of its module and its own. Called, it is found or compiled, and run."""

    module: str
    name: str
    num_arguments: int = 3

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"

    def __call__(self, *arguments: int) -> int:
        return code_of(self).call(*arguments)

    def function(self) -> Callable[..., Any]:
        """The compiler's own, whose module is imported for it."""
        return cast("Callable[..., Any]", getattr(importlib.import_module(self.module), self.name))


class KernelsOf:
    """The kernels of a module by their names, as if it were imported."""

    def __init__(self, module: str) -> None:
        self._module = module

    def __getattr__(self, name: str) -> NamedKernel:
        return NamedKernel(self._module, name)


Kernel: TypeAlias = NamedKernel | Callable[..., Any]
"""By its name, or the compiler's own."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Code:
    """A kernel's machine code."""

    address: int
    """In Numba's calling convention, also where it comes from an object."""
    call: Callable[..., int]
    origin: Origin
    reason: str
    """The level of the object, or why there is none."""
    identity: str
    """What names this code among all others, here and on other machines."""


def address_of(kernel: Kernel) -> int:
    """Address of a kernel of (arguments, first, last), found or compiled now; good as long as the process."""
    assert _num_arguments(kernel) == 3, "a kernel that is called by address takes (arguments, first, last)"
    return code_of(kernel).address


@cache
def code_of(kernel: Kernel) -> Code:
    """A kernel's code, from wherever it comes."""
    if isinstance(kernel, NamedKernel):
        found = loader.objects().find(str(kernel))
        if isinstance(found, loader.Found):
            return Code(
                address=found.address,
                call=caller(found.address, kernel.num_arguments),
                origin="object",
                reason=found.level,
                identity=f"{found.digest[:16]}-{_machine()}",
            )
        return _compiled(kernel.function(), reason=found)
    return _compiled(kernel, reason="it is given as a function")


def is_ready(kernel: Kernel) -> bool:
    """True when a kernel needs no compiler here and now."""
    if isinstance(kernel, NamedKernel):
        if isinstance(loader.objects().find(str(kernel)), loader.Found):
            return True
        kernel = kernel.function()
    from quant import jit

    return jit.is_compiled(kernel)


def _compiled(function: Callable[..., Any], *, reason: str) -> Code:
    from quant import jit

    return Code(
        address=jit.native_address(function),
        call=cast("Callable[..., int]", function),
        origin="compiled",
        reason=reason,
        identity=jit.identity(function),
    )


def _num_arguments(kernel: Kernel) -> int:
    if isinstance(kernel, NamedKernel):
        return kernel.num_arguments
    return int(cast(Any, kernel).py_func.__code__.co_argcount)


@cache
def _prototype(num_arguments: int) -> Any:
    """Numba's calling convention: places for a result and an exception, of which a kernel has none."""
    places = [ctypes.c_void_p, ctypes.c_void_p]
    return ctypes.CFUNCTYPE(ctypes.c_int32, *places, *[ctypes.c_int64] * num_arguments)


def caller(address: int, num_arguments: int) -> Callable[..., int]:
    """A function of Python's that runs code without holding the interpreter."""
    function = _prototype(num_arguments)(address)
    exception = ctypes.c_int64()
    nowhere = ctypes.addressof(exception)

    def call(*arguments: int, _held: Any = exception) -> int:
        result = ctypes.c_int64()
        function(ctypes.addressof(result), nowhere, *arguments)
        return result.value

    return call


@cache
def _machine() -> str:
    """What names this CPU: a check that was passed on one says nothing of another."""
    features = sorted(name for name, is_there in cpu.host_features().items() if is_there)
    words = [cpu.architecture(), str(cpu.llvm.get_host_cpu_name()), *features]
    return hashlib.sha256("\n".join(words).encode()).hexdigest()[:16]
