"""Weights of a vocabulary's scores on registers. The reference says what they are."""

from typing import Any

from quant.jit import helper, kernel
from quant.kernels.arguments import argument
from quant.kernels.elementary.functions import exp
from quant.kernels.vocabulary.places import (
    BEST,
    CHUNK,
    NUM_SCORES,
    SCORES,
    SUMS,
    TEMPERATURE,
    WEIGHT_BITS,
    WEIGHTS,
)
from quant.lanes import add_lanes
from quant.registers import converting, f32x16, f64x16, i32x16, i64, i64x16
from quant.simd import (
    bitcast,
    equal,
    load,
    load_first,
    minimum,
    put,
    select,
    splat,
    store,
    store_first,
    zeros,
)

UNIT = 2.0**WEIGHT_BITS
TWO_52 = 2.0**52

to_double = converting(lambda builder, kind, result, x: builder.fpext(x, result.llvm))
"""`to_double(f64x16, x)`: float32 as float64; exact."""


@helper
def rounded(x: Any) -> Any:
    """The nearest whole number, half to even, of floats from 0 to below 2^52.

    A float64 from 2^52 on has its unit in the last bit, so adding 2^52 rounds, and the bits count from there.
    A vector instruction from floats to int64 is what AVX2 lacks.
    """
    base = splat(f64x16, TWO_52)
    return bitcast(i64x16, to_double(f64x16, x) + base) - bitcast(i64x16, base)


@helper
def weights_of(scores: Any, best: Any, temperature: Any) -> Any:
    shares = exp((scores - best) / temperature)
    sound = select(equal(shares, shares), minimum(shares, splat(f32x16, 1.0)), zeros(f32x16))
    return rounded(sound * splat(f32x16, UNIT))


@kernel
def weights(arguments: int, first: int, last: int) -> None:
    """`first` and `last` count chunks of 4096 ids."""
    scores, found = argument(arguments, SCORES), argument(arguments, WEIGHTS)
    count = argument(arguments, NUM_SCORES)
    best = bitcast(f32x16, splat(i32x16, argument(arguments, BEST)))
    temperature = bitcast(f32x16, splat(i32x16, argument(arguments, TEMPERATURE)))
    for chunk in range(first, last):
        start, end = chunk * CHUNK, min((chunk + 1) * CHUNK, count)
        whole = start + ((end - start) & -16)
        sums = zeros(i64x16)
        for i in range(start, whole, 16):
            w = weights_of(load(f32x16, scores + i * 4), best, temperature)
            store(found + i * 8, w)
            sums = sums + w
        total = add_lanes(sums)
        if whole < end:
            w = weights_of(load_first(f32x16, scores + whole * 4, end - whole), best, temperature)
            store_first(found + whole * 8, w, end - whole)
            # Lanes past the end hold weights of no id.
            for i in range(whole, end):
                total += load(i64, found + i * 8)
        put(i64, argument(arguments, SUMS) + chunk * 8, total)
