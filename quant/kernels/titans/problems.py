"""Tokens, parameters and states for the Titans step, as tests, benchmarks and the self-check give them."""

import numpy as np
from numpy.typing import NDArray

from quant.kernels.elementary.reference import rotation_angles
from quant.kernels.operation import Case, Kernel, Problem
from quant.kernels.titans.calls import titans_call
from quant.kernels.titans.parameters import TitansParameters, titans_parameters
from quant.kernels.titans.reference import TitansTokens
from quant.kernels.titans.rotation import rotation_steps
from quant.kernels.titans.shapes import TitansShape, TitansState, begin_text, empty_state

Floats = NDArray[np.float32]

SIZES = (
    (5, 20, 8, 0),
    (3, 7, 4, 5),
    (21, 45, 19, 30),  # with 25 tokens the window fills and begins anew, and a chunk ends
    (16, 32, 16, 2**40),
    (0, 1, 1, 3),
)
"""Slots, window, chunk, and where the stream stands, for numbers of heads with the remainders 0 … 4."""


def titans_problem(case: Case, rng: np.random.Generator) -> Problem:
    """The case's rows are heads and its inputs a head's channels; the number of heads decides the rest.

    What the stream has not reached yet holds NaN and wild codes, and must never be read.
    """
    num_slots, window, memory_chunk, position = SIZES[case.rows % len(SIZES)]
    shape = TitansShape(
        num_heads=case.rows,
        head_dim=case.inputs,
        num_slots=num_slots,
        window=window,
        memory_chunk=memory_chunk,
    )
    parameters = random_parameters(shape, rng)
    tokens = random_tokens(shape, num_tokens=case.tokens, position=position, rng=rng)
    start = random_state(shape, parameters, position=position, rng=rng)
    state = TitansState._make(array.copy() for array in start)
    call = titans_call(shape, parameters, tokens, state, position=np.array([position], dtype=np.int64))

    def run(kernel: Kernel, first: int, last: int) -> None:
        # The state is input and output: each part begins with its own heads', and sees no other's.
        for array, given in zip(state, start, strict=True):
            array[first:last] = given[first:last]
        call.run(kernel, first, last)

    return Problem(
        run=run,
        units=call.units,
        outputs=(*call.outputs, *state),
        inputs=(shape, parameters, tokens, start, position),
    )


def random_parameters(shape: TitansShape, rng: np.random.Generator) -> TitansParameters:
    """Parameters as a trained layer may have them."""
    H, K, num_slots = shape.num_heads, shape.head_dim, shape.num_slots
    return titans_parameters(
        shape,
        eta_bias=normal(rng, H),
        theta_bias=normal(rng, H),
        alpha_bias=normal(rng, H) - np.float32(4),
        attn_scale=normal(rng, H) + np.float32(8),
        slot_keys=normal(rng, num_slots, H * K, size=1 / np.sqrt(K)),
        slot_values=normal(rng, num_slots, H * K),
        memory_key_gain=1 + normal(rng, H * K, size=0.25),
        gate_gain=1 + normal(rng, K, size=0.25),
        memory_w1=normal(rng, H, K, K, size=1 / np.sqrt(K)),
        memory_w2=normal(rng, H, K, K, size=1 / np.sqrt(K)),
        eps=1e-6,
    )


def random_tokens(
    shape: TitansShape, *, num_tokens: int, position: int, rng: np.random.Generator
) -> TitansTokens:
    """Tokens of very different sizes, a zero one among them, in rows that lie apart."""
    inner = shape.num_heads * shape.head_dim
    apart = normal(rng, 3, num_tokens, inner + 5)
    apart *= np.ldexp(np.float32(1), rng.integers(-12, 3, (3, num_tokens, 1)))
    apart[:, 1:2] = 0
    gates = normal(rng, num_tokens, 3 * shape.num_heads, size=4)
    eta, theta, alpha = (part[:, :] for part in np.split(gates, 3, axis=1))
    steps = rotation_steps(head_dim=shape.head_dim, theta=1e4)
    sines, cosines = rotation_angles(position, steps, num_tokens)
    q, k, v = apart[:, :, :inner]
    return TitansTokens(q, k, v, eta, theta, alpha, sines, cosines)


def random_state(
    shape: TitansShape, parameters: TitansParameters, *, position: int, rng: np.random.Generator
) -> TitansState:
    """The state of a stream that stands at a position."""
    state = empty_state(shape)
    if position == 0:
        begin_text(state, initial_memory=parameters.initial_memory)
    K = shape.head_dim
    place, held = position % shape.memory_chunk, min(position, shape.window)
    if position > 0:
        for matrices in (state.memory, state.momentum):
            matrices[..., :K] = normal(rng, *matrices.shape[:-1], K, size=1 / np.sqrt(K))
    if place == 0:  # the other copy of the memory is no longer of use
        state.memory[:, (position // shape.memory_chunk + 1) % 2] = np.nan
    state.answers[..., :K] = normal(rng, *state.answers.shape[:-1], K, size=np.sqrt(K))
    state.answer_scales[...] = np.abs(normal(rng, *state.answer_scales.shape, size=1 / np.sqrt(K)))
    for codes in (state.keys, state.values):
        codes[..., :K] = rng.integers(-127, 128, (*codes.shape[:-1], K))
    for scales in (state.key_scales, state.value_scales):
        scales[...] = np.abs(normal(rng, *scales.shape, size=1e-2))
        scales[:, held:] = np.nan
    state.answers[:, place:] = np.nan
    state.answer_scales[:, place:] = np.nan
    return state


def normal(rng: np.random.Generator, *shape: int, size: float = 1.0) -> Floats:
    return rng.standard_normal(shape, dtype=np.float32) * np.float32(size)
