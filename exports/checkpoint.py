"""The weights of a checkpoint, some rows at a time, so that memory never holds a whole model.

A checkpoint is a folder that `chimera.saving` wrote, or that of a training run, whose newest step is taken.
"""

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from chimera.saving import CONFIG_NAME, WEIGHTS_NAME, open_weights
from chimera.train.checkpoint import NAME, saved_steps
from chimera.train.run_folder import CHECKPOINTS_NAME
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
    config: ModelConfig
    step: int | None
    """Steps of training that led to it, where its file says so."""
    weights: Any
    """safetensors' open file."""
    prefix: str

    def values(self, name: str, *, first: int, after: int) -> NDArray[np.float32]:
        """Rows of a tensor in float32, from `first` to before `after`."""
        return _array(self.weights.get_slice(self.prefix + name)[first:after])

    def expert_values(self, name: str, *, expert: int, first: int, after: int) -> NDArray[np.float32]:
        """Rows of one expert of a stacked tensor."""
        return _array(self.weights.get_slice(self.prefix + name)[expert, first:after])


@contextmanager
def open_checkpoint(path: Path | str) -> Generator[Checkpoint]:
    """The checkpoint of a folder, checked by names and shapes; that of a run by its digest as well."""
    folder = Path(path)
    if not folder.is_dir():
        raise ModelError(
            f"{folder}: there is no such folder",
            hint=f"A checkpoint is a folder with {CONFIG_NAME} and {WEIGHTS_NAME}, or a training run's.",
        )
    config = load_config(folder)
    file, step = folder / WEIGHTS_NAME, None
    if not file.is_file() and (folder / CHECKPOINTS_NAME).is_dir():
        file, step = _newest(folder / CHECKPOINTS_NAME)
    prefix = "" if step is None else MODEL_OF_A_STEP
    with open_weights(file, config, prefix=prefix) as weights:
        yield Checkpoint(folder=folder, config=config, step=step, weights=weights, prefix=prefix)


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
