"""Products of bytes as ARM's NEON has them: the instruction where the target has it, else the same arithmetic
spelled out, as in `dotproduct.py`. Both factors are signed.
"""

from collections.abc import Callable
from typing import Any

from quant import cpu
from quant.registers import Vector, binary, call_llvm, ir, joined, lanes_of, same_register, ternary


def _in_parts(builder: Any, count: int, emit: Callable[..., Any], *operands: Any) -> Any:
    """What `emit` makes of each of so many parts of the operands, put together again."""

    def part_of(value: Any, place: int) -> Any:
        size = value.type.count // count
        return lanes_of(builder, value, list(range(place * size, (place + 1) * size)))

    parts = [emit(*(part_of(value, place) for value in operands)) for place in range(count)]
    while len(parts) > 1:
        parts = [joined(builder, low, high) for low, high in zip(parts[::2], parts[1::2], strict=True)]
    return parts[0]


def _every(builder: Any, value: Any, *, step: int, wide: Any) -> list[Any]:
    """Lanes 0, step, 2·step, … widened; then lanes 1, 1 + step, …; and so on."""
    places = [list(range(first, value.type.count, step)) for first in range(step)]
    kind = ir.VectorType(wide, value.type.count // step)
    return [builder.sext(lanes_of(builder, value, place), kind) for place in places]


def _bytes(builder: Any, value: Any, kind: Any) -> Any:
    return builder.bitcast(value, ir.VectorType(ir.IntType(8), kind.num_bytes))


def _dot_four_signed(builder: Any, kind: Any, sums: Any, x: Any, y: Any) -> Any:
    a, b = _bytes(builder, x, kind), _bytes(builder, y, kind)
    if cpu.target().has("dotprod") and kind.lanes % 4 == 0:
        result = ir.VectorType(ir.IntType(32), 4)
        name = "llvm.aarch64.neon.sdot.v4i32.v16i8"
        return _in_parts(
            builder, kind.lanes // 4, lambda *part: call_llvm(builder, name, result, [*part]), sums, a, b
        )
    wide = ir.IntType(32)
    for one, other in zip(
        _every(builder, a, step=4, wide=wide), _every(builder, b, step=4, wide=wide), strict=True
    ):
        sums = builder.add(sums, builder.mul(one, other))
    return sums


dot_four_signed = ternary(_dot_four_signed, result_of=lambda sums, x, y: sums)
"""`dot_four_signed(sums, x, y)`: add to each int32 the products of its four bytes of either."""


def _products(builder: Any, kind: Any, x: Any, y: Any) -> Any:
    if cpu.target().has("neon") and kind.lanes % 8 == 0:
        result = ir.VectorType(ir.IntType(16), 8)
        name = "llvm.aarch64.neon.smull.v8i16"
        return _in_parts(
            builder, kind.lanes // 8, lambda *part: call_llvm(builder, name, result, [*part]), x, y
        )
    wide = ir.VectorType(ir.IntType(16), kind.lanes)
    return builder.mul(builder.sext(x, wide), builder.sext(y, wide))


def _type_of_products(x: Any, y: Any) -> Any:
    same = same_register(x, y)
    return None if same is None else Vector("i16", same.register.lanes).shaped_like(same)


products = binary(_products, result_of=_type_of_products)
"""`products(x, y)`: int16 products of bytes. Added to a register they are one instruction with the sum."""


def _add_pairs(builder: Any, kind: Any, sums: Any, narrow: Any) -> Any:
    if cpu.target().has("neon") and kind.lanes % 4 == 0:
        result = ir.VectorType(ir.IntType(32), 4)
        name = "llvm.aarch64.neon.saddlp.v4i32.v8i16"
        pairs = _in_parts(
            builder, kind.lanes // 4, lambda *part: call_llvm(builder, name, result, [*part]), narrow
        )
        return builder.add(sums, pairs)
    even, odd = _every(builder, narrow, step=2, wide=ir.IntType(32))
    return builder.add(sums, builder.add(even, odd))


def _type_of_sums(sums: Any, narrow: Any) -> Any:
    fits = narrow.register == Vector("i16", 2 * sums.register.lanes)
    return sums if fits and sums.register.element == "i32" else None


add_pairs = binary(_add_pairs, result_of=_type_of_sums)
"""`add_pairs(sums, narrow)`: add to each int32 two neighbouring int16."""
