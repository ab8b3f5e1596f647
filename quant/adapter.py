"""`.cza` files: what fine-tuning without gradients has learnt, as the log of a run.

Such a run moves all weights along directions that a seed gives, and how far is one number a direction. So the
numbers are the run: with them and the base, the weights are computed again, bit for bit, on any machine. A
thousand steps take some twenty kilobytes.

    0     8 bytes    "CHIMCZA1"
    8     uint32     bytes of the header
    12    uint32     CRC-32 of the header
    16    header     JSON, `AdapterHeader`
    …     records    `Record`s of one size, end to end

A record, with n numbers as the header says, all little-endian:

    uint32     kind      1 a step, 2 a look at the validation data
    uint32     step      of a step its number, from 0; of a look the number of steps before it
    float32    loss      the mean over the step's sequences; of a look that of the validation data
    float32    rate      the learning rate of the step; of a look its score, NaN where nobody scores
    float32    × n       of a step how far it goes along each of its directions; of a look zeros
    uint32     CRC-32 of the record, begun with that of the header

**What a number is.** The signed length of the move along a direction, rate and clipping applied, so that a
replay computes no schedule: weights += number × direction(seed, step, pair). Its unit is the method's, and
whole numbers up to 2^24 are exact. Direction `pair` of a step is `quant.philox` with the counter
(block, stream, step, pair), where a stream is a tensor's place among those that are trained, by name.

Records are appended and never changed. A killed writer leaves a torn record at most, and a machine that loses
its power some more: they are found by their checksums, and the next writer cuts them off. One process writes
a log at a time: `quant.adapter_log`.
"""

import hashlib
import json
import math
import struct
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias, cast

import numpy as np
from numpy.typing import NDArray

from configs.errors import AdapterError, UsageError
from configs.strict_json import parse_object
from configs.version import VERSION

SUFFIX = ".cza"
MAGIC = b"CHIMCZA1"
STEP, LOOK = 1, 2
"""Kinds of records."""
MOST_NUMBERS = 1 << 16
LONGEST_HEADER = 1 << 20
LARGEST_BYTES = 1 << 28
"""Of a log: eleven million steps of one number."""
SHOWN = 12
"""Characters of a digest in messages."""
_PREFIX = struct.Struct("<8sII")
_HINT = "It was changed since it was written. Take another copy of it."
_SIMPLE: dict[str, type] = {
    "method": str,
    "base": str,
    "seed": int,
    "numbers": int,
    "data": str,
    "version": str,
}
Setting: TypeAlias = int | float | str | bool


@dataclass(frozen=True, kw_only=True, slots=True)
class AdapterHeader:
    """What a log belongs to and how its numbers are to be read."""

    method: str
    base: str
    """Digest of the model that it changes."""
    seed: int
    """Of the directions; below 2^64."""
    numbers: int = 1
    """How many a step has."""
    settings: Mapping[str, Setting]
    """What a replay has to know, and what the run was told, by the method's own names."""
    data: str = ""
    """Digest of the data that was learnt from."""
    beneath: tuple[str, ...] = ()
    """Digests of the adapters that the model had when this one was learnt, in their order."""
    version: str = VERSION

    def __post_init__(self) -> None:
        if not 0 <= self.seed < 1 << 64:
            raise UsageError(f"seed {self.seed}; allowed are whole numbers from 0 to 2^64 - 1")
        if not 1 <= self.numbers <= MOST_NUMBERS:
            raise UsageError(f"{self.numbers} numbers a step; allowed are 1 to {MOST_NUMBERS}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Record:
    """A step, or a look at the validation data."""

    kind: int = STEP
    step: int
    loss: float = 0.0
    rate: float = 0.0
    numbers: tuple[float, ...] = ()

    @property
    def score(self) -> float | None:
        """Of a look: what the scorer said."""
        return None if math.isnan(self.rate) else self.rate


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Adapter:
    """A log that was read."""

    path: Path
    header: AdapterHeader
    records: tuple[Record, ...]
    whole_bytes: int
    """Up to the end of the last whole record."""
    torn_bytes: int
    """Behind it, left by a writer that was killed; nobody reads them."""

    @property
    def steps(self) -> Iterator[Record]:
        """The records that move weights."""
        return (record for record in self.records if record.kind == STEP)

    @property
    def looks(self) -> Iterator[Record]:
        """The looks at validation data."""
        return (record for record in self.records if record.kind == LOOK)

    @property
    def num_steps(self) -> int:
        return sum(1 for _ in self.steps)

    @property
    def digest(self) -> str:
        """The adapter's name: two that change weights alike have one."""
        digest = hashlib.sha256(_encoded(replace(self.header, version="")))
        for record in self.steps:
            digest.update(np.array(record.numbers, dtype="<f4").tobytes())
            digest.update(struct.pack("<f", record.rate))
        return digest.hexdigest()


def is_adapter(path: Path) -> bool:
    """Whether a file begins as an adapter does."""
    try:
        with path.open("rb") as file:
            return file.read(len(MAGIC)) == MAGIC
    except OSError:
        return False


def read_adapter(path: Path | str) -> Adapter:
    """A log with all its whole records. What was changed since it was written is refused."""
    source = Path(path)
    try:
        with source.open("rb") as file:
            return understood(source, read_bytes(file))
    except FileNotFoundError:
        raise AdapterError(f"there is no file {source}", hint="Check the path.") from None
    except OSError as error:
        raise AdapterError(f"cannot read {source}: {error.strerror or error}") from error


def read_bytes(file: BinaryIO) -> bytes:
    """What can be an adapter of an open file: of another file its beginning, of one too long a byte more."""
    begin = file.read(_PREFIX.size)
    if not begin.startswith(MAGIC):
        return begin
    return begin + file.read(LARGEST_BYTES + 1 - len(begin))


def is_cut_header(data: bytes) -> bool:
    """Whether bytes are no more than what a writer leaves that was killed before its header was whole."""
    if not MAGIC.startswith(data[: len(MAGIC)]):
        return False
    if len(data) < _PREFIX.size:
        return True
    size, text = _PREFIX.unpack_from(data)[1], data[_PREFIX.size :]
    # The header and its settings close a brace each: where both are, its length was changed since.
    return len(text) < size <= LONGEST_HEADER and text.count(b"}") < 2


def composed_digest(base: str, digests: Sequence[str]) -> str:
    """The name of a model with adapters; without any, its own."""
    return hashlib.sha256("\n".join([base, *digests]).encode()).hexdigest() if digests else base


def other_base(path: Path, theirs: str, ours: str) -> AdapterError:
    """The refusal of a log that belongs to another model."""
    return AdapterError(
        f"{path} was learnt on the model {theirs[:SHOWN]}…, and this is {ours[:SHOWN]}…",
        hint="An adapter is good for the very file that it was learnt on: name that model.",
    )


def understood(path: Path, data: bytes) -> Adapter:
    """The log that a file's bytes are."""
    if is_cut_header(data):
        raise AdapterError(
            f"{path} is no adapter yet: its run was ended before it began",
            hint=f"Begin it anew: --out {path}",
        )
    if data[: len(MAGIC)] != MAGIC or len(data) < _PREFIX.size:
        raise AdapterError(f"{path} is no adapter", hint="Name a .cza file that `chimera finetune` wrote.")
    if len(data) > LARGEST_BYTES:
        raise AdapterError(
            f"{path} is larger than {LARGEST_BYTES >> 20} MiB, which no adapter is",
            hint="Name a .cza file that `chimera finetune` wrote.",
        )
    _, size, crc = _PREFIX.unpack_from(data)
    text = data[_PREFIX.size : _PREFIX.size + size]
    if size > LONGEST_HEADER or len(text) < size or zlib.crc32(text) != crc:
        raise AdapterError(f"{path} is damaged: its header", hint=_HINT)
    header = _decoded(text, path=path)
    begin = _PREFIX.size + size
    rows, torn_bytes = _whole_rows(data[begin:], header, crc, path=path)
    records = tuple(_record(row) for row in rows)
    _check_order(records, path=path)
    return Adapter(
        path=path,
        header=header,
        records=records,
        whole_bytes=len(data) - torn_bytes,
        torn_bytes=torn_bytes,
    )


def _whole_rows(data: bytes, header: AdapterHeader, seed: int, *, path: Path) -> tuple[NDArray[Any], int]:
    """The records before the first one whose checksum is wrong. A right one behind it cannot be."""
    dtype = _dtype(header)
    rows = np.frombuffer(data, dtype=dtype, count=len(data) // dtype.itemsize)
    good = [
        zlib.crc32(data[at : at + dtype.itemsize - 4], seed) == int(row["crc"])
        for at, row in zip(range(0, rows.nbytes, dtype.itemsize), rows, strict=True)
    ]
    count = good.index(False) if False in good else len(good)
    if any(good[count:]):
        raise AdapterError(f"{path} is damaged: record {count} of {len(good)}", hint=_HINT)
    return rows[:count], len(data) - count * dtype.itemsize


def _check_order(records: tuple[Record, ...], *, path: Path) -> None:
    steps = 0
    for number, record in enumerate(records):
        if record.kind not in (STEP, LOOK) or record.step != steps:
            raise AdapterError(
                f"{path} is damaged: record {number} is of kind {record.kind} and step {record.step}, "
                f"expected step {steps}",
                hint=_HINT,
            )
        if not all(map(math.isfinite, record.numbers)):
            raise AdapterError(f"{path} is damaged: record {number} holds what is no number", hint=_HINT)
        steps += record.kind == STEP


def _dtype(header: AdapterHeader) -> np.dtype[Any]:
    return np.dtype(
        [
            ("kind", "<u4"),
            ("step", "<u4"),
            ("loss", "<f4"),
            ("rate", "<f4"),
            ("numbers", "<f4", (header.numbers,)),
            ("crc", "<u4"),
        ]
    )


def packed_record(record: Record, header: AdapterHeader, crc: int) -> bytes:
    """A record as it stands in the file."""
    numbers = record.numbers if record.kind == STEP else (0.0,) * header.numbers
    assert len(numbers) == header.numbers, "as many numbers as the header says"
    assert all(map(math.isfinite, numbers)), "a step of finite length"
    body = struct.pack(
        f"<IIff{header.numbers}f", record.kind, record.step, record.loss, record.rate, *numbers
    )
    return body + struct.pack("<I", zlib.crc32(body, crc))


def unpacked_record(data: bytes, header: AdapterHeader) -> Record:
    """The record that some bytes are."""
    dtype = _dtype(header)
    if len(data) != dtype.itemsize or zlib.crc32(data[:-4], header_crc(header)) != int.from_bytes(
        data[-4:], "little"
    ):
        raise AdapterError(f"{len(data)} bytes are no record of a run of {header.method}")
    return _record(np.frombuffer(data, dtype=dtype)[0])


def _record(row: Any) -> Record:
    return Record(
        kind=int(row["kind"]),
        step=int(row["step"]),
        loss=float(row["loss"]),
        rate=float(row["rate"]),
        numbers=tuple(row["numbers"].tolist()) if row["kind"] == STEP else (),
    )


def header_bytes(header: AdapterHeader) -> bytes:
    """All that is before the records."""
    text = _encoded(header)
    return _PREFIX.pack(MAGIC, len(text), zlib.crc32(text)) + text


def header_crc(header: AdapterHeader) -> int:
    """What the checksums of a log's records begin with."""
    return zlib.crc32(_encoded(header))


def _encoded(header: AdapterHeader) -> bytes:
    fields = {
        "method": header.method,
        "base": header.base,
        "seed": header.seed,
        "numbers": header.numbers,
        "settings": dict(header.settings),
        "data": header.data,
        "beneath": list(header.beneath),
        "version": header.version,
    }
    return json.dumps(fields, sort_keys=True, ensure_ascii=True, allow_nan=False).encode("ascii")


def _decoded(text: bytes, *, path: Path) -> AdapterHeader:
    fields = parse_object(text, source=str(path), error=AdapterError)
    settings, beneath = fields.get("settings"), fields.get("beneath")
    wrong = [name for name, kind in _SIMPLE.items() if type(fields.get(name)) is not kind]
    if not isinstance(settings, dict) or not all(isinstance(one, Setting) for one in settings.values()):
        wrong.append("settings")
    if not isinstance(beneath, list) or not all(isinstance(one, str) for one in beneath):
        wrong.append("beneath")
    if wrong or len(fields) != len(_SIMPLE) + 2:
        raise AdapterError(
            f"{path} is of another version: its header holds {', '.join(fields) or 'nothing'}"
            + (f", and no good {', '.join(wrong)}" if wrong else ""),
            hint="Read it with the version of Chimera that wrote it.",
        )
    found = cast("dict[str, Any]", fields | {"beneath": tuple(cast("list[str]", beneath))})
    try:
        return AdapterHeader(**found)
    except UsageError as error:
        raise AdapterError(f"{path} is damaged: {error.message}", hint=_HINT) from error
