"""Writing clusters of experts and their manifest. A folder has a manifest only when all of it is whole."""

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chronos_moe.store.cluster_file import SUFFIX, Key, header_bytes
from chronos_moe.store.form import ExpertForm
from chronos_moe.store.manifest import Cluster, Manifest
from quant.atomic import atomic_file
from quant.container_format import StoredPart

ReadPart = Callable[[Key, StoredPart], NDArray[Any]]
"""The bytes of a stored tensor of an expert."""
Progress = Callable[[int, int], None]
"""Given the number of bytes written, and of all."""


def write_clusters(
    folder: Path,
    clusters: Sequence[Sequence[Key]],
    *,
    stem: str,
    form: ExpertForm,
    source: str,
    read: ReadPart,
    progress: Progress | None = None,
) -> Manifest:
    """Write a file for each cluster into a folder; what the manifest is, which the caller writes last."""
    written: list[Cluster] = []
    total, done = sum(len(keys) for keys in clusters) * form.block_bytes, 0
    digits = max(3, len(str(len(clusters) - 1)))
    for number, keys in enumerate(clusters):
        name = f"{stem}-{number:0{digits}}{SUFFIX}"
        digests: list[str] = []
        with atomic_file(folder / name) as file:
            file.write(header_bytes(keys, form=form, source=source, number=number))
            for key in keys:
                block = _block(key, form=form, read=read)
                file.write(block.data)
                digests.append(hashlib.sha256(block.data).hexdigest())
                done += form.block_bytes
                if progress is not None:
                    progress(done, total)
        written.append(Cluster(file=name, keys=tuple(keys), digests=tuple(digests)))
    return Manifest(source=source, clusters=tuple(written), form=form)


def by_order(
    layers: Sequence[int], *, num_experts: int, most_bytes: int, form: ExpertForm
) -> list[list[Key]]:
    """Clusters where nobody knows what is needed together: layer by layer, in files of some size."""
    keys = [(layer, expert) for layer in layers for expert in range(num_experts)]
    each = max(1, most_bytes // form.block_bytes)
    return [keys[first : first + each] for first in range(0, len(keys), each)]


def _block(key: Key, *, form: ExpertForm, read: ReadPart) -> NDArray[np.uint8]:
    block = np.zeros(form.block_bytes, dtype=np.uint8)
    for part, begin in form.parts():
        values = read(key, part)
        assert values.nbytes == part.num_bytes, "a part has the size that the form says"
        block[begin : begin + part.num_bytes] = values.reshape(-1).view(np.uint8)
    return block
