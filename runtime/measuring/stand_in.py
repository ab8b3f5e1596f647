"""A packed model of any config whose weights are nobody's: an engine is built on it before there is a model.

A stand-in has the tensors of the real file, in its order, but codes and scales of many tensors lie in the
same memory. It is as much as no cache of the machine holds, so that a token fetches as much from memory as
it will from the real file. Floats, which are few, are drawn as those of a model, so that routers choose and
states stay finite. Nothing is read from a disk and nothing is written.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from configs.inventory import Tensor, tensors
from configs.schema.model import ModelConfig
from quant.container import B158File
from quant.container_check import Header, PlacedPart
from quant.container_format import GROUPED, KIND_BITS, Kind, PartRole, StoredPart, TensorSpec, stored_parts
from runtime.measuring.pages import as_bytes, populate, reserve
from runtime.model_folder import PackedModel
from runtime.packed_specs import packed_specs
from runtime.random_model import deviation_of, random_bytes, random_codes, range_of, scale_of, uniform

LEAST_RING_BYTES = 128 * 2**20
CACHES_A_RING = 4
"""A ring of codes is so many times as large as the caches, so that a round through it finds nothing there."""
_PATTERN_BYTES = 4 * 2**20
_SEED = 5


class StandIn:
    """A stand-in. Until `fill_rings`, it has no memory for codes and scales, and takes none."""

    def __init__(self, config: ModelConfig, *, cache_bytes: int) -> None:
        """`cache_bytes` is what the machine's caches hold."""
        specs = packed_specs(config)
        ring_bytes = max(LEAST_RING_BYTES, CACHES_A_RING * cache_bytes)
        self._regions = _Regions(config, specs, ring_bytes=ring_bytes)
        memory = reserve(self._regions.num_bytes)
        self._memory, self._bytes = memory, as_bytes(memory)
        parts = {part.name: self._regions.place(spec, part) for spec in specs for part in stored_parts(spec)}
        self._draw_floats(config, specs, parts)
        header = Header(
            config="", metadata={}, digest="0" * 64, tensors={spec.name: spec for spec in specs}, parts=parts
        )
        file = B158File(Path("stand-in"), mapped=memory, header=header)
        self.model = PackedModel(file=file, config=config, holding="all tensors")

    @property
    def num_bytes(self) -> int:
        """Memory that it takes once it is filled."""
        return self._regions.num_bytes

    def fill_rings(self) -> None:
        """Give codes and scales their bytes."""
        populate(self._memory)
        draws = np.random.SFC64(_SEED)
        for ring in self._regions.rings:
            filling = _filling(draws, ring)
            region = self._bytes[self._regions.begins[ring] : self._regions.ends[ring]]
            for begin in range(0, region.size, filling.size):
                piece = region[begin : begin + filling.size]
                piece[...] = filling[: piece.size]

    def _draw_floats(
        self, config: ModelConfig, specs: tuple[TensorSpec, ...], parts: dict[str, PlacedPart]
    ) -> None:
        inventory: dict[str, Tensor] = {
            part.name: part for tensor in tensors(config) for part in tensor.apart()
        }
        draws = np.random.SFC64(_SEED)
        for spec in specs:
            if spec.kind == "float32":
                placed = parts[stored_parts(spec)[0].name]
                values = uniform(draws, placed.part.shape, within=range_of(config, inventory[spec.name]))
                self._bytes[placed.begin : placed.end].view(np.float32)[...] = values


@dataclass(frozen=True, kw_only=True, slots=True)
class _Ring:
    """What may lie in the same memory: the same part of tensors of one kind and one deviation."""

    role: PartRole
    kind: Kind
    deviation: float


class _Regions:
    """Where parts lie: those of a ring one behind the other, and at its end from its beginning again."""

    def __init__(self, config: ModelConfig, specs: tuple[TensorSpec, ...], *, ring_bytes: int) -> None:
        self._config = config
        sizes: dict[_Ring, list[int]] = {}
        for spec in specs:
            for part in stored_parts(spec):
                sizes.setdefault(self._ring_of(spec, part), []).append(part.num_bytes)
        self.begins: dict[_Ring, int] = {}
        self.ends: dict[_Ring, int] = {}
        self.num_bytes = 0
        for ring, found in sizes.items():
            # Floats are few, and each has values of its own.
            size = sum(found) if ring.role == "values" else max(max(found), min(sum(found), ring_bytes))
            self.begins[ring] = self.num_bytes
            self.num_bytes += size
            self.ends[ring] = self.num_bytes
        self._next = dict(self.begins)

    @property
    def rings(self) -> list[_Ring]:
        """Those of codes and scales."""
        return [ring for ring in self.begins if ring.role != "values"]

    def place(self, spec: TensorSpec, part: StoredPart) -> PlacedPart:
        """The next place in the part's ring."""
        ring = self._ring_of(spec, part)
        begin = self._next[ring]
        if begin + part.num_bytes > self.ends[ring]:
            begin = self.begins[ring]
        self._next[ring] = begin + part.num_bytes
        return PlacedPart(part=part, begin=begin, end=begin + part.num_bytes, digest="")

    def _ring_of(self, spec: TensorSpec, part: StoredPart) -> _Ring:
        deviation = deviation_of(self._config, spec.name) if part.role == "scales" else 0.0
        return _Ring(role=part.role, kind=spec.kind, deviation=deviation)


def _filling(draws: np.random.SFC64, ring: _Ring) -> NDArray[np.uint8]:
    """Bytes that are written over and over."""
    if ring.role == "codes":
        if ring.kind == "sherry":
            return random_bytes(draws, (_PATTERN_BYTES,))
        return random_codes(draws, (_PATTERN_BYTES,), bits=KIND_BITS[ring.kind])
    scale = scale_of(ring.deviation, ring.kind)
    scales = uniform(draws, (_PATTERN_BYTES // 4,), within=(0.75 * scale, 1.25 * scale))
    return (scales.astype(np.float16) if ring.kind in GROUPED else scales).view(np.uint8)
