"""A Hugging Face folder as a checkpoint again, which training goes on from and `export b158` packs.

Latent weights come back as they were. Held weights, those of a packed model, are scale × code: latent ones
are drawn for them that quantise to the same scales and codes, as fine-tuning does.
"""

import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePath
from typing import Any, cast

import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from chimera.saving import check_names
from configs.errors import ModelError, UsageError
from configs.inventory import Tensor, tensors
from configs.load import LARGEST_FILE_BYTES, to_json
from configs.schema.model import ModelConfig
from configs.strict_json import parse_object
from configs.text.template import DEFAULT_TEMPLATE
from configs.text.tokenizer import FILES_OF_A_FOLDER
from exports.handover.config_keys import form_of, model_config
from exports.handover.held import latents_of
from exports.handover.names import INDEX_NAME, PREFIX, WEIGHTS_NAME, Form
from exports.handover.safetensors_file import Declared, write_safetensors
from exports.words import SIDE_NAME
from quant.whole_folder import check_free, whole_folder
from runtime.model_folder import CONFIG_NAME, TEMPLATE_NAME, template_text

DTYPES = ("F32", "BF16", "F16")


@dataclass(frozen=True, kw_only=True, slots=True)
class Imported:
    """What was written."""

    path: Path
    files: tuple[str, ...]
    config: ModelConfig
    form: Form
    """Of the weights that came."""


def import_huggingface(
    folder: Path | str, out: Path | str, *, progress: Callable[[int, int], None] | None = None
) -> Imported:
    """Write the checkpoint of a folder that `export_huggingface` or `save_pretrained` wrote."""
    folder, out = Path(folder), Path(out)
    check_free(out)
    raw = _keys(folder / CONFIG_NAME)
    config = model_config(raw, source=str(folder / CONFIG_NAME))
    form = form_of(raw)
    if form == "held" and (
        config.quantization.sherry_mode.enabled or config.quantization.hgf_correction.enabled
    ):
        raise UsageError(
            f"{folder} was made of packed weights of 1.25 bits or with corrections, for which no latent "
            "weights can be drawn",
            hint="Hand over the checkpoint that was packed.",
        )
    with ExitStack() as stack:
        weights = _Weights(folder, config, stack)
        with whole_folder(out) as made:
            total = sum(tensor.size for tensor in tensors(config))
            write_safetensors(
                made / WEIGHTS_NAME,
                _declared(weights, config, form),
                dtype="float32",
                progress=None if progress is None else lambda done: progress(done, total),
            )
            (made / CONFIG_NAME).write_text(to_json(config), encoding="utf-8")
            words = _copy_words(folder, made)
    return Imported(path=out, files=(WEIGHTS_NAME, CONFIG_NAME, *words), config=config, form=form)


def _keys(path: Path) -> Mapping[str, Any]:
    try:
        if path.stat().st_size > LARGEST_FILE_BYTES:
            raise ModelError(f"{path} is over {LARGEST_FILE_BYTES:,} bytes, which no config is")
        return parse_object(path.read_bytes(), source=str(path), error=ModelError)
    except OSError as error:
        raise ModelError(
            f"{path} cannot be read: {error.strerror or error}",
            hint=f"Name a folder with {CONFIG_NAME} and {WEIGHTS_NAME}.",
        ) from error


class _Weights:
    """The tensors of one file, or of several that an index names, by the names of the inventory."""

    def __init__(self, folder: Path, config: ModelConfig, stack: ExitStack) -> None:
        self._folder = folder
        self._of: dict[str, tuple[Any, str]] = {}
        for path in self._files():
            file = stack.enter_context(_opened(path))
            for name in cast("list[str]", file.keys()):
                plain = name.removeprefix(PREFIX)
                if plain in self._of:
                    raise ModelError(
                        f"{path}: the tensor {plain} is there twice, as {name} and as {self._of[plain][1]}",
                        hint="Save the model again: nobody can know which of them counts.",
                    )
                self._of[plain] = file, name
        expected = {tensor.name: tensor for tensor in tensors(config)}
        shapes = {name: tuple(self._slice(name).get_shape()) for name in self._of}
        check_names(expected, shapes, folder)
        for name in self._of:
            dtype = self._slice(name).get_dtype()
            if dtype not in DTYPES:
                raise ModelError(
                    f"{folder}: {name} is of type {dtype}; allowed are {', '.join(DTYPES)}",
                    hint="Save the model without quantisation: its weights must be plain numbers.",
                )

    def values(self, name: str, at: int | slice) -> torch.Tensor:
        """Some rows of a tensor in float32."""
        return self._slice(name)[at].float()

    def _slice(self, name: str) -> Any:
        file, stored = self._of[name]
        return file.get_slice(stored)

    def _files(self) -> list[Path]:
        index = self._folder / INDEX_NAME
        if not index.is_file():
            return [self._folder / WEIGHTS_NAME]
        listed = _keys(index).get("weight_map")
        found = cast("Mapping[str, object]", listed).values() if isinstance(listed, Mapping) else ()
        names: set[str] = set()
        for name in found:
            if not isinstance(name, str) or not name or PurePath(name).name != name:
                raise ModelError(f"{index} names the file {str(name)[:80]!r}; a plain name is expected")
            names.add(name)
        return sorted(self._folder / name for name in names)


def _opened(path: Path) -> Any:
    if not path.is_file():
        raise ModelError(
            f"{path}: there is no such file",
            hint="The weights must be safetensors: model.save_pretrained(folder) writes them.",
        )
    try:
        return safe_open(path, framework="pt")
    except SafetensorError as error:
        raise ModelError(f"{path}: not a readable safetensors file: {error}") from error


def _declared(weights: _Weights, config: ModelConfig, form: Form) -> Iterator[Declared]:
    """Every tensor of the checkpoint, read when it is written: stacked experts one by one."""

    def values(number: int, tensor: Tensor) -> Iterator[NDArray[Any]]:
        for expert in range(tensor.experts or 1):
            value = weights.values(tensor.name, expert if tensor.experts else slice(None))
            if form == "held" and tensor.storage == "ternary":
                value = latents_of(value, name=tensor.name, config=config, stream=number << 16 | expert)
            yield value.numpy()

    for number, tensor in enumerate(tensors(config)):
        yield Declared(name=tensor.name, shape=tensor.shape, values=partial(values, number, tensor))


def _copy_words(folder: Path, out: Path) -> tuple[str, ...]:
    """Copy the tokenizer, as SentencePiece's own file where there is one, and a template of its own."""
    found = next((name for name in FILES_OF_A_FOLDER if (folder / name).is_file()), None)
    names = [] if found is None else [found]
    if found == "tokenizer.json":
        names += [SIDE_NAME]
    if (folder / TEMPLATE_NAME).is_file() and template_text(folder / TEMPLATE_NAME) != DEFAULT_TEMPLATE:
        names += [TEMPLATE_NAME]
    copied = [name for name in names if (folder / name).is_file()]
    for name in copied:
        shutil.copyfile(folder / name, out / name)
    return tuple(copied)
