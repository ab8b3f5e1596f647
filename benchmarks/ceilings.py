"""What the machine can do at best: dot products that never leave the registers. Reading with prefetch is
`runtime.measuring.machine_kernels.read_memory`.

A unit of work is a turn of the loop; the one argument is where the sums may be stored, by every thread.
"""

from quant.cpu import Form
from quant.dotproduct import dot_four, dot_pairs, settle
from quant.jit import kernel
from quant.kernels.arguments import argument
from quant.kernels.operation import Kernel
from quant.registers import i16x16, i32x8, i32x16, tile
from quant.simd import splat, store, zeros

NARROW, FACTORS = tile(i16x16, 6), tile(i32x8, 6)
WIDE = tile(i32x16, 16)

MACS_PER_TURN: dict[Form, int] = {"avx512vnni": 16 * 64, "avx2": 6 * 32}


@kernel
def dot_products_vnni(arguments: int, first: int, last: int) -> None:
    """16 independent sums, as in the product of 16 tokens."""
    sums, x = zeros(WIDE), splat(i32x16, 0x01020102)
    for _ in range(first, last):
        sums = dot_four(sums, x, x)
    store(argument(arguments, 0), sums)


@kernel
def dot_products_avx2(arguments: int, first: int, last: int) -> None:
    """6 independent sums. The factors are made opaque, or their products would be taken out of the loop."""
    sums, x, u = zeros(NARROW), splat(i32x8, 0x01020102), splat(FACTORS, 0x01020102)
    for _ in range(first, last):
        u = settle(u)
        sums = sums + dot_pairs(u, x)
    store(argument(arguments, 0), sums)


DOT_PRODUCTS: dict[Form, Kernel] = {"avx512vnni": dot_products_vnni, "avx2": dot_products_avx2}
