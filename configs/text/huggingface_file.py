"""What a Hugging Face `tokenizer.json` says of itself: ids, special tokens, the bytes of its tokens."""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeGuard, cast

SPACE_MARK = "\u2581"

# How a file's tokens stand for bytes.
Alphabet = Literal["byte-level", "sentencepiece"]

_SENTENCEPIECE_DECODERS = {"Replace", "ByteFallback", "Fuse", "Strip", "Metaspace"}
_AFFIXES = ("continuing_subword_prefix", "end_of_word_suffix")
_BYTE_TOKEN = re.compile(r"<0x([0-9A-F]{2})>")
# Names that mark the tokens' parts where no tokenizer_config.json says, the first that a file has.
_USUAL_NAMES: dict[str, tuple[str, ...]] = {
    "bos": ("<s>", "<bos>", "<|begin_of_text|>", "<|startoftext|>"),
    "eos": ("</s>", "<eos>", "<|endoftext|>", "<|end_of_text|>"),
    "pad": ("<pad>", "<|pad|>", "[PAD]"),
    "unk": ("<unk>", "<|unk|>", "[UNK]"),
}

Json = dict[str, Any]

MAX_VALUES = 8_000_000
"""Values in a file, of which each takes many times its bytes; the largest vocabularies have half as many."""
MAX_STEPS = 64
MAX_GROWTH = 256
"""How many times its length a text may have after a file's normalisers and pre-tokenizers."""
_GROWTH: dict[str, int] = {"Precompiled": 16, "NFKC": 4, "NFKD": 4, "ByteLevel": 4}


@dataclass(frozen=True, kw_only=True, slots=True)
class HuggingFaceFile:
    """The parsed file and what was found in it."""

    root: Json
    alphabet: Alphabet
    tokens: tuple[str | None, ...]
    """The token of each id, None where no token has the id."""
    specials: Mapping[str, int]
    added_text: frozenset[int]
    """Added tokens that are text: white space that a file adds as tokens of its own."""
    byte_fallback: bool

    def token_bytes(self, token: int) -> bytes | None:
        """The bytes of an id; None if nothing has the id or its token stands for no bytes."""
        text = self.tokens[token]
        if text is None or text in self.specials:
            return None if text is None else b""
        if token in self.added_text:
            return text.encode("utf-8")
        if self.alphabet == "byte-level":
            return bytes(BYTE_OF[char] for char in text) if all(char in BYTE_OF for char in text) else None
        named = _BYTE_TOKEN.fullmatch(text) if self.byte_fallback else None
        return bytes([int(named.group(1), 16)]) if named else text.replace(SPACE_MARK, " ").encode("utf-8")


def read_huggingface_file(data: bytes) -> HuggingFaceFile:
    """Parse the file and find what it holds; ValueError says what is damaged or not supported."""
    root = parse_json(data)
    model = _object(root.get("model"), "model")
    if any(model.get(affix) for affix in _AFFIXES):
        raise ValueError(f"tokens with affixes ({' or '.join(_AFFIXES)}) are not supported")
    vocab = dict(_vocab(model))
    specials: dict[str, int] = {}
    added_text: set[int] = set()
    for entry in objects(root.get("added_tokens"), "added_tokens"):
        text, token = entry.get("content"), entry.get("id")
        if not isinstance(text, str) or not _is_id(token) or vocab.get(text, token) != token:
            raise ValueError(f"damaged added token {str(entry)[:80]}")
        vocab[text] = token
        if _is_text(entry, text):
            added_text.add(token)
        else:
            specials[text] = token
    return HuggingFaceFile(
        root=root,
        alphabet=_alphabet(root),
        tokens=_by_id(vocab),
        specials=specials,
        added_text=frozenset(added_text),
        byte_fallback=bool(model.get("byte_fallback")),
    )


def parse_json(data: bytes) -> Json:
    """The JSON object of a file that another program wrote, many megabytes long: the library's own parser."""
    if sum(map(data.count, (b",", b"[", b"{"))) > MAX_VALUES:
        raise ValueError(f"it has more than {MAX_VALUES} values")
    try:
        return _object(json.loads(data.decode("utf-8-sig")), "the file")
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON: line {error.lineno}, column {error.colno}: {error.msg}") from None
    except RecursionError:
        raise ValueError("not JSON: nested too deep") from None


def objects(value: Any, what: str) -> list[Json]:
    """A list of JSON objects, or nothing."""
    if value is None:
        return []
    if not isinstance(value, list):
        raise ValueError(f"{what} is not a list")
    return [_object(item, f"an item of {what}") for item in cast(list[Any], value)]


def check_growth(file: HuggingFaceFile) -> None:
    """Refuse steps that together may make far more of a text than it is: few bytes would fill the memory."""
    steps = [
        *parts(file.root.get("normalizer"), "normalizers"),
        *parts(file.root.get("pre_tokenizer"), "pretokenizers"),
    ]
    growth = 1
    for step in steps:
        growth *= _growth(step)
        if growth > MAX_GROWTH or len(steps) > MAX_STEPS:
            raise ValueError(
                f"its {len(steps)} steps may make a text more than {MAX_GROWTH} times as long, or are more "
                f"than {MAX_STEPS}"
            )


def _growth(step: Json) -> int:
    """How many times as long a step may make a text; what only adds an end to it does not count."""
    kind, content = step.get("type"), step.get("content")
    if kind != "Replace" or not isinstance(content, str):
        return _GROWTH.get(str(kind), 1)
    pattern = step.get("pattern")
    found = cast(Json, pattern).get("String") if isinstance(pattern, dict) else None
    # An expression may match the empty text between any two characters.
    return max(1, -(-len(content) // len(found))) if isinstance(found, str) and found else 1 + len(content)


def why_lossy(file: HuggingFaceFile) -> str:
    """Why some text does not come back byte for byte; empty if all does."""
    root = file.root
    reasons: list[str] = []
    for part in parts(root.get("normalizer"), "normalizers"):
        is_space_to_mark = _is_replace(part, " ", SPACE_MARK) and file.alphabet == "sentencepiece"
        if not is_space_to_mark and part.get("type") != "Prepend":
            reasons.append(f"its normaliser {part.get('type')} rewrites characters")
    for part in parts(root.get("pre_tokenizer"), "pretokenizers"):
        kind = part.get("type")
        keeps = kind in ("ByteLevel", "Digits", "Metaspace", "UnicodeScripts") or (
            kind in ("Split", "Punctuation") and part.get("behavior") != "Removed"
        )
        if not keeps:
            reasons.append(f"its pre-tokenizer {kind} drops characters")
    if adds_leading_space(file):
        reasons.append("it puts a space before the text")
    every = map(file.token_bytes, range(len(file.tokens)))
    single_bytes = {data for data in every if data is not None and len(data) == 1}
    if len(single_bytes) < 256 or (file.alphabet == "sentencepiece" and not file.byte_fallback):
        reasons.append("it has no token for some bytes, so unknown characters are lost")
    return "; ".join(reasons)


def adds_leading_space(file: HuggingFaceFile) -> bool:
    """Whether encoding puts a space before the text."""
    normalizers = parts(file.root.get("normalizer"), "normalizers")
    pre_tokenizers = parts(file.root.get("pre_tokenizer"), "pretokenizers")
    return any(part.get("type") == "Prepend" for part in normalizers) or any(
        (part.get("type") == "ByteLevel" and part.get("add_prefix_space", True))
        or (part.get("type") == "Metaspace" and part.get("prepend_scheme", "always") != "never")
        for part in pre_tokenizers
    )


def usual_ids(specials: Mapping[str, int], side: Json) -> dict[str, int | None]:
    """The ids of bos, eos, pad and unk, as tokenizer_config.json names them, else by the usual names."""
    ids: dict[str, int | None] = {}
    for part, usual in _USUAL_NAMES.items():
        named = side.get(f"{part}_token", None)
        if isinstance(named, dict):
            named = cast(Json, named).get("content")
        names = (named,) if f"{part}_token" in side else usual
        ids[part] = next(
            (specials[name] for name in names if isinstance(name, str) and name in specials), None
        )
    return ids


def parts(node: Any, children: str) -> Iterator[Json]:
    """The steps of a normaliser, pre-tokenizer or decoder; a sequence is opened."""
    waiting = [] if node is None else [_object(node, children)]
    while waiting:
        part = waiting.pop()
        if part.get("type") == "Sequence":
            waiting.extend(reversed(objects(part.get(children), children)))
        else:
            yield part


def _is_text(entry: Json, text: str) -> bool:
    """An added token of white space that takes nothing around it is text; any other is special."""
    takes_more = entry.get("lstrip") or entry.get("rstrip") or entry.get("single_word")
    return not entry.get("special") and not takes_more and not text.replace(SPACE_MARK, " ").strip()


def _is_replace(part: Json, pattern: str, content: str) -> bool:
    return (
        part.get("type") == "Replace"
        and part.get("pattern") == {"String": pattern}
        and part.get("content") == content
    )


def _alphabet(root: Json) -> Alphabet:
    decoders = {str(part.get("type")) for part in parts(root.get("decoder"), "decoders")}
    encoders = {str(part.get("type")) for part in parts(root.get("pre_tokenizer"), "pretokenizers")}
    if decoders == {"ByteLevel"} and "ByteLevel" in encoders:
        return "byte-level"
    if decoders and decoders <= _SENTENCEPIECE_DECODERS:
        return "sentencepiece"
    raise ValueError(
        f"a decoder of kind {', '.join(sorted(decoders)) or 'none'}; allowed: ByteLevel "
        f"with its pre-tokenizer, or {', '.join(sorted(_SENTENCEPIECE_DECODERS))}"
    )


def _vocab(model: Json) -> Iterator[tuple[str, int]]:
    kind, vocab = model.get("type", "BPE"), model.get("vocab")
    pairs: list[tuple[Any, Any]]
    if kind == "BPE" and isinstance(vocab, dict):
        pairs = list(cast(Json, vocab).items())
    elif kind == "Unigram" and isinstance(vocab, list):
        pieces = cast(list[Any], vocab)
        pairs = [
            (piece[0] if isinstance(piece, list) and piece else None, n) for n, piece in enumerate(pieces)
        ]
    else:
        raise ValueError(f"a model of type {kind!r}; allowed: BPE with a table, Unigram with a list")
    for text, token in pairs:
        if not isinstance(text, str) or not _is_id(token):
            raise ValueError(f"damaged vocabulary entry {text!r}: {token!r}")
        yield text, token


def _by_id(vocab: dict[str, int]) -> tuple[str | None, ...]:
    size = 1 + max(vocab.values(), default=-1)
    if size > 4 * len(vocab) + 1024:
        raise ValueError(f"{len(vocab)} tokens with ids up to {size - 1}")
    tokens: list[str | None] = [None] * size
    for text, token in vocab.items():
        if tokens[token] is not None:
            raise ValueError(f"{tokens[token]!r} and {text!r} have the same id {token}")
        tokens[token] = text
    return tuple(tokens)


def _is_id(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _object(value: Any, what: str) -> Json:
    if not isinstance(value, dict):
        raise ValueError(f"{what} is not a JSON object")
    return cast(Json, value)


def _byte_alphabet() -> dict[str, int]:
    """GPT-2's letters for bytes: printable Latin-1 is itself, the rest follow from U+0100."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(0x100 + n): byte for n, byte in enumerate(others)}


BYTE_OF = _byte_alphabet()
