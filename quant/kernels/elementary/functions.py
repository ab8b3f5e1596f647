"""The elementary functions on registers: the operations of the reference, in the same order.

`x` is a register of sixteen float32. Each operation is rounded on its own, so the order and the grouping are
the definition; do not simplify them.
"""

from typing import Any

from quant.jit import helper
from quant.kernels.elementary.constants import (
    COS,
    EXP,
    EXP_HIGHEST,
    EXP_LOWEST,
    INFINITY_BITS,
    LN2_HIGH,
    LN2_LOW,
    LOG,
    LOG2_E,
    NAN_BITS,
    ONE_BITS,
    RADIANS,
    SIGN_BIT,
    SIN,
    SMALLEST_NORMAL,
    SQRT_HALF_BITS,
    TANH,
    TANH_BORDER,
    TWO_23,
)
from quant.registers import f32x16, i32x16, i64x16
from quant.simd import (
    absolute,
    bitcast,
    equal,
    greater,
    less,
    maximum,
    minimum,
    round_even,
    select,
    shift_left,
    shift_right,
    shift_right_signed,
    splat,
    to_float,
    to_integer,
    truncate,
    zeros,
)

E0, E1, E2, E3, E4 = EXP
L0, L1, L2, L3, L4 = LOG
T0, T1, T2, T3, T4 = TANH
S0, S1, S2, S3 = SIN
C0, C1, C2 = COS
HALVED_TURN = 1 << 61


@helper
def number(value: float) -> Any:
    return splat(f32x16, value)


@helper
def canonical(x: Any) -> Any:
    """The same numbers, and the one NaN of ours where there is any."""
    return select(equal(x, x), x, bitcast(f32x16, splat(i32x16, NAN_BITS)))


@helper
def power_of_two(n: Any) -> Any:
    return bitcast(f32x16, shift_left(n + splat(i32x16, 127), 23))


@helper
def exp_parts(bounded: Any) -> Any:
    """e^x as y · first · second: y is near one, the others are powers of two, the first product is exact.

    The caller keeps x within the lowest and the highest exponent.
    """
    n = round_even(bounded * number(LOG2_E))
    r = bounded - n * number(LN2_HIGH) - n * number(LN2_LOW)
    p = ((number(E4) * r + number(E3)) * r + number(E2)) * r + number(E1)
    p = p * r + number(E0)
    y = number(1.0) + (r + r * r * p)
    whole = to_integer(i32x16, n)
    half = shift_right_signed(whole, 1)
    return y, power_of_two(half), power_of_two(whole - half)


@helper
def log_bend(f: Any) -> Any:
    """f − log(1 + f)."""
    s = f / (number(2.0) + f)
    z = s * s
    p = ((number(L4) * z + number(L3)) * z + number(L2)) * z + number(L1)
    p = p * z + number(L0)
    return s * (f - z * p)


@helper
def exp(x: Any) -> Any:
    y, first, second = exp_parts(minimum(maximum(x, number(EXP_LOWEST)), number(EXP_HIGHEST)))
    return canonical(select(equal(x, x), y * first * second, x))


@helper
def log(x: Any) -> Any:
    """−inf for either zero, NaN below zero."""
    is_small = less(x, number(SMALLEST_NORMAL))
    normal = select(is_small, x * number(TWO_23), x)
    moved = bitcast(i32x16, normal) + splat(i32x16, ONE_BITS - SQRT_HALF_BITS)
    exponent = shift_right_signed(moved, 23) - splat(i32x16, 127)
    mantissa = bitcast(f32x16, (moved & splat(i32x16, 0x7FFFFF)) + splat(i32x16, SQRT_HALF_BITS))
    e = to_float(f32x16, select(is_small, exponent - splat(i32x16, 23), exponent))
    f = mantissa - number(1.0)
    y = e * number(LN2_HIGH) + (f - (log_bend(f) - e * number(LN2_LOW)))
    infinity = bitcast(f32x16, splat(i32x16, INFINITY_BITS))
    y = select(less(x, infinity), y, x)
    y = select(greater(x, zeros(f32x16)), y, bitcast(f32x16, splat(i32x16, NAN_BITS)))
    return canonical(select(equal(x, zeros(f32x16)), -infinity, y))


@helper
def sigmoid(x: Any) -> Any:
    y, first, second = exp_parts(maximum(-absolute(x), number(EXP_LOWEST)))
    u = y * first * second
    value = select(less(x, zeros(f32x16)), u, number(1.0)) / (number(1.0) + u)
    return canonical(select(equal(x, x), value, x))


@helper
def silu_of_number(x: Any) -> Any:
    """x · sigmoid(x), for who sees to NaNs himself."""
    y, first, second = exp_parts(maximum(-absolute(x), number(EXP_LOWEST)))
    u = y * first
    is_negative = less(x, zeros(f32x16))
    bounded = maximum(x, number(EXP_LOWEST))
    # The last power of two comes last, so that a result among the subnormals is rounded there only once.
    value = bounded * select(is_negative, u, number(1.0)) / (number(1.0) + u * second)
    return value * select(is_negative, second, number(1.0))


@helper
def silu(x: Any) -> Any:
    """x · sigmoid(x); minus zero for −inf, which is its limit."""
    return canonical(select(equal(x, x), silu_of_number(x), x))


@helper
def softplus(x: Any) -> Any:
    """log(1 + e^x)."""
    y, first, second = exp_parts(maximum(-absolute(x), number(EXP_LOWEST)))
    u = y * first * second
    value = maximum(x, zeros(f32x16)) + (u - log_bend(u))
    return canonical(select(equal(x, x), value, x))


@helper
def tanh(x: Any) -> Any:
    size = absolute(x)
    z = size * size
    p = ((number(T4) * z + number(T3)) * z + number(T2)) * z + number(T1)
    p = p * z + number(T0)
    near = size + size * (z * p)
    y, first, second = exp_parts(minimum(size + size, number(EXP_HIGHEST)))
    far = number(1.0) - number(2.0) / (y * first * second + number(1.0))
    value = select(less(size, number(TANH_BORDER)), near, far)
    sign = bitcast(i32x16, x) & splat(i32x16, SIGN_BIT)
    return canonical(select(equal(x, x), bitcast(f32x16, bitcast(i32x16, value) | sign), x))


@helper
def sine_and_cosine(phases: Any) -> Any:
    """Of angles given as 64-bit fractions of a turn, in a register of i64."""
    quarter = shift_right(phases + splat(i64x16, HALVED_TURN), 62)
    rest = phases - shift_left(quarter, 62)
    size = select(less(rest, zeros(i64x16)), -rest, rest)
    high = to_float(f32x16, truncate(i32x16, shift_right(size, 40)))
    middle = to_float(f32x16, truncate(i32x16, shift_right(size, 16)) & splat(i32x16, 0xFFFFFF))
    low = to_float(f32x16, truncate(i32x16, size) & splat(i32x16, 0xFFFF))
    units = high * number(1099511627776.0) + (middle * number(65536.0) + low)
    a = units * number(RADIANS)
    z = a * a
    p = ((number(S3) * z + number(S2)) * z + number(S1)) * z + number(S0)
    sin = a + a * (z * p)
    rest_sign = truncate(i32x16, shift_right(rest, 32)) & splat(i32x16, SIGN_BIT)
    sin = bitcast(f32x16, bitcast(i32x16, sin) ^ rest_sign)
    p = (number(C2) * z + number(C1)) * z + number(C0)
    cos = number(1.0) - (number(0.5) * z - z * z * p)
    quarters = truncate(i32x16, quarter)
    is_odd = equal(quarters & splat(i32x16, 1), splat(i32x16, 1))
    sin_sign = shift_left(shift_right(quarters, 1), 31)
    cos_sign = shift_left(shift_right(quarters + splat(i32x16, 1), 1), 31)
    turned_sin = bitcast(f32x16, bitcast(i32x16, select(is_odd, cos, sin)) ^ sin_sign)
    turned_cos = bitcast(f32x16, bitcast(i32x16, select(is_odd, sin, cos)) ^ cos_sign)
    return turned_sin, turned_cos
