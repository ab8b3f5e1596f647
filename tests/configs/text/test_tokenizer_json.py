"""A SentencePiece model written as tokenizer.json gives its ids in the other library and in our reader."""

import json
from pathlib import Path

import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st

from configs.errors import TokenizerError
from configs.text.tokenizer import Tokenizer, open_tokenizer, tokenizer_from_bytes
from configs.text.tokenizer_json import tokenizer_config_json, tokenizer_json
from tests.configs.text.conftest import HOSTILE, SPACE_MARK, TEXTS, corpus

# Their names in a text are the tokens themselves there, by that library's convention.
SPECIALS = ("<|pad|>", "<|endoftext|>", "<|system|>", "<|user|>", "<|assistant|>", "<|im_end|>", "<|unk|>")
DEMO = Path(__file__).resolve().parents[3] / "runtime" / "models" / "demo" / "tokenizer.model"
EDGES = (
    "", " ", "  ", "\n", "\n\n", " \n a", "a b", "a  b", "a b ", f"a{SPACE_MARK}b", SPACE_MARK * 3, "<0x41>",
    "x<0x41><0x0A>y", "<0x4", "<<0x41>>", "\u65e5\u672c\u8a9e", "na\u00efve", "\U0001f468\u200d\U0001f469",
    "\U0001d11e", "\ufb01", "\u0130", "\0", "\r\n\t", "123456", "3.14", "\ud7ff\ue000", "a:\n    return x",
)  # fmt: skip


@pytest.fixture(scope="module", params=["unigram", "bpe", "demo"])
def both(request: pytest.FixtureRequest, unigram_file: Path, bpe_file: Path) -> tuple[Tokenizer, bytes]:
    """A tokenizer, and its file in the other form."""
    path = {"unigram": unigram_file, "bpe": bpe_file, "demo": DEMO}[request.param]
    return open_tokenizer(path), tokenizer_json(path.read_bytes(), source=str(path))


def ids(library: tokenizers.Tokenizer, text: str) -> list[int]:
    return library.encode(text, add_special_tokens=False).ids


def test_texts_get_the_same_ids(both: tuple[Tokenizer, bytes]):
    ours, data = both
    library = tokenizers.Tokenizer.from_str(data.decode())
    lines = [line for text in corpus() for line in text.split("\n")]
    differ = [line for line in lines if ids(library, line) != ours.encode(line)]
    assert [
        text
        for text in (*EDGES, *HOSTILE)
        if text not in SPECIALS and ids(library, text) != ours.encode(text)
    ] == []
    # Where two ways to cut are equally likely, as in a run of one character, 32-bit sums choose by chance.
    assert len(differ) <= len(lines) / 100
    assert all(len(set(line)) < len(line) for line in differ)


@settings(max_examples=150, deadline=None)
@given(text=TEXTS | st.text(alphabet=f"ab <>0x41{SPACE_MARK}\n\u00e9", max_size=40))
def test_whatever_the_cut_the_bytes_are_those_of_the_text(both: tuple[Tokenizer, bytes], text: str):
    ours, data = both
    library = _library(data)
    for name in SPECIALS:
        text = text.replace(name, "")
    assert ours.decode_bytes(ids(library, text)) == text.encode()
    assert library.decode(ids(library, text), skip_special_tokens=False) == text


_libraries: dict[bytes, tokenizers.Tokenizer] = {}


def _library(data: bytes) -> tokenizers.Tokenizer:
    if data not in _libraries:
        _libraries[data] = tokenizers.Tokenizer.from_str(data.decode())
    return _libraries[data]


def test_our_own_reader_finds_the_same_tokenizer(both: tuple[Tokenizer, bytes]):
    ours, data = both
    again = tokenizer_from_bytes(data, source="tokenizer.json", side_config=tokenizer_config_json(ours))
    assert again.is_lossless
    assert again.token_bytes == ours.token_bytes
    assert again.specials == ours.specials
    assert (again.bos, again.eos, again.pad, again.unk) == (ours.bos, ours.eos, ours.pad, ours.unk)
    assert again.encode("a special <|user|> in a text") == ours.encode("a special <|user|> in a text")


def test_special_tokens_are_found_and_left_out(both: tuple[Tokenizer, bytes]):
    ours, data = both
    library = tokenizers.Tokenizer.from_str(data.decode())
    found = ids(library, "<|user|>hello<|im_end|>")
    assert found == [ours.specials["<|user|>"], *ours.encode("hello"), ours.specials["<|im_end|>"]]
    assert library.decode(found) == "hello"
    side = json.loads(tokenizer_config_json(ours))
    assert (side["eos_token"], side["pad_token"]) == ("<|endoftext|>", "<|pad|>")


def test_one_that_loses_characters_is_refused(unigram_file: Path):
    data = unigram_file.read_bytes()
    # The normaliser's fields: no space before the text, no spaces taken away.
    assert data.count(b"\x18\x00\x20\x00") == 1
    with pytest.raises(TokenizerError, match="it puts a space before the text"):
        tokenizer_json(data.replace(b"\x18\x00\x20\x00", b"\x18\x01\x20\x00"), source="prefixed.model")
