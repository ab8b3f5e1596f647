"""Scales of ternary weights that move: s · (1 + δ), one δ for each group of 128, as `runtime.adapting.drift`
has it.

    scale = float16(float32(s) · float32(2^14 + δ) · 2^-14)

The kernels read what stands in the file's place, so a model that learns runs as fast as one that does not,
and a merged file gives the very bits that were learnt with.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from quant.adapter import Setting
from quant.container import B158File
from quant.container_format import GROUPED
from runtime.adapting.drift import UNIT, UNIT_BITS, Drift, look_length
from runtime.adapting.learnt import number_told

LARGEST = np.float32(65504)
DEFAULT_EPSILON = 0.02


class Scales:
    """The scales of all ternary matrices of a file whose map is this process's own."""

    def __init__(self, file: B158File, *, seed: int, settings: Mapping[str, Setting]) -> None:
        self._epsilon = look_length(number_told(settings, "epsilon"))
        self._scales = [_scales_of(file, name) for name in grouped_names(file)]
        self._base = [scales.copy() for scales in self._scales]
        self._drift = Drift([scales.size for scales in self._scales], seed=seed)

    @property
    def num_bytes(self) -> int:
        """Memory of what is kept beside the model."""
        return self._drift.num_bytes + sum(base.nbytes for base in self._base)

    def look(self, step: int, *, pair: int = 0, side: int) -> None:
        """Stand to one side of what was learnt."""
        for stream, (scales, base) in enumerate(zip(self._scales, self._base, strict=True)):
            delta = self._drift.at(stream, step=step, pair=pair, by=side * self._epsilon)
            factor = np.maximum(delta + (1 << UNIT_BITS), 0).astype(np.float32) * np.float32(UNIT)
            scales[...] = np.minimum(base.astype(np.float32) * factor, LARGEST)

    def apply(self, step: int, lengths: Sequence[float], *, decay: float = 0.0) -> None:
        """End a step. The weights stand where they did until the next look."""
        self._drift.apply(step, lengths, decay=decay)

    def settle(self) -> None:
        """Stand where the last step ended."""
        self.look(0, side=0)


def grouped_names(file: B158File) -> list[str]:
    """The ternary matrices of a file; their places here are the streams of their directions."""
    return sorted(name for name, spec in file.tensors.items() if spec.kind in GROUPED)


def _scales_of(file: B158File, name: str) -> NDArray[np.float16]:
    """A flat view; padded rows have the scale 0 and keep it."""
    packed = file.sherry(name) if file.tensors[name].kind == "sherry" else file.ternary(name)
    return packed.scales.reshape(-1)
