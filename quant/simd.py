"""Vector functions for kernels: memory, arithmetic, comparison and conversion of registers and tiles.

Operators + - * / & | ^ and unary minus work lane by lane, as all functions here do; a register beside a tile
serves each of the tile's registers. Addresses are int64 and need no alignment. Nothing is ever fused,
reordered or approximated, so the bits are the same on every CPU; what some target lacks is spelled out.
The types stand in `registers.py`, what moves lanes about in `lanes.py`.
"""

import operator
from typing import Any

from quant import cpu
from quant.registers import (
    ELEMENTS,
    Tile,
    Vector,
    as_value,
    binary,
    by_element,
    call_llvm,
    constant,
    converting,
    extreme,
    first_lanes,
    gather_tile,
    intrinsic,
    ir,
    llvm_function,
    load_from,
    map_registers,
    pointer,
    register_operator,
    same_register,
    scatter_tile,
    spread,
    store_to,
    ternary,
    types,
    unary,
    with_number,
)


@intrinsic
def load(typing_context: Any, kind: Any, address: Any) -> Any:
    """`load(f32x16, address)`: a register, a tile of consecutive registers, or a scalar (`load(i32, …)`)."""
    result = kind.instance_type

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        if isinstance(result, Tile):
            return gather_tile(builder, result, arguments[1], result.register.num_bytes)
        return load_from(builder, arguments[1], context.get_data_type(result))

    return result(kind, types.int64), generate


@intrinsic
def load_strided(typing_context: Any, kind: Any, address: Any, stride: Any) -> Any:
    """A tile whose registers lie `stride` bytes apart."""
    result = kind.instance_type

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return gather_tile(builder, result, arguments[1], arguments[2])

    return result(kind, types.int64, types.int64), generate


@intrinsic
def broadcast(typing_context: Any, kind: Any, address: Any) -> Any:
    """A register with the one element at the address in every lane."""
    result = kind.instance_type

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return spread(builder, load_from(builder, arguments[1], ELEMENTS[result.element][0]), result.lanes)

    return result(kind, types.int64), generate


@intrinsic
def broadcast_strided(typing_context: Any, kind: Any, address: Any, stride: Any) -> Any:
    """A tile; each register holds one element in every lane, and the elements lie `stride` bytes apart."""
    result = kind.instance_type

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        def one(at: Any) -> Any:
            register = result.register
            return spread(builder, load_from(builder, at, ELEMENTS[register.element][0]), register.lanes)

        return gather_tile(builder, result, arguments[1], arguments[2], read=one)

    return result(kind, types.int64, types.int64), generate


@intrinsic
def store(typing_context: Any, address: Any, value: Any) -> Any:
    """Write a register, or the registers of a tile one after another. Scalars go by `put`."""
    if not isinstance(value, Vector | Tile):
        return None

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        scatter_tile(builder, value, arguments[1], arguments[0], value.register.num_bytes)
        return context.get_dummy_value()

    return types.void(types.int64, value), generate


@intrinsic
def store_strided(typing_context: Any, address: Any, value: Any, stride: Any) -> Any:
    """Write the registers of a tile `stride` bytes apart."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        scatter_tile(builder, value, arguments[1], arguments[0], arguments[2])
        return context.get_dummy_value()

    return types.void(types.int64, value, types.int64), generate


@intrinsic
def load_first(typing_context: Any, kind: Any, address: Any, count: Any) -> Any:
    """The first `count` elements of a register or a tile and zeros after them; those need not exist."""
    result = kind.instance_type

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        register, (_, start, left) = result.register, arguments
        name = f"llvm.masked.load.{register.llvm_name}.p0"
        parts: list[Any] = []
        for place in range(result.count if isinstance(result, Tile) else 1):
            at = builder.add(start, ir.Constant(start.type, place * register.num_bytes))
            there = builder.sub(left, ir.Constant(left.type, place * register.lanes))
            mask = first_lanes(builder, there, register.lanes)
            given = [pointer(builder, at, register.llvm), mask, ir.Constant(register.llvm, None)]
            parts.append(call_llvm(builder, name, register.llvm, given))
        return as_value(builder, result, parts)

    return result(kind, types.int64, types.int64), generate


@intrinsic
def store_first(typing_context: Any, address: Any, value: Any, count: Any) -> Any:
    """Write the first `count` elements of a register or a tile, and nothing after them."""
    if not isinstance(value, Vector | Tile):
        return None

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        register, (start, _, left) = value.register, arguments
        name = f"llvm.masked.store.{register.llvm_name}.p0"
        for place in range(value.count if isinstance(value, Tile) else 1):
            part = builder.extract_value(arguments[1], place) if isinstance(value, Tile) else arguments[1]
            at = builder.add(start, ir.Constant(start.type, place * register.num_bytes))
            there = builder.sub(left, ir.Constant(left.type, place * register.lanes))
            mask = first_lanes(builder, there, register.lanes)
            call_llvm(builder, name, ir.VoidType(), [part, pointer(builder, at, register.llvm), mask])
        return context.get_dummy_value()

    return types.void(types.int64, value, types.int64), generate


@intrinsic
def put(typing_context: Any, kind: Any, address: Any, value: Any) -> Any:
    """`put(f32, address, value)` writes a scalar, converted to the type that is named."""
    scalar = kind.instance_type

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        store_to(builder, arguments[1], context.cast(builder, arguments[2], value, scalar))
        return context.get_dummy_value()

    return types.void(kind, types.int64, value), generate


@intrinsic
def splat(typing_context: Any, kind: Any, number: Any) -> Any:
    """A register, or a tile of them, with a number, converted to the element's type, in every lane."""
    result = kind.instance_type

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        scalar = context.cast(builder, arguments[1], number, ELEMENTS[result.register.element][1])
        register = spread(builder, scalar, result.register.lanes)
        return map_registers(builder, _itself, result, (result.register, register))

    return result(kind, number), generate


def _itself(register: Any) -> Any:
    return register


@intrinsic
def zeros(typing_context: Any, kind: Any) -> Any:
    """A register or a tile of zeros."""
    result = kind.instance_type

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return ir.Constant(result.llvm, None)

    return result(kind), generate


@intrinsic
def prefetch(typing_context: Any, address: Any) -> Any:
    """Ask for the cache line at an address, which need not exist."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        place = pointer(builder, arguments[0], ir.IntType(8))
        read, keep_in_all_caches, data = (ir.Constant(ir.IntType(32), number) for number in (0, 3, 1))
        call_llvm(builder, "llvm.prefetch.p0", ir.VoidType(), [place, read, keep_in_all_caches, data])
        return context.get_dummy_value()

    return types.void(types.int64), generate


@intrinsic(prefer_literal=True)
def scratch(typing_context: Any, num_bytes: Any) -> Any:
    """Address of some bytes on the stack, aligned to 64, for as long as the kernel runs.

    The size is known when compiling.
    """
    size = num_bytes.literal_value

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        with builder.goto_entry_block():
            place = builder.alloca(ir.ArrayType(ir.IntType(8), size))
            place.align = 64
        return builder.ptrtoint(place, ir.IntType(64))

    return types.int64(num_bytes), generate


register_operator(operator.add, by_element("add", "fadd"))
register_operator(operator.sub, by_element("sub", "fsub"))
register_operator(operator.mul, by_element("mul", "fmul"))
for _symbol, _on_integers, _on_floats in (
    ("truediv", "", "fdiv"),
    ("and_", "and_", ""),
    ("or_", "or_", ""),
    ("xor", "xor", ""),
):
    register_operator(getattr(operator, _symbol), by_element(_on_integers, _on_floats))
register_operator(operator.neg, by_element("neg", "fneg"), operands=1)

shift_left = with_number(lambda builder, kind, x, by: builder.shl(x, constant(kind.llvm, by)))
shift_right = with_number(lambda builder, kind, x, by: builder.lshr(x, constant(kind.llvm, by)))
shift_right_signed = with_number(lambda builder, kind, x, by: builder.ashr(x, constant(kind.llvm, by)))


def _absolute(builder: Any, kind: Any, x: Any) -> Any:
    if kind.is_float:
        return llvm_function("fabs")(builder, kind, x)
    return llvm_function("abs")(builder, kind, x, ir.Constant(ir.IntType(1), 0))


def _round_even(builder: Any, kind: Any, x: Any) -> Any:
    if cpu.target().has("sse4.1") or cpu.target().architecture == "aarch64":
        return llvm_function("rint")(builder, kind, x)
    # Plain x86-64 has no rounding instruction, and LLVM would call libm. Adding 2^23 (2^52) to a smaller
    # number and taking it away rounds to an integer, half to even; the sign is put back for the sake of -0.
    limit = constant(kind.llvm, 2.0 ** (23 if kind.element == "f32" else 52))
    size = llvm_function("fabs")(builder, kind, x)
    whole = builder.fsub(builder.fadd(size, limit), limit)
    signed = llvm_function("copysign")(builder, kind, whole, x)
    return builder.select(builder.fcmp_ordered("<", size, limit), signed, x)


absolute = unary(_absolute)
"""Size without the sign; the smallest integer stays as it is."""

square_root = unary(llvm_function("sqrt"))
"""Correctly rounded square root of floats."""

round_even = unary(_round_even)
"""Nearest integer as a float, half to even."""


def _compare(symbol: str) -> Any:
    def emit(builder: Any, kind: Any, x: Any, y: Any) -> Any:
        return (builder.fcmp_ordered if kind.is_float else builder.icmp_signed)(symbol, x, y)

    def mask(x: Any, y: Any) -> Any:
        same = same_register(x, y)
        return None if same is None else Vector("i1", same.register.lanes).shaped_like(same)

    return binary(emit, result_of=mask)


# Masks are registers of i1. A comparison with NaN is false; integers are signed.
less = _compare("<")
less_equal = _compare("<=")
greater = _compare(">")
greater_equal = _compare(">=")
equal = _compare("==")


def _select_type(mask: Any, x: Any, y: Any) -> Any:
    same = same_register(x, y)
    fits = same is not None and mask == Vector("i1", same.register.lanes).shaped_like(same)
    return same if fits else None


select = ternary(lambda builder, kind, mask, x, y: builder.select(mask, x, y), result_of=_select_type)
"""`select(mask, x, y)`: lanes of x where the mask is set, else of y."""


minimum = binary(extreme("<"))
"""x where x < y, else y: so y where either is NaN."""

maximum = binary(extreme(">"))
"""x where x > y, else y: so y where either is NaN."""

# The first argument names the register type of the result: `to_float(f32x16, x)`.
to_float = converting(lambda builder, kind, result, x: builder.sitofp(x, result.llvm))
to_integer = converting(lambda builder, kind, result, x: builder.fptosi(x, result.llvm))
"""Towards zero. What does not fit the integer has no defined result: clamp it before."""
sign_extend = converting(lambda builder, kind, result, x: builder.sext(x, result.llvm))
zero_extend = converting(lambda builder, kind, result, x: builder.zext(x, result.llvm))
truncate = converting(lambda builder, kind, result, x: builder.trunc(x, result.llvm))
bitcast = converting(lambda builder, kind, result, x: builder.bitcast(x, result.llvm))


def _half_to_float(builder: Any, kind: Any, result: Any, x: Any) -> Any:
    if cpu.target().has("f16c") or cpu.target().architecture == "aarch64":
        return builder.fpext(builder.bitcast(x, ir.VectorType(ir.HalfType(), kind.lanes)), result.llvm)
    # Without the instruction LLVM would call a library function, so the bits are moved by hand. Subnormal
    # halves are integers times 2^-24, exact in float32, and not subnormal there.
    wide = ir.VectorType(ir.IntType(32), kind.lanes)
    bits = builder.zext(x, wide)
    size = builder.and_(bits, constant(wide, 0x7FFF))
    sign = builder.shl(builder.and_(bits, constant(wide, 0x8000)), constant(wide, 16))
    normal = builder.add(builder.shl(size, constant(wide, 13)), constant(wide, 112 << 23))
    special = builder.or_(builder.shl(size, constant(wide, 13)), constant(wide, 0x7F800000))
    quiet = builder.select(  # an instruction gives a quiet NaN for a signalling one
        builder.icmp_signed(">", size, constant(wide, 0x7C00)),
        builder.or_(special, constant(wide, 1 << 22)),
        special,
    )
    small = builder.fmul(builder.sitofp(size, result.llvm), constant(result.llvm, 2.0**-24))
    is_small = builder.icmp_signed("<", size, constant(wide, 0x0400))
    is_finite = builder.icmp_signed("<", size, constant(wide, 0x7C00))
    chosen = builder.select(is_small, builder.bitcast(small, wide), builder.select(is_finite, normal, quiet))
    return builder.bitcast(builder.or_(chosen, sign), result.llvm)


half_to_float = converting(_half_to_float)
"""`half_to_float(f32x16, x)`: float16 bits, held as i16, as float32; exact."""
