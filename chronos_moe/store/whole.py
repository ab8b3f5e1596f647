"""Whether a cluster's file is as it was written: all of it is read, and its blocks' digests compared."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from chronos_moe.store.manifest import Manifest

_PIECE_BYTES = 16 * 2**20


@dataclass(frozen=True, kw_only=True, slots=True)
class Damage:
    """A block whose bytes are others."""

    tensor: str
    part: str
    what: str


class ClusterFile:
    """A file of experts, as it should be."""

    def __init__(self, manifest: Manifest, folder: Path, number: int) -> None:
        self.path = folder / manifest.clusters[number].file
        self.digest = hashlib.sha256("".join(manifest.clusters[number].digests).encode()).hexdigest()
        """The name of what should be in it."""
        self._manifest, self._number = manifest, number

    def verify(self, *, progress: Callable[[int], None] | None = None) -> tuple[Damage, ...]:
        """Read all of it; `progress` is given the bytes of each piece."""
        cluster, size = self._manifest.clusters[self._number], self._manifest.form.block_bytes
        found: list[Damage] = []
        with self.path.open("rb") as file:
            file.seek(len(self._manifest.header(self._number)))
            for (layer, expert), digest in zip(cluster.keys, cluster.digests, strict=True):
                block = hashlib.sha256()
                for begin in range(0, size, _PIECE_BYTES):
                    piece = file.read(min(_PIECE_BYTES, size - begin))
                    block.update(piece)
                    if progress is not None:
                        progress(len(piece))
                if block.hexdigest() != digest:
                    what = f"its bytes have the digest {block.hexdigest()}, expected {digest}"
                    found.append(Damage(tensor=f"expert {expert} of layer {layer}", part="all", what=what))
        return tuple(found)


def cluster_files(manifest: Manifest, folder: Path) -> tuple[ClusterFile, ...]:
    """All files of a model's experts."""
    return tuple(ClusterFile(manifest, folder, number) for number in range(len(manifest.clusters)))
