"""From a checkpoint to a packed model: the weights that training computed with, bit for bit, in a `.b158`.

Tensors go one after another, large ones by rows, so that memory holds some rows and the scales of one tensor.
The result is a model's folder as `runtime.model_folder` describes it. Routed experts lie in the same file,
each under its own name.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from chimera.mixers.table import group_size
from chimera.saving import WEIGHTS_NAME
from chimera.train.run_folder import RECORD_NAME
from configs.errors import ConfigError, ModelError, UsageError
from configs.inventory import Tensor, packed_tensors
from configs.load import load_config, to_json
from configs.schema.model import ModelConfig
from configs.schema.quantization import EmbeddingBits
from exports.checkpoint import Checkpoint, open_checkpoint
from exports.words import Words, collect_words
from quant.atomic import atomic_file
from quant.container_writer import B158Writer, Piece
from quant.embedding import quantize_rows
from quant.packing import ROW_PAIR
from quant.sherry import quantize_sherry
from quant.ternary import quantize_ternary
from quant.whole_folder import errors_named
from runtime.model_folder import CONFIG_NAME, PACKED_SUFFIX
from runtime.packed_specs import packed_specs, with_embedding_bits

Progress = Callable[[int, int], None]
"""Given the number of weights written, and of all."""
Read = Callable[[int, int], NDArray[np.float32]]
"""Some rows of a tensor, from the first to before the last."""

# Rows of this many float32 bytes are packed at once; packing takes some times as much.
_PIECE_BYTES = 32 * 2**20
_OWN_FOLDER = "Name a folder of its own for the packed model."


@dataclass(frozen=True, kw_only=True, slots=True)
class Exported:
    """What an export wrote."""

    files: tuple[Path, ...]
    """Every file written, the weights first."""
    digest: str
    step: int | None
    """Steps of training behind it, where the checkpoint is one of a run."""
    config: ModelConfig
    words: Words


def export_b158(
    checkpoint: Path | str,
    out: Path | str,
    *,
    embedding_bits: EmbeddingBits | None = None,
    tokenizer: Path | str | None = None,
    template: Path | None = None,
    progress: Progress | None = None,
) -> Exported:
    """Pack a checkpoint into `out`: a `.b158` file, or a folder, where the config says its name.

    `tokenizer` and `template` are files; unnamed, they are those of the checkpoint's folder, if it has any.
    The weights' file is whole or as it was; the files beside it follow once it is.
    """
    with open_checkpoint(checkpoint) as source:
        words = collect_words(source.config, folders=source.words, tokenizer=tokenizer, template=template)
        _check_words(words, source)
        path = _weights_path(Path(out), source.config)
        config = _packed_config(source.config, path=path, words=words, embedding_bits=embedding_bits)
        _check_destination(path, config, checkpoint=source.folder)
        with errors_named(path.parent):
            path.parent.mkdir(parents=True, exist_ok=True)
        digest = _write_weights(path, source, config, metadata=words.metadata, progress=progress)
    beside = {**words.files, CONFIG_NAME: to_json(config).encode()}
    for name, data in beside.items():
        with errors_named(path.parent / name), atomic_file(path.parent / name) as file:
            file.write(data)
    files = (path, *(path.parent / name for name in beside))
    return Exported(files=files, digest=digest, step=source.step, config=config, words=words)


def _check_words(words: Words, source: Checkpoint) -> None:
    """Refuse a tokenizer that is not the one of the training, where the checkpoint tells."""
    tokenizer = words.tokenizer
    if tokenizer is not None and source.tokenizer_digest not in (None, tokenizer.digest):
        raise UsageError(
            f"{source.folder} was trained with another tokenizer than {tokenizer.source}",
            hint="Name the one of its training: --tokenizer FILE.",
        )


def _write_weights(
    path: Path,
    source: Checkpoint,
    config: ModelConfig,
    *,
    metadata: dict[str, str],
    progress: Progress | None,
) -> str:
    specs = packed_specs(config)
    total, done = sum(tensor.size for tensor in packed_tensors(config)), 0
    with B158Writer(path, tensors=specs, config=to_json(config), metadata=metadata) as writer:
        for tensor in packed_tensors(config):
            for expert, part in enumerate(tensor.apart()):
                for piece in packed_pieces(source, config, tensor, part, expert=expert):
                    writer.write(part.name, piece)
                done += part.size
                if progress is not None:
                    progress(done, total)
    return writer.digest


def packed_pieces(
    source: Checkpoint, config: ModelConfig, tensor: Tensor, part: Tensor, *, expert: int
) -> Iterator[Piece]:
    """A tensor as files hold it, in pieces for the writer."""

    def read(first: int, after: int) -> NDArray[np.float32]:
        if tensor.experts:
            return source.expert_values(tensor.name, expert=expert, first=first, after=after)
        values = source.values(tensor.name, first=first, after=after)
        gate = gate_of(tensor)
        return values if gate is None else gated(values, source.values(gate, first=0, after=1))

    try:
        if part.storage == "float32":
            yield read(0, part.shape[0])
        elif part.storage in ("embedding", "int8"):
            bits = config.quantization.embedding_bits if part.storage == "embedding" else 8
            for rows in _some_rows(read, part.shape):
                yield quantize_rows(rows, bits=bits)
        else:
            shared = group_size(config)
            quantize = quantize_sherry if config.quantization.sherry_mode.enabled else quantize_ternary
            for rows in _some_rows(read, part.shape, whole=shared == "tensor"):
                yield quantize(rows, group_size=shared)
    except UsageError as error:
        raise ModelError(f"{source.folder}: {part.name}: {error.message}", hint=error.hint) from error


def gate_of(tensor: Tensor) -> str | None:
    """The name of the gate that lies in a tensor's rows in a packed file, if one does."""
    prefix = tensor.name.removesuffix(".correction.up")
    return None if prefix == tensor.name else f"{prefix}.correction.gate"


def gated(up: NDArray[np.float32], gate: NDArray[np.float32]) -> NDArray[np.float32]:
    """A correction's second matrix with its gate, by the operations of `quant.qat.correction`."""
    return (torch.tanh(torch.from_numpy(gate)) * torch.from_numpy(up)).numpy()


def _some_rows(read: Read, shape: tuple[int, ...], *, whole: bool = False) -> Iterator[NDArray[np.float32]]:
    num_rows, num_inputs = shape
    at_once = num_rows if whole else max(1, _PIECE_BYTES // (4 * num_inputs * ROW_PAIR)) * ROW_PAIR
    for first in range(0, num_rows, at_once):
        yield read(first, min(first + at_once, num_rows))


def _weights_path(out: Path, config: ModelConfig) -> Path:
    if out.suffix != PACKED_SUFFIX:
        out = out / config.files.weights
    if out.is_dir():
        raise UsageError(f"{out} is a folder, but the packed weights are to take its name", hint=_OWN_FOLDER)
    return out


def _packed_config(
    config: ModelConfig, *, path: Path, words: Words, embedding_bits: EmbeddingBits | None
) -> ModelConfig:
    """The model's config with what an export changes: the embedding's bits and the names of the files."""
    names = replace(config.files, weights=path.name, tokenizer=words.tokenizer_name or config.files.tokenizer)
    return replace(with_embedding_bits(config, embedding_bits), files=names)


def _check_destination(path: Path, config: ModelConfig, *, checkpoint: Path) -> None:
    """Refuse a folder where the files beside the weights would replace another model's."""
    beside = path.parent / CONFIG_NAME
    own = any((path.parent / name).exists() for name in (WEIGHTS_NAME, RECORD_NAME))
    if own or path.parent.resolve() == checkpoint.resolve():
        raise UsageError(
            f"{path.parent} holds a checkpoint, whose {CONFIG_NAME} must stay as it is", hint=_OWN_FOLDER
        )
    if not beside.exists():
        return
    try:
        found = load_config(beside)
    except ConfigError as error:
        raise UsageError(
            f"{beside} is there and cannot be read: {error.message}", hint=_OWN_FOLDER
        ) from error
    bits = config.quantization.embedding_bits
    if replace(with_embedding_bits(found, bits), files=config.files) != config:
        raise UsageError(f"{beside} is there and belongs to another model", hint=_OWN_FOLDER)
