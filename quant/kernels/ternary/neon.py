"""NEON without dot product: products of bytes are added to int16 sums, which are widened once a block.

An instruction multiplies the codes of 2 rows and 16 inputs. A product is 3·128 = 384 at most in size, and 16
of them meet in an int16 sum: 6144. Fields are shifted and masked: left where they stand, each would need
sums of its own, and more registers than there are.
"""

from typing import Any

from quant.jit import helper, kernel
from quant.kernels.arguments import NUM_TOKENS, argument
from quant.kernels.ternary.product import AHEAD, many_tokens, one_token
from quant.lanes import broadcast_lane, join, pair_of, repeat, sum_of_neighbours
from quant.neon import add_pairs, products
from quant.registers import f32x16, i8x32, i8x64, i16x32, i16x64, i32x4, i32x8, i32x16, i32x32, tile
from quant.simd import bitcast, load, load_strided, prefetch, shift_right, splat, zeros

SUMS_4, TOTALS_4 = tile(i32x16, 4), tile(f32x16, 4)
TOKENS_4, NARROW_4, HALVES_4 = tile(i32x4, 4), tile(i16x32, 4), tile(i32x16, 4)


@helper
def four_inputs(x: Any, place: int) -> Any:
    """Four inputs over and over, for 16 rows."""
    return bitcast(i8x64, repeat(i32x16, broadcast_lane(x, place)))


@helper
def four_inputs_half(x: Any, place: int) -> Any:
    """The same for 8 rows."""
    return bitcast(i8x32, repeat(i32x8, broadcast_lane(x, place)))


@helper
def block_sums(w: int, q: int, start: int) -> Any:
    """The sums of 16 rows over one block."""
    narrow, field = zeros(i16x64), splat(i8x64, 3)
    for t in range(4):
        v, x = load(i8x64, w + t * 128), load(i32x4, q + t * 16)
        prefetch(w + t * 128 + AHEAD)
        narrow = narrow + products(v & field, four_inputs(x, 0))
        narrow = narrow + products(shift_right(v, 2) & field, four_inputs(x, 1))
        narrow = narrow + products(shift_right(v, 4) & field, four_inputs(x, 2))
        narrow = narrow + products(shift_right(v, 6), four_inputs(x, 3))
    return sum_of_neighbours(add_pairs(zeros(i32x32), narrow)) + splat(i32x16, start)


@helper
def pair_sums(w: int, q: int, start: int) -> Any:
    return pair_of(block_sums(w, q, start), block_sums(w + 64, q, start))


@helper
def eight_rows(w: int, q: int, q_stride: int) -> Any:
    """Σ code · q of 8 rows over one block for four tokens, which share the masks and shifts."""
    narrow, field = zeros(NARROW_4), splat(i8x32, 3)
    for t in range(4):
        v, x = load(i8x32, w + t * 128), load_strided(TOKENS_4, q + t * 16, q_stride)
        narrow = narrow + products(v & field, four_inputs_half(x, 0))
        narrow = narrow + products(shift_right(v, 2) & field, four_inputs_half(x, 1))
        narrow = narrow + products(shift_right(v, 4) & field, four_inputs_half(x, 2))
        narrow = narrow + products(shift_right(v, 6), four_inputs_half(x, 3))
    return sum_of_neighbours(add_pairs(zeros(HALVES_4), narrow))


@helper
def tile_sums(kind: Any, w: int, q: int, q_stride: int, start: Any) -> Any:
    """Four tokens, whatever the kind."""
    return start + join(eight_rows(w, q, q_stride), eight_rows(w + 32, q, q_stride))


@kernel
def matmul(arguments: int, first: int, last: int) -> None:
    for pair in range(first, last):
        token = many_tokens(tile_sums, SUMS_4, TOTALS_4, 4, arguments, pair, 0)
        for alone in range(token, argument(arguments, NUM_TOKENS)):
            one_token(pair_sums, arguments, pair, alone)
