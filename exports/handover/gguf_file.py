"""Writes GGUF files, version 3: metadata, a list of tensors, then their bytes.

All numbers are little-endian. A string is its length and its bytes; a tensor's dimensions stand innermost
first; its data begins at a multiple of the alignment. The format's description: the GGUF page of ggml.
"""

import struct
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, BinaryIO, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

GgufType = Literal["F32", "F16", "Q8_0", "TQ1_0", "TQ2_0"]


@dataclass(frozen=True, kw_only=True, slots=True)
class TypeForm:
    """A type's number in the format, and how many weights take how many bytes."""

    number: int
    block: int
    block_bytes: int


TYPES: Mapping[GgufType, TypeForm] = {
    "F32": TypeForm(number=0, block=1, block_bytes=4),
    "F16": TypeForm(number=1, block=1, block_bytes=2),
    "Q8_0": TypeForm(number=8, block=32, block_bytes=34),
    "TQ1_0": TypeForm(number=34, block=256, block_bytes=54),
    "TQ2_0": TypeForm(number=35, block=256, block_bytes=66),
}
Value: TypeAlias = bool | int | float | str | Sequence[str] | NDArray[Any]

MAGIC, VERSION, ALIGNMENT = b"GGUF", 3, 32
LONGEST_NAME = 63
"""Bytes of a tensor's name that programs have room for."""
_STRING, _ARRAY = 8, 9
_NUMBERS: Mapping[str, tuple[int, str]] = {
    "u1": (0, "B"), "i1": (1, "b"), "u4": (4, "I"), "i4": (5, "i"), "f4": (6, "f"), "b1": (7, "?"),
}  # fmt: skip
"""NumPy's name of a type → its number as a value of metadata, and the form of one."""


@dataclass(frozen=True, kw_only=True, slots=True)
class GgufTensor:
    """A tensor, outermost dimension first, and its bytes in pieces end to end."""

    name: str
    kind: GgufType
    shape: tuple[int, ...]
    data: Callable[[], Iterable[NDArray[Any]]]

    @property
    def num_bytes(self) -> int:
        """What it takes in the file, before it is padded."""
        form = TYPES[self.kind]
        assert self.shape[-1] % form.block == 0, f"{self.name} has rows of {self.shape[-1]}"
        return prod(self.shape) // form.block * form.block_bytes


def write_gguf(
    file: BinaryIO,
    *,
    metadata: Mapping[str, Value],
    tensors: Sequence[GgufTensor],
    progress: Callable[[int], None] | None = None,
) -> None:
    """Write a whole file. `progress` is given the number of bytes of tensors written so far."""
    head = MAGIC + struct.pack("<IQQ", VERSION, len(tensors), len(metadata))
    head += b"".join(_string(key) + _value(value) for key, value in metadata.items())
    offset = 0
    for tensor in tensors:
        assert len(tensor.name.encode()) <= LONGEST_NAME, tensor.name
        dims = tensor.shape[::-1]
        head += _string(tensor.name) + struct.pack(f"<I{len(dims)}Q", len(dims), *dims)
        head += struct.pack("<IQ", TYPES[tensor.kind].number, offset)
        offset += _padded(tensor.num_bytes)
    file.write(head.ljust(_padded(len(head)), b"\0"))
    done = 0
    for tensor in tensors:
        written = 0
        for piece in tensor.data():
            file.write(np.ascontiguousarray(piece).data)
            written += piece.nbytes
            if progress is not None:
                progress(done + written)
        assert written == tensor.num_bytes, f"{tensor.name} got {written} bytes"
        file.write(b"\0" * (_padded(written) - written))
        done += written


def _padded(num_bytes: int) -> int:
    return -(-num_bytes // ALIGNMENT) * ALIGNMENT


def _string(text: str) -> bytes:
    data = text.encode()
    return struct.pack("<Q", len(data)) + data


def _value(value: Value) -> bytes:
    """A value behind the number of its type: whole numbers are of 32 bits without a sign."""
    if isinstance(value, str):
        return struct.pack("<I", _STRING) + _string(value)
    if isinstance(value, (bool, int, float)):
        name = "b1" if isinstance(value, bool) else "u4" if isinstance(value, int) else "f4"
        number, form = _NUMBERS[name]
        return struct.pack(f"<I{form}", number, value)
    if isinstance(value, np.ndarray):
        number, _ = _NUMBERS[value.dtype.str[1:]]
        return (
            struct.pack("<IIQ", _ARRAY, number, value.size)
            + value.astype(value.dtype.newbyteorder("<")).tobytes()
        )
    return struct.pack("<IIQ", _ARRAY, _STRING, len(value)) + b"".join(map(_string, value))
