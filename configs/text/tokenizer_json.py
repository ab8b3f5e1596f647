"""A SentencePiece model as Hugging Face's `tokenizer.json`, for programs that read no `.model` files.

Pieces keep their ids and scores, and are spelled with real spaces: then a U+2581 in a text is an unknown
character like any other and becomes bytes, with no step that would mistake it for a space. A name of a byte
piece that stands in a text is cut, since the other library would take it for the byte.

Two differences are left, and both are in the other library. A special token's name in a text is that token
there, which is its convention. And it sums scores in 64 bits where SentencePiece has 32, so where two ways to
cut a text are equally likely, or as good as, the ways may differ; the bytes that the ids stand for do not.
"""

import json
from typing import Any

from configs.errors import TokenizerError
from configs.text.sentencepiece_backend import SPACE_MARK, load_sentencepiece
from configs.text.sentencepiece_file import (
    FilePiece,
    PieceKind,
    SentencePieceFile,
    is_unigram,
    read_sentencepiece_file,
)
from configs.text.tokenizer import Tokenizer

# Behind it, a text's name of a byte is cut off from its first character, so that it is no piece.
BEGINS_A_BYTE_NAME = "<(?=0x[0-9A-F]{2}>)"
ADDED = (PieceKind.CONTROL, PieceKind.UNKNOWN, PieceKind.USER_DEFINED)
"""Pieces that the other library finds first, whatever its model would choose."""


def tokenizer_json(data: bytes, *, source: str) -> bytes:
    """The `tokenizer.json` of a `.model` file's bytes. What would lose characters is refused."""
    tokenizer = load_sentencepiece(data, source=source)
    if tokenizer.lossy_because:
        raise TokenizerError(
            f"{source}: cannot be written as a tokenizer.json that gives the same ids: "
            f"{tokenizer.lossy_because}",
            hint="Convert it with the library that made it, and name the tokenizer.json instead.",
        )
    file = read_sentencepiece_file(data)
    spelled = [_spelled(piece, token) for token, piece in enumerate(file.pieces)]
    scores = sentencepiece_scores(data)
    root = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            _added(spelled[token], token, special=spelled[token].strip() != "")
            for token, piece in enumerate(file.pieces)
            if piece.kind in ADDED
        ],
        "normalizer": None,
        "pre_tokenizer": _cuts(cut_lines=not any("\n" in text for text in spelled)),
        "post_processor": None,
        "decoder": {"type": "Sequence", "decoders": [{"type": "ByteFallback"}, {"type": "Fuse"}]},
        "model": _unigram(spelled, scores, unk=tokenizer.unk)
        if is_unigram(data)
        else _pairs(file, spelled, scores, unk=tokenizer.unk),
    }
    return json.dumps(root, ensure_ascii=False, indent=1).encode()


def tokenizer_config_json(tokenizer: Tokenizer) -> bytes:
    """The `tokenizer_config.json` beside it: which of its tokens begin, end and pad."""
    by_id = {token: name for name, token in tokenizer.specials.items()}
    named = {
        f"{part}_token": by_id[token]
        for part, token in (("bos", tokenizer.bos), ("eos", tokenizer.eos), ("pad", tokenizer.pad))
        if token is not None and token in by_id
    }
    root = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        **named,
        "additional_special_tokens": [name for name in tokenizer.specials if name not in named.values()],
        "clean_up_tokenization_spaces": False,
        "padding_side": "left",
    }
    return json.dumps(root, ensure_ascii=False, indent=1).encode()


def sentencepiece_scores(data: bytes) -> list[float]:
    """The score of every piece, as the library reads it."""
    import sentencepiece

    processor: Any = sentencepiece.SentencePieceProcessor(model_proto=data)
    return [float(processor.get_score(token)) for token in range(processor.get_piece_size())]


def _spelled(piece: FilePiece, token: int) -> str:
    """The text of a piece; one that stands for nothing gets a name that no text holds."""
    if piece.kind is PieceKind.UNUSED:
        return f"\ufdd0{token}\ufdd1"
    return piece.text.replace(SPACE_MARK, " ")


def _added(name: str, token: int, *, special: bool) -> dict[str, object]:
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": special}
    return {"id": token, "content": name, **flags}


def _cuts(*, cut_lines: bool) -> dict[str, object]:
    """Where a text is cut before it is looked at: at what no piece holds, so that lines are encoded alike."""
    alone = f"\n|{SPACE_MARK}" if cut_lines else SPACE_MARK
    behind = _split(BEGINS_A_BYTE_NAME, "MergedWithPrevious")
    return {"type": "Sequence", "pretokenizers": [_split(alone, "Isolated"), behind]}


def _split(pattern: str, behavior: str) -> dict[str, object]:
    return {"type": "Split", "pattern": {"Regex": pattern}, "behavior": behavior, "invert": False}


def _unigram(spelled: list[str], scores: list[float], *, unk: int | None) -> dict[str, object]:
    return {
        "type": "Unigram",
        "unk_id": unk,
        "vocab": [list(pair) for pair in zip(spelled, scores, strict=True)],
        "byte_fallback": True,
    }


def _pairs(
    file: SentencePieceFile, spelled: list[str], scores: list[float], *, unk: int | None
) -> dict[str, object]:
    """The other kind of model: every way to join two pieces to a third, the best third first."""
    normal = {
        text: token for token, text in enumerate(spelled) if file.pieces[token].kind is PieceKind.NORMAL
    }
    merges = [
        (-scores[token], normal[left], normal[right], [left, right])
        for text, token in normal.items()
        for cut in range(1, len(text))
        if (left := text[:cut]) in normal and (right := text[cut:]) in normal
    ]
    return {
        "type": "BPE",
        "unk_token": None if unk is None else spelled[unk],
        "fuse_unk": True,
        "byte_fallback": True,
        "vocab": {text: token for token, text in enumerate(spelled)},
        "merges": [pair for *_, pair in sorted(merges)],
    }
