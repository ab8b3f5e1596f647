"""The Titans step over tokens. The reference says what it computes."""

from typing import Any

from quant.jit import helper, kernel
from quant.kernels.arguments import argument
from quant.kernels.elementary.functions import canonical, number, sigmoid
from quant.kernels.titans import places as at
from quant.kernels.titans.attention import attend
from quant.kernels.titans.memory import (
    clip_of,
    hidden_error,
    read_memory,
    squared_norm_of,
    write_matrix,
)
from quant.kernels.titans.vectors import HEAD, dot, inverse_length, padded_row, put_codes, rotated, scaled
from quant.lanes import lane
from quant.registers import f32, f32x16, i32x16, i64
from quant.simd import bitcast, broadcast, load, put, scratch, splat, square_root, store, store_first, zeros

LARGEST_RATE = 1e-2

# Vectors of the work space, each of the largest head's size. Of a pair, the first is made from the query and
# the second from the key; once the query's answer is stored, what the gradient brings takes its place.
VECTOR = 1024
Q, K, ANSWER, ERROR, PREACT, KEY_PREACT, GATE, KEY_GATE, VALUE, KEY_VALUE = (
    place * VECTOR for place in range(10)
)
TURNED_K, V, SCALED_Q, GAINED_Q, TURNED_Q, Y, GATES = (place * VECTOR for place in range(10, 17))
BACK = ANSWER
NUM_WORK_BYTES = 17 * VECTOR


@helper
def float_argument(arguments: int, place: int) -> Any:
    """A float32 of the table, in all lanes."""
    return bitcast(f32x16, splat(i32x16, argument(arguments, place)))


@helper
def load_vectors(arguments: int, head: int, token: int, work: int, blocks: int) -> None:
    """Query and key of length √K, the value, and what else is made of the query and the key."""
    count = argument(arguments, at.HEAD_DIM)
    offset = token * argument(arguments, at.X_STRIDE) + head * count * 4
    padded_row(work + Q, argument(arguments, at.Q) + offset, count, blocks)
    padded_row(work + K, argument(arguments, at.K) + offset, count, blocks)
    padded_row(work + V, argument(arguments, at.V) + offset, count, blocks)
    scaled(work + Q, work + Q, inverse_length(work + Q, blocks), blocks)
    scaled(work + K, work + K, inverse_length(work + K, blocks), blocks)
    scale = broadcast(f32x16, argument(arguments, at.ATTN_SCALE) + head * 4)
    scaled(work + SCALED_Q, work + Q, scale, blocks)
    gain = argument(arguments, at.MEMORY_KEY_GAIN) + head * blocks * 256
    for b in range(blocks):
        gained = load(HEAD, work + SCALED_Q + b * 256) * load(HEAD, gain + b * 256)
        store(work + GAINED_Q + b * 256, gained)
    turn = token * argument(arguments, at.ANGLE_STRIDE)
    sines, cosines = argument(arguments, at.SINES) + turn, argument(arguments, at.COSINES) + turn
    rotated(work + TURNED_Q, work + SCALED_Q, sines, cosines, count >> 1, blocks)
    rotated(work + TURNED_K, work + K, sines, cosines, count >> 1, blocks)
    root = float_argument(arguments, at.ROOT)
    scaled(work + Q, work + Q, root, blocks)
    scaled(work + K, work + K, root, blocks)


@helper
def remember(arguments: int, head: int, position: int, work: int, blocks: int) -> None:
    """The memory's answer goes to the chunk's, the token's key and value to the window."""
    chunk, window = argument(arguments, at.MEMORY_CHUNK), argument(arguments, at.WINDOW)
    place = head * chunk + position % chunk
    answer = argument(arguments, at.ANSWERS) + place * blocks * 256
    for b in range(blocks):
        store(answer + b * 256, load(HEAD, work + ANSWER + b * 256))
    scale = lane(inverse_length(work + ANSWER, blocks), 0)
    put(f32, argument(arguments, at.ANSWER_SCALES) + place * 4, scale)
    place = head * window + position % window
    for value in range(2):
        codes, scales = (
            argument(arguments, at.KEYS + 2 * value),
            argument(arguments, at.KEY_SCALES + 2 * value),
        )
        x = work + (V if value else TURNED_K)
        put_codes(codes + place * blocks * 64, scales + place * 4, x, blocks)


@helper
def put_output(arguments: int, head: int, token: int, border: int, work: int, blocks: int) -> None:
    """What was seen, gated by the memory's answer to it."""
    count = argument(arguments, at.HEAD_DIM)
    scaled(work + Q, work + Y, inverse_length(work + Y, blocks), blocks)
    scaled(work + Q, work + Q, float_argument(arguments, at.ROOT), blocks)
    read_memory(work + ANSWER, work + PREACT, work + GATE, work + VALUE, border, work + Q, count, blocks)
    mean = splat(f32x16, dot(work + ANSWER, work + ANSWER, blocks)) / splat(f32x16, count)
    r = number(1.0) / square_root(mean + float_argument(arguments, at.EPSILON))
    gain = argument(arguments, at.GATE_GAIN)
    y = argument(arguments, at.Y) + token * argument(arguments, at.Y_STRIDE) + head * count * 4
    for i in range(0, count, 16):
        opened = sigmoid((load(f32x16, work + ANSWER + i * 4) * r) * load(f32x16, gain + i * 4))
        store_first(y + i * 4, canonical(load(f32x16, work + Y + i * 4) * opened), count - i)


@helper
def put_gates(arguments: int, head: int, token: int, gates: int) -> None:
    """η, 1 − α and θ side by side."""
    offset = token * argument(arguments, at.GATE_STRIDE) + head * 4
    eta, eta_bias = argument(arguments, at.ETA) + offset, argument(arguments, at.ETA_BIAS) + head * 4
    alpha, alpha_bias = argument(arguments, at.ALPHA) + offset, argument(arguments, at.ALPHA_BIAS) + head * 4
    theta, theta_bias = argument(arguments, at.THETA) + offset, argument(arguments, at.THETA_BIAS) + head * 4
    store(gates, zeros(f32x16))
    put(f32, gates, load(f32, eta) + load(f32, eta_bias))
    put(f32, gates + 4, -(load(f32, alpha) + load(f32, alpha_bias)))
    put(f32, gates + 8, load(f32, theta) + load(f32, theta_bias))
    store(gates, sigmoid(load(f32x16, gates)))


@helper
def write(
    arguments: int, head: int, token: int, border: int, running: int, last: int, work: int, blocks: int
) -> None:
    """The memory learns the token's key and value: `running` is made from `last`."""
    count = argument(arguments, at.HEAD_DIM)
    for b in range(blocks):
        answer = load(HEAD, work + ERROR + b * 256)
        store(work + ERROR + b * 256, answer - load(HEAD, work + V + b * 256))
    hidden_error(
        work + BACK, work + ERROR, work + KEY_PREACT, work + KEY_GATE, work + KEY_VALUE, border, count, blocks
    )
    squared_norm = squared_norm_of(work + ERROR, work + KEY_VALUE, work + BACK, work + K, blocks)
    surprise = argument(arguments, at.SURPRISE) + token * argument(arguments, at.SURPRISE_STRIDE) + head * 4
    put(f32, surprise, lane(canonical(square_root(squared_norm)), 0))
    put_gates(arguments, head, token, work + GATES)
    pushed, kept = broadcast(f32x16, work + GATES), broadcast(f32x16, work + GATES + 4)
    rate = (number(LARGEST_RATE) * broadcast(f32x16, work + GATES + 8)) * clip_of(squared_norm)
    matrix = count * blocks * 256
    momentum = argument(arguments, at.MOMENTUM) + head * 2 * matrix
    for layer in range(2):
        right = work + (KEY_VALUE if layer else K)
        left = work + (ERROR if layer else BACK)
        at_layer = layer * matrix
        write_matrix(
            momentum + at_layer, running + at_layer, last + at_layer, right, left,
            pushed, kept, rate, count, blocks,
        )  # fmt: skip


@helper
def head_step(arguments: int, head: int, token: int, work: int, blocks: int) -> None:
    """One token of one head. The first of a chunk reads the running copy and writes the other one."""
    count, chunk = argument(arguments, at.HEAD_DIM), argument(arguments, at.MEMORY_CHUNK)
    position = load(i64, argument(arguments, at.POSITION)) + token
    pair = 2 * count * blocks * 256
    memory = argument(arguments, at.MEMORY) + head * 2 * pair
    copy = position // chunk & 1
    border, running = memory + copy * pair, memory + (1 - copy) * pair
    last = border if position % chunk == 0 else running

    load_vectors(arguments, head, token, work, blocks)
    for x in range(0, 2 * VECTOR, VECTOR):  # the query, then the key
        made = work + x
        read_memory(made + ANSWER, made + PREACT, made + GATE, made + VALUE, border, made + Q, count, blocks)
    remember(arguments, head, position, work, blocks)
    attend(work + Y, arguments, head, position, work + SCALED_Q, work + GAINED_Q, work + TURNED_Q, blocks)
    put_output(arguments, head, token, border, work, blocks)
    write(arguments, head, token, border, running, last, work, blocks)


@kernel
def titans(arguments: int, first: int, last: int) -> None:
    """`first` and `last` count heads; a head goes through all tokens in order."""
    work = scratch(NUM_WORK_BYTES)
    blocks = (argument(arguments, at.HEAD_DIM) + 63) >> 6
    for head in range(first, last):
        for token in range(argument(arguments, at.NUM_TOKENS)):
            head_step(arguments, head, token, work, blocks)
