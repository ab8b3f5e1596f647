"""Types of vector registers, and the code generation on which `simd.py` and its neighbours stand.

`f32x16` is a register of sixteen float32; `tile(f32x16, 4)` is four of them, handled as one value. The types
are given to functions as arguments (`load(f32x16, address)`), so one helper serves registers of every width.
"""

# pyright: reportMissingTypeStubs=false

from collections.abc import Callable
from typing import Any, cast

from llvmlite import ir as _ir
from numba import extending as _extending
from numba.core import cgutils as _cgutils
from numba.core import types as _types

ir, extending, cgutils, types = cast(Any, _ir), cast(Any, _extending), cast(Any, _cgutils), cast(Any, _types)

intrinsic: Any = extending.intrinsic

i8, i16, i32, i64 = types.int8, types.int16, types.int32, types.int64
u8, u16, u32, u64 = types.uint8, types.uint16, types.uint32, types.uint64
f32, f64 = types.float32, types.float64

EmitOne = Callable[[Any, Any, Any], Any]
EmitTwo = Callable[[Any, Any, Any, Any], Any]
EmitThree = Callable[[Any, Any, Any, Any, Any], Any]
EmitWithNumber = Callable[[Any, Any, Any, int], Any]
EmitConversion = Callable[[Any, Any, Any, Any], Any]
TypeOfOne = Callable[[Any], Any]
TypeOfTwo = Callable[[Any, Any], Any]
TypeOfThree = Callable[[Any, Any, Any], Any]

ELEMENTS: dict[str, tuple[Any, Any]] = {
    "i1": (ir.IntType(1), types.boolean),
    "i8": (ir.IntType(8), i8),
    "i16": (ir.IntType(16), i16),
    "i32": (ir.IntType(32), i32),
    "i64": (ir.IntType(64), i64),
    "f32": (ir.FloatType(), f32),
    "f64": (ir.DoubleType(), f64),
}
"""Element name: its LLVM type and Numba's scalar. Integers carry no sign; functions say how they extend."""


class Vector(types.Type):
    """Type of a register."""

    def __init__(self, element: str, lanes: int) -> None:
        self.element, self.lanes = element, lanes
        types.Type.__init__(self, name=f"{element}x{lanes}")

    @property
    def is_float(self) -> bool:
        return self.element[0] == "f"

    @property
    def register(self) -> "Vector":
        return self

    @property
    def llvm(self) -> Any:
        return ir.VectorType(ELEMENTS[self.element][0], self.lanes)

    @property
    def llvm_name(self) -> str:
        """The type as it stands in the names of LLVM's functions."""
        return f"v{self.lanes}{self.element}"

    @property
    def num_bytes(self) -> int:
        return self.lanes * int(self.element[1:]) // 8

    def shaped_like(self, other: "Vector | Tile") -> "Vector | Tile":
        """This register type, or a tile of it where the other is a tile."""
        return Tile(self, other.count) if isinstance(other, Tile) else self


class Tile(types.Type):
    """Type of several registers held as one value; LLVM keeps them in registers as far as there are any."""

    def __init__(self, register: Vector, count: int) -> None:
        self.register, self.count = register, count
        types.Type.__init__(self, name=f"{register.name}[{count}]")

    @property
    def llvm(self) -> Any:
        return ir.ArrayType(self.register.llvm, self.count)


def vector(element: str, lanes: int) -> Vector:
    return Vector(element, lanes)


def tile(register: Vector, count: int) -> Tile:
    return Tile(register, count)


i8x4, i8x8, i8x16, i8x32, i8x64 = (vector("i8", lanes) for lanes in (4, 8, 16, 32, 64))
i16x4, i16x8, i16x16, i16x32, i16x64 = (vector("i16", lanes) for lanes in (4, 8, 16, 32, 64))
i32x4, i32x8, i32x16, i32x32 = (vector("i32", lanes) for lanes in (4, 8, 16, 32))
i64x4, i64x8, i64x16 = (vector("i64", lanes) for lanes in (4, 8, 16))
f32x4, f32x8, f32x16 = (vector("f32", lanes) for lanes in (4, 8, 16))
f64x4, f64x8, f64x16 = (vector("f64", lanes) for lanes in (4, 8, 16))


@extending.register_model(Vector)
@extending.register_model(Tile)
class _RegisterModel(extending.models.PrimitiveModel):
    def __init__(self, manager: Any, kind: Any) -> None:
        extending.models.PrimitiveModel.__init__(self, manager, kind, kind.llvm)


def pointer(builder: Any, address: Any, llvm_type: Any) -> Any:
    return builder.inttoptr(address, llvm_type.as_pointer())


def load_from(builder: Any, address: Any, llvm_type: Any) -> Any:
    value = builder.load(pointer(builder, address, llvm_type))
    value.align = 1
    return value


def store_to(builder: Any, address: Any, value: Any) -> None:
    builder.store(value, pointer(builder, address, value.type)).align = 1


def constant(llvm_vector: Any, number: int | float) -> Any:
    return ir.Constant(llvm_vector, [number] * llvm_vector.count)


def lanes_of(builder: Any, value: Any, indices: list[int]) -> Any:
    """A register of the chosen lanes of another."""
    picked = ir.Constant(ir.VectorType(ir.IntType(32), len(indices)), indices)
    return builder.shuffle_vector(value, ir.Constant(value.type, ir.Undefined), picked)


def joined(builder: Any, low: Any, high: Any) -> Any:
    """A register of the lanes of one and then those of another."""
    lanes = low.type.count + high.type.count
    return builder.shuffle_vector(
        low, high, ir.Constant(ir.VectorType(ir.IntType(32), lanes), list(range(lanes)))
    )


def by_element(on_integers: str, on_floats: str) -> Callable[..., Any]:
    """Emit one LLVM instruction, named by the kind of the elements."""

    def emit(builder: Any, kind: Vector, *values: Any) -> Any:
        return getattr(builder, on_floats if kind.is_float else on_integers)(*values)

    return emit


def extreme(symbol: str) -> Callable[..., Any]:
    """Emit x where the comparison with y holds, else y."""

    def emit(builder: Any, kind: Vector, x: Any, y: Any) -> Any:
        compare = builder.fcmp_ordered if kind.is_float else builder.icmp_signed
        return builder.select(compare(symbol, x, y), x, y)

    return emit


def llvm_function(name: str) -> Callable[..., Any]:
    """Emit an LLVM intrinsic that any target has; its full name ends in the register's type."""

    def emit(builder: Any, kind: Vector, *values: Any) -> Any:
        return call_llvm(builder, f"llvm.{name}.{kind.llvm_name}", kind.llvm, [*values])

    return emit


def spread(builder: Any, scalar: Any, lanes: int) -> Any:
    """A register with one scalar in every lane."""
    empty = ir.Constant(ir.VectorType(scalar.type, lanes), ir.Undefined)
    return lanes_of(
        builder, builder.insert_element(empty, scalar, ir.Constant(ir.IntType(32), 0)), [0] * lanes
    )


def first_lanes(builder: Any, count: Any, lanes: int) -> Any:
    """A mask of the first `count` lanes; of all where there are fewer."""
    all_lanes = ir.Constant(count.type, lanes)
    known = builder.select(builder.icmp_signed("<", count, all_lanes), count, all_lanes)
    narrow = builder.trunc(known, ir.IntType(32))
    numbers = ir.Constant(ir.VectorType(ir.IntType(32), lanes), list(range(lanes)))
    return builder.icmp_signed("<", numbers, spread(builder, narrow, lanes))


def call_llvm(builder: Any, name: str, result: Any, arguments: list[Any]) -> Any:
    """Call an LLVM intrinsic. The caller has made sure that the target has it."""
    kind = ir.FunctionType(result, [argument.type for argument in arguments])
    return builder.call(cgutils.get_or_insert_function(builder.module, kind, name), arguments)


def map_registers(
    builder: Any, emit: Callable[..., Any], result: "Vector | Tile", *operands: tuple[Any, Any]
) -> Any:
    """Emit lane-wise code once, or once for each register of a tile. Operands are (type, value) pairs."""
    if isinstance(result, Vector):
        return emit(*(value for _, value in operands))
    whole = ir.Constant(result.llvm, ir.Undefined)
    for place in range(result.count):
        parts = [
            builder.extract_value(value, place) if isinstance(kind, Tile) else value
            for kind, value in operands
        ]
        whole = builder.insert_value(whole, emit(*parts), place)
    return whole


def as_value(builder: Any, kind: "Vector | Tile", registers: list[Any]) -> Any:
    """The registers as one value of the type: a tile, or the one register."""
    if isinstance(kind, Vector):
        return registers[0]
    whole = ir.Constant(kind.llvm, ir.Undefined)
    for place, register in enumerate(registers):
        whole = builder.insert_value(whole, register, place)
    return whole


def gather_tile(
    builder: Any, kind: Any, address: Any, stride: Any, *, read: Callable[..., Any] | None = None
) -> Any:
    """Registers from addresses that lie a stride apart, which is a number or a value."""
    whole = ir.Constant(kind.llvm, ir.Undefined)
    for place in range(kind.count):
        at = _step(builder, address, stride, place)
        register = read(at) if read else load_from(builder, at, kind.register.llvm)
        whole = builder.insert_value(whole, register, place)
    return whole


def scatter_tile(builder: Any, kind: Any, value: Any, address: Any, stride: Any) -> None:
    """The registers of a tile, or the one register, to addresses that lie a stride apart."""
    if isinstance(kind, Vector):
        store_to(builder, address, value)
        return
    for place in range(kind.count):
        store_to(builder, _step(builder, address, stride, place), builder.extract_value(value, place))


def _step(builder: Any, address: Any, stride: Any, place: int) -> Any:
    step = ir.Constant(ir.IntType(64), stride) if isinstance(stride, int) else stride
    return builder.add(address, builder.mul(step, ir.Constant(ir.IntType(64), place)))


def same_register(*operands: Any) -> "Vector | Tile | None":
    """Type of a lane-wise result: operands of one register type, tiles of one size among them or not."""
    if not all(
        isinstance(kind, Vector | Tile) and kind.register == operands[0].register for kind in operands
    ):
        return None
    counts = {kind.count for kind in operands if isinstance(kind, Tile)}
    if len(counts) > 1:
        return None
    return Tile(operands[0].register, counts.pop()) if counts else operands[0]


def unary(emit: EmitOne, *, result_of: TypeOfOne = same_register) -> Any:
    """An intrinsic on one register or tile. `emit(builder, type, value)` gives the code for one register."""

    @intrinsic
    def operation(typing_context: Any, x: Any) -> Any:
        return _lanewise(emit, result_of(x), x)

    return operation


def binary(emit: EmitTwo, *, result_of: TypeOfTwo = same_register) -> Any:
    """An intrinsic on two; `emit(builder, type, value, value)`, with the type of the first operand."""

    @intrinsic
    def operation(typing_context: Any, x: Any, y: Any) -> Any:
        return _lanewise(emit, result_of(x, y), x, y)

    return operation


def ternary(emit: EmitThree, *, result_of: TypeOfThree = same_register) -> Any:
    """An intrinsic on three."""

    @intrinsic
    def operation(typing_context: Any, x: Any, y: Any, z: Any) -> Any:
        return _lanewise(emit, result_of(x, y, z), x, y, z)

    return operation


def with_number(emit: EmitWithNumber) -> Any:
    """An intrinsic on one operand and a literal integer; `emit(builder, type, value, number)`."""

    @extending.intrinsic(prefer_literal=True)
    def operation(typing_context: Any, x: Any, number: Any) -> Any:
        if not isinstance(number, types.IntegerLiteral):
            return None
        known = int(number.literal_value)

        def emit_known(builder: Any, kind: Any, value: Any, _: Any) -> Any:
            return emit(builder, kind, value, known)

        return _lanewise(emit_known, same_register(x), x, number)

    return operation


def converting(emit: EmitConversion) -> Any:
    """An intrinsic `(result type, x)`; `emit(builder, type, result type, value)`. A tile gives a tile."""

    @intrinsic
    def operation(typing_context: Any, kind: Any, x: Any) -> Any:
        register = kind.instance_type.register
        result = register.shaped_like(x)

        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            def one(value: Any) -> Any:
                return emit(builder, x.register, register, value)

            return map_registers(builder, one, result, (x, arguments[1]))

        return result(kind, x), generate

    return operation


def register_operator(symbol: Any, emit: Callable[..., Any], *, operands: int = 2) -> None:
    """Let a Python operator work on registers and tiles inside kernels."""

    def typer(context: Any) -> Any:
        def one(x: Any) -> Any:
            return same_register(x)

        def two(x: Any, y: Any) -> Any:
            return same_register(x, y)

        return one if operands == 1 else two

    extending.type_callable(symbol)(typer)
    for kinds in _OPERAND_KINDS[operands]:

        @extending.lower_builtin(symbol, *kinds)
        def lower(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            pairs = list(zip(signature.args, arguments, strict=True))
            kind = pairs[0][0].register
            return map_registers(
                builder, lambda *parts: emit(builder, kind, *parts), signature.return_type, *pairs
            )


_OPERAND_KINDS: dict[int, tuple[Any, ...]] = {
    1: ((Vector,), (Tile,)),
    2: ((Vector, Vector), (Tile, Tile), (Tile, Vector), (Vector, Tile)),
}


def _lanewise(emit: Callable[..., Any], result: Any, *operands: Any) -> Any:
    """What an intrinsic answers: the signature and the generator, or None where the types do not fit."""
    if result is None:
        return None

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        pairs = list(zip(signature.args, arguments, strict=True))
        kind = operands[0].register
        return map_registers(
            builder, lambda *parts: emit(builder, kind, *parts), signature.return_type, *pairs
        )

    return result(*operands), generate
