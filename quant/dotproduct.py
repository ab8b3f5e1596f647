"""Products of 8-bit integers: the instruction where the target has it, else the same arithmetic spelled out.

So any form of a kernel gives the right integers on any target, only slowly on the wrong one, and no
instruction can be asked of a CPU that lacks it. Bytes may come as i8 or as i32 registers of the same size.
"""

from typing import Any

from quant import cpu
from quant.registers import Vector, binary, call_llvm, ir, joined, lanes_of, same_register, ternary, unary


def _bytes(builder: Any, value: Any, kind: Any) -> Any:
    return builder.bitcast(value, ir.VectorType(ir.IntType(8), kind.num_bytes))


def _dealt(builder: Any, value: Any, *, hands: int, bits: int, signed: bool) -> list[Any]:
    """Lanes 0, hands, 2·hands, … widened to one register; then lanes 1, 1 + hands, …; and so on."""
    lanes = value.type.count // hands
    wide = ir.VectorType(ir.IntType(bits), lanes)
    extend = builder.sext if signed else builder.zext
    return [
        extend(lanes_of(builder, value, list(range(first, lanes * hands, hands))), wide)
        for first in range(hands)
    ]


def _sum_of_products(builder: Any, xs: list[Any], ys: list[Any]) -> Any:
    total = builder.mul(xs[0], ys[0])
    for x, y in zip(xs[1:], ys[1:], strict=True):
        total = builder.add(total, builder.mul(x, y))
    return total


def _in_pieces(builder: Any, name: str, result: Any, *operands: Any) -> Any:
    """An instruction on each part of registers that are longer than its own; it keeps their size in bytes."""
    bits = result.element.width * result.count
    count = operands[0].type.element.width * operands[0].type.count // bits
    parts: list[Any] = []
    for place in range(count):
        values: list[Any] = []
        for value in operands:
            size = bits // value.type.element.width
            values.append(lanes_of(builder, value, list(range(place * size, (place + 1) * size))))
        parts.append(call_llvm(builder, name, result, values))
    while len(parts) > 1:
        parts = [joined(builder, low, high) for low, high in zip(parts[::2], parts[1::2], strict=True)]
    return parts[0]


def _dot_four(builder: Any, kind: Any, sums: Any, unsigned: Any, signed: Any) -> Any:
    u, s = _bytes(builder, unsigned, kind), _bytes(builder, signed, kind)
    if cpu.target().has("avx512vnni") and cpu.target().has("avx512vl"):
        return call_llvm(builder, f"llvm.x86.avx512.vpdpbusd.{8 * kind.num_bytes}", kind.llvm, [sums, u, s])
    if cpu.target().has("avxvnni") and kind.num_bytes % 32 == 0:
        return _in_pieces(
            builder, "llvm.x86.avx512.vpdpbusd.256", ir.VectorType(ir.IntType(32), 8), sums, u, s
        )
    us = _dealt(builder, u, hands=4, bits=32, signed=False)
    return builder.add(sums, _sum_of_products(builder, us, _dealt(builder, s, hands=4, bits=32, signed=True)))


dot_four = ternary(_dot_four, result_of=lambda sums, unsigned, signed: sums)
"""`dot_four(sums, unsigned, signed)`: add to each int32 the products of its four bytes of either kind."""


# Feature, intrinsic, lanes of its result; the longest first.
_PAIRS = (
    ("avx512bw", "llvm.x86.avx512.pmaddubs.w.512", 32),
    ("avx2", "llvm.x86.avx2.pmadd.ub.sw", 16),
    ("ssse3", "llvm.x86.ssse3.pmadd.ub.sw.128", 8),
)
_SIGNS = (("avx2", "llvm.x86.avx2.psign.b", 32), ("ssse3", "llvm.x86.ssse3.psign.b.128", 16))


def _dot_pairs(builder: Any, kind: Any, unsigned: Any, signed: Any) -> Any:
    u, s = _bytes(builder, unsigned, kind), _bytes(builder, signed, kind)
    for feature, name, lanes in _PAIRS:
        if cpu.target().has(feature) and kind.num_bytes % (2 * lanes) == 0:
            return _in_pieces(builder, name, ir.VectorType(ir.IntType(16), lanes), u, s)
    us = _dealt(builder, u, hands=2, bits=16, signed=False)
    return _sum_of_products(builder, us, _dealt(builder, s, hands=2, bits=16, signed=True))


def _type_of_pairs(unsigned: Any, signed: Any) -> Any:
    same = same_register(unsigned, signed)
    return None if same is None else Vector("i16", same.register.num_bytes // 2).shaped_like(same)


dot_pairs = binary(_dot_pairs, result_of=_type_of_pairs)
"""`dot_pairs(unsigned, signed)`: int16 sums of two products of bytes. The caller sees to it that they fit:
the instruction saturates, the spelled-out form wraps."""


def _dot_wide_pairs(builder: Any, kind: Any, x: Any, y: Any) -> Any:
    if cpu.target().has("avx512bw") and kind.lanes % 32 == 0:
        return _in_pieces(builder, "llvm.x86.avx512.pmaddw.d.512", ir.VectorType(ir.IntType(32), 16), x, y)
    if cpu.target().has("avx2") and kind.lanes % 16 == 0:
        return _in_pieces(builder, "llvm.x86.avx2.pmadd.wd", ir.VectorType(ir.IntType(32), 8), x, y)
    if cpu.target().architecture == "x86_64" and kind.lanes % 8 == 0:
        return _in_pieces(builder, "llvm.x86.sse2.pmadd.wd", ir.VectorType(ir.IntType(32), 4), x, y)
    xs = _dealt(builder, x, hands=2, bits=32, signed=True)
    return _sum_of_products(builder, xs, _dealt(builder, y, hands=2, bits=32, signed=True))


def _type_of_wide_pairs(x: Any, y: Any) -> Any:
    same = same_register(x, y)
    return None if same is None else Vector("i32", same.register.lanes // 2).shaped_like(same)


dot_wide_pairs = binary(_dot_wide_pairs, result_of=_type_of_wide_pairs)
"""`dot_wide_pairs(x, y)`: int32 sums of two products of int16."""


def _with_sign_of(builder: Any, kind: Any, x: Any, sign: Any) -> Any:
    a, b = _bytes(builder, x, kind), _bytes(builder, sign, kind)
    for feature, name, num_bytes in _SIGNS:
        if cpu.target().has(feature) and kind.num_bytes == num_bytes:
            return builder.bitcast(call_llvm(builder, name, a.type, [a, b]), kind.llvm)
    zero = ir.Constant(a.type, None)
    turned = builder.select(builder.icmp_signed("<", b, zero), builder.sub(zero, a), a)
    return builder.bitcast(builder.select(builder.icmp_signed("==", b, zero), zero, turned), kind.llvm)


with_sign_of = binary(_with_sign_of)
"""`with_sign_of(x, sign)`: bytes x, negated where the byte of `sign` is negative, zero where it is zero."""


def _settle(builder: Any, kind: Any, x: Any) -> Any:
    fits = cpu.target().has("avx2") and kind.num_bytes == 32
    if not fits and not (cpu.target().has("ssse3") and kind.num_bytes == 16):
        return x
    return builder.asm(ir.FunctionType(kind.llvm, [kind.llvm]), "", "=x,0", [x], False)


settle = unary(_settle)
"""The same value, through which LLVM does not see. It would else regroup the integer sums of several steps
of a loop where there are sixteen registers, and need more: with AVX2 many tokens take a third longer."""
