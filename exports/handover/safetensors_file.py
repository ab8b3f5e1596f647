"""A safetensors file written piece by piece, where the library's own writer takes all tensors at once."""

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

FileDtype = Literal["float32", "bfloat16"]
CODES: Mapping[FileDtype, str] = {"float32": "F32", "bfloat16": "BF16"}
ITEM_BYTES: Mapping[FileDtype, int] = {"float32": 4, "bfloat16": 2}
_LENGTH_BYTES, _ALIGNMENT = 8, 64


@dataclass(frozen=True, kw_only=True, slots=True)
class Declared:
    """A tensor and where its values come from, in pieces end to end."""

    name: str
    shape: tuple[int, ...]
    values: Callable[[], Iterable[NDArray[np.float32]]]


def write_safetensors(
    path: Path,
    tensors: Iterable[Declared],
    *,
    dtype: FileDtype,
    progress: Callable[[int], None] | None = None,
) -> None:
    """Write the tensors in their order. `progress` is given the number of values written so far."""
    declared = tuple(tensors)
    done = 0
    with path.open("xb") as file:
        file.write(_header(declared, dtype))
        for tensor in declared:
            before = done
            for piece in tensor.values():
                file.write(_bytes(piece, dtype))
                done += piece.size
                if progress is not None:
                    progress(done)
            assert done - before == prod(tensor.shape), f"{tensor.name} got {done - before} values"


def _header(declared: tuple[Declared, ...], dtype: FileDtype) -> bytes:
    entries: dict[str, object] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for tensor in declared:
        after = offset + prod(tensor.shape) * ITEM_BYTES[dtype]
        entries[tensor.name] = {
            "dtype": CODES[dtype],
            "shape": list(tensor.shape),
            "data_offsets": [offset, after],
        }
        offset = after
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-(_LENGTH_BYTES + len(text)) % _ALIGNMENT)
    return len(text).to_bytes(_LENGTH_BYTES, "little") + text


def _bytes(piece: NDArray[np.float32], dtype: FileDtype) -> memoryview:
    values = np.ascontiguousarray(piece, dtype="<f4")
    return values.data if dtype == "float32" else to_bfloat16(values).data


def to_bfloat16(values: NDArray[np.float32]) -> NDArray[np.uint16]:
    """The bits of the nearest bfloat16, half to even, of finite values."""
    bits = values.view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype("<u2")
