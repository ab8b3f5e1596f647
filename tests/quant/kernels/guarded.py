"""Run by a test in a process of its own: operations on rows that end where memory ends.

Every array stands at the end of a page, and the page behind it may not be touched: a read or a write beyond
the last element ends the process.
"""

import ctypes
import mmap

import numpy as np
from numpy.typing import NDArray

from quant.kernels.arguments import D_STRIDE, Q_STRIDE, STARTS, Y_STRIDE, D, Q, Y
from quant.kernels.elementary.calls import VectorCall, elementwise_call, rotation_call
from quant.kernels.elementary.places import COSINES, GAIN, UP, UP_STRIDE, X_STRIDE, X
from quant.kernels.norm.calls import quantize_call, rms_norm_call, rms_norm_quantize_call
from quant.kernels.operation import Arrays, difference
from quant.kernels.swiglu.calls import swiglu_call, swiglu_norm_quantize_call, swiglu_quantize_call
from quant.kernels.table import OPERATIONS

EPS = np.float32(1e-6)
PAGE = mmap.PAGESIZE
_protect = ctypes.CDLL(None, use_errno=True).mprotect
_protect.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
_pages: list[mmap.mmap] = []


def at_the_end(array: NDArray[np.generic]) -> NDArray[np.generic]:
    """A copy whose last byte is the last of what may be touched."""
    size = -(-array.nbytes // PAGE) * PAGE
    pages = mmap.mmap(-1, size + PAGE)
    _pages.append(pages)
    memory = np.frombuffer(pages, dtype=np.uint8)
    assert _protect(memory.ctypes.data + size, PAGE, 0) == 0, "the page behind is closed"
    copy = memory[size - array.nbytes : size].view(array.dtype).reshape(array.shape)
    copy[...] = array
    return copy


def moved(call: VectorCall, places: dict[int, NDArray[np.generic]], outputs: tuple[int, ...]) -> Arrays:
    """Let a call work on copies at the end of memory; gives those of its outputs."""
    for place, array in places.items():
        call.table[place] = at_the_end(array).ctypes.data
    found = tuple(at_the_end(output) for output in call.outputs)
    for place, output in zip(outputs, found, strict=True):
        call.table[place] = output.ctypes.data
    return found


def main() -> None:
    rng = np.random.default_rng(0)
    for size in (1, 7, 15, 16, 17, 63, 64, 65, 100):
        x, up, gain = (rng.standard_normal((1, size), dtype=np.float32) for _ in range(3))
        gain = gain[0]
        steps = rng.integers(0, 2**62, size)
        quantized, values = (Q, D, STARTS), {X: x, UP: up, GAIN: gain}
        runs = [
            ("exp", elementwise_call(x[0]), {X: x}, (Y,)),
            (
                "rotation_angles",
                rotation_call(steps, first_position=3, num_tokens=1),
                {X: steps},
                (Y, COSINES),
            ),
            ("quantize_blocks", quantize_call(x), {X: x}, quantized),
            ("rms_norm", rms_norm_call(x, gain, eps=EPS), {X: x, GAIN: gain}, (Y,)),
            ("rms_norm_quantize", rms_norm_quantize_call(x, gain, eps=EPS), {X: x, GAIN: gain}, quantized),
            ("swiglu", swiglu_call(x, up), {X: x, UP: up}, (Y,)),
            ("swiglu_quantize", swiglu_quantize_call(x, up), {X: x, UP: up}, quantized),
            (
                "swiglu_norm_quantize",
                swiglu_norm_quantize_call(x, up, gain, eps=EPS),
                values,
                (Y, *quantized),
            ),
        ]
        for name, call, places, outputs in runs:
            kernel = OPERATIONS[name].forms["plain"]
            call.run(kernel, 0, call.units)
            call.table[[X_STRIDE, UP_STRIDE, Y_STRIDE, Q_STRIDE, D_STRIDE]] = 1 << 20  # there is one token
            found = moved(call, places, outputs)
            call.run(kernel, 0, call.units)
            assert not difference(found, call.outputs), f"{name}, {size}"


if __name__ == "__main__":
    main()
    print("done")
