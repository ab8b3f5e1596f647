"""The vector functions against NumPy: with this machine's instructions, and spelled out for one with none."""

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from quant import cpu, jit
from quant.cpu import Target
from quant.dotproduct import dot_four, dot_pairs, dot_wide_pairs, settle, with_sign_of
from quant.jit import kernel
from quant.lanes import (
    add_lanes,
    broadcast_lane,
    fold_1,
    fold_2,
    fold_4,
    fold_8,
    high_half,
    join,
    lane,
    low_half,
    max_lanes,
    min_lanes,
    pair_of,
    pick,
    repeat,
    sum_of_neighbours,
    swap_lanes,
)
from quant.registers import (
    f32,
    f32x4,
    f32x8,
    f32x16,
    i8x16,
    i8x32,
    i16x16,
    i16x32,
    i32,
    i32x4,
    i32x8,
    i32x16,
    i64,
    tile,
)
from quant.simd import (
    absolute,
    bitcast,
    broadcast,
    broadcast_strided,
    equal,
    greater,
    half_to_float,
    less,
    load,
    load_strided,
    maximum,
    minimum,
    put,
    round_even,
    scratch,
    select,
    shift_left,
    shift_right,
    shift_right_signed,
    sign_extend,
    splat,
    square_root,
    store,
    store_strided,
    to_float,
    to_integer,
    truncate,
    zero_extend,
    zeros,
)
from quant.sync import atomic_add, atomic_compare_exchange, atomic_exchange, atomic_load, atomic_store, pause

FOUR_I = tile(i32x8, 4)
THREE_F = tile(f32x4, 3)
Run = Callable[..., None]


@pytest.fixture(params=["this machine", "no instructions"])
def run(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Compiles a kernel anew and runs it on arrays. Numba's target is this machine's in both cases."""
    if request.param == "no instructions":
        bare = Target(architecture="other", name="none", features=frozenset(), origin="a test")
        monkeypatch.setattr(cpu, "target", lambda: bare)

    def call(function: Callable[..., Any], *arrays: NDArray[Any]) -> None:
        jit.fresh(function)(*(array.ctypes.data for array in arrays))

    return call


@kernel
def halves(source: int, result: int) -> None:
    for i in range(65536 // 16):
        store(result + i * 64, half_to_float(f32x16, load(i16x16, source + i * 32)))


def test_every_half_becomes_the_same_float(run: Run) -> None:
    bits = np.arange(65536, dtype=np.uint16)
    result = np.zeros(65536, dtype=np.float32)
    run(halves, bits, result)
    expected = bits.view(np.float16).astype(np.float32)
    numbers = ~np.isnan(expected)
    assert np.array_equal(result[numbers].view(np.uint32), expected[numbers].view(np.uint32))
    nan = (bits[~numbers].astype(np.uint32) & 0x8000) << 16 | (bits[~numbers].astype(np.uint32) & 0x3FF) << 13
    assert np.array_equal(result[~numbers].view(np.uint32), nan | 0x7FC00000), (
        "a NaN is quiet, its payload kept"
    )


@kernel
def floats(a: int, b: int, result: int) -> None:
    x, y = load(f32x16, a), load(f32x16, b)
    store(result, x + y)
    store(result + 64, x - y)
    store(result + 128, x * y)
    store(result + 192, x / y)
    store(result + 256, -x)
    store(result + 320, square_root(absolute(x)))
    store(result + 384, round_even(x))
    store(result + 448, minimum(x, y))
    store(result + 512, maximum(x, y))
    store(result + 576, select(less(x, y), x, splat(f32x16, 0.1)))
    store(result + 640, select(equal(x, y), x, y))


def test_float_arithmetic(run: Run) -> None:
    x = np.array(
        [0.5, 1.5, 2.5, -0.5, -2.5, -0.0, 0.0, 1e-45, 8388607.5, -8388609, 3e38, np.inf, np.nan, 1, 7, -3.7],
        dtype=np.float32,
    )
    y = np.array(
        [1, -0.0, 0.0, 3, np.nan, 0.0, -0.0, 1e-45, 2, 2, 3e38, np.inf, 1, 1, 1e-38, 9], dtype=np.float32
    )
    result = np.zeros((11, 16), dtype=np.float32)
    run(floats, x, y, result)
    with np.errstate(all="ignore"):
        expected = [
            x + y, x - y, x * y, x / y, -x, np.sqrt(np.abs(x)), np.rint(x),
            np.where(x < y, x, y), np.where(x > y, x, y), np.where(x < y, x, np.float32(0.1)),
            np.where(x == y, x, y),
        ]  # fmt: skip
    for number, (found, right) in enumerate(zip(result, expected, strict=True)):
        is_nan = np.isnan(right)
        assert np.array_equal(np.isnan(found), is_nan), number
        assert np.array_equal(found[~is_nan].view(np.uint32), right[~is_nan].view(np.uint32)), number


@kernel
def integers(a: int, b: int, result: int) -> None:
    x, y = load(i32x16, a), load(i32x16, b)
    store(result, x + y)
    store(result + 64, x - y)
    store(result + 128, x * y)
    store(result + 192, x & y)
    store(result + 256, x | y)
    store(result + 320, x ^ y)
    store(result + 384, shift_left(x, 3))
    store(result + 448, shift_right(x, 3))
    store(result + 512, shift_right_signed(x, 3))
    store(result + 576, absolute(x))
    store(result + 640, select(greater(x, y), x, y))


def test_integer_arithmetic(run: Run) -> None:
    x, y = np.random.default_rng(0).integers(-(2**31), 2**31, (2, 16), dtype=np.int32)
    x[0] = -(2**31)
    result = np.zeros((11, 16), dtype=np.int32)
    run(integers, x, y, result)
    unsigned = x.view(np.uint32)
    with np.errstate(over="ignore"):
        expected = [
            x + y, x - y, x * y, x & y, x | y, x ^ y, x << 3, (unsigned >> 3).view(np.int32), x >> 3,
            np.abs(x), np.maximum(x, y),
        ]  # fmt: skip
    assert np.array_equal(result, np.array(expected))


@kernel
def products(u: int, s: int, words: int, result: int) -> None:
    x, y = load(i32x8, u), load(FOUR_I, s)
    store(result, dot_four(splat(FOUR_I, 5), x, y))
    store(result + 128, dot_pairs(y, x))
    store(result + 256, dot_pairs(x, load(i32x8, s)))
    store(result + 288, dot_wide_pairs(load(i16x16, words), load(i16x16, words + 32)))
    store(result + 320, with_sign_of(load(i8x32, s), load(i8x32, s + 32)))
    store(result + 352, dot_wide_pairs(load(i16x32, words), load(i16x32, words)))
    store(result + 416, settle(dot_four(zeros(i32x16), load(i32x16, u), load(i32x16, s))))


def test_products_of_bytes(run: Run) -> None:
    rng = np.random.default_rng(1)
    u = rng.integers(0, 256, 64, dtype=np.uint8)
    s = rng.integers(-128, 128, 128, dtype=np.int8)
    s[32:36] = [0, -128, 1, -1]
    words = rng.integers(-32768, 32768, 32, dtype=np.int16)
    result = np.zeros(480, dtype=np.uint8)
    # dot_pairs is held to sums that fit: small factors on one side each time.
    small, codes = (s // 64).astype(np.int8), (u & 3).astype(np.uint8)
    run(products, codes, small, words, result)
    wide = codes[:32].astype(np.int64) * small.reshape(4, 32).astype(np.int64)
    assert np.array_equal(result[:128].view(np.int32), 5 + wide.reshape(32, 4).sum(1))
    turned = small.view(np.uint8).reshape(4, 32).astype(np.int64) * codes[:32].astype(np.int64)
    assert np.array_equal(result[128:256].view(np.int16), turned.reshape(64, 2).sum(1))
    assert np.array_equal(result[256:288].view(np.int16), wide[0].reshape(16, 2).sum(1))
    pairs = words[:16].astype(np.int64) * words[16:].astype(np.int64)
    assert np.array_equal(result[288:320].view(np.int32), pairs.reshape(8, 2).sum(1))
    signed = small[:32].astype(np.int64) * np.sign(small[32:64].astype(np.int64))
    assert np.array_equal(result[320:352].view(np.int8), signed.astype(np.int8))
    squares = (words.astype(np.int64) ** 2).reshape(16, 2).sum(1).astype(np.uint32).view(np.int32)
    assert np.array_equal(result[352:416].view(np.int32), squares)
    whole = codes.astype(np.int64) * small[:64].astype(np.int64)
    assert np.array_equal(result[416:480].view(np.int32), whole.reshape(16, 4).sum(1))


@kernel
def moves(a: int, result: int) -> None:
    x = load(f32x8, a)
    store(result, join(high_half(x), low_half(x)))
    store(result + 32, swap_lanes(x, 1))
    store(result + 64, broadcast_lane(x, 5))
    store(result + 96, repeat(f32x16, x))
    store(result + 160, sum_of_neighbours(x))
    put(f32, result + 176, lane(x, 3))
    put(f32, result + 180, add_lanes(x))
    put(f32, result + 184, max_lanes(x))
    put(f32, result + 188, min_lanes(x))
    store(result + 192, pick(pair_of(x, -x), 1))


def test_lanes_move(run: Run) -> None:
    x = np.random.default_rng(2).standard_normal(8, dtype=np.float32)
    result = np.zeros(56, dtype=np.float32)
    run(moves, x, result)
    halves = x[:4] + x[4:]
    quarters = halves[:2] + halves[2:]
    total = quarters[0] + quarters[1]
    swapped = x.reshape(4, 2)[:, ::-1].ravel()
    scalars = [x[3], total, x.max(), x.min()]
    expected = [np.roll(x, 4), swapped, np.full(8, x[5]), x, x, x[::2] + x[1::2], scalars, -x]
    assert np.array_equal(result, np.concatenate(expected, dtype=np.float32))


@kernel
def sums_of_sixteen(a: int, result: int) -> None:
    """One after another, and all at once."""
    for i in range(16):
        put(f32, result + i * 4, add_lanes(load(f32x16, a + i * 64)))
    for half in range(2):
        for quarter in range(2):
            x = a + (2 * half + quarter) * 64
            even = fold_8(load(f32x16, x), load(f32x16, x + 8 * 64))
            odd = fold_8(load(f32x16, x + 4 * 64), load(f32x16, x + 12 * 64))
            store(result + 64 + quarter * 64, fold_4(even, odd))
        both = fold_2(load(f32x16, result + 64), load(f32x16, result + 128))
        store(result + 192 + half * 64, both)
    store(result + 64, fold_1(load(f32x16, result + 192), load(f32x16, result + 256)))


def test_sixteen_sums_at_once_are_those_of_each(run: Run) -> None:
    rng = np.random.default_rng(5)
    x = rng.standard_normal((16, 16), dtype=np.float32) * np.exp2(rng.integers(-9, 9, (16, 16)))
    result = np.zeros(80, dtype=np.float32)
    run(sums_of_sixteen, x.astype(np.float32), result)
    assert len(set(result[:16].tolist())) == 16
    assert np.array_equal(result[:16], result[16:32])


@kernel
def conversions(a: int, b: int, result: int) -> None:
    store(result, to_float(f32x16, load(i32x16, a)))
    store(result + 64, to_integer(i32x8, load(f32x8, b)))
    store(result + 96, sign_extend(i32x16, load(i8x16, a)))
    store(result + 160, zero_extend(i32x16, load(i8x16, a)))
    store(result + 224, truncate(i8x16, load(i32x16, a)))
    store(result + 240, bitcast(i32x4, load(f32x4, b)))


def test_conversions(run: Run) -> None:
    a = np.random.default_rng(3).integers(-(2**31), 2**31, 16, dtype=np.int32)
    b = np.array([1.9, -1.9, 2e9, -2147483648, 0.0, 16777217, -0.4, 3e-40], dtype=np.float32)
    result = np.zeros(256, dtype=np.uint8)
    run(conversions, a, b, result)
    small = a.view(np.int8)[:16]
    assert np.array_equal(result[:64].view(np.float32), a.astype(np.float32))
    assert np.array_equal(result[64:96].view(np.int32), b.astype(np.int32))
    assert np.array_equal(result[96:160].view(np.int32), small.astype(np.int32))
    assert np.array_equal(result[160:224].view(np.int32), small.view(np.uint8).astype(np.int32))
    assert np.array_equal(result[224:240].view(np.int8), a.astype(np.int8))
    assert np.array_equal(result[240:].view(np.int32), b[:4].view(np.int32))


@kernel
def memory(a: int, result: int) -> None:
    local = scratch(64)
    store(local, load(f32x16, a + 1))
    store(result, load(f32x16, local))
    three = load_strided(THREE_F, a, 20)
    store(result + 64, three * broadcast(f32x4, a))
    store_strided(result + 112, broadcast_strided(THREE_F, a, 8), 32)
    put(i32, result + 208, load(i64, a))


def test_memory_may_be_read_and_written_anywhere(run: Run) -> None:
    raw = np.random.default_rng(4).integers(0, 64, 96, dtype=np.uint8)
    result = np.zeros(53, dtype=np.float32)
    run(memory, raw, result)
    a = raw.view(np.float32)
    assert np.array_equal(result[:16].view(np.uint32), raw[1:65].copy().view(np.uint32))
    assert np.array_equal(result[16:28], np.concatenate([a[0:4], a[5:9], a[10:14]]) * a[0])
    for place, number in enumerate((a[0], a[2], a[4])):
        start = 28 + 8 * place
        assert np.array_equal(result[start : start + 4], np.full(4, number))
        assert not result[start + 4 : start + 8].any()
    assert result[52:].view(np.uint32) == raw[:4].view(np.uint32)


@kernel
def count_up(counter: int, times: int) -> None:
    for _ in range(times):
        atomic_add(counter, 1)


@kernel
def exchanges(cell: int, seen: int) -> int:
    atomic_store(cell, 5)
    put(i64, seen, atomic_exchange(cell, 6))
    put(i64, seen + 8, atomic_compare_exchange(cell, 6, 7))
    put(i64, seen + 16, atomic_compare_exchange(cell, 6, 8))
    pause()
    return atomic_load(cell)


def test_atomics_count_every_step_of_every_thread() -> None:
    jit.prepare(count_up)
    counter = np.zeros(1, dtype=np.int64)
    threads = [threading.Thread(target=count_up, args=(counter.ctypes.data, 100_000)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert counter[0] == 400_000


def test_atomics_give_what_was_there() -> None:
    cell, seen = np.zeros(1, dtype=np.int64), np.zeros(3, dtype=np.int64)
    assert exchanges(cell.ctypes.data, seen.ctypes.data) == 7
    assert seen.tolist() == [5, 6, 7]
