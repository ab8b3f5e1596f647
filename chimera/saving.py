"""A trained model as a folder: config.json and model.safetensors, float32, by the names of the inventory."""

from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from chimera.model import ChimeraForCausalLM, build
from configs.errors import ModelError
from configs.inventory import Tensor, tensors
from configs.load import load_config, to_json
from configs.schema.model import ModelConfig
from quant.atomic import atomic_file

CONFIG_NAME = "config.json"
WEIGHTS_NAME = "model.safetensors"
SHOWN = 5


def save_model(model: ChimeraForCausalLM, folder: str | Path) -> None:
    """Write the model; what stood there before is replaced file by file, each whole or not at all."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    state = {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}
    with atomic_file(folder / WEIGHTS_NAME) as file:
        file.write(save(state, metadata={"format": "pt"}))
    with atomic_file(folder / CONFIG_NAME) as file:
        file.write(to_json(model.config).encode())


def load_model(folder: str | Path, *, device: torch.device | str = "cpu") -> ChimeraForCausalLM:
    """The model that a folder holds."""
    folder = Path(folder)
    config = load_config(folder)
    weights = read_weights(folder / WEIGHTS_NAME, config)
    model = build(config, device="meta")
    model.load_state_dict(weights, assign=True)
    return model.to(device)


def read_weights(path: Path, config: ModelConfig) -> dict[str, torch.Tensor]:
    """The tensors of a checkpoint."""
    with open_weights(path, config) as file:
        return {tensor.name: file.get_tensor(tensor.name) for tensor in tensors(config)}


@contextmanager
def open_weights(path: Path, config: ModelConfig, *, prefix: str = "") -> Generator[Any]:
    """A checkpoint as safetensors' own open file, its names and shapes checked before any tensor is read.

    With a `prefix`, the model is what stands behind it, and the file may hold more.
    """
    if not path.is_file():
        raise ModelError(
            f"{path}: there is no such file", hint="A model is a folder with config.json beside it."
        )
    expected = {tensor.name: tensor for tensor in tensors(config)}
    try:
        with safe_open(path, framework="pt") as file:
            found = {
                name.removeprefix(prefix): tuple(file.get_slice(name).get_shape())
                for name in file.keys()  # noqa: SIM118
                if name.startswith(prefix)
            }
            check_names(expected, found, path)
            yield file
    except SafetensorError as error:
        raise ModelError(f"{path}: not a readable safetensors file: {error}") from error


def check_names(expected: dict[str, Tensor], found: dict[str, tuple[int, ...]], path: Path) -> None:
    """Refuse a checkpoint of another config, naming what both sides say."""
    wrong = [f"{name} is missing" for name in expected if name not in found]
    wrong += [f"{name} is not in the config's model" for name in found if name not in expected]
    wrong += [
        f"{name} is {list(shape)} in the file, {list(expected[name].shape)} by the config"
        for name, shape in found.items()
        if name in expected and shape != expected[name].shape
    ]
    if wrong:
        more = f" and {len(wrong) - SHOWN} more" if len(wrong) > SHOWN else ""
        raise ModelError(
            f"{path} does not belong to this config: {'; '.join(wrong[:SHOWN])}{more}",
            hint="Use the config.json that was saved with the weights.",
        )
