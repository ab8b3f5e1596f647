"""The matrix LSTM's step on registers. The reference says what it is.

A thread's heads go in groups of sixteen, as in `quant.kernels.delta.kernels`: first the gates of all of them
for some tokens, a head a lane, then the steps of each head. The memory is read and written in one sweep.
"""

from typing import Any

from quant.jit import helper, kernel
from quant.kernels.arguments import argument
from quant.kernels.delta.heads import (
    HEADS,
    TOKENS,
    inverse_root,
    norm_scale,
    real_argument,
    sum_of_products,
)
from quant.kernels.delta.places import LARGEST_HEAD
from quant.kernels.elementary.functions import canonical, exp, number, sigmoid, softplus
from quant.kernels.mlstm.places import (
    EPSILON,
    FORGET_BIASES,
    FORGET_GATES,
    FORGET_STRIDE,
    GAIN,
    GATE_STRIDE,
    GATES,
    HEAD_SIZE,
    INPUT_BIASES,
    INPUT_GATES,
    INPUT_STRIDE,
    IS_EXPONENTIAL,
    KEY_STRIDE,
    KEYS,
    LOG_SCALE,
    MEMORY,
    NORMALISER,
    NUM_TOKENS,
    QUERIES,
    QUERY_STRIDE,
    VALUE_STRIDE,
    VALUES,
    Y_STRIDE,
    Y,
)
from quant.kernels.mlstm.reference import DENOMINATOR_FLOOR
from quant.registers import f32x16, tile
from quant.simd import (
    absolute,
    broadcast,
    load,
    load_first,
    maximum,
    scratch,
    splat,
    store,
    store_first,
    zeros,
)

TWO = tile(f32x16, 2)

# A token's numbers for a group of heads, a register each.
FORGET, WRITE, FLOOR, NUMBERS_BYTES = 0, 64, 128, 192
GATES_BYTES = TOKENS * NUMBERS_BYTES
VECTOR_BYTES = LARGEST_HEAD * 4


@helper
def token_gates(arguments: int, found: int, token: int, start: int, heads: int, log_scale: Any) -> Any:
    """The numbers of one token for `heads` heads from `start` on; gives their new m."""
    inputs = argument(arguments, INPUT_GATES) + token * argument(arguments, INPUT_STRIDE) + start * 4
    forgets = argument(arguments, FORGET_GATES) + token * argument(arguments, FORGET_STRIDE) + start * 4
    input_bias = load_first(f32x16, argument(arguments, INPUT_BIASES) + start * 4, heads)
    forget_bias = load_first(f32x16, argument(arguments, FORGET_BIASES) + start * 4, heads)
    log_input = load_first(f32x16, inputs, heads) + input_bias
    if argument(arguments, IS_EXPONENTIAL) == 0:
        log_input = -softplus(-log_input)
    faded = log_scale - softplus(-(load_first(f32x16, forgets, heads) + forget_bias))
    new_scale = maximum(faded, log_input)
    store(found + FORGET, exp(faded - new_scale))
    store(found + WRITE, exp(log_input - new_scale) * inverse_root(argument(arguments, HEAD_SIZE)))
    store(found + FLOOR, maximum(exp(-new_scale), number(DENOMINATOR_FLOOR)))
    return new_scale


@helper
def normalise(source: int, written: int, normaliser: int, size: int, found: int) -> None:
    """The key as it is written, and the normaliser with it."""
    forget, write = broadcast(f32x16, found + FORGET), broadcast(f32x16, found + WRITE)
    for at in range(0, size * 4, 64):
        key = load(f32x16, source + at) * write
        store(written + at, key)
        store(normaliser + at, load(f32x16, normaliser + at) * forget + key)


@helper
def columns(
    kind: Any, memory: int, size: int, q: int, written: int, v: int, h: int, found: int, bound: Any
) -> None:
    """Some columns of the memory, which are as many values."""
    forget, values, width = broadcast(f32x16, found + FORGET), load(kind, v), size * 4
    asked = zeros(kind)
    for i in range(size):
        row = load(kind, memory + i * width) * forget + values * broadcast(f32x16, written + i * 4)
        store(memory + i * width, row)
        asked = asked + row * broadcast(f32x16, q + i * 4)
    store(h, asked / bound)


@helper
def finish(arguments: int, token: int, head: int) -> None:
    """The norm of a head and its output gate, in the place of its output."""
    size, gates = argument(arguments, HEAD_SIZE), argument(arguments, GATES)
    here = head * size * 4
    y = argument(arguments, Y) + token * argument(arguments, Y_STRIDE) + here
    scale, gain = norm_scale(y, size, real_argument(arguments, EPSILON)), argument(arguments, GAIN) + here
    gate = gates + token * argument(arguments, GATE_STRIDE) + here
    for at in range(0, size * 4, 64):
        values = (load(f32x16, y + at) * scale) * load(f32x16, gain + at)
        if gates != 0:
            values = values * sigmoid(load(f32x16, gate + at))
        store(y + at, canonical(values))


@helper
def step(arguments: int, written: int, found: int, token: int, head: int) -> None:
    """One token of one head; `found` are the head's numbers, `written` has room for its key."""
    size = argument(arguments, HEAD_SIZE)
    here = head * size * 4
    memory, normaliser = argument(arguments, MEMORY) + here * size, argument(arguments, NORMALISER) + here
    q = argument(arguments, QUERIES) + token * argument(arguments, QUERY_STRIDE) + here
    k = argument(arguments, KEYS) + token * argument(arguments, KEY_STRIDE) + here
    v = argument(arguments, VALUES) + token * argument(arguments, VALUE_STRIDE) + here
    y = argument(arguments, Y) + token * argument(arguments, Y_STRIDE) + here
    normalise(k, written, normaliser, size, found)
    denominator = absolute(splat(f32x16, sum_of_products(q, normaliser, size)))
    bound = maximum(denominator, broadcast(f32x16, found + FLOOR))
    whole = size & -32
    for at in range(0, whole * 4, 128):
        columns(TWO, memory + at, size, q, written, v + at, y + at, found, bound)
    if whole < size:
        at = whole * 4
        columns(f32x16, memory + at, size, q, written, v + at, y + at, found, bound)
    finish(arguments, token, head)


@kernel
def mlstm(arguments: int, first: int, last: int) -> None:
    """`first` and `last` count heads."""
    num_tokens = argument(arguments, NUM_TOKENS)
    found, written = scratch(GATES_BYTES), scratch(VECTOR_BYTES)
    for start in range(first, last, HEADS):
        heads, log_scale = min(HEADS, last - start), argument(arguments, LOG_SCALE) + start * 4
        for begin in range(0, num_tokens, TOKENS):
            tokens, scale = min(TOKENS, num_tokens - begin), load_first(f32x16, log_scale, heads)
            for i in range(tokens):
                scale = token_gates(arguments, found + i * NUMBERS_BYTES, begin + i, start, heads, scale)
            store_first(log_scale, scale, heads)
            for head in range(heads):
                for i in range(tokens):
                    step(arguments, written, found + i * NUMBERS_BYTES + head * 4, begin + i, start + head)
