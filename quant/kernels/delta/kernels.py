"""The delta rule's step on registers. The reference says what it is.

A thread's heads go in groups of sixteen: first the gates of all of them for some tokens, a head a lane, since
their long chains of operations would hold up each head alone; then each head takes its steps, one token after
another, with its memory in the nearest cache.
"""

from typing import Any

from quant.jit import helper, kernel
from quant.kernels.arguments import argument
from quant.kernels.delta.gates import exact_flow_gates, inverse_length
from quant.kernels.delta.heads import (
    HEADS,
    TOKENS,
    inverse_root,
    norm_scale,
    real_argument,
    sum_of_products,
)
from quant.kernels.delta.places import (
    ALPHA_STRIDE,
    ALPHAS,
    BETA_STRIDE,
    BETAS,
    BIASES,
    EPSILON,
    GAIN,
    GATE_STRIDE,
    GATES,
    HEAD_SIZE,
    KEY_STRIDE,
    KEYS,
    LARGEST_HEAD,
    MEMORY,
    NUM_TOKENS,
    QUERIES,
    QUERY_STRIDE,
    RATES,
    VALUE_STRIDE,
    VALUES,
    Y_STRIDE,
    Y,
)
from quant.kernels.elementary.functions import canonical, exp, sigmoid, silu, softplus
from quant.registers import f32, f32x16, tile
from quant.simd import broadcast, load, load_first, put, scratch, splat, store, zeros

TWO = tile(f32x16, 2)

# A token's numbers for a group of heads, a register each.
Q_SCALE, K_SCALE, ALPHA, ERASE, WRITE, NUMBERS_BYTES = 0, 64, 128, 192, 256, 320
GATES_BYTES = TOKENS * NUMBERS_BYTES
VECTOR_BYTES, VECTORS_BYTES = LARGEST_HEAD * 4, LARGEST_HEAD * 8


@helper
def token_gates(arguments: int, is_exact: bool, found: int, token: int, start: int, heads: int) -> None:
    """The numbers of one token for `heads` heads from `start` on."""
    size = argument(arguments, HEAD_SIZE)
    q = argument(arguments, QUERIES) + token * argument(arguments, QUERY_STRIDE) + start * size * 4
    k = argument(arguments, KEYS) + token * argument(arguments, KEY_STRIDE) + start * size * 4
    for head in range(heads):
        here = head * size * 4
        put(f32, found + Q_SCALE + head * 4, sum_of_products(q + here, q + here, size))
        put(f32, found + K_SCALE + head * 4, sum_of_products(k + here, k + here, size))
    k_sums = load_first(f32x16, found + K_SCALE, heads)
    store(
        found + Q_SCALE,
        inverse_length(load_first(f32x16, found + Q_SCALE, heads)) * inverse_root(size),
    )
    alphas = argument(arguments, ALPHAS) + token * argument(arguments, ALPHA_STRIDE) + start * 4
    betas = argument(arguments, BETAS) + token * argument(arguments, BETA_STRIDE) + start * 4
    biases = argument(arguments, BIASES) + start * 4
    moved = load_first(f32x16, alphas, heads) + load_first(f32x16, biases, heads)
    u = load_first(f32x16, argument(arguments, RATES) + start * 4, heads) * softplus(moved)
    beta = sigmoid(load_first(f32x16, betas, heads))
    if is_exact:
        alpha, erase, write = exact_flow_gates(u, beta, k_sums)
        store(found + K_SCALE, splat(f32x16, 1.0))
    else:
        alpha, erase, write = exp(-u), beta, beta
        store(found + K_SCALE, inverse_length(k_sums))
    store(found + ALPHA, alpha)
    store(found + ERASE, erase * alpha)
    store(found + WRITE, write)


@helper
def scaled(source: int, target: int, size: int, scale: Any) -> None:
    for at in range(0, size * 4, 64):
        store(target + at, load(f32x16, source + at) * scale)


@helper
def columns(
    kind: Any, memory: int, size: int, q: int, k: int, v: int, o: int, found: int, shared: Any
) -> None:
    """Some columns of the memory, which are as many values: read for both sums, then written."""
    alpha, width = broadcast(f32x16, found + ALPHA), size * 4
    recalled, asked = zeros(kind), zeros(kind)
    for i in range(size):
        row = load(kind, memory + i * width)
        recalled = recalled + row * broadcast(f32x16, k + i * 4)
        asked = asked + row * broadcast(f32x16, q + i * 4)
    w = load(kind, v) * broadcast(f32x16, found + WRITE) - recalled * broadcast(f32x16, found + ERASE)
    store(o, asked * alpha + w * shared)
    for i in range(size):
        row = load(kind, memory + i * width)
        store(memory + i * width, row * alpha + w * broadcast(f32x16, k + i * 4))


@helper
def finish(arguments: int, token: int, head: int) -> None:
    """The norm of a head and its output gate, in the place of its output."""
    size, gates = argument(arguments, HEAD_SIZE), argument(arguments, GATES)
    y = argument(arguments, Y) + token * argument(arguments, Y_STRIDE) + head * size * 4
    scale, gain = norm_scale(y, size, real_argument(arguments, EPSILON)), argument(arguments, GAIN)
    gate = gates + token * argument(arguments, GATE_STRIDE) + head * size * 4
    for at in range(0, size * 4, 64):
        values = (load(f32x16, y + at) * scale) * load(f32x16, gain + at)
        if gates != 0:
            values = values * silu(load(f32x16, gate + at))
        store(y + at, canonical(values))


@helper
def step(arguments: int, is_exact: bool, vectors: int, found: int, token: int, head: int) -> None:
    """One token of one head; `found` are the head's numbers, `vectors` has room for its key and query."""
    size = argument(arguments, HEAD_SIZE)
    here = head * size * 4
    memory = argument(arguments, MEMORY) + here * size
    v = argument(arguments, VALUES) + token * argument(arguments, VALUE_STRIDE) + here
    y = argument(arguments, Y) + token * argument(arguments, Y_STRIDE) + here
    q, k = vectors, argument(arguments, KEYS) + token * argument(arguments, KEY_STRIDE) + here
    source = argument(arguments, QUERIES) + token * argument(arguments, QUERY_STRIDE) + here
    scaled(source, q, size, broadcast(f32x16, found + Q_SCALE))
    if not is_exact:
        scaled(k, vectors + VECTOR_BYTES, size, broadcast(f32x16, found + K_SCALE))
        k = vectors + VECTOR_BYTES
    shared = splat(f32x16, sum_of_products(q, k, size))
    whole = size & -32
    for at in range(0, whole * 4, 128):
        columns(TWO, memory + at, size, q, k, v + at, y + at, found, shared)
    if whole < size:
        at = whole * 4
        columns(f32x16, memory + at, size, q, k, v + at, y + at, found, shared)
    finish(arguments, token, head)


@helper
def steps(arguments: int, is_exact: bool, first: int, last: int) -> None:
    num_tokens = argument(arguments, NUM_TOKENS)
    found, vectors = scratch(GATES_BYTES), scratch(VECTORS_BYTES)
    for start in range(first, last, HEADS):
        heads = min(HEADS, last - start)
        for begin in range(0, num_tokens, TOKENS):
            tokens = min(TOKENS, num_tokens - begin)
            for i in range(tokens):
                token_gates(arguments, is_exact, found + i * NUMBERS_BYTES, begin + i, start, heads)
            for head in range(heads):
                for i in range(tokens):
                    numbers = found + i * NUMBERS_BYTES + head * 4
                    step(arguments, is_exact, vectors, numbers, begin + i, start + head)


@kernel
def gated_delta(arguments: int, first: int, last: int) -> None:
    """The rule `delta`; `first` and `last` count heads."""
    steps(arguments, False, first, last)


@kernel
def exact_flow(arguments: int, first: int, last: int) -> None:
    """The rule `exact_flow`; `first` and `last` count heads."""
    steps(arguments, True, first, last)
