"""What every tokenizer promises: all text comes back, and no text spells a special token."""

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from configs.errors import MissingExtra, TokenizerError
from configs.text.tokenizer import Special, Tokenizer, open_tokenizer, tokenizer_from_bytes
from tests.configs.text.conftest import HOSTILE, TEXTS


@given(text=TEXTS)
def test_all_text_comes_back_byte_for_byte(lossless: Tokenizer, text: str) -> None:
    assert lossless.is_lossless
    ids = lossless.encode(text)
    assert lossless.decode_bytes(ids) == text.encode()
    assert lossless.decode(ids) == text


@given(text=TEXTS)
def test_no_text_spells_a_special_or_masked_token(tokenizer: Tokenizer, text: str) -> None:
    ids = tokenizer.encode(text)
    assert not tokenizer.special_ids & set(ids)
    assert all(0 <= token < tokenizer.vocab_size for token in ids)
    if tokenizer.is_lossless:
        assert not tokenizer.masked_ids & set(ids)


def test_the_name_of_every_special_token_is_text(tokenizer: Tokenizer) -> None:
    for name in tokenizer.specials:
        for text in (name, f"a{name}b", name * 2, f" {name}\n"):
            ids = tokenizer.encode(text)
            assert not tokenizer.special_ids & set(ids)
            assert tokenizer.decode(ids) == text


@given(texts=st.lists(TEXTS, max_size=4))
def test_pieces_are_encoded_one_by_one(lossless: Tokenizer, texts: list[str]) -> None:
    name, token = next(iter(lossless.specials.items()))
    pieces = [piece for text in texts for piece in (text, Special(name))]
    ids = lossless.encode_pieces(pieces)
    assert ids == [token for text in texts for token in (*lossless.encode(text), lossless.specials[name])]
    assert ids.count(token) == len(texts)
    assert lossless.decode(ids) == "".join(texts)


@pytest.mark.parametrize(
    "text",
    [
        "a" * 300_000,
        " " * 300_000,
        "\n" * 100_000,
        "the cat sat " * 30_000,
        "\u2581" * 50_000,
        "🙂é" * 50_000,
    ],
    ids=["letters", "spaces", "newlines", "words", "marks", "unicode"],
)
def test_long_texts_come_back(lossless: Tokenizer, text: str) -> None:
    assert lossless.decode(lossless.encode(text)) == text


def test_empty_text_has_no_ids(tokenizer: Tokenizer) -> None:
    assert tokenizer.encode("") == []
    assert tokenizer.decode([]) == ""


@pytest.mark.parametrize("text", ["\ud800", "ab\udfffcd", "\ud83d \ude42"])
def test_half_a_surrogate_pair_is_refused_with_its_place(tokenizer: Tokenizer, text: str) -> None:
    with pytest.raises(
        TokenizerError, match=r"half of a surrogate pair, U\+D[0-9A-F]{3} at character \d"
    ) as caught:
        tokenizer.encode(text)
    assert caught.value.hint


def test_special_and_masked_ids_have_no_bytes(tokenizer: Tokenizer) -> None:
    assert all(tokenizer.id_to_bytes(token) == b"" for token in tokenizer.special_ids)
    assert not tokenizer.special_ids & tokenizer.masked_ids
    assert tokenizer.decode(tokenizer.special_ids) == ""
    others = set(range(tokenizer.vocab_size)) - tokenizer.special_ids - tokenizer.masked_ids
    assert all(tokenizer.id_to_bytes(token) for token in others)
    for token in tokenizer.masked_ids - {tokenizer.unk}:
        assert tokenizer.id_to_bytes(token) is None


@pytest.mark.parametrize("token", [-1, 10**6])
def test_ids_outside_the_vocabulary_are_refused(tokenizer: Tokenizer, token: int) -> None:
    for use in (lambda: tokenizer.id_to_bytes(token), lambda: tokenizer.decode([token])):
        with pytest.raises(
            TokenizerError, match=f"no token {token}; ids go from 0 to {tokenizer.vocab_size - 1}"
        ):
            use()


def test_an_id_that_stands_for_nothing_cannot_be_decoded(o200k: Tokenizer) -> None:
    with pytest.raises(TokenizerError, match="token 200003 stands for nothing"):
        o200k.decode([200003])


def test_an_unknown_special_token_names_the_nearest(lossless: Tokenizer) -> None:
    with pytest.raises(TokenizerError, match=r"no special token '<\|endoftxt\|>'; it has") as caught:
        lossless.encode_pieces([Special("<|endoftxt|>")])
    if "<|endoftext|>" in lossless.specials:
        assert caught.value.hint == "Did you mean '<|endoftext|>'?"


@given(first=TEXTS, second=TEXTS)
@settings(max_examples=30)
def test_ids_of_texts_join_into_the_joined_text(lossless: Tokenizer, first: str, second: str) -> None:
    assert lossless.decode(lossless.encode(first) + lossless.encode(second)) == first + second


@given(text=TEXTS)
@settings(max_examples=30)
def test_encoding_is_the_same_every_time(lossless: Tokenizer, text: str) -> None:
    assert lossless.encode(text) == lossless.encode(text)


def test_hostile_fragments_cover_the_special_tokens(tokenizer: Tokenizer) -> None:
    assert set(HOSTILE) & set(tokenizer.specials)


NOT_TOKENIZERS: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "0 bytes, too short"),
    "short": (b"{}", "2 bytes, too short"),
    "gguf": (b"GGUF" + bytes(60), "this is a GGUF model"),
    "checkpoint": (b"PK\x03\x04" + bytes(60), "a PyTorch checkpoint"),
    "git-lfs": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "Git LFS left"),
    "web page": (b"<!DOCTYPE html><html></html>", "this is a web page"),
    "gzip": (b"\x1f\x8b" + bytes(60), "gzip-compressed"),
    "zstd": (b"\x28\xb5\x2f\xfd" + bytes(60), "zstd-compressed"),
    "other": (b"\x89PNG\r\n\x1a\n" + bytes(60), "not a tokenizer; it begins with"),
    "text": (b"hello, this is a text file", "not a tokenizer; it begins with"),
    "zeros after a newline": (b"\n" + bytes(60), "damaged SentencePiece model"),
    "newlines": (b"\n" * 60, "damaged SentencePiece model"),
    "config.json": (b'{"hidden_size": 512, "x": 1}', "model is not a JSON object"),
    "cut json": (b'{"model": {"type": "BPE", "vocab"', "not JSON: line 1, column"),
    "deep json": (b'{"model": ' + b"[" * 200_000, "not JSON: nested too deep"),
    "list": (b"  [1, 2, 3, 4, 5, 6, 7, 8]", "not a tokenizer; it begins with"),
}


@pytest.mark.parametrize("name", NOT_TOKENIZERS)
def test_other_files_are_refused_with_the_next_step(name: str) -> None:
    data, words = NOT_TOKENIZERS[name]
    with pytest.raises(TokenizerError) as caught:
        tokenizer_from_bytes(data, source="here/file")
    assert words in caught.value.message
    assert caught.value.message.startswith("here/file: ")
    assert len(caught.value.message.splitlines()) == 1
    assert caught.value.hint


def test_the_content_decides_and_not_the_name(
    tmp_path: Path, unigram_file: Path, byte_level_file: Path
) -> None:
    for original, kind in ((unigram_file, "sentencepiece"), (byte_level_file, "huggingface")):
        renamed = tmp_path / "tokenizer.bin"
        renamed.write_bytes(original.read_bytes())
        assert open_tokenizer(renamed).kind == kind
        assert open_tokenizer(str(renamed)).digest == open_tokenizer(original).digest


def test_a_folder_is_searched(tmp_path: Path, unigram_file: Path, byte_level_file: Path) -> None:
    with pytest.raises(
        TokenizerError, match=r"no tokenizer in this folder; expected one of tokenizer\.model"
    ):
        open_tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_bytes(byte_level_file.read_bytes())
    assert open_tokenizer(tmp_path).kind == "huggingface"
    (tmp_path / "tokenizer.model").write_bytes(unigram_file.read_bytes())
    assert open_tokenizer(tmp_path).kind == "sentencepiece"


def test_a_missing_or_huge_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TokenizerError, match="no such file"):
        open_tokenizer(tmp_path / "tokenizer.model")
    huge = tmp_path / "huge.model"
    with huge.open("wb") as file:
        file.truncate(200 * 1024 * 1024)
    with pytest.raises(TokenizerError, match="209715200 bytes, too long for a tokenizer"):
        open_tokenizer(huge)


@pytest.mark.parametrize(("module", "extra"), [("splintr", "o200k"), ("tokenizers", "hf")])
def test_a_missing_package_is_named_with_its_extra(
    module: str, extra: str, monkeypatch: pytest.MonkeyPatch, byte_level_file: Path
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingExtra) as caught:
        open_tokenizer("o200k" if extra == "o200k" else byte_level_file)
    assert f"chimera-edge[{extra}]" in caught.value.hint


def test_nothing_is_loaded_before_it_is_needed() -> None:
    code = """
import sys
import configs.text.tokenizer, configs.text.stream, configs.text.records, configs.text.training
heavy = {"sentencepiece", "tokenizers", "splintr", "jinja2", "zstandard", "numpy", "torch"}
print(sorted(heavy & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
