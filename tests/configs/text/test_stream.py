"""Streaming: the pieces joined are the decoded whole, and nothing complete waits."""

from functools import cache

import pytest
from hypothesis import given
from hypothesis import strategies as st

from configs.errors import TokenizerError
from configs.text.stream import StreamDecoder
from configs.text.tokenizer import Tokenizer
from tests.configs.text.conftest import TEXTS


@cache
def byte_ids(tokenizer: Tokenizer) -> list[int]:
    """The id of each single byte."""
    first = {data: token for token, data in reversed(list(enumerate(tokenizer.token_bytes)))}
    return [first[bytes([byte])] for byte in range(256)]


@cache
def ids_of(tokenizer: Tokenizer) -> st.SearchStrategy[list[int]]:
    """Ids of text, of single bytes that break UTF-8, special ones and any others, in any order."""
    fit = [token for token in range(tokenizer.vocab_size) if tokenizer.id_to_bytes(token) is not None]
    odd_bytes = (0x20, 0x41, 0x80, 0xBF, 0xC3, 0xA9, 0xE2, 0x81, 0xED, 0xF0, 0x9F, 0xFF)
    odd = [byte_ids(tokenizer)[byte] for byte in odd_bytes]
    single = st.sampled_from(odd).map(lambda token: [token])
    some = st.sampled_from(fit).map(lambda token: [token])
    special = st.sampled_from(sorted(tokenizer.special_ids)).map(lambda token: [token])
    parts = st.lists(single | single | some | special | TEXTS.map(tokenizer.encode), max_size=20)
    return parts.map(lambda lists: [token for part in lists for token in part])


@given(data=st.data(), continuing=st.booleans())
def test_pieces_join_into_the_whole(tokenizer: Tokenizer, data: st.DataObject, continuing: bool) -> None:
    ids = data.draw(ids_of(tokenizer))
    decoder = StreamDecoder(tokenizer, continuing=continuing)
    text, at = "", 0
    while at < len(ids):
        size = data.draw(st.integers(1, 4))
        text += decoder.feed(ids[at] if size == 1 else ids[at : at + size])
        at += size
        decoded = tokenizer.decode(ids[:at], continuing=continuing)
        assert decoded.startswith(text)
        assert len(decoder.pending) <= 3
        assert set(decoded[len(text) :]) <= {"\ufffd"}, "only half a code point may wait"
    assert text + decoder.flush() == tokenizer.decode(ids, continuing=continuing)
    assert decoder.pending == b""


@given(data=st.data())
def test_a_stream_goes_on_from_what_it_held_back(tokenizer: Tokenizer, data: st.DataObject) -> None:
    ids = data.draw(ids_of(tokenizer))
    cut = data.draw(st.integers(0, len(ids)))
    first = StreamDecoder(tokenizer, continuing=True)
    text = first.feed(ids[:cut])
    second = StreamDecoder(tokenizer, continuing=True, pending=first.pending)
    assert text + second.feed(ids[cut:]) + second.flush() == tokenizer.decode(ids, continuing=True)


def test_a_code_point_waits_for_its_last_byte(lossless: Tokenizer) -> None:
    single = byte_ids(lossless)
    decoder = StreamDecoder(lossless)
    given = [decoder.feed(single[byte]) for byte in "a\u00e9\U0001f642b".encode()]
    assert given == ["a", "", "\u00e9", "", "", "", "\U0001f642", "b"]
    assert decoder.flush() == ""


def test_invalid_bytes_come_out_as_soon_as_they_are_known(lossless: Tokenizer) -> None:
    single = byte_ids(lossless)
    decoder = StreamDecoder(lossless)
    assert decoder.feed(single[0xFF]) == "\ufffd"
    assert decoder.feed(single[0xE2]) == ""
    assert decoder.feed(single[0x41]) == "\ufffdA"
    assert decoder.feed(single[0xF0]) == ""
    assert decoder.flush() == "\ufffd"
    assert decoder.feed(single[0x41]) == "A"


def test_an_id_that_stands_for_nothing_stops_and_changes_nothing(o200k: Tokenizer) -> None:
    decoder = StreamDecoder(o200k)
    half = byte_ids(o200k)[0xE2]
    decoder.feed(half)
    with pytest.raises(TokenizerError, match="stands for nothing"):
        decoder.feed([half, 200_003])
    assert decoder.pending == b"\xe2"
