"""Safetensors files that carry a digest of themselves, written and read tensor by tensor.

The header's `__metadata__` stands first in the file, and in it the key `digest`: the SHA-256 of the whole
file with zeros in the place of the digest. So one file is one checkpoint: there is no second file to lose.
Any safetensors reader opens it. Memory beyond the tensors themselves is one tensor, or one block of the file.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from io import BufferedReader
from math import prod
from typing import Any, BinaryIO, Final, NamedTuple, NoReturn, TypeGuard, cast

import torch
from torch import Tensor

from configs.errors import ModelError, UsageError
from configs.strict_json import JsonValue, parse_object

DTYPES: Final[Mapping[torch.dtype, str]] = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint64: "U64",
    torch.uint32: "U32",
    torch.uint16: "U16",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
TORCH_DTYPES: Final = {name: dtype for dtype, name in DTYPES.items()}
LENGTH_BYTES = 8
ALIGNMENT = 64
MAX_HEADER_BYTES = 100_000_000
BLOCK_BYTES = 16 * 2**20
BEFORE_DIGEST = b'{"__metadata__":{"digest":"'
DIGEST_AT = LENGTH_BYTES + len(BEFORE_DIGEST)
NO_DIGEST = "0" * 64
HINT = "The file is damaged: use another copy of it, or an earlier one."


class Sealed(NamedTuple):
    """What a sealed file holds."""

    metadata: dict[str, str]
    tensors: dict[str, Tensor]


class _Extent(NamedTuple):
    """Where a tensor lies among the data, and what it is."""

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    begin: int
    end: int


class _Head(NamedTuple):
    """What stands before the data."""

    raw: bytes
    metadata: dict[str, str]
    extents: list[_Extent]


def write_sealed(file: BinaryIO, tensors: Mapping[str, Tensor], *, metadata: Mapping[str, str]) -> None:
    """Write a file from its first byte on. Tensors may lie on any device."""
    for name, tensor in tensors.items():
        _check_writable(name, tensor)
    # The widest first, as safetensors does it: then each begins at a multiple of its own width.
    ordered = dict(sorted(tensors.items(), key=lambda item: -item[1].element_size()))
    head = _head_bytes(ordered, metadata)
    digest = hashlib.sha256(head)
    file.write(head)
    for tensor in ordered.values():
        for block in _blocks(_bytes_of(tensor.detach().cpu()).numpy().data):
            digest.update(block)
            file.write(block)
    file.seek(DIGEST_AT)
    file.write(digest.hexdigest().encode())


def read_sealed(file: BufferedReader, *, num_bytes: int, source: str) -> Sealed:
    """Tensors on the CPU, in memory of their own. `source` names the file in messages."""
    head = _read_head(file, num_bytes=num_bytes, source=source)
    digest = _digest_of(head)
    tensors: dict[str, Tensor] = {}
    for extent in head.extents:
        held = torch.empty(extent.end - extent.begin, dtype=torch.uint8)
        for block in _blocks(held.numpy().data):
            if file.readinto(block) != len(block):
                _fail(source, "it ended while it was read")
            digest.update(block)
        tensors[extent.name] = held.view(extent.dtype).reshape(extent.shape)
    _check_digest(head, digest.hexdigest(), source)
    return Sealed(head.metadata, tensors)


def verify_sealed(file: BufferedReader, *, num_bytes: int, source: str) -> dict[str, str]:
    """The metadata of a file, once its digest is found right."""
    head = _read_head(file, num_bytes=num_bytes, source=source)
    digest = _digest_of(head)
    while block := file.read(BLOCK_BYTES):
        digest.update(block)
    _check_digest(head, digest.hexdigest(), source)
    return head.metadata


def _check_writable(name: str, tensor: Tensor) -> None:
    whole = type(tensor) in (Tensor, torch.nn.Parameter) and tensor.layout == torch.strided
    if not whole or tensor.is_meta or tensor.dtype not in DTYPES:
        raise UsageError(
            f"{name} cannot be written: it is a {type(tensor).__name__} of {tensor.dtype} on {tensor.device};"
            f" allowed are plain dense tensors of {', '.join(DTYPES.values())}",
            hint="Gather what is spread over devices first, with full_tensor().",
        )


def _head_bytes(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> bytes:
    header: dict[str, object] = {"__metadata__": {"digest": NO_DIGEST, **metadata}}
    begin = 0
    for name, tensor in tensors.items():
        end = begin + tensor.numel() * tensor.element_size()
        header[name] = {
            "dtype": DTYPES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [begin, end],
        }
        begin = end
    text = json.dumps(header, separators=(",", ":")).encode("ascii")
    text += b" " * (-(LENGTH_BYTES + len(text)) % ALIGNMENT)
    assert text.startswith(BEFORE_DIGEST)
    if len(text) > MAX_HEADER_BYTES:
        raise UsageError(f"the header would take {len(text)} bytes; at most {MAX_HEADER_BYTES} are allowed")
    return len(text).to_bytes(LENGTH_BYTES, "little") + text


def _read_head(file: BufferedReader, *, num_bytes: int, source: str) -> _Head:
    length_bytes = file.read(LENGTH_BYTES)
    length = int.from_bytes(length_bytes, "little")
    if len(length_bytes) < LENGTH_BYTES or not 2 <= length <= min(MAX_HEADER_BYTES, num_bytes - LENGTH_BYTES):
        _fail(source, f"a header of {length} bytes in a file of {num_bytes}")
    text = file.read(length)
    header = parse_object(text, source=f"{source} (header)", error=ModelError)
    metadata = header.pop("__metadata__", None)
    if (
        not text.startswith(BEFORE_DIGEST)
        or not isinstance(metadata, dict)
        or not all(isinstance(value, str) for value in metadata.values())
    ):
        _fail(source, "it carries no digest of itself where one is expected")
    extents = [_extent(name, value, source) for name, value in header.items()]
    extents.sort(key=lambda one: (one.begin, one.end))
    expected = 0
    for extent in extents:
        if extent.begin != expected:
            _fail(source, f"the tensor {extent.name!a} begins at {extent.begin}, expected at {expected}")
        expected = extent.end
    found = num_bytes - LENGTH_BYTES - length
    if expected != found:
        state = "truncated" if found < expected else "too long"
        _fail(source, f"it is {state}: its tensors take {expected} bytes, {found} are there")
    return _Head(length_bytes + text, cast("dict[str, str]", metadata), extents)


def _extent(name: str, value: JsonValue, source: str) -> _Extent:
    fields: Mapping[str, Any] = value if isinstance(value, dict) else {}
    dtype, shape, offsets = (fields.get(key) for key in ("dtype", "shape", "data_offsets"))
    if (
        not isinstance(dtype, str)
        or dtype not in TORCH_DTYPES
        or not _are_sizes(shape)
        or not _are_sizes(offsets)
        or len(offsets) != 2
        or offsets[1] - offsets[0] != prod(shape) * TORCH_DTYPES[dtype].itemsize
    ):
        _fail(source, f"the tensor {name!a} is described by {ascii(value)[:120]}")
    return _Extent(name, TORCH_DTYPES[dtype], tuple(shape), offsets[0], offsets[1])


def _are_sizes(value: Any) -> TypeGuard[list[int]]:
    return isinstance(value, list) and all(type(size) is int and 0 <= size < 2**63 for size in value)


def _digest_of(head: _Head) -> "hashlib._Hash":
    return hashlib.sha256(head.raw[:DIGEST_AT] + NO_DIGEST.encode() + head.raw[DIGEST_AT + len(NO_DIGEST) :])


def _check_digest(head: _Head, found: str, source: str) -> None:
    stated = head.metadata["digest"]
    if found != stated:
        _fail(source, f"its content has the digest {found[:16]}…, but it was written with {stated[:16]!a}…")


def _bytes_of(tensor: Tensor) -> Tensor:
    return tensor.contiguous().reshape(-1).view(torch.uint8)


def _blocks(whole: memoryview) -> Iterator[memoryview]:
    return (whole[at : at + BLOCK_BYTES] for at in range(0, len(whole), BLOCK_BYTES))


def _fail(source: str, what: str) -> NoReturn:
    raise ModelError(f"{source}: {what}", hint=HINT)
