"""tokenizer.json files: the library's ids where it is right, and what it would get wrong."""

import hashlib
import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st

from configs.errors import TokenizerError
from configs.text.huggingface_backend import load_huggingface
from configs.text.huggingface_file import BYTE_OF
from configs.text.tokenizer import Tokenizer, open_tokenizer
from tests.configs.text.conftest import SPACE_MARK, corpus

ORDINARY = st.text(alphabet="abcdefgh THE,.()=_\n\u00e9\u4e2d", max_size=60)


def plain(path: Path) -> tokenizers.Tokenizer:
    """The library itself, with what it adds to a text switched off."""
    library = tokenizers.Tokenizer.from_file(str(path))
    library.no_truncation()
    library.no_padding()
    return library


def changed(path: Path, **parts: object) -> bytes:
    return json.dumps({**json.loads(path.read_text()), **parts}).encode()


@pytest.mark.parametrize("file", ["byte_level_file", "gemma_file", "llama_file", "unigram_json_file"])
@given(text=ORDINARY)
@settings(max_examples=40)
def test_ids_are_the_librarys_on_ordinary_text(request: pytest.FixtureRequest, file: str, text: str) -> None:
    path = request.getfixturevalue(file)
    assert opened(path).encode(text) == plain(path).encode(text, add_special_tokens=False).ids


@cache
def opened(path: Path) -> Tokenizer:
    return open_tokenizer(path)


def test_ids_digest_and_parts(byte_level_file: Path) -> None:
    tokenizer = open_tokenizer(byte_level_file)
    assert tokenizer.kind == "huggingface"
    assert tokenizer.digest == hashlib.sha256(byte_level_file.read_bytes()).hexdigest()
    assert tokenizer.vocab_size == plain(byte_level_file).get_vocab_size()
    assert dict(tokenizer.specials) == {"<|endoftext|>": 0, "<|pad|>": 1, "<tool>": 600, "<|im_end|>": 602}
    assert (tokenizer.bos, tokenizer.eos, tokenizer.pad, tokenizer.unk) == (None, 0, 1, None)


def test_a_long_text_is_not_truncated_or_padded_and_gets_no_template(byte_level_file: Path) -> None:
    tokenizer = open_tokenizer(byte_level_file)
    text = corpus()[0]
    assert len(tokenizer.encode(text)) > 1000
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert tokenizer.encode("a") == [66]


def test_added_white_space_is_text_and_other_added_tokens_are_special(byte_level_file: Path) -> None:
    tokenizer = open_tokenizer(byte_level_file)
    assert 601 in tokenizer.encode("a    b")
    assert tokenizer.id_to_bytes(601) == b"    "
    assert 600 not in tokenizer.encode("a<tool>b")
    assert 600 in plain(byte_level_file).encode("a<tool>b").ids, "the library alone finds it in a text"


def test_merges_that_spell_a_special_token_are_left_out(byte_level_file: Path) -> None:
    root = json.loads(byte_level_file.read_text())
    del root["added_tokens"][2:]
    root["pre_tokenizer"]["use_regex"] = False  # else a word boundary keeps the letters apart
    size = len(root["model"]["vocab"])
    root["model"]["vocab"] |= {"<q": size, "<qq>": size + 1, "q>": size + 2}
    root["model"]["merges"] = [["<", "q"], ["q", ">"], ["<q", "q>"], *root["model"]["merges"]]
    root["added_tokens"].append({**root["added_tokens"][0], "id": size + 1, "content": "<qq>"})
    tokenizer = load_huggingface(json.dumps(root).encode(), source="x")
    assert tokenizer.specials["<qq>"] == size + 1
    assert tokenizer.encode("<qq>") == [size, size + 2]


def test_encoding_rolls_no_dice(byte_level_file: Path) -> None:
    root = json.loads(byte_level_file.read_text())
    root["model"]["dropout"] = 0.9
    tokenizer = load_huggingface(json.dumps(root).encode(), source="x")
    assert tokenizer.encode(corpus()[0]) == opened(byte_level_file).encode(corpus()[0])


def test_the_librarys_own_switch_is_not_enough(unigram_json_file: Path) -> None:
    library = plain(unigram_json_file)
    library.encode_special_tokens = True
    tokenizer = open_tokenizer(unigram_json_file)
    end = tokenizer.specials["<|im_end|>"]
    assert end in library.encode("a<|im_end|>b", add_special_tokens=False).ids
    assert end not in tokenizer.encode("a<|im_end|>b")


def test_equals_the_sentencepiece_file_it_was_made_from(unigram_json_file: Path, unigram_file: Path) -> None:
    converted, original = open_tokenizer(unigram_json_file), open_tokenizer(unigram_file)
    assert converted.token_bytes == original.token_bytes
    assert converted.specials == original.specials
    assert converted.masked_ids == original.masked_ids
    for line in corpus()[0].splitlines():
        words = " ".join(line.split())  # runs of spaces have cuts of equal score, which rounding decides
        assert converted.encode(words) == original.encode(words)


def test_a_leading_space_is_put_and_taken_away(llama_file: Path) -> None:
    tokenizer = open_tokenizer(llama_file)
    assert tokenizer.adds_leading_space
    assert tokenizer.lossy_because == "it puts a space before the text"
    for text in ("hello", " hello", "", "\n"):
        assert tokenizer.decode(tokenizer.encode(text)) == text
    assert tokenizer.decode(tokenizer.encode("hello"), continuing=True) == " hello"
    assert (tokenizer.bos, tokenizer.eos, tokenizer.unk) == (1, 2, 0)


def test_the_side_file_names_the_parts(tmp_path: Path, byte_level_file: Path) -> None:
    (tmp_path / "tokenizer.json").write_bytes(byte_level_file.read_bytes())
    side = {
        "bos_token": "<|endoftext|>",
        "eos_token": {"content": "<|im_end|>"},
        "pad_token": None,
        "unk_token": "?",
    }
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(side))
    tokenizer = open_tokenizer(tmp_path)
    assert (tokenizer.bos, tokenizer.eos, tokenizer.pad, tokenizer.unk) == (0, 602, None, None)
    (tmp_path / "tokenizer_config.json").write_text("{")
    with pytest.raises(TokenizerError, match=r"damaged tokenizer_config\.json beside it: not JSON: line 1"):
        open_tokenizer(tmp_path)


def test_an_unknown_token_that_also_ends_documents_is_not_masked(byte_level_file: Path) -> None:
    side = json.dumps({"unk_token": "<|endoftext|>", "eos_token": "<|endoftext|>"}).encode()
    tokenizer = load_huggingface(byte_level_file.read_bytes(), source="x", side_config=side)
    assert tokenizer.eos == 0
    assert tokenizer.unk is None
    assert 0 not in tokenizer.masked_ids


LOSSY: dict[str, tuple[str, dict[str, Any], str]] = {
    "normaliser": ("byte_level_file", {"normalizer": {"type": "NFC"}}, "its normaliser NFC rewrites"),
    "pre-tokenizer": (
        "byte_level_file",
        {"pre_tokenizer": {"type": "Sequence", "pretokenizers": [
            {"type": "Split", "pattern": {"String": " "}, "behavior": "Removed", "invert": False},
            {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
        ]}},
        "its pre-tokenizer Split drops",
    ),
    "prefix": (
        "byte_level_file",
        {"pre_tokenizer": {
            "type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True,
        }},
        "it puts a space before the text",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", LOSSY)
def test_a_file_that_changes_text_says_so(request: pytest.FixtureRequest, name: str) -> None:
    file, parts, words = LOSSY[name]
    tokenizer = load_huggingface(changed(request.getfixturevalue(file), **parts), source="x")
    assert words in tokenizer.lossy_because


def test_without_bytes_the_unknown_is_shown_and_masked(unigram_json_file: Path) -> None:
    root = json.loads(unigram_json_file.read_text())
    root["model"]["byte_fallback"] = False
    tokenizer = load_huggingface(json.dumps(root).encode(), source="x")
    assert "unknown characters are lost" in tokenizer.lossy_because
    assert tokenizer.decode(tokenizer.encode("a\u4e2db")) == "a\ufffdb"
    assert tokenizer.unk in tokenizer.masked_ids


def broken(root: dict[str, Any], name: str) -> None:
    model, added = root["model"], root["added_tokens"]
    match name:
        case "no model":
            del root["model"]
        case "another kind of model":
            model["type"] = "WordPiece"
        case "another decoder":
            root["decoder"] = {"type": "WordPiece", "prefix": "##", "cleanup": True}
        case "no decoder":
            root["decoder"] = None
        case "affixes":
            model["continuing_subword_prefix"] = "##"
        case "two tokens with one id":
            model["vocab"]["zzz"] = 70
        case "an id far away":
            model["vocab"]["zzz"] = 10**9
        case "an id below zero":
            model["vocab"]["zzz"] = -1
        case "an id that is no number":
            model["vocab"]["zzz"] = "1"
        case "an added token of another id":
            added[0]["id"] = 5
        case "an added token without text":
            del added[0]["content"]
        case "added tokens that are no list":
            root["added_tokens"] = {"a": 1}
        case "a merge of nothing":
            model["merges"].insert(0, ["qqq", "zzz"])
        case "a gap before the added tokens":
            added[-1]["id"] += 7
        case _:
            raise AssertionError(name)


BROKEN: dict[str, str] = {
    "no model": "model is not a JSON object",
    "another kind of model": "a model of type 'WordPiece'; allowed: BPE",
    "another decoder": "a decoder of kind WordPiece; allowed: ByteLevel",
    "no decoder": "a decoder of kind none",
    "affixes": "tokens with affixes",
    "two tokens with one id": "have the same id 70",
    "an id far away": "tokens with ids up to 1000000000",
    "an id below zero": "damaged vocabulary entry 'zzz': -1",
    "an id that is no number": "damaged vocabulary entry 'zzz': '1'",
    "an added token of another id": "damaged added token",
    "an added token without text": "damaged added token",
    "added tokens that are no list": "added_tokens is not a list",
    "a merge of nothing": "not a usable tokenizer.json",
    "a gap before the added tokens": "the ids of its added tokens do not follow its vocabulary",
}


@pytest.mark.parametrize("name", BROKEN)
def test_damaged_files_are_refused(byte_level_file: Path, name: str) -> None:
    root = json.loads(byte_level_file.read_text())
    broken(root, name)
    with pytest.raises(TokenizerError) as caught:
        load_huggingface(json.dumps(root).encode(), source="here/tokenizer.json")
    assert BROKEN[name] in caught.value.message
    assert caught.value.message.startswith("here/tokenizer.json: ")
    assert len(caught.value.message.splitlines()) == 1
    assert caught.value.hint


def test_the_byte_alphabet_is_the_librarys() -> None:
    assert sorted(BYTE_OF) == sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    library = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    for text in ("\u00e9", "\0\x7f \u00ad", "\U0001f642", SPACE_MARK):
        [(letters, _)] = library.pre_tokenize_str(text)
        assert bytes(BYTE_OF[letter] for letter in letters) == text.encode()
