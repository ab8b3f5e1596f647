"""The built-in o200k as Hugging Face's `tokenizer.json`, for programs that have no package of its ranks.

Ranks say which two neighbours become one, whatever they were made of; the other library wants the pairs, in
order. A pair is what a token's own bytes come to when only tokens of lower rank are joined. One pair a token
is enough: joining within a token's bytes goes the same way wherever they stand, so when a token's turn comes,
no other two neighbours spell it. Ids between ranks and special tokens get names that no text holds.
"""

import json
from collections.abc import Iterator, Mapping
from itertools import pairwise

from configs.text.huggingface_file import BYTE_OF
from configs.text.o200k_backend import NUM_RANKS
from configs.text.tokenizer import Tokenizer

_LETTER_OF = {byte: letter for letter, byte in BYTE_OF.items()}

_BEFORE = r"[^\r\n\p{L}\p{N}]?"
_UPPER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]"
_LOWER = r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
# Published is one group without case, in which U+017F is an s to some libraries; to our encoder it is none.
_ENDING = r"(?:'[sS]|(?i:'t|'re|'ve|'m|'ll|'d))?"
PATTERN = "|".join(
    (
        f"{_BEFORE}{_UPPER}*{_LOWER}+{_ENDING}",
        f"{_BEFORE}{_UPPER}+{_LOWER}*{_ENDING}",
        r"\p{N}{1,3}",
        r" ?[^\s\p{L}\p{N}]+[\r\n/]*",
        r"\s*[\r\n]+",
        r"\s+(?!\S)",
        r"\s+",
    )
)
"""Where a text is cut into words before anything is joined."""


def o200k_json(tokenizer: Tokenizer) -> bytes:
    """The `tokenizer.json` with the ids of the o200k tokenizer."""
    ranks = {data: rank for rank, data in enumerate(tokenizer.token_bytes[:NUM_RANKS]) if data is not None}
    named = {token: name for name, token in tokenizer.specials.items()}
    behind = range(NUM_RANKS, tokenizer.vocab_size)
    root = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [_added(name, token) for name, token in tokenizer.specials.items()],
        "normalizer": None,
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [
                {"type": "Split", "pattern": {"Regex": PATTERN}, "behavior": "Isolated", "invert": False},
                _byte_level(),
            ],
        },
        "post_processor": None,
        "decoder": _byte_level(),
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": {_spelled(data): rank for data, rank in ranks.items()}
            | {named.get(token, f"\ufdd0{token}\ufdd1"): token for token in behind},
            "merges": [f"{_spelled(left)} {_spelled(right)}" for left, right in _pairs(ranks)],
        },
    }
    return json.dumps(root, ensure_ascii=False, indent=1).encode()


def _pairs(ranks: Mapping[bytes, int]) -> Iterator[tuple[bytes, bytes]]:
    """What every token of more than one byte is joined from, by rank."""
    for data, rank in ranks.items():
        if len(data) == 1:
            continue
        parts = _joined(data, ranks, below=rank)
        assert len(parts) == 2, "the ranks are the published ones, and each is joined from two before it"
        yield parts[0], parts[1]


def _joined(data: bytes, ranks: Mapping[bytes, int], *, below: int) -> list[bytes]:
    """The parts of some bytes when tokens below a rank are joined, the lowest first, from the left."""
    parts = [data[at : at + 1] for at in range(len(data))]
    found = [ranks.get(left + right, below) for left, right in pairwise(parts)]
    while found and (lowest := min(found)) < below:
        at = found.index(lowest)
        parts[at : at + 2] = [parts[at] + parts[at + 1]]
        del found[at]
        for beside in (at - 1, at):
            if 0 <= beside < len(found):
                found[beside] = ranks.get(parts[beside] + parts[beside + 1], below)
    return parts


def _spelled(data: bytes) -> str:
    """Bytes in the letters that stand for them in such files."""
    return "".join(map(_LETTER_OF.__getitem__, data))


def _byte_level() -> dict[str, object]:
    return {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}


def _added(name: str, token: int) -> dict[str, object]:
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    return {"id": token, "content": name, **flags}
