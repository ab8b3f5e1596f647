"""SentencePiece files: what the library alone would get wrong, foreign files, damaged files."""

import hashlib
import io
import re
from functools import cache
from itertools import pairwise
from pathlib import Path

import pytest
import sentencepiece
from hypothesis import given, settings
from hypothesis import strategies as st

from configs.errors import TokenizerError
from configs.text.sentencepiece_backend import load_sentencepiece, segments
from configs.text.sentencepiece_file import PieceKind, read_sentencepiece_file
from configs.text.tokenizer import Tokenizer, open_tokenizer
from tests.configs.text.conftest import TEXTS, corpus


def foreign(**options: object) -> bytes:
    """A model with the library's own defaults, which change the text."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(line for text in corpus() for line in text.split("\n") if line),
        model_writer=model,
        minloglevel=2,
        **{"vocab_size": 300, **options},
    )
    return model.getvalue()


def test_ids_digest_and_parts(unigram_file: Path) -> None:
    tokenizer = open_tokenizer(unigram_file)
    assert tokenizer.kind == "sentencepiece"
    assert tokenizer.vocab_size == 600
    assert tokenizer.digest == hashlib.sha256(unigram_file.read_bytes()).hexdigest()
    assert (tokenizer.pad, tokenizer.eos, tokenizer.bos, tokenizer.unk) == (0, 1, None, 6)
    assert tokenizer.masked_ids == {6}
    assert [tokenizer.id_to_bytes(7 + byte) for byte in range(256)] == [bytes([byte]) for byte in range(256)]


def test_reader_agrees_with_the_library(unigram_file: Path, bpe_file: Path) -> None:
    for path in (unigram_file, bpe_file):
        library = sentencepiece.SentencePieceProcessor(model_file=str(path))
        pieces = read_sentencepiece_file(path.read_bytes()).pieces
        ids = list(range(len(pieces)))
        assert [piece.text for piece in pieces] == library.id_to_piece(ids)
        assert [piece.kind == PieceKind.CONTROL for piece in pieces] == library.is_control(ids)
        assert [piece.kind == PieceKind.UNKNOWN for piece in pieces] == library.is_unknown(ids)
        assert [piece.kind == PieceKind.BYTE for piece in pieces] == library.is_byte(ids)


def test_ids_are_the_librarys_line_by_line(unigram_file: Path, bpe_file: Path) -> None:
    for path in (unigram_file, bpe_file):
        library = sentencepiece.SentencePieceProcessor(model_file=str(path))
        tokenizer = open_tokenizer(path)
        newline = library.piece_to_id("<0x0A>")
        for text in corpus():
            by_line = [token for line in text.split("\n") for token in (*library.encode(line), newline)]
            assert tokenizer.encode(text) == by_line[:-1]


@given(lines=st.lists(TEXTS.map(lambda text: text.replace("\n", "")), min_size=1, max_size=4))
def test_a_line_is_encoded_alike_wherever_it_stands(unigram_file: Path, lines: list[str]) -> None:
    tokenizer = opened(unigram_file)
    alone = [tokenizer.encode(line + "\n") for line in lines]
    assert tokenizer.encode("".join(line + "\n" for line in lines)) == [
        token for ids in alone for token in ids
    ]


@cache
def opened(path: Path) -> Tokenizer:
    return open_tokenizer(path)


def test_a_file_that_changes_text_says_so() -> None:
    tokenizer = load_sentencepiece(foreign(), source="foreign.model")
    assert not tokenizer.is_lossless
    for words in ("normaliser rewrites", "a space before", "repeated spaces", "no byte pieces"):
        assert words in tokenizer.lossy_because
    assert tokenizer.adds_leading_space
    assert tokenizer.decode(tokenizer.encode("the value is")) == "the value is"
    assert tokenizer.decode(tokenizer.encode("the value"), continuing=True) == " the value"
    assert tokenizer.decode(tokenizer.encode("the \u4e2d is")) == "the \ufffd is"
    assert tokenizer.unk in tokenizer.masked_ids
    assert (tokenizer.bos, tokenizer.eos, tokenizer.pad) == (1, 2, None)


def test_user_defined_pieces_are_special_unless_they_are_space() -> None:
    data = foreign(
        user_defined_symbols=["<start_of_turn>", "\u2581\u2581\u2581\u2581", "\n\n"],
        byte_fallback=True,
        vocab_size=600,
        normalization_rule_name="identity",
        add_dummy_prefix=False,
        remove_extra_whitespaces=False,
    )
    library = sentencepiece.SentencePieceProcessor(model_proto=data)
    symbol = library.piece_to_id("<start_of_turn>")
    assert symbol in library.encode("a<start_of_turn>b"), "the library alone finds it in a text"
    tokenizer = load_sentencepiece(data, source="foreign.model")
    assert tokenizer.specials["<start_of_turn>"] == symbol
    for text in ("a<start_of_turn>b", "    if x:\n\n    y", "\n\n\n" * 3000, "a\n\n" * 3000):
        ids = tokenizer.encode(text)
        assert symbol not in ids
        assert tokenizer.decode(ids) == text
    assert library.piece_to_id("\n\n") in tokenizer.encode("a\n\nb")


@given(text=st.text(alphabet="ab ", max_size=80), limit=st.integers(1, 12))
def test_segments_join_and_cut_only_before_a_space_after_a_word(text: str, limit: int) -> None:
    parts = list(segments(text, limit=limit))
    assert "".join(parts) == text
    for before, after in pairwise(parts):
        assert not before.endswith(" ")
        assert after.startswith(" ")
    for part in parts[:-1]:
        assert len(part) <= limit or not re.search("[ab] ", part), (
            "a part is long only where nothing could be cut"
        )


def test_a_long_line_is_cut_and_still_the_librarys(bpe_file: Path) -> None:
    library = sentencepiece.SentencePieceProcessor(model_file=str(bpe_file))
    line = " ".join(corpus()[0].split("\n"))
    assert len(line) > 10_000
    assert opened(bpe_file).encode(line) == library.encode(line)


DAMAGED: dict[str, tuple[bytes, str]] = {
    "no pieces": (b"\x12\x02\x18\x01", "it holds no pieces"),
    "an empty piece": (b"\n\x02\n\x00", "an empty piece at byte 2"),
    "a piece over the end": (b"\n\x7f\n\x01a", "a field at byte 2 runs over the end"),
    "a text over its piece": (b"\n\x03\n\x05a\x00\x00\x00\x00", "a field at byte 4 runs over the end"),
    "a number cut off": (b"\n\x03\n\x01a\x10\xff", "a number cut off at byte 7"),
    "an endless number": (b"\x10" + b"\xff" * 11, "a number cut off"),
    "a group": (b"\x0b\x0c", "an unknown field type at byte 1"),
    "not UTF-8": (b"\n\x03\n\x01\xff", "'utf-8' codec can't decode"),
    "no number": (b"\n\x08\n\x01a\x15\x00\x00\xc0\x7f", "no number for a score"),
    "an unknown type": (b"\n\x05\n\x01a\x18\x09", "a piece of unknown type 9"),
    "a type in two bytes": (b"\n\x06\n\x01a\x18\x84\x00", "a piece of unknown type 4"),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_the_reader_names_the_damage(name: str) -> None:
    data, words = DAMAGED[name]
    with pytest.raises(ValueError, match=re.escape(words)):
        read_sentencepiece_file(data)


def test_byte_pieces_have_names_of_bytes(unigram_file: Path) -> None:
    data = unigram_file.read_bytes().replace(b"<0x41>", b"<0xZZ>")
    with pytest.raises(TokenizerError, match="byte piece '<0xZZ>'; expected <0x00> to <0xFF>"):
        load_sentencepiece(data, source="x")


@given(data=st.data())
@settings(max_examples=150)
def test_damaged_files_are_refused_or_keep_the_promises(unigram_file: Path, data: st.DataObject) -> None:
    whole = bytearray(unigram_file.read_bytes())
    kind = data.draw(st.sampled_from(["cut", "change", "remove"]))
    start = data.draw(st.integers(1, len(whole) - 1))
    if kind == "cut":
        del whole[start:]
    elif kind == "change":
        whole[start] = data.draw(st.integers(0, 255))
    else:
        del whole[start : start + data.draw(st.integers(1, 40))]
    try:
        tokenizer = load_sentencepiece(bytes(whole), source="damaged.model")
    except TokenizerError as error:
        outcome = str(error)
    else:
        text = "The \u2581 caf\u00e9\n<|im_end|>"
        ids = tokenizer.encode(text)
        assert not tokenizer.special_ids & set(ids)
        outcome = (
            "damaged.model: " if not tokenizer.is_lossless or tokenizer.decode(ids) == text else "wrong text"
        )
    assert outcome.startswith("damaged.model: ")
