"""A model as a GGUF file, for tools that read tensors. No program has a graph for it.

Ternary tensors keep their codes. A block of GGUF has one scale for 256 weights and a group of ours has 128
inputs, so blocks get the scale 1 and the scales go into a tensor beside it, NAME.scales, float16 [rows,
groups]: nothing is lost. Where the model has one scale for a row or for a tensor, the blocks hold it. With
`allow_loss` they hold the scale of least squares for both groups, and the error is told.

Rows are filled with zeros up to a multiple of 256; the shapes that differ for it are named in the metadata.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from chimera.mixers.table import group_size
from configs.errors import UsageError
from configs.inventory import Tensor, packed_tensors
from configs.schema.model import ModelConfig
from exports.handover.gguf_blocks import BLOCK, byte_blocks, ternary_blocks
from exports.handover.gguf_file import TYPES, GgufTensor, GgufType, write_gguf
from exports.handover.gguf_metadata import metadata
from exports.handover.source import Source, dequantized, open_source
from exports.words import Words, collect_words
from quant.atomic import atomic_file
from quant.embedding import RowWeights
from quant.ternary import GROUP, TernaryWeights, num_groups, regroup
from quant.whole_folder import errors_named

Progress = Callable[[int, int], None]
"""Given the number of bytes written, and of all."""
TernaryType = Literal["tq2_0", "tq1_0"]
EmbeddingType = Literal["f32", "f16", "q8_0"]
_OF_TERNARY: dict[TernaryType, GgufType] = {"tq2_0": "TQ2_0", "tq1_0": "TQ1_0"}
_OF_EMBEDDING: dict[EmbeddingType, GgufType] = {"f32": "F32", "f16": "F16", "q8_0": "Q8_0"}
assert BLOCK == 2 * GROUP


@dataclass(kw_only=True, slots=True)
class Losses:
    """What rounding took, as sums of squares."""

    ternary_error: float = 0.0
    ternary_size: float = 0.0
    embedding_error: float = 0.0
    embedding_size: float = 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class GgufExport:
    """What was written."""

    path: Path
    num_tensors: int
    config: ModelConfig
    words: Words
    scales: str
    """Where the scales of ternary tensors are: `tensor` or `block`."""
    ternary_loss: float
    """Root of the mean squared error of ternary weights, over that of the weights; 0 is none."""
    embedding_loss: float


@dataclass(frozen=True, kw_only=True, slots=True)
class _Plan:
    """How tensors become GGUF's."""

    source: Source
    ternary: GgufType
    embedding: GgufType
    beside: bool
    """Scales go to tensors of their own."""
    losses: Losses = field(default_factory=Losses)


def export_gguf(
    model: Path | str,
    out: Path | str,
    *,
    ternary: TernaryType = "tq2_0",
    embedding: EmbeddingType = "f32",
    allow_loss: bool = False,
    tokenizer: Path | str | None = None,
    template: Path | None = None,
    progress: Progress | None = None,
) -> GgufExport:
    """Write the file of a checkpoint, a training run, a resume pack or a packed model."""
    out = Path(out)
    if out.is_symlink() or out.exists():
        raise UsageError(f"{out} is there already", hint="Name a file that is not there yet.")
    with open_source(model) as source:
        config = source.config
        words = collect_words(
            config,
            folders=source.folders,
            tokenizer=tokenizer or source.built_in_tokenizer,
            template=template,
        )
        plan = _Plan(
            source=source,
            ternary=_OF_TERNARY[ternary],
            embedding=_OF_EMBEDDING[embedding],
            beside=_scales_cut_blocks(config) and not allow_loss,
        )
        _check_embedding(plan)
        tensors = [made for tensor in packed_tensors(config) for made in _made_of(plan, tensor)]
        padded = {
            tensor.name: tensor.shape[-1]
            for tensor in packed_tensors(config)
            if tensor.storage == "ternary" and tensor.shape[-1] % BLOCK
        }
        told = metadata(config, words, ternary=plan.ternary, scales=_where(plan), padded=padded)
        total = sum(tensor.num_bytes for tensor in tensors)
        with errors_named(out):
            out.parent.mkdir(parents=True, exist_ok=True)
            with atomic_file(out) as file:
                write_gguf(
                    file,
                    metadata=told,
                    tensors=tensors,
                    progress=None if progress is None else lambda done: progress(done, total),
                )
    losses = plan.losses
    return GgufExport(
        path=out,
        num_tensors=len(tensors),
        config=config,
        words=words,
        scales=_where(plan),
        ternary_loss=_relative(losses.ternary_error, losses.ternary_size),
        embedding_loss=_relative(losses.embedding_error, losses.embedding_size),
    )


def _scales_cut_blocks(config: ModelConfig) -> bool:
    """Whether two groups with scales of their own lie in a block."""
    size = group_size(config)
    return isinstance(size, int) and size % BLOCK != 0


def _where(plan: _Plan) -> str:
    return "tensor" if plan.beside else "block"


def _check_embedding(plan: _Plan) -> None:
    width = plan.source.config.hidden_size
    block = TYPES[plan.embedding].block
    if width % block:
        raise UsageError(
            f"{plan.embedding} takes rows of a multiple of {block} numbers; the embedding has {width}",
            hint="Take another type for it: --embedding f32",
        )


def _made_of(plan: _Plan, tensor: Tensor) -> Iterator[GgufTensor]:
    """A tensor, and behind it the one of its scales, where they go there."""
    if tensor.storage == "ternary":
        *front, num_inputs = tensor.shape
        padded = -(-num_inputs // BLOCK) * BLOCK
        yield GgufTensor(
            name=tensor.name,
            kind=plan.ternary,
            shape=(*front, padded),
            data=partial(_ternary_data, plan, tensor, padded),
        )
        if plan.beside:
            yield GgufTensor(
                name=f"{tensor.name.removesuffix('weight')}scales",
                kind="F16",
                shape=(*front, num_groups(num_inputs, group_size=GROUP)),
                data=partial(_scales_data, plan, tensor),
            )
        return
    is_table = tensor.storage == "embedding"
    kind = plan.embedding if is_table else "F32"
    yield GgufTensor(
        name=tensor.name, kind=kind, shape=tensor.shape, data=partial(_float_data, plan, tensor, kind)
    )


def _pieces(plan: _Plan, tensor: Tensor) -> Iterator[Any]:
    for expert in range(tensor.experts or 1):
        yield from plan.source.pieces(tensor, expert)


def _grouped(plan: _Plan, tensor: Tensor) -> Iterator[TernaryWeights]:
    for piece in _pieces(plan, tensor):
        assert isinstance(piece, TernaryWeights), tensor.name
        yield regroup(piece)


def _scales_data(plan: _Plan, tensor: Tensor) -> Iterator[NDArray[np.float16]]:
    for piece in _grouped(plan, tensor):
        yield piece.scales


def _ternary_data(plan: _Plan, tensor: Tensor, padded: int) -> Iterator[NDArray[np.uint8]]:
    for piece in _grouped(plan, tensor):
        num_rows, num_inputs = piece.codes.shape
        codes = np.zeros((num_rows, padded), dtype=np.int8)
        codes[:, :num_inputs] = piece.codes
        if plan.beside:
            scales = np.ones((num_rows, padded // BLOCK), dtype=np.float16)
        else:
            scales = _block_scales(codes, piece, losses=plan.losses)
        yield ternary_blocks(codes, scales, kind=plan.ternary)


def _block_scales(
    codes_OI: NDArray[np.int8], piece: TernaryWeights, *, losses: Losses
) -> NDArray[np.float16]:
    """One scale for each block: that of its groups, or between theirs what errs least, counted."""
    num_rows, padded = codes_OI.shape
    groups = padded // GROUP
    scales = np.zeros((num_rows, groups), dtype=np.float64)
    scales[:, : piece.scales.shape[1]] = piece.scales
    scales = scales.reshape(num_rows, -1, 2)
    counts = np.count_nonzero(codes_OI.reshape(num_rows, groups, GROUP), axis=2).reshape(num_rows, -1, 2)
    weight = np.maximum(counts.sum(axis=2), 1)
    # A block of zeros keeps its first scale, so that it is what the model says.
    mean = np.where(counts.any(axis=2), (scales * counts).sum(axis=2) / weight, scales[:, :, 0])
    chosen = mean.astype(np.float16)
    losses.ternary_error += float((counts * (scales - chosen[:, :, None].astype(np.float64)) ** 2).sum())
    losses.ternary_size += float((counts * scales**2).sum())
    return chosen


def _float_data(plan: _Plan, tensor: Tensor, kind: GgufType) -> Iterator[NDArray[Any]]:
    for piece in _pieces(plan, tensor):
        if kind == "F32":
            yield np.ascontiguousarray(dequantized(piece), dtype="<f4")
            continue
        assert isinstance(piece, RowWeights), tensor.name
        values = dequantized(piece)
        halves = piece.scales.astype(np.float16).astype(np.float32)
        if kind == "F16":
            made = values.astype("<f2")
            kept = made.astype(np.float32)
        else:
            made = byte_blocks(piece.codes, piece.scales)
            kept = piece.codes.astype(np.float32) * halves[:, None]
        plan.losses.embedding_error += float(((kept - values).astype(np.float64) ** 2).sum())
        plan.losses.embedding_size += float((values.astype(np.float64) ** 2).sum())
        yield made


def _relative(error: float, size: float) -> float:
    return float(np.sqrt(error / size)) if size else 0.0
