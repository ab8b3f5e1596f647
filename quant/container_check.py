"""Is this header one of a `.b158` file? Everything is checked here, before an address is formed.

The sizes of a hostile file are Python integers and cannot overflow; whatever passes lies inside the file.
"""

import string
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NoReturn, cast

from configs.errors import ContainerError
from configs.strict_json import JsonValue, parse_object
from quant.container_format import (
    ALIGNMENT,
    DIGEST_CHARACTERS,
    DTYPE_BYTES,
    FORMAT,
    FORMAT_VERSION,
    GROUPED,
    KINDS,
    LENGTH_BYTES,
    MAX_DIMENSIONS,
    MAX_HEADER_BYTES,
    RESERVED_KEYS,
    StoredDtype,
    StoredPart,
    TensorSpec,
    model_digest,
    stored_parts,
    version_of,
)
from quant.ternary import GROUP

DAMAGED_HINT = "The file is damaged or was not written by this program: fetch or export it again."


@dataclass(frozen=True, kw_only=True, slots=True)
class PlacedPart:
    """A stored tensor with its place in the file and its digest."""

    part: StoredPart
    begin: int
    end: int
    digest: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Header:
    """All that the bytes before the data say."""

    config: str
    metadata: Mapping[str, str]
    tensors: Mapping[str, TensorSpec]
    parts: Mapping[str, PlacedPart]
    digest: str


@dataclass(frozen=True, kw_only=True, slots=True)
class _Extent:
    """A stored tensor as the safetensors part of the header describes it, from the start of the data."""

    dtype: StoredDtype
    shape: tuple[int, ...]
    begin: int
    end: int


def header_length(first_bytes: bytes, *, file_bytes: int, source: str) -> int:
    """The length of the header that begins after the first 8 bytes of a file."""
    if file_bytes < LENGTH_BYTES:
        _fail(source, f"the file has {file_bytes} bytes; a header's length alone takes {LENGTH_BYTES}")
    length = int.from_bytes(first_bytes[:LENGTH_BYTES], "little")
    most = min(MAX_HEADER_BYTES, file_bytes - LENGTH_BYTES)
    if not 2 <= length <= most:
        _fail(source, f"the header's length is {length} bytes; in this file, 2 to {most} are possible")
    if (LENGTH_BYTES + length) % ALIGNMENT:
        _fail(
            source, f"the header's length is {length}, so that the data is not aligned to {ALIGNMENT} bytes"
        )
    return length


def check_header(before_data: bytes, *, file_bytes: int, source: str) -> Header:
    """The checked meaning of everything before the data; `source` names the file in messages."""
    if before_data[LENGTH_BYTES : LENGTH_BYTES + 1] != b"{":
        _fail(source, "the header is not a JSON object")
    header = parse_object(before_data[LENGTH_BYTES:], source=f"{source} (header)", error=ContainerError)
    metadata = _metadata(header.pop("__metadata__", None), source)
    data_bytes = file_bytes - len(before_data)
    extents = {name: _extent(name, value, source) for name, value in header.items()}
    _check_contiguous(extents, data_bytes=data_bytes, source=source)
    described = _json(metadata, key="tensors", source=source)
    tensors = {name: _tensor_spec(name, value, source) for name, value in described.items()}
    if version_of(tensors.values()) > int(metadata["format_version"]):
        _fail(source, f"format version {metadata['format_version']} does not have all kinds of its tensors")
    digests = _digests(_json(metadata, key="digests", source=source), names=set(extents), source=source)
    parts: dict[str, PlacedPart] = {}
    for spec in tensors.values():
        for part in stored_parts(spec):
            extent = _matching_extent(spec, part, extents, source)
            parts[part.name] = PlacedPart(
                part=part,
                begin=len(before_data) + extent.begin,
                end=len(before_data) + extent.end,
                digest=digests[part.name],
            )
    for name in extents:
        if name not in parts:
            _fail(source, f"the stored tensor {_short(name)} belongs to no tensor of the model")
    return Header(
        config=metadata["config"],
        metadata={key: value for key, value in metadata.items() if key not in RESERVED_KEYS},
        tensors=tensors,
        parts=parts,
        digest=model_digest(before_data),
    )


def _metadata(value: JsonValue, source: str) -> dict[str, str]:
    foreign = "Make a .b158 file with `chimera export`."
    if not isinstance(value, dict):
        _fail(source, "no __metadata__; this may be a safetensors file of another program", hint=foreign)
    for key, text in value.items():
        if not isinstance(text, str):
            _fail(source, f"the metadata {_short(key)} is {_short(text)}; only strings are allowed")
    metadata = cast("dict[str, str]", value)
    if metadata.get("format") != FORMAT:
        found = _short(metadata.get("format"))
        _fail(source, f"the metadata names the format {found}, expected {FORMAT!r}", hint=foreign)
    _check_version(metadata.get("format_version"), source)
    for key in RESERVED_KEYS:
        if key not in metadata:
            _fail(source, f"the metadata has no {key!r}")
    return metadata


def _check_version(text: str | None, source: str) -> None:
    number = int(text) if text and len(text) <= 9 and text.isascii() and text.isdigit() else None
    if number is None or number < 1:
        _fail(source, f"the format version is {_short(text)}; expected a number from 1 to {FORMAT_VERSION}")
    if number > FORMAT_VERSION:
        _fail(
            source,
            f"the file has format version {number}; this program reads up to {FORMAT_VERSION}",
            hint="Update: pip install --upgrade chimera-edge",
        )


def _extent(name: str, value: JsonValue, source: str) -> _Extent:
    what = f"the stored tensor {_short(name)}"
    fields = _fields(value, names=("dtype", "shape", "data_offsets"), what=what, source=source)
    dtype = fields["dtype"]
    if not isinstance(dtype, str) or dtype not in DTYPE_BYTES:
        _fail(source, f"{what} has the dtype {_short(dtype)}; allowed are {', '.join(DTYPE_BYTES)}")
    shape = _positive_integers(fields["shape"], what=f"{what}'s shape", source=source)
    offsets = fields["data_offsets"]
    begin, end = offsets if isinstance(offsets, list) and len(offsets) == 2 else (None, None)
    if type(begin) is not int or type(end) is not int or not 0 <= begin < end:
        _fail(source, f"{what} has the offsets {_short(offsets)}; expected [begin, end], 0 ≤ begin < end")
    if begin % ALIGNMENT or end % ALIGNMENT:
        _fail(source, f"{what} has the offsets {_short(offsets)}; both must be multiples of {ALIGNMENT}")
    return _Extent(dtype=dtype, shape=shape, begin=begin, end=end)


def _check_contiguous(extents: Mapping[str, _Extent], *, data_bytes: int, source: str) -> None:
    expected = 0
    for name, extent in sorted(extents.items(), key=lambda item: (item[1].begin, item[1].end)):
        if extent.begin != expected:
            kind = "overlap" if extent.begin < expected else "leave a hole"
            _fail(
                source, f"the tensors {kind}: {_short(name)} begins at {extent.begin}, expected at {expected}"
            )
        expected = extent.end
    if expected != data_bytes:
        state = "truncated" if data_bytes < expected else "too long"
        _fail(source, f"the file is {state}: its tensors take {expected} bytes, {data_bytes} are there")


def _tensor_spec(name: str, value: JsonValue, source: str) -> TensorSpec:
    what = f"the tensor {_short(name)}"
    kind = value.get("kind") if isinstance(value, dict) else None
    if not isinstance(kind, str) or kind not in KINDS:
        _fail(
            source,
            f"{what} has the kind {_short(kind)}; this version knows {', '.join(KINDS)}",
            hint="If a newer version wrote the file, update: pip install --upgrade chimera-edge",
        )
    if kind == "float32":
        fields = _fields(value, names=("kind", "shape", "parts"), what=what, source=source)
        shape = _positive_integers(fields["shape"], what=f"{what}'s shape", source=source)
    else:
        group = ("group",) if kind in GROUPED else ()
        fields = _fields(value, names=("kind", "rows", "cols", *group, "parts"), what=what, source=source)
        shape = _positive_integers(
            [fields["rows"], fields["cols"]], what=f"{what}'s rows, cols", source=source
        )
        if kind in GROUPED and fields["group"] != GROUP:
            _fail(source, f"{what} has groups of {_short(fields['group'])}; only {GROUP} is allowed")
    spec = TensorSpec(name=name, kind=kind, shape=shape)
    parts = {part.role: part.name for part in stored_parts(spec)}
    if fields["parts"] != parts:
        _fail(source, f"{what} has the parts {_short(fields['parts'])}; expected {_short(parts)}")
    return spec


def _matching_extent(
    spec: TensorSpec, part: StoredPart, extents: Mapping[str, _Extent], source: str
) -> _Extent:
    extent = extents.get(part.name)
    what = f"the {part.role} of the tensor {_short(spec.name)}"
    if extent is None:
        _fail(source, f"{what} are not in the file; expected a stored tensor {_short(part.name)}")
    if (extent.dtype, extent.shape) != (part.dtype, part.shape):
        _fail(
            source,
            f"{what} are {extent.dtype} {_short(list(extent.shape))}; {spec.kind} of shape "
            f"{_short(list(spec.shape))} needs {part.dtype} {_short(list(part.shape))}",
        )
    if extent.end - extent.begin != part.num_bytes:
        _fail(
            source,
            f"{what} take {extent.end - extent.begin} bytes; their shape needs {_short(part.num_bytes)}",
        )
    return extent


def _digests(digests: Mapping[str, JsonValue], *, names: set[str], source: str) -> dict[str, str]:
    for name in sorted(names ^ set(digests)):
        owner = "stored tensor but no digest" if name in names else "digest but no stored tensor"
        _fail(source, f"there is a {owner} for {_short(name)}")
    for name, digest in digests.items():
        if (
            not isinstance(digest, str)
            or len(digest) != DIGEST_CHARACTERS
            or digest.strip(string.digits + "abcdef")
        ):
            _fail(
                source,
                f"the digest of {_short(name)} is {_short(digest)}; expected {DIGEST_CHARACTERS} "
                "hexadecimal digits in small letters",
            )
    return cast("dict[str, str]", dict(digests))


def _json(metadata: Mapping[str, str], *, key: str, source: str) -> dict[str, JsonValue]:
    return parse_object(metadata[key], source=f"{source} (metadata {key!r})", error=ContainerError)


def _fields(value: JsonValue, *, names: tuple[str, ...], what: str, source: str) -> dict[str, JsonValue]:
    if not isinstance(value, dict) or set(value) != set(names):
        _fail(source, f"{what} is described by {_short(value)}; expected the keys {', '.join(names)}")
    return value


def _positive_integers(value: JsonValue, *, what: str, source: str) -> tuple[int, ...]:
    if (
        not isinstance(value, list)
        or len(value) > MAX_DIMENSIONS
        or not all(type(size) is int and 0 < size < 2**63 for size in value)
    ):
        _fail(
            source,
            f"{what} is {_short(value)}; expected at most {MAX_DIMENSIONS} whole numbers from 1 to 2**63 - 1",
        )
    return tuple(cast("list[int]", value))


def _short(value: object, *, limit: int = 120) -> str:
    """A value of the file on one line of a message, cut, without control characters."""
    text = ascii(value)
    return text if len(text) <= limit else f"{text[:limit]}…"


def _fail(source: str, what: str, *, hint: str = DAMAGED_HINT) -> NoReturn:
    raise ContainerError(f"{source}: {what}", hint=hint)
