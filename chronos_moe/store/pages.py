"""Experts where their files are mapped: the system reads a page where compute meets it and may forget it.

This is what plain mapping of a file does. It has no budget and knows no future; the store is held against it.
"""

import mmap
from pathlib import Path
from typing import Literal

import numpy as np

from chronos_moe.store.ledger import Ledger
from chronos_moe.store.manifest import Manifest
from configs.errors import ClusterError

Advice = Literal["normal", "random"]
ADVICE: dict[Advice, str] = {"normal": "MADV_NORMAL", "random": "MADV_RANDOM"}
"""What the system is told of how pages are read: its own reading ahead, or none."""


class MappedExperts:
    """Maps of a model's files of experts, whose addresses stand in the ledger from the start."""

    def __init__(
        self, manifest: Manifest, folder: Path, *, layers: tuple[int, ...], ledger: Ledger, advice: Advice
    ) -> None:
        self._maps: list[mmap.mmap] = []
        addresses: list[int] = []
        for cluster in manifest.clusters:
            try:
                with (folder / cluster.file).open("rb") as file:
                    found = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            except OSError as error:
                raise ClusterError(f"{folder / cluster.file} cannot be mapped: {error}") from error
            if (number := getattr(mmap, ADVICE[advice], None)) is not None:
                found.madvise(number)
            self._maps.append(found)
            addresses.append(np.frombuffer(found, dtype=np.uint8).ctypes.data)
        places = manifest.places()
        for row, layer in enumerate(layers):
            for expert in range(ledger.num_experts):
                place = places[layer, expert]
                ledger.words[row * ledger.num_experts + expert] = addresses[place.cluster] + place.offset

    def close(self) -> None:
        """Give up the maps."""
        self._maps.clear()
