"""A head's vectors in memory: blocks of 64 float32, padded with zeros. See the reference."""

from typing import Any

from quant.jit import helper
from quant.kernels.elementary.constants import INFINITY_BITS, NAN_BITS
from quant.kernels.norm.blocks import SIZE_BITS, SMALLEST_MAXIMUM_BITS
from quant.lanes import add_lanes, fold_1, fold_2, fold_4, fold_8, lane, max_lanes, pick
from quant.registers import f32, f32x4, f32x16, i8x16, i32, i32x4, i32x16, tile
from quant.simd import (
    bitcast,
    broadcast,
    load,
    load_first,
    maximum,
    put,
    round_even,
    sign_extend,
    splat,
    square_root,
    store,
    store_first,
    to_float,
    to_integer,
    truncate,
    zeros,
)

HEAD, CODES = tile(f32x16, 4), tile(i8x16, 4)
UNIT_EPS = 1e-6


@helper
def add_in_order(lanes: Any, products: Any) -> Any:
    """The registers of a block one after another."""
    return (((lanes + pick(products, 0)) + pick(products, 1)) + pick(products, 2)) + pick(products, 3)


@helper
def first_in_order(products: Any) -> Any:
    """The same for the first block of a sum."""
    return ((pick(products, 0) + pick(products, 1)) + pick(products, 2)) + pick(products, 3)


@helper
def floats_of(codes: int) -> Any:
    """A block of 64 codes as floats."""
    return to_float(f32x16, sign_extend(i32x16, load(CODES, codes)))


@helper
def dot(x: int, y: int, blocks: int) -> Any:
    lanes = first_in_order(load(HEAD, x) * load(HEAD, y))
    for b in range(1, blocks):
        lanes = add_in_order(lanes, load(HEAD, x + b * 256) * load(HEAD, y + b * 256))
    return add_lanes(lanes)


@helper
def lanes_of_codes(x: int, codes: int, blocks: int) -> Any:
    """Lanes of the sum Σ x · code."""
    lanes = first_in_order(load(HEAD, x) * floats_of(codes))
    for b in range(1, blocks):
        lanes = add_in_order(lanes, load(HEAD, x + b * 256) * floats_of(codes + b * 64))
    return lanes


@helper
def four_sums(x: int, codes: int, stride: int, blocks: int) -> Any:
    """Half added sums with the keys 0, 4, 8 and 12."""
    even = fold_8(lanes_of_codes(x, codes, blocks), lanes_of_codes(x, codes + 8 * stride, blocks))
    codes += 4 * stride
    odd = fold_8(lanes_of_codes(x, codes, blocks), lanes_of_codes(x, codes + 8 * stride, blocks))
    return fold_4(even, odd)


@helper
def sixteen_sums(x: int, codes: int, stride: int, blocks: int) -> Any:
    """The sums of x with sixteen keys; they share the shuffles that one sum would take."""
    first = fold_2(four_sums(x, codes, stride, blocks), four_sums(x, codes + stride, stride, blocks))
    codes += 2 * stride
    second = fold_2(four_sums(x, codes, stride, blocks), four_sums(x, codes + stride, stride, blocks))
    return fold_1(first, second)


@helper
def padded_row(target: int, x: int, count: int, blocks: int) -> None:
    """A head's channels, copied and filled up with zeros."""
    for b in range(blocks):
        store(target + b * 256, load_first(HEAD, x + b * 256, count - b * 64))


@helper
def scaled(target: int, x: int, by: Any, blocks: int) -> None:
    """x times one number, which is in all lanes."""
    for b in range(blocks):
        store(target + b * 256, load(HEAD, x + b * 256) * by)


@helper
def inverse_length(x: int, blocks: int) -> Any:
    """1 / √(Σ x² + ε), in all lanes."""
    return splat(f32x16, 1.0) / square_root(splat(f32x16, dot(x, x, blocks)) + splat(f32x16, UNIT_EPS))


@helper
def rotated(target: int, x: int, sines: int, cosines: int, half: int, blocks: int) -> None:
    """Both halves of the channels turned against each other."""
    for b in range(blocks):
        store(target + b * 256, zeros(HEAD))
    for i in range(0, half, 16):
        left = half - i
        sine, cosine = load_first(f32x16, sines + i * 4, left), load_first(f32x16, cosines + i * 4, left)
        first = load_first(f32x16, x + i * 4, left)
        second = load_first(f32x16, x + (half + i) * 4, left)
        store_first(target + i * 4, first * cosine - second * sine, left)
        store_first(target + (half + i) * 4, second * cosine + first * sine, left)


@helper
def put_codes(codes: int, scale: int, x: int, blocks: int) -> None:
    """int8 codes of a whole head with one scale."""
    sizes = zeros(i32x16)
    for b in range(blocks):
        block = bitcast(i32x16, load(HEAD, x + b * 256)) & splat(i32x16, SIZE_BITS)
        low, high = maximum(pick(block, 0), pick(block, 1)), maximum(pick(block, 2), pick(block, 3))
        sizes = maximum(sizes, maximum(low, high))
    most = max(max_lanes(sizes), SMALLEST_MAXIMUM_BITS)
    largest = bitcast(f32x4, splat(i32x4, most))
    if most < INFINITY_BITS:
        put(f32, scale, lane(largest / splat(f32x4, 127.0), 0))
        inverse = splat(f32x16, lane(splat(f32x4, 127.0) / largest, 0))
        for b in range(blocks):
            whole = to_integer(i32x16, round_even(load(HEAD, x + b * 256) * inverse))
            store(codes + b * 64, truncate(i8x16, whole))
    else:  # CPUs differ in what integer they make of a NaN
        put(i32, scale, INFINITY_BITS if most == INFINITY_BITS else NAN_BITS)
        for b in range(blocks):
            store(codes + b * 64, zeros(CODES))


@helper
def product(target: int, weights: int, x: int, count: int, blocks: int) -> None:
    """A matrix [count inputs, blocks of outputs] times x."""
    for b in range(blocks):
        sums = zeros(HEAD)
        for j in range(count):
            sums = sums + load(HEAD, weights + (j * blocks + b) * 256) * broadcast(f32x16, x + j * 4)
        store(target + b * 256, sums)
