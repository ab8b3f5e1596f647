"""Any CPU: vectors of int16 products, which LLVM makes of whatever the target has.

A product is 3·128 = 384 at most in size, and 16 of them meet in an int16 sum: 6144.
"""

from typing import Any

from quant.dotproduct import dot_wide_pairs
from quant.jit import helper, kernel
from quant.kernels.arguments import NUM_TOKENS, argument
from quant.kernels.ternary.product import AHEAD, one_token
from quant.lanes import pair_of, repeat, sum_of_neighbours
from quant.registers import i8x4, i8x64, i16x4, i16x64, i32x16
from quant.simd import bitcast, load, prefetch, shift_right, sign_extend, splat, zero_extend, zeros


@helper
def block_sums(w: int, q: int, start: int) -> Any:
    """The sums of 16 rows over one block."""
    narrow, field = zeros(i16x64), splat(i32x16, 0x03030303)
    for t in range(4):
        v = load(i32x16, w + t * 128)
        prefetch(w + t * 128 + AHEAD)
        for c in range(0, 16, 4):
            x = repeat(i16x64, sign_extend(i16x4, load(i8x4, q + t * 16 + c)))
            narrow = narrow + zero_extend(i16x64, bitcast(i8x64, v & field)) * x
            v = shift_right(v, 2)
    return sum_of_neighbours(dot_wide_pairs(narrow, splat(i16x64, 1))) + splat(i32x16, start)


@helper
def pair_sums(w: int, q: int, start: int) -> Any:
    return pair_of(block_sums(w, q, start), block_sums(w + 64, q, start))


@kernel
def matmul(arguments: int, first: int, last: int) -> None:
    for pair in range(first, last):
        for token in range(argument(arguments, NUM_TOKENS)):
            one_token(pair_sums, arguments, pair, token)
