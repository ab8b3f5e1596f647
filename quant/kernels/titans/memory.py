"""The memory of one head in a kernel: how it is read and written. The reference says what is computed."""

from typing import Any

from quant.jit import helper
from quant.kernels.elementary.functions import number, sigmoid
from quant.kernels.titans.vectors import HEAD, dot, product
from quant.registers import f32, f32x16
from quant.simd import broadcast, load, maximum, put, splat, square_root, store, zeros


@helper
def read_memory(
    target: int, preact: int, gate: int, value: int, weights: int, x: int, count: int, blocks: int
) -> None:
    """M(x) for x of length √K, and on the way W1 x, its sigmoid, and their product."""
    product(preact, weights, x, count, blocks)
    for i in range(blocks * 4):
        before = load(f32x16, preact + i * 64)
        opened = sigmoid(before)
        store(gate + i * 64, opened)
        store(value + i * 64, before * opened)
    product(target, weights + count * blocks * 256, value, count, blocks)
    for b in range(blocks):
        store(target + b * 256, load(HEAD, x + b * 256) + load(HEAD, target + b * 256))


@helper
def hidden_error(
    back: int, error: int, preact: int, gate: int, value: int, weights: int, count: int, blocks: int
) -> None:
    """δ = (W2ᵀ e) ⊙ SiLU', with what `read_memory` left of the key."""
    for b in range(blocks):
        store(back + b * 256, zeros(HEAD))
    second = weights + count * blocks * 256
    for j in range(count):
        put(f32, back + j * 4, dot(second + j * blocks * 256, error, blocks))
    for i in range(blocks * 4):
        at = i * 64
        grown = (number(1.0) + load(f32x16, preact + at)) - load(f32x16, value + at)
        store(back + at, load(f32x16, back + at) * (load(f32x16, gate + at) * grown))


@helper
def squared_norm_of(error: int, value: int, back: int, k: int, blocks: int) -> Any:
    """Of the gradient of both matrices, in all lanes."""
    first = splat(f32x16, dot(error, error, blocks)) * splat(f32x16, dot(value, value, blocks))
    return first + splat(f32x16, dot(back, back, blocks)) * splat(f32x16, dot(k, k, blocks))


@helper
def clip_of(squared_norm: Any) -> Any:
    """What brings a gradient's norm down to one."""
    return number(1.0) / square_root(maximum(squared_norm, number(1.0)))


@helper
def write_matrix(
    momentum: int, running: int, last: int, right: int, left: int,
    pushed: Any, kept: Any, rate: Any, count: int, blocks: int,
) -> None:  # fmt: skip
    """One matrix of the memory [count inputs, blocks of outputs] and its momentum after a token."""
    for b in range(blocks):
        outputs = load(HEAD, left + b * 256)
        for j in range(count):
            at = (j * blocks + b) * 256
            factor = rate * broadcast(f32x16, right + j * 4)
            moved = load(HEAD, momentum + at) * pushed - outputs * factor
            store(momentum + at, moved)
            store(running + at, load(HEAD, last + at) * kept + moved)
