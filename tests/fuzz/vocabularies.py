"""Tokenizers: SentencePiece files, and `tokenizer.json` with the file beside it."""

import json
import math
import random
import struct
from functools import cache
from unittest import mock

from configs.errors import TokenizerError
from configs.text import sentencepiece_file
from configs.text.tokenizer import Tokenizer, tokenizer_from_bytes
from tests.fuzz.mutations import changed_bytes, changed_json, one_of
from tests.fuzz.target import Target, joined, separated

SAYINGS = ("", "Hello wörld\n  12345 \U0001f642", "\u2581a <0x0A> </s>\0\r\n", "the cat " * 40)


def load_tokenizer(data: bytes, *, side: bytes | None = None) -> None:
    """A tokenizer that is taken encodes any text, and decodes what it encoded as it says."""
    tokenizer = tokenizer_from_bytes(data, source="fuzz", side_config=side)
    for text in SAYINGS:
        _check_round_trip(tokenizer, text)
    assert all(0 <= token < tokenizer.vocab_size for token in tokenizer.specials.values())
    assert len(tokenizer.masked_ids) <= tokenizer.vocab_size


def load_sentencepiece_file(data: bytes) -> None:
    """The same; and the fast way of reading pieces gives what the other gives."""
    with mock.patch.object(sentencepiece_file, "TAG_PIECE", None):
        slow = _read(data)
    assert _read(data) == slow
    load_tokenizer(data)


def _read(data: bytes) -> object:
    try:
        return sentencepiece_file.read_sentencepiece_file(data)
    except ValueError:
        return None


def _check_round_trip(tokenizer: Tokenizer, text: str) -> None:
    ids = tokenizer.encode(text)
    assert all(type(token) is int and 0 <= token < tokenizer.vocab_size for token in ids)
    assert not tokenizer.special_ids.intersection(ids), "a text spelled a special token"
    assert len(ids) <= 8 * len(text.encode()) + 8
    if tokenizer.is_lossless:
        assert tokenizer.decode(ids) == text, "said to be lossless, and is not"


def load_tokenizer_json(data: bytes) -> None:
    """The same for a tokenizer.json with the file that names its tokens."""
    files = separated(data, ("tokenizer.json", "tokenizer_config.json"))
    load_tokenizer(files["tokenizer.json"], side=files.get("tokenizer_config.json") or None)


def _field(number: int, payload: bytes | int) -> bytes:
    if isinstance(payload, int):
        return _varint(number << 3) + _varint(payload)
    return _varint(number << 3 | 2) + _varint(len(payload)) + payload


def _varint(value: int) -> bytes:
    low, high = value & 0x7F, value >> 7
    return bytes([low | 0x80]) + _varint(high) if high else bytes([low])


def _piece(text: str, score: float, kind: int) -> bytes:
    return _field(1, _field(1, text.encode()) + b"\x15" + struct.pack("<f", score) + _field(3, kind))


@cache
def small_sentencepiece(
    *, model_type: int = 1, prefix: bool = False, space: bool = True, rules: bytes = b""
) -> bytes:
    """A SentencePiece file of a few words over all bytes."""
    words = (
        "\u2581the",
        "\u2581cat",
        "the",
        "cat",
        "he",
        "at",
        "t",
        "h",
        "e",
        "c",
        "a",
        "\u2581",
        "l",
        "o",
        "  ",
    )
    pieces = [
        _piece("<unk>", 0.0, 2),
        _piece("<s>", 0.0, 3),
        _piece("</s>", 0.0, 3),
        _piece("<|user|>", 0.0, 4),
    ]
    pieces += [_piece(f"<0x{byte:02X}>", 0.0, 6) for byte in range(256)]
    pieces += [
        _piece(word, -float(number), 1) for number, word in enumerate(words) if space or word != "\u2581"
    ]
    trainer = _field(3, model_type) + _field(35, 1) + _field(40, 0) + _field(41, 1) + _field(42, 2)
    normalizer = _field(1, b"identity") + _field(2, rules) * bool(rules)
    normalizer += _field(3, int(prefix)) + _field(4, 0) + _field(5, 1)
    return b"".join(pieces) + _field(2, trainer) + _field(3, normalizer)


def more_pieces(count: int) -> bytes:
    """So many pieces more, to stand before a file's own."""
    return b"".join(_piece(f"more{number}", -99.0, 1) for number in range(count))


def small_rules(instead: bytes = b"a") -> bytes:
    """A table of the normaliser that replaces "b": a double-array trie, then what stands instead."""
    units = [0] * 512
    units[0] = 256 << 10
    here = 256 ^ ord("b")
    units[here] = 1 << 10 | 1 << 8 | ord("b")
    units[here ^ 1] = 1 << 31
    trie = struct.pack("<512I", *units)
    return struct.pack("<I", len(trie)) + trie + instead + b"\0"


def changed_message(data: bytes, rng: random.Random) -> bytes:
    """A protocol buffer with a field dropped, doubled, moved or changed, at any depth that can be read."""
    fields = _split(data)
    if not fields:
        return changed_bytes(data, rng)
    at, other = rng.randrange(len(fields)), rng.randrange(len(fields))
    if rng.random() < 0.4:
        at = other = len(fields) - 1 - rng.randrange(min(3, len(fields)))
    head, payload = fields[at]
    match rng.randrange(7):
        case 0:
            del fields[at]
        case 1:
            fields.insert(other, fields[at])
        case 2:
            fields[at], fields[other] = fields[other], fields[at]
        case 3:
            fields[at] = (head, changed_bytes(payload, rng))
        case 4:
            fields[at] = (rng.randrange(64) << 3 | rng.choice((0, 1, 2, 3, 5, head & 7)), payload)
        case _:
            fields[at] = (
                head,
                changed_message(payload, rng) if head & 7 == 2 else changed_bytes(payload, rng),
            )
    return b"".join(
        _varint(head) + (_varint(len(payload)) if head & 7 == 2 else b"") + payload
        for head, payload in fields
    )


def _split(data: bytes) -> list[tuple[int, bytes]]:
    """The fields of a message as tag and payload; none if it is no message."""
    fields: list[tuple[int, bytes]] = []
    at = 0
    try:
        while at < len(data):
            head, at = _number(data, at)
            begin = at
            if head & 7 == 2:
                size, begin = _number(data, at)
                at = begin + size
            elif head & 7 == 0:
                _, at = _number(data, at)
            else:
                at += {1: 8, 5: 4}[head & 7]
            if at > len(data):
                return []
            fields.append((head, data[begin:at]))
    except (IndexError, KeyError):
        return []
    return fields


def _number(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        value |= (data[at] & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if data[at - 1] < 0x80 or shift > 63:
            return value, at


def sentencepiece_seeds() -> list[bytes]:
    """Both kinds of models, one with rules and a leading space."""
    return [
        small_sentencepiece(),
        small_sentencepiece(model_type=2),
        small_sentencepiece(prefix=True, rules=small_rules()),
    ]


def huggingface_seeds() -> list[bytes]:
    """A byte-level BPE and a Unigram over SentencePiece's alphabet."""
    names = ("tokenizer.json", "tokenizer_config.json")
    side = json.dumps({"bos_token": "<s>", "eos_token": {"content": "</s>"}}).encode()
    roots = (byte_level_json(), unigram_json())
    return [joined({names[0]: json.dumps(root).encode(), names[1]: side}, names) for root in roots]


SPLIT = {"type": "Split", "behavior": "Isolated", "invert": False}


def byte_level_json() -> dict[str, object]:
    """GPT-2's kind."""
    from configs.text.huggingface_file import BYTE_OF

    letters = [*sorted(BYTE_OF, key=BYTE_OF.__getitem__), "th", "the", "ca", "cat"]
    return {
        "version": "1.0",
        "added_tokens": [_added(len(letters), "<s>"), _added(len(letters) + 1, "</s>")],
        "normalizer": None,
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [
                {**SPLIT, "pattern": {"Regex": "\\p{L}+|\\s+"}},
                {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False},
            ],
        },
        "post_processor": None,
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": {letter: token for token, letter in enumerate(letters)},
            "merges": ["t h", "th e", "c a", "ca t"],
        },
    }  # fmt: skip


def unigram_json() -> dict[str, object]:
    """What converters make of a SentencePiece file."""
    pieces = [["<unk>", 0.0], ["<s>", 0.0], ["</s>", 0.0]]
    pieces += [[f"<0x{byte:02X}>", 0.0] for byte in range(256)]
    pieces += [
        [word, -math.log(2 + number)] for number, word in enumerate(("\u2581the", "\u2581", "cat", "e", "l"))
    ]
    return {
        "added_tokens": [_added(token, name) for token, name in enumerate(("<unk>", "<s>", "</s>"))],
        "normalizer": {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"},
        "decoder": {
            "type": "Sequence",
            "decoders": [
                {"type": "Replace", "pattern": {"String": "\u2581"}, "content": " "},
                {"type": "ByteFallback"},
                {"type": "Fuse"},
            ],
        },
        "model": {"type": "Unigram", "unk_id": 0, "byte_fallback": True, "vocab": pieces},
    }


def _added(token: int, content: str) -> dict[str, object]:
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {"id": token, "content": content, **flags, "special": True}


def changed_pair(data: bytes, rng: random.Random) -> bytes:
    """A tokenizer.json or the file beside it, changed as JSON."""
    names = ("tokenizer.json", "tokenizer_config.json")
    files = separated(data, names)
    name = names[rng.random() < 0.1]
    files[name] = changed_json(files.get(name, b""), rng)
    return joined(files, names)


SENTENCEPIECE = Target(
    name="sentencepiece",
    load=load_sentencepiece_file,
    seeds=sentencepiece_seeds,
    mutate=one_of(changed_message, changed_message, changed_bytes),
    refusals=(TokenizerError,),
    sources=(
        "configs.text.sentencepiece_file",
        "configs.text.sentencepiece_backend",
        "configs.text.tokenizer",
    ),
)
HUGGINGFACE = Target(
    name="huggingface",
    load=load_tokenizer_json,
    seeds=huggingface_seeds,
    mutate=changed_pair,
    refusals=(TokenizerError,),
    sources=("configs.text.huggingface_file", "configs.text.huggingface_backend", "configs.text.tokenizer"),
)
