"""What threads ask of the operating system from inside a kernel: the time, the core for others, sleep.

Each is a call of the C library by name. A system that lacks one gets nothing in its place, which
`quant.parking` tells, and a pool has one thread there.
"""

import sys
from typing import Any

from quant import cpu
from quant.parking import FUTEX_CALLS, has_function, has_futex
from quant.registers import cgutils, intrinsic, ir, pointer, types

_FUTEX_WAIT_PRIVATE, _FUTEX_WAKE_PRIVATE = 128, 129
_EVERYBODY = 0x7FFFFFFF

_MONOTONIC_CLOCK = 6 if sys.platform == "darwin" else 1
_OF_THIS_THREAD = 1
_USAGE_WORDS, _USAGE_INVOLUNTARY_SWITCHES = 18, 17  # in `struct rusage`, where all members have 8 bytes

_I8, _I32, _I64 = ir.IntType(8), ir.IntType(32), ir.IntType(64)


@intrinsic
def now_ns(typing_context: Any) -> Any:
    """A clock that never goes back."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        if not has_function("clock_gettime"):
            return ir.Constant(_I64, 0)
        time = cgutils.alloca_once(builder, ir.ArrayType(_I64, 2))
        _call(builder, "clock_gettime", _I32, [ir.Constant(_I32, _MONOTONIC_CLOCK), time])
        seconds, rest = (builder.load(cgutils.gep_inbounds(builder, time, 0, word)) for word in (0, 1))
        return builder.add(builder.mul(seconds, ir.Constant(_I64, 1_000_000_000)), rest)

    return types.int64(), generate


@intrinsic
def yield_core(typing_context: Any) -> Any:
    """Let another thread have this core, if one wants it."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        if has_function("sched_yield"):
            _call(builder, "sched_yield", _I32, [])
        return context.get_dummy_value()

    return types.void(), generate


@intrinsic
def nap(typing_context: Any, nanoseconds: Any) -> Any:
    """Sleep for less than a second, or until a signal comes."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        if has_function("nanosleep"):
            time = _less_than_a_second(builder, arguments[0])
            _call(builder, "nanosleep", _I32, [time, ir.Constant(_I8.as_pointer(), None)])
        return context.get_dummy_value()

    return types.void(types.int64), generate


@intrinsic
def futex_wait(typing_context: Any, address: Any, expected: Any) -> Any:
    """Sleep while the low half of an int64 is as expected; it may end for no reason."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        _futex(builder, arguments[0], _FUTEX_WAIT_PRIVATE, builder.trunc(arguments[1], _I32))
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), generate


@intrinsic
def futex_wait_for(typing_context: Any, address: Any, expected: Any, nanoseconds: Any) -> Any:
    """The same, and for so long at most, which is less than a second."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        time = _less_than_a_second(builder, arguments[2])
        _futex(builder, arguments[0], _FUTEX_WAIT_PRIVATE, builder.trunc(arguments[1], _I32), time)
        return context.get_dummy_value()

    return types.void(*[types.int64] * 3), generate


@intrinsic
def futex_wake(typing_context: Any, address: Any) -> Any:
    """Wake everybody who sleeps at an address."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        _futex(builder, arguments[0], _FUTEX_WAKE_PRIVATE, ir.Constant(_I32, _EVERYBODY))
        return context.get_dummy_value()

    return types.void(types.int64), generate


@intrinsic
def times_displaced(typing_context: Any) -> Any:
    """How often this thread had to leave its core while it wanted to go on; −1 where nobody counts."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        if sys.platform != "linux" or not has_function("getrusage"):
            return ir.Constant(_I64, -1)
        usage = cgutils.alloca_once(builder, ir.ArrayType(_I64, _USAGE_WORDS))
        _call(builder, "getrusage", _I32, [ir.Constant(_I32, _OF_THIS_THREAD), usage])
        return builder.load(cgutils.gep_inbounds(builder, usage, 0, _USAGE_INVOLUNTARY_SWITCHES))

    return types.int64(), generate


@intrinsic
def call_worker(
    typing_context: Any, address: Any, table: Any, thread: Any, num_threads: Any, block: Any
) -> Any:
    """Call a kernel of four int64, given by the address that `jit.native_address` tells."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        # Numba's own convention: places for a result and an exception first, of which a kernel has none.
        place = _I8.as_pointer()
        unused = [cgutils.alloca_once(builder, place) for _ in range(2)]
        kind = ir.FunctionType(_I32, [place.as_pointer(), place.as_pointer(), *[_I64] * 4])
        builder.call(pointer(builder, arguments[0], kind), [*unused, *arguments[1:]])
        return context.get_dummy_value()

    return types.void(*[types.int64] * 5), generate


def _less_than_a_second(builder: Any, nanoseconds: Any) -> Any:
    """A `struct timespec` on the stack."""
    time = cgutils.alloca_once(builder, ir.ArrayType(_I64, 2))
    builder.store(ir.Constant(_I64, 0), cgutils.gep_inbounds(builder, time, 0, 0))
    builder.store(nanoseconds, cgutils.gep_inbounds(builder, time, 0, 1))
    return time


def _futex(builder: Any, address: Any, operation: int, value: Any, time: Any = None) -> None:
    if has_futex(cpu.target().architecture):
        number, nothing = ir.Constant(_I64, FUTEX_CALLS[cpu.target().architecture]), ir.Constant(_I64, 0)
        until = nothing if time is None else time
        parts = [address, ir.Constant(_I32, operation), value, until, nothing, nothing]
        kind = ir.FunctionType(_I64, [_I64], var_arg=True)
        builder.call(cgutils.get_or_insert_function(builder.module, kind, "syscall"), [number, *parts])


def _call(builder: Any, name: str, result: Any, arguments: list[Any]) -> None:
    kind = ir.FunctionType(result, [argument.type for argument in arguments])
    builder.call(cgutils.get_or_insert_function(builder.module, kind, name), arguments)
