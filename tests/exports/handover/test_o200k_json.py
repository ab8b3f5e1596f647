"""The built-in o200k as a tokenizer.json: other libraries give the ids that the model has learnt with."""

import unicodedata
from pathlib import Path

import gguf
import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

import exports.huggingface  # noqa: F401  (teaches transformers our model)
from chimera.saving import save_model
from configs.load import build_config
from configs.text.o200k_backend import NUM_RANKS
from configs.text.tokenizer import Tokenizer, open_tokenizer
from exports.b158 import export_b158
from exports.handover.folder import export_huggingface
from exports.handover.gguf import export_gguf
from exports.onnx.export import export_onnx
from tests.configs.text.conftest import TEXTS, corpus
from tests.exports.conftest import learnt

HARD = (
    "", " ", "  ", "   \n \n\n  x", "\t\t\r\n\r\n /", "a \n", "\u3000\u00a0\u2003 x", "-" * 200, "." * 9,
    "=" * 77 + "\n//\n", "0123456789 12 3456 ١٢٣٤٥ ½Ⅷ", "3.14159e-10",
    "数学是一门科学。한국어 조선말 日本語のテキスト、カタカナ", "ภาษาไทย นี้ हिन्दी में العربيّة",
    "👩\u200d👩\u200d👧\u200d👦🏽 🇫🇷🙂\ufe0f", "I'm you're WE'LL he'D they'vE it'S don't 'tis rock'n'roll",
    "न'\u017f'Se S'\u017f'lLe \u212a's", "HTTPServerError camelCase ǅungla ʰʷ",
    "e\u0301\u0301 \u0301x n\u0303", "\ufdd0199998\ufdd1 \ufdd0200000\ufdd1", "\0\x7f\ufeff\ufffd\U0010ffff",
    "def f(x):\n    return {'a': [1, 2]}  # why\n\n\n", "<|endoftext|", "a" * 1000, "ab" * 333,
)  # fmt: skip


@pytest.fixture(scope="module")
def ours() -> Tokenizer:
    return open_tokenizer("o200k")


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("o200k")
    config = build_config({"preset": "micro", "hidden_size": 64, "vocab_size": 200_073}, source="test")
    save_model(learnt(config), folder / "checkpoint")
    export_b158(folder / "checkpoint", folder / "packed", tokenizer="o200k")
    return folder / "packed"


@pytest.fixture(scope="module")
def folder(packed: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("folder") / "out"
    export_huggingface(packed, out)
    return out


@pytest.fixture(scope="module")
def library(folder: Path) -> tokenizers.Tokenizer:
    return tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))


@pytest.fixture(scope="module")
def read_again(folder: Path) -> Tokenizer:
    return open_tokenizer(folder / "tokenizer.json")


def test_an_onnx_export_has_the_same_files(packed: Path, folder: Path, tmp_path: Path):
    done = export_onnx(packed, tmp_path / "graph")
    assert done.words_refusal == ""
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        assert name in done.files
        assert (tmp_path / "graph" / name).read_bytes() == (folder / name).read_bytes()


@pytest.mark.slow
def test_a_gguf_file_has_the_same(packed: Path, folder: Path, tmp_path: Path):
    export_gguf(packed, tmp_path / "model.gguf")
    reader = gguf.GGUFReader(tmp_path / "model.gguf")
    found = reader.fields["tokenizer.huggingface.json"].contents()
    assert found == (folder / "tokenizer.json").read_text()
    assert reader.fields["tokenizer.ggml.eos_token_id"].contents() == 199_999


def test_all_that_it_says_of_itself_is_kept(ours: Tokenizer, read_again: Tokenizer):
    assert read_again.token_bytes == ours.token_bytes
    assert read_again.specials == ours.specials
    assert read_again.masked_ids == ours.masked_ids
    assert (read_again.bos, read_again.eos, read_again.pad, read_again.unk) == (
        None,
        ours.eos,
        ours.pad,
        None,
    )
    assert read_again.is_lossless


def test_transformers_reads_it(ours: Tokenizer, folder: Path):
    theirs = AutoTokenizer.from_pretrained(folder)
    assert (theirs.eos_token_id, theirs.pad_token_id, len(theirs)) == (ours.eos, ours.pad, ours.vocab_size)
    for text in HARD:
        assert theirs.encode(text, add_special_tokens=False) == ours.encode(text), text
    talk = [{"role": "user", "content": "it's 5 o'clock"}]
    asked = theirs.apply_chat_template(talk, add_generation_prompt=True, return_dict=True)["input_ids"]
    names = ours.specials
    said = ours.encode("it's 5 o'clock")
    assert asked == [names["<|user|>"], *said, names["<|im_end|>"], names["<|assistant|>"]]


@pytest.mark.parametrize("text", HARD)
def test_hard_texts(ours: Tokenizer, library: tokenizers.Tokenizer, text: str):
    ids = library.encode(text).ids
    assert ids == ours.encode(text)
    assert library.decode(ids) == text


@given(text=TEXTS | st.text(alphabet="aAsSlLdDtTmMrReEvV'\u017f\u212a 1\n\u00e9\u0301\u4e00", max_size=40))
@settings(max_examples=300)
def test_any_text(ours: Tokenizer, read_again: Tokenizer, text: str):
    # Read by us, names of special tokens in a text are text, as with the built-in one.
    assert read_again.encode(text) == ours.encode(text)


def test_source_text(ours: Tokenizer, library: tokenizers.Tokenizer):
    for text in corpus():
        assert library.encode(text).ids == ours.encode(text)


def test_tokens_are_joined_to_themselves(ours: Tokenizer, library: tokenizers.Tokenizer):
    """What is no text alone, half of a character, is not asked for."""
    spelled = [data.decode("utf-8", "replace") for data in ours.token_bytes[:NUM_RANKS:7] if data]
    texts = [text for text in spelled if "\ufffd" not in text]
    assert len(texts) > 28_000
    for text, found in zip(texts, library.encode_batch(texts), strict=True):
        assert found.ids == ours.encode(text), text


def test_characters_are_of_the_same_kind(ours: Tokenizer, library: tokenizers.Tokenizer):
    """Letters of either case, marks, digits and spaces are where both libraries have them."""
    by_kind: dict[str, list[str]] = {}
    for char in map(chr, range(0x110000)):
        by_kind.setdefault(unicodedata.category(char), []).append(char)
    del by_kind["Cs"]
    # Ideographs, syllables, and what is nothing yet: some of the many.
    chosen = [char for chars in by_kind.values() for char in chars[:: 1 + len(chars) // 3000]]
    lines = [
        "|".join(f"a{char}A{char}1" for char in chosen[at : at + 64]) for at in range(0, len(chosen), 64)
    ]
    for line, found in zip(lines, library.encode_batch(lines), strict=True):
        assert found.ids == ours.encode(line), line
