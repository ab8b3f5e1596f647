"""The elementary functions by NumPy, operation by operation as the kernels compute them.

Only what IEEE 754 rounds correctly is used: + − × ÷, rounding to whole numbers, comparisons, and integers.
So a result never depends on the CPU or on a library. Subnormals are kept. A NaN gives one NaN, always with
the same bits. float32 arrays of any shape go in and come out.
"""

from functools import wraps
from typing import Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from quant.kernels.elementary import constants as c

Floats: TypeAlias = NDArray[np.float32]
Integers: TypeAlias = NDArray[np.int32]

_ONE = np.float32(1)
_TWO = np.float32(2)
_HALF = np.float32(0.5)


class Function(Protocol):
    def __call__(self, x: Floats, /) -> Floats: ...


def _quiet(function: Function) -> Function:
    """Infinities and NaNs are results here, not accidents."""

    @wraps(function)
    def call(x: Floats) -> Floats:
        with np.errstate(all="ignore"):
            return function(x)

    return call


def canonical(x: Floats) -> Floats:
    """The same numbers, and the one NaN of ours where there is any."""
    return np.where(x == x, x, _floats(np.full(x.shape, c.NAN_BITS, dtype=np.int32)))


def quotient(x: Floats | np.float32, y: Floats | np.float32) -> Floats:
    """x / y; NumPy's types would have the operator give float64."""
    return np.divide(x, y, dtype=np.float32)


@_quiet
def exp(x: Floats) -> Floats:
    y, first, second = _exp_parts(x)
    return np.where(x == x, y * first * second, canonical(x))


@_quiet
def log(x: Floats) -> Floats:
    """−inf for either zero, NaN below zero."""
    is_small = x < np.float32(c.SMALLEST_NORMAL)
    normal = np.where(is_small, x * np.float32(c.TWO_23), x)
    moved = _bits(normal) + np.int32(c.ONE_BITS - c.SQRT_HALF_BITS)
    exponent = (moved >> 23) - np.int32(127)
    mantissa = _floats((moved & np.int32(0x7FFFFF)) + np.int32(c.SQRT_HALF_BITS))
    e = np.where(is_small, exponent - np.int32(23), exponent).astype(np.float32)
    f = mantissa - _ONE
    y = e * np.float32(c.LN2_HIGH) + (f - (_log_bend(f) - e * np.float32(c.LN2_LOW)))
    y = np.where(x < np.float32(np.inf), y, x)
    y = np.where(x > np.float32(0), y, np.float32(np.nan))
    return canonical(np.where(x == np.float32(0), np.float32(-np.inf), y))


@_quiet
def sigmoid(x: Floats) -> Floats:
    y, first, second = _exp_parts(-np.abs(x))
    u = y * first * second
    value = quotient(np.where(x < np.float32(0), u, _ONE), _ONE + u)
    return canonical(np.where(x == x, value, x))


@_quiet
def silu(x: Floats) -> Floats:
    """x · sigmoid(x); minus zero for −inf, which is its limit."""
    y, first, second = _exp_parts(-np.abs(x))
    u = y * first
    is_negative = x < np.float32(0)
    bounded = np.where(x > np.float32(c.EXP_LOWEST), x, np.float32(c.EXP_LOWEST))
    # The last power of two comes last, so that a result among the subnormals is rounded there only once.
    value = quotient(bounded * np.where(is_negative, u, _ONE), _ONE + u * second)
    return canonical(np.where(x == x, value * np.where(is_negative, second, _ONE), x))


@_quiet
def softplus(x: Floats) -> Floats:
    """log(1 + e^x)."""
    y, first, second = _exp_parts(-np.abs(x))
    u = y * first * second
    value = np.where(x > np.float32(0), x, np.float32(0)) + (u - _log_bend(u))
    return canonical(np.where(x == x, value, x))


@_quiet
def tanh(x: Floats) -> Floats:
    size = np.abs(x)
    z = size * size
    near = size + size * (z * _polynomial(c.TANH, z))
    y, first, second = _exp_parts(size + size)
    far = _ONE - quotient(_TWO, y * first * second + _ONE)
    value = np.where(size < np.float32(c.TANH_BORDER), near, far)
    signed = _floats(_bits(value) | (_bits(x) & np.int32(c.SIGN_BIT)))
    return canonical(np.where(x == x, signed, x))


def sine_and_cosine(phases: NDArray[np.uint64]) -> tuple[Floats, Floats]:
    """Of angles given as 64-bit fractions of a turn."""
    quarter = (phases + np.uint64(1 << 61)) >> np.uint64(62)
    rest = phases - (quarter << np.uint64(62))
    is_negative = rest.view(np.int64) < 0
    size = np.where(is_negative, np.uint64(0) - rest, rest)
    high, middle, low = (
        ((size >> np.uint64(shift)) & np.uint64(mask)).astype(np.int32).astype(np.float32)
        for shift, mask in ((40, 0xFFFFFF), (16, 0xFFFFFF), (0, 0xFFFF))
    )
    units = high * np.float32(2.0**40) + (middle * np.float32(2.0**16) + low)
    a = units * np.float32(c.RADIANS)
    z = np.multiply(a, a)
    sin = a + a * (z * _polynomial(c.SIN, z))
    sin = np.where(is_negative, -sin, sin)
    cos = _ONE - (_HALF * z - z * z * _polynomial(c.COS, z))
    number = quarter.astype(np.int32)
    is_odd = (number & np.int32(1)) == np.int32(1)
    sin_sign, cos_sign = number >> 1 << 31, (number + np.int32(1)) >> 1 << 31
    return (
        _floats(_bits(np.where(is_odd, cos, sin)) ^ sin_sign),
        _floats(_bits(np.where(is_odd, sin, cos)) ^ cos_sign),
    )


def rotation_angles(first_position: int, steps: NDArray[np.int64], num_tokens: int) -> tuple[Floats, Floats]:
    """Sines and cosines [tokens, steps] of position × step, in turns of 2^64 units."""
    first = np.uint64(first_position & (2**64 - 1))
    positions = np.arange(num_tokens, dtype=np.uint64) + first
    return sine_and_cosine(positions[:, None] * steps.view(np.uint64))


def _exp_parts(x: Floats) -> tuple[Floats, Floats, Floats]:
    """e^x as y · first · second: y is near one, the others are powers of two, the first product is exact."""
    bounded = np.where(x > np.float32(c.EXP_LOWEST), x, np.float32(c.EXP_LOWEST))
    bounded = np.where(bounded < np.float32(c.EXP_HIGHEST), bounded, np.float32(c.EXP_HIGHEST))
    n = np.rint(bounded * np.float32(c.LOG2_E))
    r = bounded - n * np.float32(c.LN2_HIGH) - n * np.float32(c.LN2_LOW)
    y = np.add(_ONE, r + r * r * _polynomial(c.EXP, r))
    whole = n.astype(np.int32)
    half = whole >> 1
    return y, _power_of_two(half), _power_of_two(whole - half)


def _power_of_two(n: Integers) -> Floats:
    return _floats((n + np.int32(127)) << 23)


def _log_bend(f: Floats) -> Floats:
    """f − log(1 + f)."""
    s = quotient(f, _TWO + f)
    z = s * s
    return np.multiply(s, f - z * _polynomial(c.LOG, z))


def _polynomial(coefficients: tuple[float, ...], x: Floats) -> Floats:
    """By Horner's rule; the first coefficient is the constant one."""
    value: Floats = np.full_like(x, coefficients[-1])
    for coefficient in reversed(coefficients[:-1]):
        value = value * x + np.float32(coefficient)
    return value


def _bits(x: Floats) -> Integers:
    return np.ascontiguousarray(x).view(np.int32)


def _floats(bits: Integers) -> Floats:
    return np.ascontiguousarray(bits).view(np.float32)
