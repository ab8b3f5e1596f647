"""Small tokenizers of every kind, made once from the standard library's own source."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from hypothesis import strategies as st
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers

from configs.text.sentencepiece_file import PieceKind, read_sentencepiece_file
from configs.text.tokenizer import Tokenizer, open_tokenizer
from configs.text.training import train_sentencepiece

SPACE_MARK = "\u2581"
BYTE_TOKENS = [f"<0x{byte:02X}>" for byte in range(256)]

HOSTILE = [
    *(
        "<|endoftext|>",
        "<|im_end|>",
        "<|pad|>",
        "<|unk|>",
        "<unk>",
        "<s>",
        "</s>",
        "<tool>",
        "<0x0A>",
        "<0xE2>",
    ),
    *(
        SPACE_MARK,
        " ",
        "  ",
        "    ",
        "\n",
        "\r\n",
        "\t",
        "\0",
        "\x7f",
        "\u2047",
        "\ufffd",
        "\ufeff",
        "\ufdd0",
    ),
    *(
        "\ue000",
        "e\u0301",
        "\u00e9",
        "\u212b",
        "\u3000",
        "\u200b",
        "\U0001f642",
        "\U0010ffff",
        "12345",
        "The",
    ),
]
TEXTS = st.lists(st.sampled_from(HOSTILE) | st.text(max_size=12), max_size=12).map("".join)


def corpus() -> list[str]:
    folder = Path(os.__file__).parent
    return [
        (folder / name).read_text(encoding="utf-8") for name in ("textwrap.py", "json/decoder.py", "abc.py")
    ]


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tokenizers")


@pytest.fixture(scope="session")
def unigram_file(folder: Path) -> Path:
    train_sentencepiece(corpus(), out=folder / "unigram.model", vocab_size=600)
    return folder / "unigram.model"


@pytest.fixture(scope="session")
def bpe_file(folder: Path) -> Path:
    train_sentencepiece(corpus(), out=folder / "bpe.model", vocab_size=600, model_type="bpe")
    return folder / "bpe.model"


@pytest.fixture(scope="session")
def byte_level_file(folder: Path) -> Path:
    """GPT-2's kind, with what must not reach an encoded text: specials, a template, truncation, padding."""
    library = tokenizers.Tokenizer(models.BPE())
    library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    library.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    names = ["<|endoftext|>", "<|pad|>"]
    library.train_from_iterator(
        corpus(),
        trainers.BpeTrainer(
            vocab_size=600, special_tokens=names, initial_alphabet=alphabet, show_progress=False
        ),
    )
    library.add_tokens([tokenizers.AddedToken("<tool>", special=False, normalized=False)])
    library.add_tokens([tokenizers.AddedToken("    ", special=False, normalized=False)])
    library.add_special_tokens(["<|im_end|>"])
    library.post_processor = tokenizers.processors.TemplateProcessing(
        single="<|endoftext|> $A", special_tokens=[("<|endoftext|>", 0)]
    )
    library.enable_truncation(10)
    library.enable_padding(length=64)
    library.save(str(folder / "byte-level.json"))
    return folder / "byte-level.json"


@pytest.fixture(scope="session")
def llama_file(folder: Path) -> Path:
    """Llama 2's kind: BPE over SentencePiece's alphabet, with a space put before the text."""
    library = tokenizers.Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    library.normalizer = normalizers.Sequence(
        [normalizers.Prepend(SPACE_MARK), normalizers.Replace(" ", SPACE_MARK)]
    )
    library.decoder = decoders.Sequence(
        [
            decoders.Replace(SPACE_MARK, " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    library.train_from_iterator(
        [line for text in corpus() for line in text.split("\n")],
        trainers.BpeTrainer(
            vocab_size=700, special_tokens=["<unk>", "<s>", "</s>", *BYTE_TOKENS], show_progress=False
        ),
    )
    root = json.loads(library.to_str())
    root["added_tokens"] = [entry for entry in root["added_tokens"] if entry["content"] not in BYTE_TOKENS]
    return written(folder / "llama.json", root)


@pytest.fixture(scope="session")
def gemma_file(folder: Path, llama_file: Path) -> Path:
    """The same without the space, so that all text comes back."""
    root = json.loads(llama_file.read_text())
    root["normalizer"] = root["normalizer"]["normalizers"][1]
    root["decoder"]["decoders"].pop()
    return written(folder / "gemma.json", root)


@pytest.fixture(scope="session")
def unigram_json_file(folder: Path, unigram_file: Path) -> Path:
    """Our own SentencePiece model as a tokenizer.json, the way converters write it."""
    import sentencepiece

    library = sentencepiece.SentencePieceProcessor(model_file=str(unigram_file))
    pieces = read_sentencepiece_file(unigram_file.read_bytes()).pieces
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    root = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {"id": token, "content": piece.text, **flags}
            for token, piece in enumerate(pieces)
            if piece.kind in (PieceKind.CONTROL, PieceKind.UNKNOWN)
        ],
        "normalizer": {"type": "Replace", "pattern": {"String": " "}, "content": SPACE_MARK},
        "pre_tokenizer": None,
        "post_processor": None,
        "decoder": {
            "type": "Sequence",
            "decoders": [
                {"type": "Replace", "pattern": {"String": SPACE_MARK}, "content": " "},
                {"type": "ByteFallback"},
                {"type": "Fuse"},
            ],
        },
        "model": {
            "type": "Unigram",
            "unk_id": library.unk_id(),
            "byte_fallback": True,
            "vocab": [[piece.text, library.get_score(token)] for token, piece in enumerate(pieces)],
        },
    }
    return written(folder / "unigram.json", root)


def written(path: Path, root: dict[str, Any]) -> Path:
    path.write_text(json.dumps(root))
    return path


@pytest.fixture(scope="session")
def o200k() -> Tokenizer:
    return open_tokenizer("o200k")


LOSSLESS = ["unigram_file", "bpe_file", "byte_level_file", "gemma_file", "unigram_json_file", "o200k"]


@pytest.fixture(scope="session", params=LOSSLESS)
def lossless(request: pytest.FixtureRequest) -> Tokenizer:
    made = request.getfixturevalue(request.param)
    return made if isinstance(made, Tokenizer) else open_tokenizer(made)


@pytest.fixture(scope="session", params=[*LOSSLESS, "llama_file"])
def tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    made = request.getfixturevalue(request.param)
    return made if isinstance(made, Tokenizer) else open_tokenizer(made)
