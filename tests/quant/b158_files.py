"""Small `.b158` files for tests, and their headers taken apart and put together again."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from quant.container_format import Kind, TensorSpec
from quant.container_writer import B158Writer, Piece
from quant.embedding import RowBits, RowWeights
from quant.ternary import TernaryWeights

CONFIG = '{"model": {"name": "kleines Ü", "hidden_size": 100}}'
SPECS = (
    TensorSpec(name="embedding", kind="int8", shape=(70, 100)),
    TensorSpec(name="layers.0.up", kind="ternary", shape=(40, 130)),
    TensorSpec(name="layers.0.gain", kind="float32", shape=(3, 7)),
    TensorSpec(name="half", kind="int4", shape=(33, 64)),
    TensorSpec(name="quarter", kind="int2", shape=(5, 1)),
    TensorSpec(name="scalar", kind="float32", shape=()),
)
ROW_BITS: dict[Kind, RowBits] = {"int8": 8, "int4": 4, "int2": 2}
CODE_LIMITS: dict[Kind, int] = {"int8": 127, "int4": 7, "int2": 1, "ternary": 1}


def weights_of(spec: TensorSpec, *, seed: int = 0) -> Piece:
    """Values for a tensor that are the same on every machine and with every version of every library."""
    if spec.kind == "float32":
        return np.asarray(scrambled(spec.shape, seed=seed) % 200 / 8 - 12, dtype=np.float32)
    limit = CODE_LIMITS[spec.kind]
    codes = (scrambled(spec.shape, seed=seed) % (2 * limit + 1) - limit).astype(np.int8)
    if spec.kind == "ternary":
        groups = -(-spec.shape[1] // 128)
        scales = 2.0 ** (scrambled((spec.shape[0], groups), seed=seed + 1) % 8 - 6)
        return TernaryWeights(codes=codes, scales=scales.astype(np.float16), group_size=128)
    scales = 2.0 ** (scrambled(spec.shape[:1], seed=seed + 1) % 8 - 6)
    return RowWeights(codes=codes, scales=scales.astype(np.float32), bits=ROW_BITS[spec.kind])


def scrambled(shape: tuple[int, ...], *, seed: int) -> np.ndarray:
    """Whole numbers without an obvious pattern."""
    at = np.arange(1, math.prod(shape) + 1, dtype=np.uint64) + np.uint64(seed * 2**20)
    return (at * np.uint64(0x9E3779B97F4A7C15) >> np.uint64(40)).astype(np.int64).reshape(shape)


def write_small(path: Path, *, seed: int = 0, metadata: Mapping[str, str] | None = None) -> str:
    """A file with a tensor of every kind; its digest."""
    with B158Writer(path, tensors=SPECS, config=CONFIG, metadata=metadata) as writer:
        for spec in SPECS:
            writer.write(spec.name, weights_of(spec, seed=seed))
    return writer.digest


@dataclass(kw_only=True)
class TakenApart:
    """The parts of a file, to be changed and put together again."""

    header: dict[str, Any]
    data: bytes
    metadata: dict[str, Any] = field(default_factory=dict)
    tensors: dict[str, Any] = field(default_factory=dict)
    digests: dict[str, Any] = field(default_factory=dict)

    def together(self) -> bytes:
        metadata = dict(self.metadata)
        metadata.setdefault("tensors", json.dumps(self.tensors))
        metadata.setdefault("digests", json.dumps(self.digests))
        return with_header(json.dumps({"__metadata__": metadata, **self.header}).encode(), self.data)


def take_apart(whole: bytes) -> TakenApart:
    length = int.from_bytes(whole[:8], "little")
    header = json.loads(whole[8 : 8 + length])
    metadata = header.pop("__metadata__")
    return TakenApart(
        tensors=json.loads(metadata.pop("tensors")),
        digests=json.loads(metadata.pop("digests")),
        metadata=metadata,
        header=header,
        data=whole[8 + length :],
    )


def with_header(text: bytes, data: bytes) -> bytes:
    """A file with this header, filled up so that the data is aligned."""
    text += b" " * (-(8 + len(text)) % 64)
    return len(text).to_bytes(8, "little") + text + data
