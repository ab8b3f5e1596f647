"""An older sketch of these kernels, measured beside them where its folder is named on the command line.

The folder holds `gen.py` and `gen3.py`, which write the modules `kgen` and `kgen3` where they are started.
"""

import importlib
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quant.activations import QuantizedActivations
from quant.cpu import Form
from quant.packing import PackedTernary

# How the sketch calls its product of one token, and of several with how many at once.
ONE_TOKEN: dict[Form, tuple[str, str]] = {
    "avx512vnni": ("kgen3", "t32_pf4096"),
    "avx2": ("kgen", "gemv_avx2_r4"),
}
SOME_TOKENS: dict[Form, tuple[str, str, int]] = {
    "avx512vnni": ("kgen", "gemm512_1x16", 16),
    "avx2": ("kgen", "gemm_avx2_2x4", 4),
}


class Prototype:
    """The sketch's kernels with a matrix of ours in its layout."""

    def __init__(self, folder: Path, *, form: Form) -> None:
        self._made = TemporaryDirectory(prefix="prototype-")
        self._form: Form = form
        for script in ("gen.py", "gen3.py"):
            command = [sys.executable, str(folder.resolve() / script)]
            subprocess.run(command, cwd=self._made.name, check=True)
        sys.path[:0] = [str(folder.resolve()), self._made.name]

    def product(
        self, packed: PackedTernary, acts: QuantizedActivations
    ) -> tuple[Callable[[], object], NDArray[np.float32]]:
        """A call of its kernel for one thread, and the array that it fills."""
        tokens, blocks = acts.scales.shape
        rows, inputs = packed.codes.shape[0] * 32, blocks * 64
        scales = packed.scales.astype(np.float32)
        codes = packed.codes
        if not (self._form == "avx512vnni" and tokens == 1):
            # All but its one-token AVX-512 kernel want the two row blocks of a pair one after another.
            codes = np.ascontiguousarray(codes.transpose(0, 2, 1, 3))
            scales = np.ascontiguousarray(scales.transpose(0, 2, 1, 3))
        y = np.zeros((tokens, rows), dtype=np.float32)
        held: tuple[NDArray[Any], ...] = (codes, scales, acts.codes, acts.scales, acts.neg_sums, y)
        w, s, q, d, starts, out = (array.ctypes.data for array in held)
        if tokens == 1:
            module, name = ONE_TOKEN[self._form]
            kernel = getattr(importlib.import_module(module), name)
            return lambda: (kernel(w, s, q, d, starts, out, 0, rows // 16, blocks, 64), held)[0], y
        module, name, at_once = SOME_TOKENS[self._form]
        kernel = getattr(importlib.import_module(module), name)

        def run() -> object:
            for token in range(0, tokens, at_once):
                first = (w, s, q + token * inputs, d + token * blocks * 4, starts + token * blocks * 4)
                kernel(
                    *first, out + token * rows * 4, 0, rows // 16, blocks, 64, inputs, blocks * 4, rows * 4
                )
            return held

        return run, y
