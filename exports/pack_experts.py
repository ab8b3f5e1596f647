"""A packed model whose experts lie in clusters of their own, to be read as they are needed.

The folder holds the packed weights without routed experts, the clusters, their manifest, and what was beside
the model. The weights' metadata names all experts by one digest, so that weights and experts of two models
are never taken for one. The manifest is written last: without it there are no experts, and whoever opens the
folder is told so.
"""

import heapq
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chronos_moe.intent_file import FILE_NAME as INTENT_NAME
from chronos_moe.store.cluster_file import SUFFIX, Key
from chronos_moe.store.form import expert_form, expert_layers, tensor_name
from chronos_moe.store.manifest import EXPERTS_KEY, MANIFEST_NAME, SOURCE_KEY, Manifest
from chronos_moe.store.writing import by_order, write_clusters
from configs.errors import UsageError
from configs.schema.model import ModelConfig
from configs.text.tokenizer import FILES_OF_A_FOLDER
from exports.words import SIDE_NAME
from quant.atomic import atomic_file
from quant.container_format import StoredPart
from quant.container_writer import B158Writer
from quant.whole_folder import errors_named
from runtime.building.tensors import Tensors
from runtime.model_folder import CONFIG_NAME, TEMPLATE_NAME, PackedModel, open_model
from runtime.packed_inspection import routed_tensors
from runtime.packed_specs import packed_specs

Progress = Callable[[int, int], None]
"""Given the number of bytes of experts written, and of all."""

FILE_BYTES = 64 * 2**20
"""How large a file is where clusters follow the order of layers."""
MOST_FILES = 512
"""A reader holds all of them open, and a process may usually have a thousand."""
_EXPERTS_FILES = ("weights", "moe")


@dataclass(frozen=True, kw_only=True, slots=True)
class PackedExperts:
    """What was written."""

    folder: Path
    digest: str
    """Of the packed weights."""
    manifest: Manifest


def pack_experts(
    source: Path | str,
    out: Path | str,
    *,
    clusters: Sequence[Sequence[Key]] | None = None,
    progress: Progress | None = None,
) -> PackedExperts:
    """Write the folder of a packed model; `clusters` are those of experts (layer, expert), else by layers."""
    model, folder = open_model(source), Path(out)
    check_destination(model, folder)
    tensors = Tensors(model)
    form, layers = expert_form(model.config), expert_layers(model.config)
    num_experts = model.config.backbone.moe.n_routed_experts
    if clusters is None:
        clusters = by_order(layers, num_experts=num_experts, most_bytes=FILE_BYTES, form=form)
    clusters = joined(clusters, most=MOST_FILES)
    _check_clusters(clusters, {(layer, expert) for layer in layers for expert in range(num_experts)})
    stem = Path(model.config.files.moe).stem
    with errors_named(folder):
        folder.mkdir(parents=True, exist_ok=True)
        # From here on a folder that was there is no whole model until this one is.
        (folder / MANIFEST_NAME).unlink(missing_ok=True)
        manifest = write_clusters(
            folder,
            clusters,
            stem=stem,
            form=form,
            source=model.file.digest,
            read=lambda key, part: _part_of(tensors, key, part),
            progress=progress,
        )
    digest = _write_weights(folder / model.config.files.weights, model, tensors, manifest)
    with errors_named(folder):
        _copy_beside(model, folder)
        with atomic_file(folder / MANIFEST_NAME) as file:
            file.write(manifest.to_json())
        named = {cluster.file for cluster in manifest.clusters}
        for old in folder.glob(f"{stem}-*{SUFFIX}"):
            if old.name not in named:
                old.unlink()
    return PackedExperts(folder=folder, digest=digest, manifest=manifest)


def joined(clusters: Sequence[Sequence[Key]], *, most: int) -> Sequence[Sequence[Key]]:
    """So many clusters at most: the smallest two become one until there are no more."""
    waiting = [(len(keys), number, list(keys)) for number, keys in enumerate(clusters)]
    heapq.heapify(waiting)
    while len(waiting) > most:
        _, _, small = heapq.heappop(waiting)
        size, number, next_small = heapq.heappop(waiting)
        heapq.heappush(waiting, (size + len(small), number, next_small + small))
    return [keys for _, _, keys in sorted(waiting, key=lambda one: one[1])]


def most_in_a_file(config: ModelConfig) -> int:
    """How many experts a cluster may have, so that its file is no larger than others."""
    return max(1, FILE_BYTES // expert_form(config).block_bytes)


def check_destination(model: PackedModel, folder: Path) -> None:
    """Refuse a model that cannot be packed so, and a folder that is not free for it."""
    if not model.config.backbone.moe.enabled:
        raise UsageError(f"{model.file.path} is a model without experts: there is nothing to lay on disk")
    if model.adapters:
        raise UsageError(
            f"{model.folder} holds adapters, which were learnt by the weights as they are now",
            hint="Pack a folder without them, or name the weights alone.",
        )
    if (model.folder / MANIFEST_NAME).exists() and model.holding == "all but routed experts":
        raise UsageError(
            f"{model.folder} holds clusters of experts already",
            hint="Pack them anew from the model that they were packed from.",
        )
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder} is a file; the clusters need a folder of their own")
    if folder.resolve() == model.folder.resolve():
        raise UsageError(
            f"{folder} is the model's own folder, which stays as it is", hint="Name another one: --out FOLDER"
        )
    if (folder / CONFIG_NAME).exists() and not (folder / MANIFEST_NAME).exists():
        raise UsageError(f"{folder} holds another model", hint="Name a folder of its own: --out FOLDER")


def _check_clusters(clusters: Sequence[Sequence[Key]], expected: set[Key]) -> None:
    found = [tuple(key) for keys in clusters for key in keys]
    if len(found) != len(expected) or set(found) != expected or not all(clusters):
        raise UsageError(
            f"the clusters hold {len(found)} experts, {len(set(found) & expected)} of the {len(expected)} of "
            "this model; each is needed once, and no cluster may be empty"
        )


def _part_of(tensors: Tensors, key: Key, part: StoredPart) -> NDArray[Any]:
    """A stored tensor of an expert."""
    own, _, role = part.name.rpartition(".")
    name = tensor_name(*key, own)
    if role == "values":
        values = np.zeros(part.shape, dtype=np.float32)
        found = tensors.floats(name)
        values[: found.size] = found.reshape(-1)
        return values
    packed = tensors.ternary(name)
    return packed.codes if role == "codes" else packed.scales


def _write_weights(path: Path, model: PackedModel, tensors: Tensors, manifest: Manifest) -> str:
    routed = routed_tensors(model.config)
    specs = [spec for spec in packed_specs(model.config) if spec.name not in routed]
    metadata = {
        **model.file.metadata,
        SOURCE_KEY: manifest.source,
        EXPERTS_KEY: manifest.experts_digest,
    }
    with B158Writer(path, tensors=specs, config=model.file.config, metadata=metadata) as writer:
        for spec in specs:
            writer.write(spec.name, model.file.tensor(spec.name))
    return writer.digest


def _copy_beside(model: PackedModel, folder: Path) -> None:
    """Copy what else is of the model: its config, its words, whatever the config names."""
    for name in names_beside(model.config):
        found = model.folder / name
        if found.is_file():
            with found.open("rb") as origin, atomic_file(folder / name) as copy:
                shutil.copyfileobj(origin, copy)


def names_beside(config: ModelConfig) -> tuple[str, ...]:
    """The files that may lie beside a model's weights and experts."""
    named = [
        getattr(config.files, field.name)
        for field in fields(config.files)
        if field.name not in _EXPERTS_FILES
    ]
    return tuple(
        dict.fromkeys((CONFIG_NAME, TEMPLATE_NAME, SIDE_NAME, INTENT_NAME, *FILES_OF_A_FOLDER, *named))
    )
