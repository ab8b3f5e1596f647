"""The weights of a checkpoint, some rows at a time, so that memory never holds a whole model.

A checkpoint is a folder that `chimera.saving` wrote, or that of a training run, whose newest step is taken,
or a resume pack, whole or in parts. A pack is made to be carried, so it is small, and is read as a whole; its
ternary weights were rounded to bfloat16, which moves a few of them to the next value.
"""

from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from chimera.saving import CONFIG_NAME, WEIGHTS_NAME, open_weights
from chimera.train.checkpoint import NAME, saved_steps
from chimera.train.pack_parts import base_path, part_paths
from chimera.train.resume_pack import load_pack
from chimera.train.run_folder import CHECKPOINTS_NAME, MODEL_NAME
from chimera.train.sealed import verify_sealed
from configs.errors import ModelError
from configs.load import load_config
from configs.schema.model import ModelConfig

MODEL_OF_A_STEP = "model/"
"""What stands before the model's names in a file that holds an optimiser as well."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Checkpoint:
    """An open checkpoint whose tensors are those of its config, by name and shape."""

    folder: Path
    """Or the file of a resume pack."""
    words: tuple[Path, ...]
    """Folders in which its tokenizer may lie."""
    tokenizer_digest: str | None = None
    """Of the tokenizer that it was trained with, where its file says so."""
    config: ModelConfig
    step: int | None
    """Steps of training that led to it, where its file says so."""
    weights: Any
    """safetensors' open file, or what reads like one."""
    prefix: str

    def values(self, name: str, *, first: int, after: int) -> NDArray[np.float32]:
        """Rows of a tensor in float32, from `first` to before `after`."""
        return _array(self.weights.get_slice(self.prefix + name)[first:after])

    def expert_values(self, name: str, *, expert: int, first: int, after: int) -> NDArray[np.float32]:
        """Rows of one expert of a stacked tensor."""
        return _array(self.weights.get_slice(self.prefix + name)[expert, first:after])


class _Loaded:
    """Tensors in memory, asked for as safetensors' open file is."""

    def __init__(self, tensors: Mapping[str, torch.Tensor]) -> None:
        self._tensors = tensors

    def get_tensor(self, name: str) -> torch.Tensor:
        """A whole tensor."""
        return self._tensors[name]

    def get_slice(self, name: str) -> torch.Tensor:
        """What rows are taken from."""
        return self._tensors[name]


@contextmanager
def open_checkpoint(path: Path | str) -> Generator[Checkpoint]:
    """The checkpoint of a folder, checked by names and shapes; that of a run by its digest as well."""
    folder = Path(path)
    if folder.is_file() or part_paths(base_path(folder)):
        pack = load_pack(folder)
        yield Checkpoint(
            folder=pack.source,
            words=words_folders(pack.source),
            tokenizer_digest=pack.digests.get("tokenizer"),
            config=pack.config,
            step=pack.step,
            weights=_Loaded(pack.weights),
            prefix="",
        )
        return
    if not folder.is_dir():
        raise ModelError(
            f"{folder}: there is no such folder and no such resume pack",
            hint=f"A checkpoint is a folder with {CONFIG_NAME} and {WEIGHTS_NAME}, or a training run's.",
        )
    config = load_config(folder)
    file, step = folder / WEIGHTS_NAME, None
    if not file.is_file() and (folder / CHECKPOINTS_NAME).is_dir():
        file, step = _newest(folder / CHECKPOINTS_NAME)
    prefix = "" if step is None else MODEL_OF_A_STEP
    with open_weights(file, config, prefix=prefix) as weights:
        yield Checkpoint(
            folder=folder,
            words=words_folders(folder),
            config=config,
            step=step,
            weights=weights,
            prefix=prefix,
        )


def words_folders(path: Path) -> tuple[Path, ...]:
    """Where the tokenizer of a checkpoint lies: in its folder, or in that of a run's model; beside a pack."""
    return (path, path / MODEL_NAME) if path.is_dir() else (path.parent,)


def _newest(folder: Path) -> tuple[Path, int]:
    """The file of the last step. A damaged one is refused: to take an older step is the user's choice."""
    steps = saved_steps(folder)
    if not steps:
        raise ModelError(
            f"{folder}: the run has saved no step yet", hint="Train until the first checkpoint is written."
        )
    names = {int(match[1]): file for file in folder.iterdir() if (match := NAME.fullmatch(file.name))}
    path = names[steps[-1]]
    try:
        with path.open("rb") as file:
            verify_sealed(file, num_bytes=path.stat().st_size, source=str(path))
    except ModelError as error:
        older = f"Remove it to take step {steps[-2]}." if len(steps) > 1 else error.hint
        raise ModelError(error.message, hint=older) from error
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror or error}") from error
    return path, steps[-1]


def _array(values: torch.Tensor) -> NDArray[np.float32]:
    return values.float().contiguous().numpy()
