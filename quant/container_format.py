"""The `.b158` format: what a file of ternary weights consists of.

A `.b158` file is a safetensors file: 8 bytes of header length, little-endian; the header, JSON filled up with
spaces; the data of the stored tensors, end to end. Beside safetensors' own rules, the data and every stored
tensor begin at a multiple of 64 bytes, and a stored tensor's size is a multiple of 64, so that kernels read
the mapped bytes as they are.

A tensor of the model is stored in parts, named after it:

    ternary           NAME.codes  U8  [pairs, inputs/16, 2, 64]   NAME.scales  F16 [pairs, groups, 2, 16]
    sherry            NAME.codes  U8  [pairs, inputs/64, 5, 64]   NAME.scales  F16 [pairs, groups, 2, 16]
    int8, int4, int2  NAME.codes  I8 or U8, tiles                 NAME.scales  F32 [pairs, 2, 16]
    float32           NAME.values F32 [entries, up to a multiple of 16]

`quant.packing` and `quant.sherry_packing` say what a tile holds. The header's `__metadata__` maps strings to
strings. Five keys are the format's, every other one is free:

    format           "b158"
    format_version   "2" where a tensor is of the kind sherry, else "1", which older programs read too
    config           the model's config.json, as text
    tensors          JSON: NAME → {"kind", "rows", "cols", "group" of ternary and sherry, "parts": {"codes":
                     stored name, "scales": stored name}}, or {"kind": "float32", "shape", "parts":
                     {"values": …}}
    digests          JSON: stored name → SHA-256 of its bytes, in hexadecimal

The digest of everything before the data names the model: it covers the config and, by the digests, all
weights.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Literal, TypeAlias, get_args

import numpy as np

from configs.errors import UsageError
from quant.embedding import RowBits
from quant.packing import codes_shape, row_scales_shape, ternary_scales_shape
from quant.sherry_packing import sherry_codes_shape
from quant.ternary import GROUP

FORMAT = "b158"
FORMAT_VERSION = 2
"""The newest that is read; a file states the oldest that has all of its kinds."""
ALIGNMENT = 64
LENGTH_BYTES = 8
MAX_HEADER_BYTES = 16 * 2**20
"""Room for 30,000 tensors. Read, a hostile header takes up to thirty times its bytes of memory."""
MAX_DIMENSIONS = 8
DIGEST_CHARACTERS = 64

Kind: TypeAlias = Literal["ternary", "sherry", "int8", "int4", "int2", "float32"]
PartRole: TypeAlias = Literal["codes", "scales", "values"]
StoredDtype: TypeAlias = Literal["U8", "I8", "F16", "F32"]

KINDS: tuple[Kind, ...] = get_args(Kind)
SINCE: dict[Kind, int] = {"sherry": 2}
"""The format version that brought a kind, for those that the first one lacks."""
GROUPED: tuple[Kind, ...] = ("ternary", "sherry")
"""Kinds with a scale for each group of inputs."""
KIND_BITS: dict[Kind, RowBits] = {"ternary": 2, "int8": 8, "int4": 4, "int2": 2}
DTYPE_BYTES: dict[StoredDtype, int] = {"U8": 1, "I8": 1, "F16": 2, "F32": 4}
NUMPY_DTYPES: dict[StoredDtype, type[np.generic]] = {
    "U8": np.uint8,
    "I8": np.int8,
    "F16": np.float16,
    "F32": np.float32,
}
RESERVED_KEYS = ("format", "format_version", "config", "tensors", "digests")


@dataclass(frozen=True, kw_only=True, slots=True)
class TensorSpec:
    """A tensor of the model: its name, how it is stored, and its true shape (rows, inputs), unpadded."""

    name: str
    kind: Kind
    shape: tuple[int, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class StoredPart:
    """A stored tensor of the file."""

    name: str
    role: PartRole
    dtype: StoredDtype
    shape: tuple[int, ...]

    @property
    def num_bytes(self) -> int:
        return prod(self.shape) * DTYPE_BYTES[self.dtype]


def stored_parts(spec: TensorSpec) -> tuple[StoredPart, ...]:
    """The stored tensors of a tensor, in the order in which they lie in the file."""
    if spec.kind == "float32":
        floats_a_line = ALIGNMENT // DTYPE_BYTES["F32"]
        padded = -(-prod(spec.shape) // floats_a_line) * floats_a_line
        return (StoredPart(name=f"{spec.name}.values", role="values", dtype="F32", shape=(padded,)),)
    num_rows, num_inputs = spec.shape
    if spec.kind in GROUPED:
        dtype, scales_shape = "F16", ternary_scales_shape(num_rows, num_inputs)
    else:
        dtype, scales_shape = "F32", row_scales_shape(num_rows)
    return (
        StoredPart(
            name=f"{spec.name}.codes",
            role="codes",
            dtype="I8" if spec.kind == "int8" else "U8",
            shape=_codes_shape(spec.kind, num_rows, num_inputs),
        ),
        StoredPart(name=f"{spec.name}.scales", role="scales", dtype=dtype, shape=scales_shape),
    )


def _codes_shape(kind: Kind, num_rows: int, num_inputs: int) -> tuple[int, ...]:
    if kind == "sherry":
        return sherry_codes_shape(num_rows, num_inputs)
    return codes_shape(num_rows, num_inputs, bits=KIND_BITS[kind])


def version_of(tensors: Iterable[TensorSpec]) -> int:
    """The format version that a file of these tensors states."""
    return max((SINCE.get(spec.kind, 1) for spec in tensors), default=1)


def header_bytes(
    tensors: Sequence[TensorSpec], *, config: str, metadata: Mapping[str, str], digests: Mapping[str, str]
) -> bytes:
    """Everything of a file before its data. Its size does not depend on what the digests are."""
    parts = [part for spec in tensors for part in stored_parts(spec)]
    header: dict[str, object] = {
        "__metadata__": {
            "format": FORMAT,
            "format_version": str(version_of(tensors)),
            **metadata,
            "config": config,
            "tensors": _compact({spec.name: _described(spec) for spec in tensors}),
            "digests": _compact({part.name: digests[part.name] for part in parts}),
        }
    }
    begin = 0
    for part in parts:
        end = begin + part.num_bytes
        header[part.name] = {"dtype": part.dtype, "shape": part.shape, "data_offsets": (begin, end)}
        begin = end
    text = _compact(header).encode("ascii")
    text += b" " * (-(LENGTH_BYTES + len(text)) % ALIGNMENT)
    if len(text) > MAX_HEADER_BYTES:
        raise UsageError(f"the header would take {len(text)} bytes; at most {MAX_HEADER_BYTES} are allowed")
    return len(text).to_bytes(LENGTH_BYTES, "little") + text


def model_digest(before_data: bytes) -> str:
    """The name of a model: the SHA-256 of everything before the data."""
    return hashlib.sha256(before_data).hexdigest()


def _described(spec: TensorSpec) -> dict[str, object]:
    parts = {part.role: part.name for part in stored_parts(spec)}
    if spec.kind == "float32":
        return {"kind": spec.kind, "shape": spec.shape, "parts": parts}
    group = {"group": GROUP} if spec.kind in GROUPED else {}
    return {"kind": spec.kind, "rows": spec.shape[0], "cols": spec.shape[1], **group, "parts": parts}


def _compact(value: object) -> str:
    return json.dumps(value, separators=(",", ":"))
