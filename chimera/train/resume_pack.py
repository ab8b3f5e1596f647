"""A run made small enough to carry to another machine: weights in bf16, its place in the data, no moments.

What a packed model holds in 2 to 8 bits is rounded to bf16; what it holds in float32 (norms, gates, router
and its bias, decays) stays float32, as small errors there move every token. The optimiser's moments are two
thirds of a checkpoint and come back within a short warm-up, so they stay behind: a pack goes on nearly, and
not bit for bit, where the run was.
"""

import glob
import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from chimera.model import ChimeraForCausalLM
from chimera.train.differences import differences, report
from chimera.train.pack_parts import base_path, open_parts, part_paths, write_parts
from chimera.train.sealed import Sealed, read_sealed, write_sealed
from configs.codec import encode
from configs.errors import ChimeraError, ModelError, UsageError
from configs.inventory import tensors
from configs.load import parse_config, to_json
from configs.schema.model import ModelConfig
from configs.strict_json import parse_object
from quant.atomic import atomic_file, sweep_unfinished

FORMAT = "chimera-resume-pack"
FORMAT_VERSION = "1"
PART_BYTES = 15 * 2**20


@dataclass(frozen=True, kw_only=True, slots=True)
class ResumePack:
    """What a pack holds. Weights are float32, whatever they were stored as."""

    config: ModelConfig
    weights: Mapping[str, Tensor]
    step: int
    position: Any
    digests: Mapping[str, str]
    source: Path

    def check(self, *, config: ModelConfig, digests: Mapping[str, str]) -> None:
        """Refuse to go on with another config, other data or another tokenizer, naming what differs."""
        found = differences(
            {"config": encode(self.config), "digests": dict(self.digests)},
            {"config": encode(config), "digests": dict(digests)},
        )
        if found:
            raise UsageError(
                f"{self.source}: the run in this pack was begun with something else{report(found)}",
                hint="Give the run the config, the data and the tokenizer that it was begun with.",
            )

    def load_into(self, model: ChimeraForCausalLM) -> None:
        """Set the weights and buffers of a model of the same config."""
        self.check(config=model.config, digests=self.digests)
        model.load_state_dict(dict(self.weights))


def save_pack(
    path: Path | str,
    model: ChimeraForCausalLM,
    *,
    step: int,
    position: Any,
    digests: Mapping[str, str],
    part_bytes: int | None = PART_BYTES,
) -> tuple[Path, ...]:
    """Write a pack, as one file or in parts where it is larger than `part_bytes`; gives the files.

    `position` is any JSON value: where in its data the run is. `digests` are those of the data and the
    tokenizer. An older pack of this name is replaced, once all of the new one is written.
    """
    path = Path(path)
    if path != base_path(path):
        raise UsageError(f"{path} is the name of a part of a pack; name the whole")
    place = json.dumps({"step": step, "position": position, "digests": dict(digests)}, allow_nan=False)
    metadata = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "place": place,
        "config": to_json(model.config),
    }
    try:
        sweep_unfinished(path.parent, names=f"{glob.escape(path.name)}*")
        with tempfile.TemporaryFile(dir=path.parent) as whole:
            write_sealed(whole, _packed(model), metadata=metadata)
            num_bytes = whole.seek(0, os.SEEK_END)
            if part_bytes is not None and num_bytes > part_bytes:
                written = write_parts(path, whole, num_bytes=num_bytes, part_bytes=part_bytes)
            else:
                whole.seek(0)
                with atomic_file(path) as file:
                    shutil.copyfileobj(whole, file)
                written = (path,)
        for stale in {path, *part_paths(path)} - set(written):
            stale.unlink(missing_ok=True)
    except OSError as error:
        raise ChimeraError(
            f"cannot save {path}: {error.strerror or error}", hint="Check the folder and its free space."
        ) from error
    return written


def load_pack(path: Path | str) -> ResumePack:
    """The pack of a name, whole or in parts; the name of one part does too."""
    path = base_path(Path(path))
    try:
        sealed = _read(path)
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror or error}") from error
    kind = sealed.metadata.get("format"), sealed.metadata.get("format_version")
    if kind != (FORMAT, FORMAT_VERSION):
        raise ModelError(
            f"{path}: not a resume pack that this version reads: format {kind[0]!a}, version {kind[1]!a}",
            hint="If a newer version wrote the file, update: pip install --upgrade chimera-edge",
        )
    place: dict[str, Any] = dict(
        parse_object(sealed.metadata.get("place", ""), source=f"{path} (place)", error=ModelError)
    )
    if set(place) != {"step", "position", "digests"}:
        raise ModelError(f"{path}: its place in the run is told by {', '.join(place) or 'nothing'}")
    config = parse_config(sealed.metadata.get("config", ""), source=f"{path} (config)")
    weights = {name: tensor.float() for name, tensor in sealed.tensors.items()}
    expected = {tensor.name: tensor.shape for tensor in tensors(config)}
    if expected != {name: tuple(tensor.shape) for name, tensor in weights.items()}:
        raise ModelError(f"{path}: its tensors are not those of its own config")
    return ResumePack(config=config, weights=weights, source=path, **place)


def _read(path: Path) -> Sealed:
    parts = part_paths(path)
    if path.exists() and parts:
        raise ModelError(
            f"{path}: there is the whole and beside it {', '.join(part.name for part in parts)}",
            hint="Keep the one that belongs to the run, and remove the other.",
        )
    if parts:
        file, num_bytes = open_parts(path)
    else:
        file = path.open("rb")
        num_bytes = os.fstat(file.fileno()).st_size
    with file:
        return read_sealed(file, num_bytes=num_bytes, source=str(path))


def _packed(model: ChimeraForCausalLM) -> dict[str, Tensor]:
    """The model's tensors as they are stored; they leave their device one by one, as they are written."""
    storage = {tensor.name: tensor.storage for tensor in tensors(model.config)}
    return {
        name: value.to(torch.float32 if storage[name] == "float32" else torch.bfloat16)
        for name, value in model.state_dict().items()
    }
