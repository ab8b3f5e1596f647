"""Text that is read line by line or as JSON: configs, records."""

import json
import random
from unittest import mock

from configs import strict_json
from configs.errors import ConfigError, DataError
from configs.load import build_config, parse_config, to_json
from configs.strict_json import parse_object
from configs.text.records import read_records
from runtime.inspection import inspect_config
from tests.fuzz.mutations import changed_bytes, changed_json, one_of
from tests.fuzz.target import Target, put

PUBLISHED_PRESETS = ("micro", "demo", "chimera-5.1")


def load_json(data: bytes) -> None:
    """The fast way and the strict one take the same, as the same, and so does the standard library."""
    with mock.patch.object(strict_json, "_fast", return_value=None):
        strict = _parsed(data)
    found = _parsed(data)
    assert repr(found) == repr(strict)
    if isinstance(found, ConfigError):
        raise found
    assert repr(found) == repr(json.loads(data.decode("utf-8-sig")))


def _parsed(data: bytes) -> object:
    try:
        return parse_object(data, source="fuzz")
    except ConfigError as error:
        return error


def load_config_text(data: bytes) -> None:
    """A config that is taken can be written, read again and weighed."""
    raw = parse_object(data, source="fuzz")
    config = build_config(raw, source="fuzz")
    assert parse_config(to_json(config), source="again") == config
    json.dumps(inspect_config(config, raw=raw, source="fuzz", folder=None), allow_nan=False)


def config_seeds() -> list[bytes]:
    """Short ones over presets, and a whole one."""
    short = [json.dumps({"preset": name, "hidden_size": 512}).encode() for name in PUBLISHED_PRESETS]
    return [*short, to_json(build_config({"preset": "micro"}, source="seed")).encode()]


RECORDS = (
    b'{"text": "a story"}\n\n{"prompt": "1+1", "completion": "2", "kind": "sum"}\n',
    b'{"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "tool_calls": [1]}]}\n',
    b"one\r\nline\n<|endoftext|>\n\xc3\xa9\n<|endoftext|>\n",
)


def load_records(data: bytes) -> None:
    """Records as plain text and as lines of JSON; with bad ones left out, all else comes."""
    refusal: DataError | None = None
    for name in ("data.txt", "data.jsonl"):
        path = put(name, data)
        count = sum(1 for _ in read_records(path, on_error="skip", max_record_bytes=4096))
        assert count <= data.count(b"\n") + 1
        try:
            assert sum(1 for _ in read_records(path, max_record_bytes=4096)) == count
        except DataError as error:
            refusal = error
    if refusal is not None:
        raise refusal


def changed_lines(data: bytes, rng: random.Random) -> bytes:
    """One line changed as JSON, or lines moved and doubled."""
    lines = data.split(b"\n")
    at, other = rng.randrange(len(lines)), rng.randrange(len(lines))
    if rng.random() < 0.7:
        lines[at] = changed_json(lines[at], rng)
    else:
        lines[at : at + rng.randrange(2)] = [lines[other], lines[at]]
    return b"\n".join(lines)


JSON = Target(
    name="json",
    load=load_json,
    seeds=lambda: [b'{"a": [1, -2.5e3, "\\u00e9", {"b": null}], "c": true}', *config_seeds()[-1:]],
    mutate=one_of(changed_json, changed_bytes),
    refusals=(ConfigError,),
    sources=("configs.strict_json",),
)
CONFIG = Target(
    name="config",
    load=load_config_text,
    seeds=config_seeds,
    mutate=changed_json,
    refusals=(ConfigError,),
    sources=(
        "configs.load",
        "configs.codec",
        "configs.derive",
        "configs.migrate",
        "configs.raw",
        "configs.wording",
    ),
)
RECORD_FILES = Target(
    name="records",
    load=load_records,
    seeds=lambda: list(RECORDS),
    mutate=one_of(changed_lines, changed_lines, changed_bytes),
    refusals=(DataError,),
    sources=("configs.text.records", "configs.text.record_lines", "configs.strict_json"),
)
