"""A packed model of any config whose weights are nobody's: an engine is built on it before there is a model.

A stand-in has the tensors of the real file, in its order, but codes and scales of many tensors lie in the
same memory. It is as much as no cache of the machine holds, so that a token fetches as much from memory as
it will from the real file. Floats, which are few, are drawn as those of a model, so that routers choose and
states stay finite. Nothing is read from a disk and nothing is written.
"""

import mmap
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from configs.inventory import Tensor, tensors
from configs.schema.model import ModelConfig
from quant.container import B158File
from quant.container_check import Header, PlacedPart
from quant.container_format import ALIGNMENT, KIND_BITS, StoredPart, TensorSpec, stored_parts
from quant.packing import first_invalid_code
from runtime.model_folder import PackedModel
from runtime.packed_specs import packed_specs
from runtime.random_model import SCALE_OF_DEVIATION, range_of, uniform

LEAST_RING_BYTES = 256 * 2**20
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
        self._regions = _Regions(specs, ring_bytes=ring_bytes)
        # As for a mapped file there are no huge pages: a map that is shared gets none from the system.
        memory = mmap.mmap(-1, max(self._regions.num_bytes, mmap.PAGESIZE))
        self._bytes = np.frombuffer(memory, dtype=np.uint8)
        self._scale = SCALE_OF_DEVIATION * config.initializer_range
        parts = {part.name: self._regions.place(part) for spec in specs for part in stored_parts(spec)}
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
        fillings: dict[str, NDArray[np.uint8]] = {
            "codes": _codes(),
            "scales.F16": np.full(_PATTERN_BYTES // 2, self._scale, dtype=np.float16).view(np.uint8),
            "scales.F32": np.full(_PATTERN_BYTES // 4, self._scale, dtype=np.float32).view(np.uint8),
        }
        for name, filling in fillings.items():
            region = self._bytes[self._regions.begins.get(name, 0) : self._regions.ends.get(name, 0)]
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


class _Regions:
    """Where the parts of each kind lie, one behind the other; behind the last place the first comes again."""

    def __init__(self, specs: tuple[TensorSpec, ...], *, ring_bytes: int) -> None:
        sizes: dict[str, list[int]] = {}
        for part in (part for spec in specs for part in stored_parts(spec)):
            sizes.setdefault(_region(part), []).append(part.num_bytes)
        self.begins: dict[str, int] = {}
        self.ends: dict[str, int] = {}
        self.num_bytes = 0
        for name, found in sizes.items():
            # Floats are few, and each has values of its own.
            size = sum(found) if name == "values" else max(max(found), min(sum(found), ring_bytes))
            self.begins[name] = self.num_bytes
            self.num_bytes += -(-size // ALIGNMENT) * ALIGNMENT
            self.ends[name] = self.num_bytes
        self._next = dict(self.begins)

    def place(self, part: StoredPart) -> PlacedPart:
        name = _region(part)
        begin = self._next[name]
        if begin + part.num_bytes > self.ends[name]:
            begin = self.begins[name]
        self._next[name] = begin + part.num_bytes
        return PlacedPart(part=part, begin=begin, end=begin + part.num_bytes, digest="")


def _region(part: StoredPart) -> str:
    """Scales of ternary groups are float16 and those of rows float32, which no memory is both of."""
    return part.role if part.role != "scales" else f"scales.{part.dtype}"


def _codes() -> NDArray[np.uint8]:
    """Bytes that are codes of every kind, since tensors of all kinds lie here."""
    every = np.arange(256, dtype=np.uint8)
    kinds = set(KIND_BITS.values())
    valid = every[
        [all(first_invalid_code(byte, bits=bits) is None for bits in kinds) for byte in every[:, None]]
    ]
    return valid[np.random.default_rng(_SEED).integers(0, len(valid), _PATTERN_BYTES)]
