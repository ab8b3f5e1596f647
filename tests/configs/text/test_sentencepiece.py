"""SentencePiece files: what the library alone would get wrong, foreign files, damaged files."""

import hashlib
import io
import re
from pathlib import Path

import pytest
import sentencepiece
from hypothesis import given, settings
from hypothesis import strategies as st

from configs.errors import TokenizerError
from configs.text.sentencepiece_backend import load_sentencepiece, segments
from configs.text.sentencepiece_file import PieceKind, read_sentencepiece_file
from configs.text.tokenizer import open_tokenizer
from tests.configs.text.conftest import corpus


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


def test_ids_are_the_librarys_on_ordinary_text(unigram_file: Path, bpe_file: Path) -> None:
    for path in (unigram_file, bpe_file):
        library = sentencepiece.SentencePieceProcessor(model_file=str(path))
        tokenizer = open_tokenizer(path)
        for text in corpus():
            assert len(text) > 4096 or text is corpus()[2]
            for line in text.splitlines(keepends=True):
                assert tokenizer.encode(line) == library.encode(line)
            assert (
                tokenizer.encode(text)
                == [token for line in text.split("\n") for token in (*library.encode(line), 17)][:-1]
            )


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


@given(
    text=st.text(alphabet="ab \n", max_size=80),
    limit=st.integers(1, 12),
    at_newline=st.booleans(),
    at_space=st.booleans(),
)
def test_segments_join_and_cut_only_where_they_may(
    text: str, limit: int, at_newline: bool, at_space: bool
) -> None:
    parts = list(segments(text, at_newline=at_newline, at_space=at_space, limit=limit))
    assert "".join(parts) == text
    for before, after in zip(parts, parts[1:], strict=False):
        is_newline_cut = at_newline and before.endswith("\n")
        is_space_cut = at_space and re.search("[^ ]$", before) and after.startswith(" ")
        assert is_newline_cut or is_space_cut
    if at_newline or at_space:
        cuts = ["\n"] * at_newline + ["[^ ](?= )"] * at_space
        assert all(
            len(part) <= limit
            or not re.search("|".join(cuts), part[:-1])
            or part == parts[-1]
            or not re.search("|".join(cuts), part[:limit])
            for part in parts
        )


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
