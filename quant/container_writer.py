"""Writing `.b158` files: tensors are declared first, then written one by one, in pieces where they are large.

Memory holds one piece and the scales of one tensor, so a model larger than memory can be exported.
"""

import hashlib
from collections.abc import Generator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self, TypeAlias

import numpy as np
from numpy.typing import NDArray

from configs.errors import ChimeraError, UsageError
from configs.strict_json import parse_object
from quant.atomic import atomic_file
from quant.container_format import (
    DIGEST_CHARACTERS,
    GROUPED,
    KIND_BITS,
    KINDS,
    MAX_DIMENSIONS,
    NUMPY_DTYPES,
    RESERVED_KEYS,
    Kind,
    StoredPart,
    TensorSpec,
    header_bytes,
    model_digest,
    stored_parts,
)
from quant.embedding import RowWeights
from quant.packing import (
    ROW_PAIR,
    PackedRows,
    PackedTernary,
    first_invalid_code,
    has_dirty_padding,
    pack_rows,
    pack_ternary,
)
from quant.sherry_packing import PackedSherry, has_dirty_sherry_padding, pack_sherry
from quant.ternary import TernaryWeights

Rows: TypeAlias = TernaryWeights | PackedTernary | PackedSherry | RowWeights | PackedRows
Piece: TypeAlias = Rows | NDArray[np.float32]


class B158Writer:
    """A context in which a `.b158` file is written; the file appears when the block ends well.

        with B158Writer(path, tensors=specs, config=text, metadata={"model_name": "demo"}) as writer:
            for spec in specs:
                writer.write(spec.name, weights_of(spec))

    A quantised tensor may come in several pieces of whole row pairs (32 rows), the last of any height, each
    as codes or in tiles. After the block, `digest` is the model's.
    """

    def __init__(
        self,
        path: Path | str,
        *,
        tensors: Sequence[TensorSpec],
        config: str,
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        self.path = Path(path)
        self.digest = ""
        self._config = config
        self._metadata = dict(metadata or {})
        self._tensors = {spec.name: spec for spec in tensors}
        _check_declared(tensors, config=config, metadata=self._metadata)
        self._waiting = list(tensors)
        self._rows_written = 0
        self._codes_digest = hashlib.sha256()
        self._scales: list[NDArray[Any]] = []
        self._digests: dict[str, str] = {}
        self._context = ExitStack()
        self._file: BinaryIO | None = None

    def __enter__(self) -> Self:
        with self._named_errors(), ExitStack() as stack:
            self._file = stack.enter_context(atomic_file(self.path))
            self._file.write(self._header())
            self._context = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        file, self._file = self._open_file(), None
        if error is not None:
            with self._named_errors():
                self._context.__exit__(kind, error, trace)
            return
        with self._named_errors(), self._context:
            if self._waiting:
                names = ", ".join(repr(spec.name) for spec in self._waiting[:5])
                raise UsageError(f"{self.path}: {len(self._waiting)} tensors were not written: {names}")
            header = self._header()
            file.seek(0)
            file.write(header)
        self.digest = model_digest(header)

    def write(self, name: str, piece: Piece) -> None:
        """Write the next declared tensor, or its next rows."""
        if not self._waiting or self._waiting[0].name != name:
            expected = repr(self._waiting[0].name) if self._waiting else "none"
            raise UsageError(
                f"{self.path}: tensors are written as declared; next is {expected}, got {name!r}"
            )
        spec = self._waiting[0]
        if spec.kind == "float32":
            self._write_floats(spec, piece)
        else:
            self._write_rows(spec, piece)

    def _write_floats(self, spec: TensorSpec, piece: Piece) -> None:
        if not isinstance(piece, np.ndarray) or piece.dtype != np.float32 or piece.shape != spec.shape:
            raise UsageError(f"{spec.name} is declared float32 {spec.shape}, got {_described(piece)}")
        if not np.isfinite(piece).all():
            raise UsageError(f"{spec.name} holds NaN or infinity; a model's tensors must be finite")
        (part,) = stored_parts(spec)
        values = np.zeros(part.shape, dtype=np.float32)
        values[: piece.size] = piece.reshape(-1)
        self._put(values)
        self._digests[part.name] = hashlib.sha256(values.data).hexdigest()
        self._waiting.pop(0)

    def _write_rows(self, spec: TensorSpec, piece: Piece) -> None:
        if isinstance(piece, np.ndarray) or spec.kind not in _kinds_of(piece):
            raise UsageError(f"{spec.name} is declared {spec.kind}, got {_described(piece)}")
        if isinstance(piece, RowWeights | PackedRows) and piece.bits != KIND_BITS[spec.kind]:
            raise UsageError(f"{spec.name} is declared {spec.kind}, got rows of {piece.bits} bits")
        num_rows, num_inputs = spec.shape
        height, width = _matrix_shape(piece)
        rows_after = self._rows_written + height
        if width != num_inputs or rows_after > num_rows or (height % ROW_PAIR and rows_after < num_rows):
            raise UsageError(
                f"{spec.name} is declared {num_rows} × {num_inputs} and has {self._rows_written} rows; a "
                f"piece of {height} × {width} does not fit",
                hint=f"Every piece but the last has a multiple of {ROW_PAIR} rows.",
            )
        if not (np.isfinite(piece.scales).all() and (piece.scales >= 0).all()):
            raise UsageError(f"{spec.name} has scales that are not finite or below zero")
        packed = _packed(spec, piece)
        self._put(packed.codes)
        self._codes_digest.update(packed.codes.data)
        self._scales.append(packed.scales)
        self._rows_written = rows_after
        if rows_after == num_rows:
            self._finish_rows(stored_parts(spec))

    def _finish_rows(self, parts: tuple[StoredPart, ...]) -> None:
        codes, scales = parts
        joined = np.concatenate(self._scales)
        self._put(joined)
        self._digests[codes.name] = self._codes_digest.hexdigest()
        self._digests[scales.name] = hashlib.sha256(joined.data).hexdigest()
        self._codes_digest = hashlib.sha256()
        self._scales = []
        self._rows_written = 0
        self._waiting.pop(0)

    def _header(self) -> bytes:
        """The header with the digests known so far; zeros keep the place of the others."""
        parts = [part for spec in self._tensors.values() for part in stored_parts(spec)]
        digests = {part.name: self._digests.get(part.name, "0" * DIGEST_CHARACTERS) for part in parts}
        return header_bytes(
            list(self._tensors.values()), config=self._config, metadata=self._metadata, digests=digests
        )

    def _put(self, values: NDArray[Any]) -> None:
        with self._named_errors():
            self._open_file().write(values.data)

    def _open_file(self) -> BinaryIO:
        if self._file is None:
            raise UsageError(f"{self.path}: write inside the writer's `with` block")
        return self._file

    @contextmanager
    def _named_errors(self) -> Generator[None]:
        try:
            yield
        except OSError as error:
            raise ChimeraError(
                f"cannot write {self.path}: {error.strerror or error}",
                hint="Check the folder, its permissions and free space. A file that was there is unchanged.",
            ) from error


def _check_declared(tensors: Sequence[TensorSpec], *, config: str, metadata: Mapping[str, str]) -> None:
    parse_object(config, source="the config of the file to write", error=UsageError)
    if reserved := sorted(set(metadata) & set(RESERVED_KEYS)):
        raise UsageError(f"the metadata keys {reserved} are the format's own; choose other names")
    names = [spec.name for spec in tensors]
    for text in (*names, *metadata, *metadata.values()):
        if any("\ud800" <= character <= "\udfff" for character in text):
            raise UsageError(f"{text!a} cannot be written as UTF-8: it holds half a surrogate pair")
    if len(set(names)) != len(names) or "" in names:
        raise UsageError("the tensors' names must differ and not be empty")
    for spec in tensors:
        dimensions = range(MAX_DIMENSIONS + 1) if spec.kind == "float32" else (2,)
        if (
            spec.kind not in KINDS
            or len(spec.shape) not in dimensions
            or not all(size > 0 for size in spec.shape)
        ):
            raise UsageError(f"{spec.name}: {spec.kind} cannot have the shape {spec.shape}")


def _kinds_of(piece: Rows) -> tuple[Kind, ...]:
    """The kinds that a piece may be written as; codes that Sherry cannot hold are refused by its packing."""
    if isinstance(piece, TernaryWeights):
        return GROUPED
    if isinstance(piece, PackedTernary | PackedSherry):
        return ("sherry",) if isinstance(piece, PackedSherry) else ("ternary",)
    return tuple(kind for kind in KIND_BITS if kind != "ternary")


def _matrix_shape(piece: Rows) -> tuple[int, int]:
    if isinstance(piece, PackedTernary | PackedSherry | PackedRows):
        return piece.num_rows, piece.num_inputs
    num_rows, num_inputs = piece.codes.shape
    return num_rows, num_inputs


def _packed(spec: TensorSpec, piece: Rows) -> PackedTernary | PackedSherry | PackedRows:
    """The tiles of a piece; tiles that come as such are held to what packing gives."""
    if isinstance(piece, TernaryWeights):
        return pack_sherry(piece) if spec.kind == "sherry" else pack_ternary(piece)
    if isinstance(piece, RowWeights):
        return pack_rows(piece)
    height, width = _matrix_shape(piece)
    parts = stored_parts(replace(spec, shape=(height, width)))
    for part, array in zip(parts, (piece.codes, piece.scales), strict=True):
        as_stored = array.dtype == NUMPY_DTYPES[part.dtype] and array.shape == part.shape
        if not as_stored or not array.flags.c_contiguous:
            raise UsageError(
                f"{spec.name}: the {part.role} of {height} × {width} in tiles must be contiguous "
                f"{part.dtype} {part.shape}, got {_described(array)}"
            )
    if isinstance(piece, PackedSherry):
        is_dirty = has_dirty_sherry_padding(piece)
    else:
        at = first_invalid_code(piece.codes, bits=KIND_BITS[spec.kind])
        if at is not None:
            raise UsageError(f"{spec.name} has a byte at {at} of its tiles with a code that no weight has")
        is_dirty = has_dirty_padding(piece)
    if is_dirty:
        raise UsageError(f"{spec.name} has tiles whose padding is not zero")
    return piece


def _described(piece: object) -> str:
    if isinstance(piece, Rows):
        rows, inputs = _matrix_shape(piece)
        return f"{type(piece).__name__} {rows} × {inputs}"
    array = np.asarray(piece)
    return f"{array.dtype} {array.shape}"
