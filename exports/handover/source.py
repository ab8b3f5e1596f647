"""What is handed over: a checkpoint or a packed model, read by rows so that memory holds some of one tensor.

A checkpoint gives its latent weights, which whoever computes with them quantises. A packed model gives the
weights that it computes with, scale × code, which must not be quantised again: `held` weights.
"""

import hashlib
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from chronos_moe.store.cluster_file import DAMAGED_HINT
from chronos_moe.store.manifest import MANIFEST_NAME, Manifest
from configs.errors import ClusterError, ModelError
from configs.inventory import Tensor, tensors
from configs.schema.model import ModelConfig
from exports.b158 import packed_pieces
from exports.checkpoint import open_checkpoint
from exports.handover.names import Form
from exports.whole_model import whole_tensors
from quant.container_writer import Piece
from quant.embedding import RowWeights, dequantize_rows
from quant.packing import PackedRows, PackedTernary, unpack_rows, unpack_ternary
from quant.sherry_packing import PackedSherry, unpack_sherry
from quant.ternary import TernaryWeights, dequantize_ternary
from runtime.model_folder import BUILT_IN_TOKENIZER, PACKED_SUFFIX, TOKENIZER_KEY, PackedModel, open_model

Held: TypeAlias = PackedTernary | PackedSherry | PackedRows | NDArray[np.float32]
Floats: TypeAlias = NDArray[np.float32]

# Rows of this many float32 bytes are unpacked at once.
_PIECE_BYTES = 32 * 2**20


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Source:
    """An open model. A tensor is asked for whole, or one expert of a stack at a time, by rows."""

    path: Path
    config: ModelConfig
    form: Form
    folders: tuple[Path, ...]
    """Where its tokenizer and its chat template may lie."""
    built_in_tokenizer: str | None
    """The name of its tokenizer, where that comes with a package and lies in no folder."""
    tokenizer_digest: str | None
    """Of the tokenizer that it was made with, where it says so."""
    manifest: Path | None
    """Of the files that its experts lie in, if they lie in such."""
    floats: Callable[[Tensor, int], Iterator[Floats]]
    """In float32: latent or held, as the form says."""
    pieces: Callable[[Tensor, int], Iterator[Piece]]
    """As packed files hold it: codes and scales, or floats."""

    @property
    def parameters(self) -> int:
        """Numbers in all tensors."""
        return sum(tensor.size for tensor in tensors(self.config))


def is_packed(path: Path) -> bool:
    """Whether a path is a packed model; the folder of a checkpoint holds no packed file."""
    return path.suffix == PACKED_SUFFIX or (path.is_dir() and any(path.glob(f"*{PACKED_SUFFIX}")))


@contextmanager
def open_source(path: Path | str) -> Generator[Source]:
    """A packed model, a checkpoint's folder, that of a training run, or a resume pack."""
    path = Path(path)
    with ExitStack() as stack:
        yield _packed(path) if is_packed(path) else _checkpoint(path, stack)


def _checkpoint(path: Path, stack: ExitStack) -> Source:
    opened = stack.enter_context(open_checkpoint(path))

    def floats(tensor: Tensor, expert: int) -> Iterator[Floats]:
        num_rows = tensor.shape[1] if tensor.experts else tensor.shape[0]
        at_once = _rows_at_once(tensor.shape[1:] if tensor.experts else tensor.shape)
        for first in range(0, num_rows, at_once):
            after = min(first + at_once, num_rows)
            if tensor.experts:
                yield opened.expert_values(tensor.name, expert=expert, first=first, after=after)
            else:
                yield opened.values(tensor.name, first=first, after=after)

    def pieces(tensor: Tensor, expert: int) -> Iterator[Piece]:
        return packed_pieces(opened, opened.config, tensor, tensor.apart()[expert], expert=expert)

    return Source(
        path=path,
        config=opened.config,
        form="latent",
        folders=opened.words,
        built_in_tokenizer=None,
        tokenizer_digest=opened.tokenizer_digest,
        manifest=None,
        floats=floats,
        pieces=pieces,
    )


def _packed(path: Path) -> Source:
    opened = open_model(path)
    if opened.holding == "routed experts":
        raise ModelError(
            f"{opened.file.path} holds routed experts alone", hint="Name the model's folder, or its weights."
        )
    held = _Held(opened)
    is_built_in = opened.file.metadata.get(TOKENIZER_KEY) == BUILT_IN_TOKENIZER

    def pieces(tensor: Tensor, expert: int) -> Iterator[Piece]:
        return _unpacked(held.tensor(tensor, expert))

    def floats(tensor: Tensor, expert: int) -> Iterator[Floats]:
        if tensor.folded:
            # It lies in its neighbour, which nobody multiplies with it again.
            yield np.zeros(tensor.shape, dtype=np.float32)
            return
        for piece in pieces(tensor, expert):
            yield dequantized(piece)

    return Source(
        path=path,
        config=opened.config,
        form="held",
        folders=(opened.folder,),
        built_in_tokenizer=BUILT_IN_TOKENIZER if is_built_in else None,
        tokenizer_digest=opened.file.metadata.get("tokenizer_digest"),
        manifest=None if held.manifest is None else opened.folder / MANIFEST_NAME,
        floats=floats,
        pieces=pieces,
    )


class _Held:
    """The packed tensors of a model, whose experts may lie in files of their own."""

    def __init__(self, model: PackedModel) -> None:
        self._tensors = whole_tensors(model)
        self._kinds = {name: spec.kind for file in self._tensors.files for name, spec in file.tensors.items()}
        self._folder = model.folder
        self.manifest: Manifest | None = self._tensors.manifest
        self._places = {} if self.manifest is None else self.manifest.places()

    def tensor(self, tensor: Tensor, expert: int) -> Held:
        """A tensor, or one expert of a stack."""
        name = tensor.apart()[expert].name
        if tensor.experts and self.manifest is not None:
            assert tensor.layer is not None, "experts are of a layer"
            return self._in_cluster(self.manifest, tensor.layer, expert, name.split(f".experts.{expert}.")[1])
        kind = self._kinds[name]
        if kind in ("ternary", "sherry"):
            return self._tensors.ternary(name)
        return self._tensors.floats(name) if kind == "float32" else self._tensors.rows(name)

    def _in_cluster(self, manifest: Manifest, layer: int, expert: int, own_name: str) -> Held:
        place = self._places[(layer, expert)]
        path = self._folder / manifest.clusters[place.cluster].file
        block = np.fromfile(path, dtype=np.uint8, count=manifest.form.block_bytes, offset=place.offset)
        if hashlib.sha256(block.data).hexdigest() != place.digest:
            raise ClusterError(f"{path}: expert {expert} of layer {layer} is damaged", hint=DAMAGED_HINT)
        return manifest.form.view(block)[own_name]


def _unpacked(held: Held) -> Iterator[Piece]:
    if isinstance(held, np.ndarray):
        yield held
        return
    pairs_at_once = max(1, _rows_at_once((held.num_rows, held.num_inputs)) // 32)
    for first in range(0, held.codes.shape[0], pairs_at_once):
        after = first + pairs_at_once
        num_rows = min(32 * after, held.num_rows) - 32 * first
        part = replace(
            held, codes=held.codes[first:after], scales=held.scales[first:after], num_rows=num_rows
        )
        if isinstance(part, PackedRows):
            yield unpack_rows(part)
        else:
            yield unpack_sherry(part) if isinstance(part, PackedSherry) else unpack_ternary(part)


def dequantized(piece: Piece) -> Floats:
    """The float32 values that a piece stands for."""
    if isinstance(piece, TernaryWeights):
        return dequantize_ternary(piece)
    if isinstance(piece, RowWeights):
        return dequantize_rows(piece)
    assert isinstance(piece, np.ndarray), "no other form is unpacked"
    return piece


def _rows_at_once(shape: tuple[int, ...]) -> int:
    """Whole row pairs."""
    return max(1, _PIECE_BYTES // (4 * 32 * prod(shape[1:]))) * 32
