"""Logs that no run wrote: with any header and any numbers, and checksums that fit."""

import json
import struct
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from quant.adapter import MAGIC, STEP, Adapter

PREFIX_BYTES = 16


def forged(
    source: Adapter,
    target: Path,
    *,
    settings: Mapping[str, Any] | None = None,
    numbers: Sequence[float] | None = None,
    rate: float | None = None,
    **header: Any,
) -> Path:
    """A copy of a log with other settings (None takes one away), another first step, another header."""
    data = source.path.read_bytes()
    size = struct.unpack_from("<I", data, 8)[0]
    fields = json.loads(data[PREFIX_BYTES : PREFIX_BYTES + size]) | header
    told = fields["settings"] | (settings or {})
    fields["settings"] = {name: value for name, value in told.items() if value is not None}
    text = json.dumps(fields, sort_keys=True).encode()
    crc = zlib.crc32(text)
    found = [MAGIC, struct.pack("<II", len(text), crc), text]
    for record in source.records:
        said = record.numbers if record.kind == STEP else (0.0,) * source.header.numbers
        first = record.kind == STEP and record.step == 0
        length = numbers if first and numbers is not None else said
        speed = rate if first and rate is not None else record.rate
        body = struct.pack(f"<IIff{len(length)}f", record.kind, record.step, record.loss, speed, *length)
        found += [body, struct.pack("<I", zlib.crc32(body, crc))]
    target.write_bytes(b"".join(found))
    return target
