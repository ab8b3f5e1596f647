"""Hugging Face `tokenizer.json` files, through the package tokenizers.

The library looks for added tokens in every text, and its Unigram model for every entry of its vocabulary,
special or not. Flags that should stop this exist for some cases only. So the special tokens are renamed, in
the copy that the library gets, to names that no text can hold: then nothing a user writes can match one,
whatever the file says.
"""

import hashlib
import json
import re
import secrets
from collections.abc import Callable
from types import MappingProxyType
from typing import Any, Protocol, cast

from configs.errors import MissingExtra, TokenizerError
from configs.text.huggingface_file import (
    SPACE_MARK,
    HuggingFaceFile,
    Json,
    adds_leading_space,
    check_growth,
    objects,
    parse_json,
    read_huggingface_file,
    usual_ids,
    why_lossy,
)
from configs.text.tokenizer import Tokenizer

HINT = "Export it again with its own library; byte-level BPE and SentencePiece-style files are supported."

# Cut inside the name of a byte token, so that the name, written in a text, is not read as the byte.
_NAME_OF_A_BYTE = re.compile("<(?=0x[0-9A-F]{2}>)")


class _Encoding(Protocol):
    @property
    def ids(self) -> list[int]: ...


class _Library(Protocol):
    """The part of tokenizers.Tokenizer that is used, with its types."""

    def encode(self, sequence: str, *, add_special_tokens: bool) -> _Encoding: ...
    def get_vocab(self, with_added_tokens: bool) -> dict[str, int]: ...


def load_huggingface(data: bytes, *, source: str, side_config: bytes | None = None) -> Tokenizer:
    """The tokenizer of a tokenizer.json's bytes; `side_config` is the tokenizer_config.json beside it."""
    try:
        file = read_huggingface_file(data)
        check_growth(file)
        lossy_because = why_lossy(file)
    except ValueError as error:
        raise TokenizerError(f"{source}: not a usable tokenizer.json: {error}", hint=HINT) from None
    try:
        ids = usual_ids(file.specials, parse_json(side_config) if side_config else {})
    except ValueError as error:
        raise TokenizerError(
            f"{source}: damaged tokenizer_config.json beside it: {error}", hint=HINT
        ) from None
    token_bytes = [file.token_bytes(token) for token in range(len(file.tokens))]
    unk = _unk(file, ids)
    if unk is not None:
        token_bytes[unk] = "\ufffd".encode() if lossy_because else None
    return Tokenizer(
        kind="huggingface",
        source=source,
        digest=hashlib.sha256(data).hexdigest(),
        token_bytes=tuple(token_bytes),
        specials=MappingProxyType({name: token for name, token in file.specials.items() if token != unk}),
        bos=ids["bos"],
        eos=ids["eos"],
        pad=None if ids["pad"] == unk else ids["pad"],
        unk=unk,
        lossy_because=lossy_because,
        adds_leading_space=adds_leading_space(file),
        encoder=_encoder(file, _library(file, source=source), source=source, is_exact=not lossy_because),
    )


def _library(file: HuggingFaceFile, *, source: str) -> _Library:
    """The library's tokenizer, made from a copy of the file in which no text can spell a special token."""
    try:
        import tokenizers
    except ImportError:
        raise MissingExtra(package="tokenizers", extra="hf", purpose="a tokenizer.json file") from None
    secret = secrets.token_hex(16)
    hidden = {name: f"\ufdd0{secret}{token}\ufdd1" for name, token in file.specials.items()}
    copy = json.dumps(_hide(file.root, hidden))
    try:
        library = cast(_Library, tokenizers.Tokenizer.from_str(copy))
    except BaseException as error:
        reason = re.sub(secret, "", _said_by_library(error))[:200]
        raise TokenizerError(f"{source}: not a usable tokenizer.json: {reason}", hint=HINT) from None
    expected = {hidden.get(text, text): token for token, text in enumerate(file.tokens) if text is not None}
    if library.get_vocab(True) != expected:
        raise TokenizerError(f"{source}: the ids of its added tokens do not follow its vocabulary", hint=HINT)
    return library


def _said_by_library(error: BaseException) -> str:
    """The library's complaint: an Exception, or a panic of its Rust code, which is no Exception at all."""
    if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
        raise error
    return str(error)


def _hide(root: Json, hidden: dict[str, str]) -> Json:
    """The file with special tokens renamed, and without what cuts, pads or rolls dice."""
    model = dict(cast(Json, root["model"]))
    if isinstance(model["vocab"], dict):
        model["vocab"] = {hidden.get(text, text): token for text, token in cast(Json, model["vocab"]).items()}
        model["merges"] = _without(model.get("merges"), hidden)
        model["dropout"] = None
    else:
        pieces = cast(list[list[Any]], model["vocab"])
        model["vocab"] = [[hidden.get(text, text), *rest] for text, *rest in pieces]
    if isinstance(model.get("unk_token"), str):
        model["unk_token"] = hidden.get(model["unk_token"], model["unk_token"])
    added = [
        {**entry, "content": hidden.get(entry["content"], entry["content"])}
        for entry in objects(root.get("added_tokens"), "added_tokens")
    ]
    return {
        **root,
        "model": model,
        "added_tokens": added,
        "truncation": None,
        "padding": None,
        # It adds special tokens, which nobody asks for here, and may give the text several times.
        "post_processor": None,
    }


def _without(merges: Any, hidden: dict[str, str]) -> list[Any]:
    """The merges, written as "a b" or as [a, b], without those that would spell a special token."""
    listed = cast(list[Any], merges) if isinstance(merges, list) else []
    return [merge for merge in listed if _spelled(merge) not in hidden]


def _spelled(merge: Any) -> str:
    return (
        "".join(map(str, cast(list[Any], merge)))
        if isinstance(merge, list)
        else str(merge).replace(" ", "", 1)
    )


def _unk(file: HuggingFaceFile, ids: dict[str, int | None]) -> int | None:
    """The unknown token, as the model or the usual names have it, if it is special and has no other part."""
    model = cast(Json, file.root["model"])
    unk = ids["unk"]
    if isinstance(model.get("unk_id"), int):
        unk = cast(int, model["unk_id"])
    elif isinstance(model.get("unk_token"), str):
        unk = file.specials.get(model["unk_token"])
    return unk if unk in file.specials.values() and unk not in (ids["bos"], ids["eos"]) else None


def _encoder(
    file: HuggingFaceFile, library: _Library, *, source: str, is_exact: bool
) -> Callable[[str], list[int]]:
    def whole(text: str) -> list[int]:
        try:
            return library.encode(text, add_special_tokens=False).ids
        except BaseException as error:
            reason = _said_by_library(error)[:200]
            raise TokenizerError(f"{source}: cannot encode a text: {reason}", hint=HINT) from None

    if file.alphabet == "byte-level" or not is_exact:
        return whole
    model = cast(Json, file.root["model"])
    may_match_names = model.get("type") == "Unigram" or bool(model.get("ignore_merges"))
    mark_ids = [file.tokens.index(f"<0x{byte:02X}>") for byte in SPACE_MARK.encode()]

    def exact(text: str) -> list[int]:
        if SPACE_MARK not in text and not (may_match_names and _NAME_OF_A_BYTE.search(text)):
            return whole(text)
        ids: list[int] = []
        for number, part in enumerate(text.split(SPACE_MARK)):
            ids.extend(mark_ids if number else ())
            start = 0
            for name in _NAME_OF_A_BYTE.finditer(part) if may_match_names else ():
                ids.extend(whole(part[start : name.end()]))
                start = name.end()
            ids.extend(whole(part[start:]))
        return ids

    return exact
