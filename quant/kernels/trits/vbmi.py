"""AVX-512 VBMI: one shuffle turns what is left of a byte without its first digit into four 2-bit codes.

There are 81 such bytes, three apart or more, so the upper seven bits tell them apart: a table of 128 bytes.
"""

from typing import Any

from quant import cpu
from quant.dotproduct import dot_four
from quant.jit import helper, kernel
from quant.kernels.ternary import vnni
from quant.kernels.ternary.product import AHEAD
from quant.kernels.trits.digits import tripled
from quant.kernels.trits.vnni import SUMS_16, TOTALS_16, many_or_one, quotient
from quant.registers import call_llvm, constant, i8x64, i32x16, ir, unary
from quant.simd import bitcast, broadcast, load, prefetch, shift_right_signed, splat, zeros


def _four_codes(byte: int) -> int:
    """Four digits of a byte, the first in the lowest bits."""
    codes = 0
    for place in range(4):
        codes |= (3 * byte >> 8) << (2 * place)
        byte = 3 * byte & 0xFF
    return codes


def _table() -> list[int]:
    entries = [0] * 128
    for x in range(81):
        byte = 3 * -(-256 * x // 243) & 0xFF
        entries[byte >> 1] = _four_codes(byte)
    return entries


def _codes_of(builder: Any, kind: Any, x: Any) -> Any:
    if cpu.target().has("avx512vbmi") and kind.num_bytes == 64:
        low, high = (ir.Constant(kind.llvm, _table()[half : half + 64]) for half in (0, 64))
        # The shuffle reads seven bits of each byte, so what comes in from the neighbour does no harm.
        shorts = ir.VectorType(ir.IntType(16), kind.lanes // 2)
        index = builder.lshr(builder.bitcast(x, shorts), constant(shorts, 1))
        given = [low, builder.bitcast(index, kind.llvm), high]
        return call_llvm(builder, "llvm.x86.avx512.vpermi2var.qi.512", kind.llvm, given)
    codes = ir.Constant(kind.llvm, None)
    for place in range(4):
        for bound in (85, 170):
            more = builder.icmp_unsigned(">", x, constant(kind.llvm, bound))
            one = builder.zext(more, kind.llvm)
            codes = builder.add(codes, builder.shl(one, constant(kind.llvm, 2 * place)))
        x = builder.mul(x, constant(kind.llvm, 3))
    return codes


codes_of = unary(_codes_of)
"""Bytes that begin with the second digit → the four digits that are left, as the fields of a 2-bit tile."""


@helper
def five_sums(w: int, q: int) -> Any:
    now, then, ones = zeros(i32x16), zeros(i32x16), zeros(i32x16)
    fours, sixteens, sixty_fours = zeros(i32x16), zeros(i32x16), zeros(i32x16)
    for u in range(16):
        b, x = load(i8x64, w + u * 128), q + u * 4
        prefetch(w + u * 128 + AHEAD)
        now = dot_four(now, b, broadcast(i32x16, x))
        b = tripled(b)
        then = dot_four(then, b, broadcast(i32x16, x))
        v = bitcast(i32x16, codes_of(b))
        ones = dot_four(ones, v & splat(i32x16, 0x03030303), broadcast(i32x16, x + 64))
        fours = dot_four(fours, v & splat(i32x16, 0x0C0C0C0C), broadcast(i32x16, x + 128))
        sixteens = dot_four(sixteens, v & splat(i32x16, 0x30303030), broadcast(i32x16, x + 192))
        sixty_fours = dot_four(sixty_fours, v & splat(i32x16, 0xC0C0C0C0), broadcast(i32x16, x + 256))
    shifted = shift_right_signed(fours, 2), shift_right_signed(sixteens, 4)
    return quotient(now, then), ones, shifted[0], shifted[1], shift_right_signed(sixty_fours, 6)


@kernel
def matmul(arguments: int, first: int, last: int) -> None:
    many_or_one(five_sums, vnni.pair_sums, SUMS_16, TOTALS_16, 16, arguments, first, last)
