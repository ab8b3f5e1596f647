"""The one kernel that a measurement of a machine needs beside those that models run: reading, and no more."""

from quant.jit import kernel
from quant.kernels.arguments import argument
from quant.registers import i32x16, tile
from quant.simd import load, prefetch, store, zeros
from runtime.measuring.machine_places import ADDRESS, PIECE_BYTES, RESULT_BYTES, RESULTS

AHEAD = 4096
LINES = tile(i32x16, 4)


@kernel
def read_memory(arguments: int, first: int, last: int) -> None:
    """Read pieces of memory from end to end; what was seen is stored, so that no read can be left out."""
    begin = argument(arguments, ADDRESS)
    seen = zeros(LINES)
    for at in range(begin + first * PIECE_BYTES, begin + last * PIECE_BYTES, RESULT_BYTES):
        for line in range(0, RESULT_BYTES, 64):
            prefetch(at + AHEAD + line)
        seen = seen | load(LINES, at)
    store(argument(arguments, RESULTS) + first * RESULT_BYTES, seen)
