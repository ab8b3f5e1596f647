"""What the machine can do at best: reading with prefetch, and dot products that never leave the registers."""

from quant.cpu import Form
from quant.dotproduct import dot_four, dot_pairs, settle
from quant.jit import kernel
from quant.kernels.operation import Kernel
from quant.registers import i16x16, i32x8, i32x16, tile
from quant.simd import load, prefetch, splat, store, zeros

LINES = tile(i32x16, 4)
NARROW, FACTORS = tile(i16x16, 6), tile(i32x8, 6)
WIDE = tile(i32x16, 16)

MACS_PER_TURN: dict[Form, int] = {"avx512vnni": 16 * 64, "avx2": 6 * 32}


@kernel
def read(address: int, num_bytes: int, result: int) -> None:
    """Read memory from end to end, 256 bytes at a time."""
    seen = zeros(LINES)
    for at in range(address, address + num_bytes, 256):
        for line in range(0, 256, 64):
            prefetch(at + 4096 + line)
        seen = seen | load(LINES, at)
    store(result, seen)


@kernel
def dot_products_vnni(turns: int, result: int) -> None:
    """16 independent sums, as in the product of 16 tokens."""
    sums, x = zeros(WIDE), splat(i32x16, 0x01020102)
    for _ in range(turns):
        sums = dot_four(sums, x, x)
    store(result, sums)


@kernel
def dot_products_avx2(turns: int, result: int) -> None:
    """6 independent sums. The factors are made opaque, or their products would be taken out of the loop."""
    sums, x, u = zeros(NARROW), splat(i32x8, 0x01020102), splat(FACTORS, 0x01020102)
    for _ in range(turns):
        u = settle(u)
        sums = sums + dot_pairs(u, x)
    store(result, sums)


DOT_PRODUCTS: dict[Form, Kernel] = {"avx512vnni": dot_products_vnni, "avx2": dot_products_avx2}
