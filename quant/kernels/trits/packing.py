"""2-bit tiles → bytes of five weights, as `quant.trits` defines them."""

from quant.jit import kernel
from quant.kernels.arguments import CODES, NUM_BLOCKS, Y, argument
from quant.registers import i8x64, i32x16, vector
from quant.simd import bitcast, load, shift_right, splat, store, truncate, zero_extend, zeros
from quant.trits import BLOCK_BYTES, FIVE, FIVE_BYTES

i32x64 = vector("i32", 64)


@kernel
def pack(arguments: int, first: int, last: int) -> None:
    """Pairs of row blocks. ⌈256·x / 243⌉ is x + ⌊(439·x + 8048) / 8192⌋ for every x below 243."""
    num_blocks, field = argument(arguments, NUM_BLOCKS), splat(i32x16, 0x03030303)
    fives = num_blocks // FIVE
    rest_bytes = (num_blocks - fives * FIVE) * BLOCK_BYTES
    w = argument(arguments, CODES) + first * num_blocks * BLOCK_BYTES
    y = argument(arguments, Y) + first * (fives * FIVE_BYTES + rest_bytes)
    for _ in range(first, last):
        for _ in range(fives):
            for tile in range(32):  # tile u of half h is 2u + h; field f of tiles t is tile 4t + f
                at, by = w + (tile >> 3) * 128 + (tile & 1) * 64, (tile >> 1) & 3
                x = zeros(i32x16)
                for k in range(FIVE):
                    v = load(i32x16, at + k * BLOCK_BYTES)
                    for _ in range(by):
                        v = shift_right(v, 2)
                    x = x + x + x + (v & field)
                wide = zero_extend(i32x64, bitcast(i8x64, x))
                more = shift_right(wide * splat(i32x64, 439) + splat(i32x64, 8048), 13)
                store(y + tile * 64, truncate(i8x64, wide + more))
            w, y = w + FIVE * BLOCK_BYTES, y + FIVE_BYTES
        for at in range(0, rest_bytes, 64):
            store(y + at, load(i32x16, w + at))
        w, y = w + rest_bytes, y + rest_bytes
