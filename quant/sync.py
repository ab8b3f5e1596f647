"""How threads meet inside kernels: atomic integers at aligned addresses, and a pause for spinning."""

from typing import Any

from quant import cpu
from quant.registers import call_llvm, intrinsic, ir, pointer, types

_I64 = ir.IntType(64)


@intrinsic
def atomic_load(typing_context: Any, address: Any) -> Any:
    """An int64 at an aligned address; what its writer wrote before it is seen after it (acquire)."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.load_atomic(pointer(builder, arguments[0], _I64), "acquire", 8)

    return types.int64(types.int64), generate


@intrinsic
def atomic_store(typing_context: Any, address: Any, value: Any) -> Any:
    """Write an int64 to an aligned address, after all that was written before (release)."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        builder.store_atomic(arguments[1], pointer(builder, arguments[0], _I64), "release", 8)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), generate


@intrinsic
def atomic_add(typing_context: Any, address: Any, value: Any) -> Any:
    """Add to an int64 at an aligned address and give what was there before (sequentially consistent)."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.atomic_rmw("add", pointer(builder, arguments[0], _I64), arguments[1], "seq_cst")

    return types.int64(types.int64, types.int64), generate


@intrinsic
def atomic_exchange(typing_context: Any, address: Any, value: Any) -> Any:
    """Replace an int64 at an aligned address and give what was there before (sequentially consistent)."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.atomic_rmw("xchg", pointer(builder, arguments[0], _I64), arguments[1], "seq_cst")

    return types.int64(types.int64, types.int64), generate


@intrinsic
def atomic_compare_exchange(typing_context: Any, address: Any, expected: Any, value: Any) -> Any:
    """Replace an int64 if it is what is expected; give what was there before (sequentially consistent)."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        place = pointer(builder, arguments[0], _I64)
        pair = builder.cmpxchg(place, arguments[1], arguments[2], "seq_cst", "seq_cst")
        return builder.extract_value(pair, 0)

    return types.int64(types.int64, types.int64, types.int64), generate


@intrinsic
def pause(typing_context: Any) -> Any:
    """Tell the core that this is a spinning loop."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        match cpu.target().architecture:
            case "x86_64":
                call_llvm(builder, "llvm.x86.sse2.pause", ir.VoidType(), [])
            case "aarch64":
                call_llvm(builder, "llvm.aarch64.hint", ir.VoidType(), [ir.Constant(ir.IntType(32), 1)])
            case _:
                builder.fence("seq_cst")
        return context.get_dummy_value()

    return types.void(), generate
