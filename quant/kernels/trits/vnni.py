"""AVX-512 VNNI and AVX-VNNI: no digit is ever taken out. As 256·dₖ = 3·bₖ − bₖ₊₁, the sum over a block is

    Σ dₖ·q = (3·Σ bₖ·q − Σ bₖ₊₁·q) / 256

and every b is an unsigned byte, as the instruction wants it. The division is exact.
"""

from typing import Any

from quant.dotproduct import dot_four
from quant.jit import helper, kernel
from quant.kernels.arguments import NUM_TOKENS, argument
from quant.kernels.ternary import avxvnni, vnni
from quant.kernels.ternary.product import AHEAD
from quant.kernels.trits.digits import tripled
from quant.kernels.trits.panel import PANEL_BYTES, panel_tokens
from quant.kernels.trits.product import one_token
from quant.lanes import join
from quant.registers import f32x16, i8x32, i8x64, i32x8, i32x16, tile
from quant.simd import (
    broadcast,
    broadcast_strided,
    load,
    prefetch,
    scratch,
    shift_right_signed,
    zeros,
)

SUMS_16, TOTALS_16 = tile(i32x16, 16), tile(f32x16, 16)
SUMS_4, TOTALS_4 = tile(i32x16, 4), tile(f32x16, 4)


@helper
def quotient(now: Any, then: Any) -> Any:
    """Σ digit · q from Σ b · q with the bytes before and after the digit is taken off."""
    return shift_right_signed(now + now + now - then, 8)


@helper
def chain(words: Any, bytes_of: Any, w: int, q: int) -> Any:
    """Σ code · q over each of five blocks, for as many rows as a register has."""
    n0, n1, n2, n3, n4 = zeros(words), zeros(words), zeros(words), zeros(words), zeros(words)
    t0, t1, t2, t3, t4 = zeros(words), zeros(words), zeros(words), zeros(words), zeros(words)
    for u in range(16):
        b = load(bytes_of, w + u * 128)
        prefetch(w + u * 128 + AHEAD)
        x = broadcast(words, q + u * 4)
        n0 = dot_four(n0, b, x)
        b = tripled(b)
        t0 = dot_four(t0, b, x)
        x = broadcast(words, q + u * 4 + 64)
        n1 = dot_four(n1, b, x)
        b = tripled(b)
        t1 = dot_four(t1, b, x)
        x = broadcast(words, q + u * 4 + 128)
        n2 = dot_four(n2, b, x)
        b = tripled(b)
        t2 = dot_four(t2, b, x)
        x = broadcast(words, q + u * 4 + 192)
        n3 = dot_four(n3, b, x)
        b = tripled(b)
        t3 = dot_four(t3, b, x)
        x = broadcast(words, q + u * 4 + 256)
        n4 = dot_four(n4, b, x)
        t4 = dot_four(t4, tripled(b), x)
    return quotient(n0, t0), quotient(n1, t1), quotient(n2, t2), quotient(n3, t3), quotient(n4, t4)


@helper
def five_sums(w: int, q: int) -> Any:
    return chain(i32x16, i8x64, w, q)


@helper
def five_sums_halved(w: int, q: int) -> Any:
    """In registers of 32 bytes, eight rows after the other eight: ten sums and no more have room."""
    a0, a1, a2, a3, a4 = chain(i32x8, i8x32, w, q)
    b0, b1, b2, b3, b4 = chain(i32x8, i8x32, w + 32, q)
    return join(a0, b0), join(a1, b1), join(a2, b2), join(a3, b3), join(a4, b4)


@helper
def tile_sums(kind: Any, panel: int, q: int, q_stride: int, start: Any) -> Any:
    sums = start
    for u in range(16):
        v = load(i32x16, panel + u * 64)
        sums = dot_four(sums, v, broadcast_strided(kind, q + u * 4, q_stride))
    return sums


@helper
def many_or_one(
    five: Any,
    pair_sums: Any,
    sums_kind: Any,
    totals_kind: Any,
    at_once: int,
    arguments: int,
    first: int,
    last: int,
) -> None:
    """Tokens in whole tiles by the panel, and the others one by one."""
    panel, num_tokens = scratch(PANEL_BYTES), argument(arguments, NUM_TOKENS)
    tiled = num_tokens // at_once * at_once
    for pair in range(first, last):
        if tiled > 0:
            panel_tokens(tile_sums, sums_kind, totals_kind, at_once, arguments, panel, pair, 0, tiled)
        for token in range(tiled, num_tokens):
            one_token(five, pair_sums, arguments, pair, token)


@kernel
def matmul(arguments: int, first: int, last: int) -> None:
    many_or_one(five_sums, vnni.pair_sums, SUMS_16, TOTALS_16, 16, arguments, first, last)


@kernel
def matmul_avxvnni(arguments: int, first: int, last: int) -> None:
    many_or_one(five_sums_halved, avxvnni.pair_sums, SUMS_4, TOTALS_4, 4, arguments, first, last)
