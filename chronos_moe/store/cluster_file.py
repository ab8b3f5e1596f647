"""`.ctsr` files: a cluster of experts that are needed together, one after another.

A file is a safetensors file, so any tool can open it. Its header is filled up with spaces, and each expert's
tensors are followed by one of padding, so that every block begins at a multiple of 4096 bytes. The header
follows from the manifest to the last byte; so a reader does not believe it, but writes it anew and compares.
"""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TypeAlias

from chronos_moe.store.form import ALIGNMENT, ExpertForm, tensor_name
from configs.errors import ClusterError
from quant.container_format import LENGTH_BYTES, StoredPart

SUFFIX = ".ctsr"
FORMAT, VERSION = "ctsr", 1
DAMAGED_HINT = "Copy the folder again from where it came, or pack the experts again: chimera pack-experts"
Key: TypeAlias = tuple[int, int]
"""A layer's number in the model, and an expert's in the layer."""


def header_bytes(keys: Sequence[Key], *, form: ExpertForm, source: str, number: int) -> bytes:
    """Everything of a cluster's file before its first block; `source` is the digest of the model it is of."""
    metadata = {"format": FORMAT, "format_version": str(VERSION), "model": source, "cluster": str(number)}
    header: dict[str, object] = {"__metadata__": metadata}
    padding = form.block_bytes - form.num_bytes
    for place, (layer, expert) in enumerate(keys):
        first = place * form.block_bytes
        for part, begin in form.parts():
            header[tensor_name(layer, expert, part.name)] = _entry(part, first + begin)
        if padding:
            filler = {
                "dtype": "U8",
                "shape": (padding,),
                "data_offsets": (first + form.num_bytes, first + form.block_bytes),
            }
            header[tensor_name(layer, expert, "padding")] = filler
    text = json.dumps(header, separators=(",", ":")).encode("ascii")
    text += b" " * (-(LENGTH_BYTES + len(text)) % ALIGNMENT)
    return len(text).to_bytes(LENGTH_BYTES, "little") + text


def check_file(path: Path, *, expected_header: bytes, file_bytes: int) -> None:
    """Refuse a cluster's file that is missing, cut, or another one than the manifest tells of."""
    try:
        with path.open("rb") as file:
            found_bytes = os.fstat(file.fileno()).st_size
            found = file.read(len(expected_header))
    except FileNotFoundError:
        raise ClusterError(
            f"{path}: there is no such file, but the manifest beside it names it", hint=DAMAGED_HINT
        ) from None
    except OSError as error:
        raise ClusterError(f"{path} cannot be read: {error.strerror or error}") from error
    if found_bytes != file_bytes:
        raise ClusterError(
            f"{path} has {found_bytes:,} bytes; the manifest tells of {file_bytes:,}", hint=DAMAGED_HINT
        )
    if found != expected_header:
        raise ClusterError(
            f"{path} does not hold the experts that the manifest tells of: its header is another one",
            hint=DAMAGED_HINT,
        )


def _entry(part: StoredPart, begin: int) -> dict[str, object]:
    return {"dtype": part.dtype, "shape": part.shape, "data_offsets": (begin, begin + part.num_bytes)}
