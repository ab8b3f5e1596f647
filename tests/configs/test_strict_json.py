"""The strict JSON parser: the standard library's values where both accept, else one placed line."""

import json
import math
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from configs import strict_json
from configs.errors import ChimeraError, ConfigError, DataError
from configs.strict_json import MAX_DEPTH, MAX_NUMBER_CHARACTERS, parse_object

TEXT = st.text(alphabet=st.characters(codec="utf-8"), max_size=20)
SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT
VALUES = st.recursive(SCALARS, lambda inner: st.lists(inner) | st.dictionaries(TEXT, inner), max_leaves=20)
OBJECTS = st.dictionaries(TEXT, VALUES, max_size=6)

# what is wrong, the place, words of the message
REFUSED: dict[str, tuple[str | bytes, str, str]] = {
    "empty": ("", "1:1", "empty; expected a JSON object"),
    "only space": (" \n\t\n", "3:1", "empty; expected a JSON object"),
    "list": ("[1, 2]", "1:1", "expected a JSON object"),
    "string": ('"text"', "1:1", "expected a JSON object"),
    "number": ("12", "1:1", "got '12'"),
    "word": ("hello", "1:1", "got 'hello'"),
    "closer first": ("}", "1:1", "got '}'"),
    "truncated after the brace": ('{"a": {\n', "2:1", "inside the object that begins at 1:7"),
    "truncated after a key": ('{"a"', "1:5", "expected ':' after the key 'a', got the end of the text"),
    "truncated after a colon": ('{"a":', "1:6", "expected a JSON value, got the end of the text"),
    "truncated after a value": ('{"a": 1', "1:8", "expected ',' or '}', got the end of the text"),
    "truncated after a comma": ('{"a": 1,', "1:9", "expected a key in double quotes"),
    "truncated in a list": ('{"a": [1, ', "1:11", "inside the list that begins at 1:7"),
    "truncated in a string": ('{"a": "bcd', "1:7", "ends inside the string"),
    "truncated in an escape": ('{"a": "b\\', "1:9", "unknown escape"),
    "truncated in a word": ('{"a": tru', "1:7", "got 'tru'"),
    "duplicate key": ('{"a": 1,\n "b": 2, "a": 3}', "2:10", "duplicate key 'a'"),
    "duplicate key inside": ('{"x": {"a": 1, "a": 1}}', "1:16", "duplicate key 'a'"),
    "duplicate key, escaped": ('{"a": 1, "\\u0061": 1}', "1:10", "duplicate key 'a'"),
    "NaN": ('{"a": NaN}', "1:7", "NaN is not a JSON value"),
    "Infinity": ('{"a": Infinity}', "1:7", "Infinity is not a JSON value"),
    "-Infinity": ('{"a": -Infinity}', "1:7", "-Infinity is not a JSON value"),
    "Python's None": ('{"a": None}', "1:7", "write null"),
    "too large for a double": ('{"a": 1e999}', "1:7", "too large for a 64-bit float"),
    "long integer": ('{"a": ' + "9" * 100_000 + "}", "1:7", "a number of 100000 characters; at most 400"),
    "leading zero": ('{"a": 007}', "1:7", "got '007'"),
    "plus sign": ('{"a": +7}', "1:7", "got '+7'"),
    "bare dot": ('{"a": .5}', "1:7", "got '.5'"),
    "other digits": ('{"a": \u0663}', "1:7", "expected a JSON value"),
    "single quotes": ("{'a': 1}", "1:2", "expected a key in double quotes"),
    "number as key": ("{1: 1}", "1:2", "expected a key in double quotes, got '1'"),
    "trailing comma": ('{"a": 1,}', "1:8", "comma before '}'"),
    "trailing comma in a list": ('{"a": [1,\n]}', "1:9", "comma before ']'"),
    "missing comma": ('{"a": 1 "b": 2}', "1:9", "expected ',' or '}'"),
    "mismatched closer": ('{"a": [1}', "1:9", "expected ',' or ']', got '}'"),
    "comment": ('{"a": 1} // note', "1:10", "text after the end of the object"),
    "two objects": ('{"a": 1}\n{"a": 1}', "2:1", "text after the end of the object"),
    "raw newline in a string": ('{"a": "b\nc"}', "1:9", "control character U+000A"),
    "NUL in a string": ('{"a": "b\0c"}', "1:9", "control character U+0000"),
    "bad escape": ('{"a": "b\\x"}', "1:9", "unknown escape"),
    "short unicode escape": ('{"a": "\\u12"}', "1:8", "unknown escape"),
    "half a pair, escaped": ('{"a": "\\ud800"}', "1:7", "half a surrogate pair, \\ud800"),
    "half a pair, raw": ('{"a": "\ud800"}', "1:8", "lone surrogate U+D800"),
    "not UTF-8": (b'{"a": 1,\n "b": "\xe4"}', "2:8", "not UTF-8: byte 0xe4"),
    "cut code point": (b'{"a": "\xf0\x9f', "1:8", "not UTF-8: byte 0xf0"),
    "encoded surrogate": (b'{"a": "\xed\xa0\x80"}', "1:8", "not UTF-8: byte 0xed"),
    "UTF-16": ('{"a": 1}'.encode("utf-16"), "1:1", "save it as UTF-8"),
    "NUL bytes": (b"\0\0\0\0", "1:1", "expected a JSON object"),
    "200,000 lists": ('{"a": ' + "[" * 200_000, "1:106", "nested more than 100 levels deep"),
    "200,000 objects": ('{"a":' * 200_000, "1:501", "nested more than 100 levels deep"),
    "200,000 closers": ('{"a": ' + "]" * 200_000, "1:7", "expected a JSON value, got ']'"),
    "no-break space": ('{"a":\u00a01}', "1:6", "expected a JSON value"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refuses_with_one_placed_line(name: str) -> None:
    text, place, words = REFUSED[name]
    with pytest.raises(ConfigError) as caught:
        parse_object(text, source="config.json")
    message = str(caught.value)
    assert message.startswith(f"config.json:{place}: ")
    assert words in message
    assert len(message.splitlines()) == 1
    assert message.isprintable()
    assert len(message) < 200


@given(OBJECTS, st.sampled_from([None, 1, "\t"]), st.booleans(), st.booleans())
def test_equals_the_standard_library(
    value: object, indent: "int | str | None", plain: bool, raw: bool
) -> None:
    text = json.dumps(value, indent=indent, ensure_ascii=plain)
    parsed = parse_object(text.encode() if raw else text, source="x")
    assert parsed == value
    assert json.dumps(parsed) == json.dumps(value)  # 1, 1.0 and True are equal in Python


@given(st.text(alphabet='{}[]",:\\u0d8-1.eEtrn \n\x00é', max_size=40).map(lambda text: '{"a":' + text))
@settings(max_examples=300)
def test_accepts_exactly_what_the_strict_subset_allows(text: str) -> None:
    try:
        expected = json.loads(
            text, object_pairs_hook=no_duplicates, parse_constant=refuse, parse_float=finite
        )
    except ValueError:
        with pytest.raises(ConfigError):
            parse_object(text, source="x")
    else:
        if "\\ud8" in json.dumps(expected):
            with pytest.raises(ConfigError, match="surrogate"):
                parse_object(text, source="x")
        else:
            assert parse_object(text, source="x") == expected


def no_duplicates(pairs: list[tuple[str, object]]) -> dict[str, object]:
    if len(dict(pairs)) != len(pairs):
        raise ValueError("duplicate")
    return dict(pairs)


def refuse(constant: str) -> object:
    raise ValueError(constant)


def finite(literal: str) -> float:
    if math.isinf(float(literal)):
        raise ValueError(literal)
    return float(literal)


@given(OBJECTS, st.data())
def test_every_cut_is_refused_and_nothing_else_is_raised(value: object, data: st.DataObject) -> None:
    whole = json.dumps(value, ensure_ascii=False).encode()
    cut = whole[: data.draw(st.integers(0, len(whole) - 1))]
    with pytest.raises(ConfigError):
        parse_object(cut, source="x")


@given(st.binary(max_size=60) | st.binary(max_size=60).map(lambda tail: b'{"a": "' + tail))
def test_any_bytes_give_an_object_or_our_error(data: bytes) -> None:
    outcome = "an object"
    try:
        parse_object(data, source="x")
    except ConfigError as error:
        outcome = str(error)
    assert outcome == "an object" or outcome.startswith("x:")


def test_limits_are_the_last_values_allowed() -> None:
    lists = MAX_DEPTH - 1
    assert parse_object('{"a": ' + "[" * lists + "]" * lists + "}", source="x")
    longest = "9" * MAX_NUMBER_CHARACTERS
    assert parse_object('{"a": ' + longest + "}", source="x") == {"a": int(longest)}
    assert parse_object(f'{{"a": {sys.float_info.max!r}}}', source="x") == {"a": sys.float_info.max}


def test_byte_order_mark_and_first_line_and_error_class() -> None:
    assert parse_object(b'\xef\xbb\xbf{"a": 1}', source="x") == {"a": 1}
    assert parse_object('\ufeff{"a": 1}', source="x") == {"a": 1}
    with pytest.raises(DataError, match=r"^data\.jsonl:42:7: NaN") as caught:
        parse_object('{"a": NaN}', source="data.jsonl", error=DataError, first_line=42)
    assert isinstance(caught.value, ChimeraError)
    with pytest.raises(DataError, match=r"^data\.jsonl:43:1: not UTF-8"):
        parse_object(b"\n\xff", source="data.jsonl", error=DataError, first_line=42)


DEEP = st.integers(MAX_DEPTH - 2, MAX_DEPTH + 2).map(lambda depth: '{"a":' + "[" * depth + "]" * depth + "}")
LONG = st.integers(MAX_NUMBER_CHARACTERS - 1, MAX_NUMBER_CHARACTERS + 1).map(
    lambda size: '{"a":' + "1" * size + "}"
)
ODD = st.text(alphabet='{}[]",:\\u0d8-1.eEtrn \n\x00é', max_size=40).map(lambda text: '{"a":' + text)


@given(OBJECTS.map(json.dumps) | DEEP | LONG | ODD)
@settings(max_examples=400)
def test_the_fast_decoder_changes_nothing(text: str) -> None:
    """With and without it: the same value or the same complaint."""

    def outcome() -> object:
        try:
            return repr(parse_object(text, source="x"))
        except ConfigError as error:
            return error.message

    quick = outcome()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(strict_json, "_fast", lambda text: None)
        assert outcome() == quick
