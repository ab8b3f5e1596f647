"""The elementary functions: how near they come to the truth, what they give at borders, and for any bits."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from configs.errors import UsageError
from quant.kernels.elementary import kernels, reference
from quant.kernels.elementary.calls import elementwise_call, rotation_call
from quant.kernels.elementary.problems import BORDERS
from quant.kernels.operation import difference
from quant.kernels.table import OPERATIONS

Doubles = NDArray[np.float64]


def logistic(x: Doubles) -> Doubles:
    u = np.exp(-np.abs(x))
    return np.where(x < 0, u, 1.0) / (1.0 + u)


# Name: the truth in float64, and the largest error in units of the last place.
TRUTH: dict[str, tuple[Callable[[Doubles], Doubles], float]] = {
    "exp": (np.exp, 1.0),
    "log": (np.log, 1.0),
    "sigmoid": (logistic, 2.5),
    "softplus": (lambda x: np.maximum(x, 0) + np.log1p(np.exp(-np.abs(x))), 2.5),
    "silu": (lambda x: np.maximum(x, -1e4) * logistic(x), 3.0),
    "tanh": (np.tanh, 2.0),
}
NAN_BITS = 0x7FC00000


def many_numbers() -> NDArray[np.float32]:
    """Every exponent, the common ranges densely, and both neighbours of every border."""
    rng = np.random.default_rng(0)
    bits = np.arange(0, 2**32, 2**15, dtype=np.uint64) + rng.integers(0, 2**15, 2**17, dtype=np.uint64)
    borders = np.array([border for border in BORDERS if np.isfinite(border)], dtype=np.float32)
    with np.errstate(over="ignore"):
        around = [np.nextafter(borders, np.float32(side)) for side in (-np.inf, np.inf)]
    parts = [
        bits.astype(np.uint32).view(np.float32),
        rng.uniform(-110, 110, 200_000).astype(np.float32),
        rng.uniform(-2, 2, 200_000).astype(np.float32),
        np.array(BORDERS, dtype=np.float32),
        *around,
    ]
    return np.concatenate(parts)


def error_in_last_places(found: NDArray[np.float32], truth: Doubles) -> Doubles:
    """Infinite where one is finite and the other is not, once rounded to float32."""
    rounded = truth.astype(np.float32)
    last_place = np.spacing(np.maximum(np.abs(rounded), np.float32(2.0**-126))).astype(np.float64)
    same = (rounded == found) | (np.isnan(rounded) & np.isnan(found))
    return np.where(same, 0.0, np.abs(found.astype(np.float64) - truth) / last_place)


@pytest.mark.parametrize("name", TRUTH)
def test_a_function_is_near_the_truth(name: str) -> None:
    x, (truth, most) = many_numbers(), TRUTH[name]
    with np.errstate(all="ignore"):
        right = truth(x.astype(np.float64))
        error = error_in_last_places(getattr(reference, name)(x), right)
    error = np.nan_to_num(error, nan=np.inf)
    worst = int(error.argmax())
    assert error[worst] <= most, f"{error[worst]} at {x[worst]!r}"


@pytest.mark.parametrize("name", TRUTH)
def test_the_kernel_gives_the_bits_of_the_reference_for_many_numbers(name: str) -> None:
    x = many_numbers()
    call = elementwise_call(x)
    call.run(getattr(kernels, name), 0, call.units)
    assert not difference(call.outputs, (getattr(reference, name)(x),))


@given(st.sampled_from(sorted(TRUTH)), st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=40))
@settings(max_examples=100)
def test_any_bits_give_the_bits_of_the_reference(name: str, bits: list[int]) -> None:
    x = np.array(bits, dtype=np.uint32).view(np.float32)
    call = elementwise_call(x)
    call.run(getattr(kernels, name), 0, call.units)
    assert not difference(call.outputs, (getattr(reference, name)(x),))
    nan = np.isnan(call.outputs[0])
    assert (call.outputs[0].view(np.uint32)[nan] == NAN_BITS).all()


SPECIAL = [
    (
        "exp",
        [(np.inf, np.inf), (-np.inf, 0.0), (0.0, 1.0), (-0.0, 1.0), (88.72284, np.inf), (-103.97208, 1e-45)],
    ),
    (
        "log",
        [(0.0, -np.inf), (-0.0, -np.inf), (1.0, 0.0), (-1e-45, np.nan), (-np.inf, np.nan), (np.inf, np.inf)],
    ),
    ("log", [(1e-45, -103.27893), (1.1754942e-38, -87.33655)]),
    ("sigmoid", [(np.inf, 1.0), (-np.inf, 0.0), (0.0, 0.5), (-0.0, 0.5), (3e38, 1.0), (-3e38, 0.0)]),
    ("softplus", [(np.inf, np.inf), (-np.inf, 0.0), (3e38, 3e38), (-3e38, 0.0), (-100.0, 3.7835e-44)]),
    ("silu", [(np.inf, np.inf), (-np.inf, -0.0), (0.0, 0.0), (-0.0, -0.0), (3e38, 3e38), (-3e38, -0.0)]),
    ("tanh", [(np.inf, 1.0), (-np.inf, -1.0), (0.0, 0.0), (-0.0, -0.0), (1e-45, 1e-45), (-3e38, -1.0)]),
]


@pytest.mark.parametrize(("name", "pairs"), SPECIAL)
def test_special_values(name: str, pairs: list[tuple[float, float]]) -> None:
    x, right = (np.array(column, dtype=np.float32) for column in zip(*pairs, strict=True))
    found = getattr(reference, name)(x)
    assert not difference((found,), (reference.canonical(right),))


def test_exp_never_falls_and_log_undoes_it() -> None:
    x = np.sort(np.random.default_rng(1).uniform(-87, 88, 100_000).astype(np.float32))
    y = reference.exp(x)
    # Not promised at neighbours, where an error of a last place may turn the order; promised a bit apart.
    assert (y[64:] >= y[:-64]).all()
    assert np.abs(reference.log(y) - x).max() < 1e-5


# An angle is a fraction of a turn; long doubles hold its bits.
def test_sine_and_cosine_are_near_the_truth() -> None:
    rng = np.random.default_rng(2)
    one = np.uint64(1)
    phases = np.concatenate(
        [
            rng.integers(0, 2**64, 100_000, dtype=np.uint64),
            (one << rng.integers(0, 64, 4000).astype(np.uint64)) - rng.integers(0, 3, 4000).astype(np.uint64),
            np.arange(8, dtype=np.uint64) << np.uint64(61),
            (np.arange(8, dtype=np.uint64) << np.uint64(61)) - one,
        ]
    )
    # Within an eighth of a turn of the nearest quarter, float64 keeps the angle's relative precision.
    quarters = (phases + np.uint64(1 << 61)) >> np.uint64(62)
    rest = (phases - (quarters << np.uint64(62))).view(np.int64).astype(np.float64) * (2 * np.pi / 2**64)
    sines = [np.sin(rest), np.cos(rest), -np.sin(rest), -np.cos(rest)]
    right_sin = np.choose(quarters.astype(np.int64), sines)
    right_cos = np.choose(quarters.astype(np.int64), sines[1:] + sines[:1])
    sin, cos = reference.sine_and_cosine(phases)
    assert error_in_last_places(sin, right_sin).max() <= 3.0
    assert error_in_last_places(cos, right_cos).max() <= 3.0


def test_a_rotation_is_exact_however_far_the_position() -> None:
    step = 2**64 // 3
    steps = np.array([step - 2**64 if step >= 2**63 else step, -1, 1 << 62], dtype=np.int64)
    for position in (0, 1, 10**6, 2**40 + 7):
        call = rotation_call(steps, first_position=position, num_tokens=2)
        call.run(kernels.rotation_angles, 0, 2)
        for token in range(2):
            turns = [((position + token) * int(s)) % 2**64 for s in steps]
            sin, cos = reference.sine_and_cosine(np.array(turns, dtype=np.uint64))
            assert not difference((call.outputs[0][token], call.outputs[1][token]), (sin, cos))
            angles = np.array([turn / 2**64 for turn in turns]) * 2 * np.pi
            assert np.abs(call.outputs[0][token] - np.sin(angles)).max() < 1e-6
            assert np.abs(call.outputs[1][token] - np.cos(angles)).max() < 1e-6


def test_arrays_that_do_not_fit_are_refused() -> None:
    with pytest.raises(UsageError, match="the numbers must be float32"):
        elementwise_call(np.zeros(4))
    with pytest.raises(UsageError, match="not contiguous"):
        elementwise_call(np.zeros(8, dtype=np.float32)[::2])
    with pytest.raises(UsageError, match="the steps must be int64"):
        rotation_call(np.zeros((2, 2), dtype=np.int64), first_position=0, num_tokens=1)
    with pytest.raises(UsageError, match="a position must be at least 0"):
        rotation_call(np.zeros(2, dtype=np.int64), first_position=-1, num_tokens=1)
    call = elementwise_call(np.zeros(40, dtype=np.float32))
    with pytest.raises(UsageError, match=r"the work is 0 … 3, got the part 2 … 4"):
        call.run(OPERATIONS["exp"].forms["plain"], 2, 4)
