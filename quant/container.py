"""Opening `.b158` files: mapped, checked before use, and never copied.

`quant.container_format` describes the file, `quant.container_check` refuses what is not one, and
`quant.container_writer` writes it.
"""

import hashlib
import mmap
import os
import stat
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from configs.errors import ContainerError
from quant.container_check import DAMAGED_HINT, Header, PlacedPart, check_header, header_length
from quant.container_format import (
    KIND_BITS,
    KINDS,
    LENGTH_BYTES,
    NUMPY_DTYPES,
    Kind,
    PartRole,
    TensorSpec,
    stored_parts,
)
from quant.packing import PackedRows, PackedTernary, first_invalid_code, has_dirty_padding
from quant.sherry_packing import PackedSherry, has_dirty_sherry_padding

# Verifying reads a file in pieces of this size, so that it needs little memory beside the map.
_PIECE_BYTES = 16 * 2**20


@dataclass(frozen=True, kw_only=True, slots=True)
class Problem:
    """What `verify` found wrong with a part of a tensor."""

    tensor: str
    part: PartRole
    what: str


def open_b158(path: Path | str, *, is_own: bool = False) -> "B158File":
    """Map a `.b158` file. All of its header is checked; its data is not read (see `B158File.verify`).

    With `is_own`, the map is this process's own: its arrays can be written, and the file stays as it is.
    While a file is mapped, nobody may cut it: the system kills who reads past the end. Replacing it is safe.
    """
    source = Path(path)
    try:
        # Opening a pipe would wait for its other end.
        if not stat.S_ISREG(source.stat().st_mode):
            raise ContainerError(f"{source} is not a file")
        with source.open("rb") as file:
            file_bytes = os.fstat(file.fileno()).st_size
            length = header_length(file.read(LENGTH_BYTES), file_bytes=file_bytes, source=str(source))
            access = mmap.ACCESS_COPY if is_own else mmap.ACCESS_READ
            mapped = mmap.mmap(file.fileno(), file_bytes, access=access)
    except FileNotFoundError:
        raise ContainerError(f"there is no file {source}", hint="Check the path.") from None
    except OSError as error:
        raise ContainerError(f"cannot open {source}: {error.strerror or error}") from error
    header = check_header(mapped[: LENGTH_BYTES + length], file_bytes=file_bytes, source=str(source))
    return B158File(source, mapped=mapped, header=header, is_own=is_own)


class B158File:
    """A mapped file. Its arrays are views of the map and keep it alive, also after `close`.

    They are read-only, but where the map is this process's own.
    """

    def __init__(self, path: Path, *, mapped: mmap.mmap, header: Header, is_own: bool = False) -> None:
        self.path = path
        self.is_own = is_own
        self._mapped: mmap.mmap | None = mapped
        self._header = header

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Give up the map; the system frees it with the last array that views it."""
        self._mapped = None

    @property
    def config(self) -> str:
        """The model's config.json, as text."""
        return self._header.config

    @property
    def metadata(self) -> Mapping[str, str]:
        """The free entries of the metadata."""
        return self._header.metadata

    @property
    def digest(self) -> str:
        """The model's name: it differs when the config or any weight differs."""
        return self._header.digest

    @property
    def tensors(self) -> Mapping[str, TensorSpec]:
        """What the file holds, in its order."""
        return self._header.tensors

    def stored_bytes(self, name: str) -> int:
        """The bytes that a tensor takes in the file."""
        return sum(placed.end - placed.begin for placed in self._parts(self._spec(name)).values())

    def tensor(self, name: str) -> PackedTernary | PackedSherry | PackedRows | NDArray[np.float32]:
        """A tensor of any kind, as its typed form."""
        kind = self._spec(name).kind
        if kind == "float32":
            return self.floats(name)
        if kind == "sherry":
            return self.sherry(name)
        return self.ternary(name) if kind == "ternary" else self.rows(name)

    def ternary(self, name: str) -> PackedTernary:
        """A ternary matrix; an error if the tensor is of another kind."""
        spec = self._spec(name, allowed=("ternary",))
        parts = self._parts(spec)
        return PackedTernary(
            codes=self._array(parts["codes"]),
            scales=self._array(parts["scales"]),
            num_rows=spec.shape[0],
            num_inputs=spec.shape[1],
        )

    def sherry(self, name: str) -> PackedSherry:
        """A ternary matrix with one zero in every four; an error if the tensor is of another kind."""
        spec = self._spec(name, allowed=("sherry",))
        parts = self._parts(spec)
        return PackedSherry(
            codes=self._array(parts["codes"]),
            scales=self._array(parts["scales"]),
            num_rows=spec.shape[0],
            num_inputs=spec.shape[1],
        )

    def rows(self, name: str) -> PackedRows:
        """A table of quantised rows; an error if the tensor is of another kind."""
        spec = self._spec(name, allowed=("int8", "int4", "int2"))
        parts = self._parts(spec)
        return PackedRows(
            codes=self._array(parts["codes"]),
            scales=self._array(parts["scales"]),
            num_rows=spec.shape[0],
            num_inputs=spec.shape[1],
            bits=KIND_BITS[spec.kind],
        )

    def floats(self, name: str) -> NDArray[np.float32]:
        """A float32 tensor in its true shape; an error if the tensor is of another kind."""
        spec = self._spec(name, allowed=("float32",))
        values = self._array(self._parts(spec)["values"])
        return values[: prod(spec.shape)].reshape(spec.shape)

    def verify(self, *, progress: Callable[[int], None] | None = None) -> tuple[Problem, ...]:
        """Read all data and list every damaged tensor; `progress` is given the bytes of each piece.

        What this process has written into a map of its own is not the file's, which is read as it is.
        """
        if self.is_own:
            with open_b158(self.path) as file:
                return file.verify(progress=progress)
        return tuple(self._problems(progress or _no_progress))

    def _problems(self, progress: Callable[[int], None]) -> Generator[Problem]:
        for name, spec in self._header.tensors.items():
            sound = True
            for role, placed in self._parts(spec).items():
                what = self._digest_problem(placed, progress) or self._value_problem(placed, spec)
                if what:
                    sound = False
                    yield Problem(tensor=name, part=role, what=what)
            if sound and self._has_dirty_padding(spec):
                role = "values" if spec.kind == "float32" else "codes"
                yield Problem(
                    tensor=name, part=role, what="the padding beyond the tensor's shape is not zero"
                )

    def _digest_problem(self, placed: PlacedPart, progress: Callable[[int], None]) -> str:
        digest = hashlib.sha256()
        for piece in self._pieces(placed):
            digest.update(piece.data)
            progress(piece.nbytes)
        found = digest.hexdigest()
        return (
            "" if found == placed.digest else f"its bytes have the digest {found}, expected {placed.digest}"
        )

    def _value_problem(self, placed: PlacedPart, spec: TensorSpec) -> str:
        for number, piece in enumerate(self._pieces(placed)):
            if placed.part.role == "codes":
                if spec.kind == "sherry":
                    continue  # all of its codes are weights
                at = first_invalid_code(piece, bits=KIND_BITS[spec.kind])
                if at is not None:
                    return f"byte {number * _PIECE_BYTES + at[0]} holds a code that no {spec.kind} weight has"
            elif not np.isfinite(piece).all():
                return "it holds NaN or infinity"
            elif placed.part.role == "scales" and piece.min() < 0:
                return f"it holds a scale below zero, {piece.min()}"
        return ""

    def _has_dirty_padding(self, spec: TensorSpec) -> bool:
        if spec.kind == "float32":
            return bool(self._array(self._parts(spec)["values"])[prod(spec.shape) :].any())
        if spec.kind == "sherry":
            return has_dirty_sherry_padding(self.sherry(spec.name))
        return has_dirty_padding(self.ternary(spec.name) if spec.kind == "ternary" else self.rows(spec.name))

    def _pieces(self, placed: PlacedPart) -> Generator[NDArray[Any]]:
        flat = self._array(placed).reshape(-1)
        step = _PIECE_BYTES // flat.itemsize
        for begin in range(0, flat.size, step):
            yield flat[begin : begin + step]

    def _spec(self, name: str, *, allowed: tuple[Kind, ...] = KINDS) -> TensorSpec:
        spec = self._header.tensors.get(name)
        if spec is None:
            raise ContainerError(
                f"{self.path} has no tensor {name!r}",
                hint="The file and its config do not belong together: export the model again.",
            )
        if spec.kind not in allowed:
            raise ContainerError(
                f"{self.path}: the tensor {name!r} is {spec.kind}; expected {' or '.join(allowed)}",
                hint=DAMAGED_HINT,
            )
        return spec

    def _parts(self, spec: TensorSpec) -> dict[PartRole, PlacedPart]:
        return {part.role: self._header.parts[part.name] for part in stored_parts(spec)}

    def _array(self, placed: PlacedPart) -> NDArray[Any]:
        """A view of the map. The check of the header has shown that it lies inside."""
        if self._mapped is None:
            raise ContainerError(f"{self.path} is closed", hint="Open it again with open_b158.")
        dtype = np.dtype(NUMPY_DTYPES[placed.part.dtype])
        flat = np.frombuffer(self._mapped, dtype=dtype, count=prod(placed.part.shape), offset=placed.begin)
        return flat.reshape(placed.part.shape)


def _no_progress(num_bytes: int) -> None:
    """Nobody watches."""
