"""Nested Python values as JSON with the tensors apart, and back: what a checkpoint holds instead of a pickle.

    {"lr": (0.9, nan), 0: tensor}
    {"dict": [["lr", {"tuple": [0.9, {"float": "nan"}]}], [0, {"tensor": "0"}]]}

Everything comes back as it was, by type too: integer keys, tuples, NaN, NumPy arrays. What has no such form
is refused when it is written, and not when it is needed.
"""

import json
import math
import re
from collections.abc import Mapping
from typing import Any, NoReturn

import numpy as np
import torch
from torch import Tensor

from configs.errors import ModelError, UsageError
from configs.strict_json import JsonValue, parse_object
from configs.wording import Place, path_text

MAX_DEPTH = 24
LARGEST_INTEGER_BITS = 1024
RESERVED_NAME = "__metadata__"
HEX = re.compile(r"(?:[0-9a-f]{2})*")


def to_json(value: Mapping[str, Any]) -> tuple[str, dict[str, Tensor]]:
    """The text, and the tensors that it names by their place, such as `optimizer/state/0/exp_avg`."""
    tensors: dict[str, Tensor] = {}
    return json.dumps(_encoded(value, (), tensors), separators=(",", ":"), allow_nan=False), tensors


def from_json(text: str, tensors: Mapping[str, Tensor], *, source: str) -> dict[str, Any]:
    """What `to_json` was given. `source` names the file in messages."""
    value = _decoded(parse_object(text, source=source, error=ModelError), tensors, source)
    if not isinstance(value, dict):
        _fail(source, "the outermost value is no dict")
    return value


def _encoded(value: Any, place: Place, tensors: dict[str, Tensor]) -> JsonValue:
    if len(place) > MAX_DEPTH:
        _refuse(place, f"nested more than {MAX_DEPTH} levels deep")
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, Tensor):
        return {"tensor": _named(value, place, tensors)}
    if isinstance(value, np.ndarray):
        return {"array": _named(_as_tensor(value, place), place, tensors)}
    if type(value) is int and value.bit_length() <= LARGEST_INTEGER_BITS:
        return value
    if type(value) is float:
        return value if math.isfinite(value) else {"float": str(value)}
    if type(value) is str:
        return _checked_text(value, place)
    if type(value) is bytes:
        return {"bytes": value.hex()}
    if isinstance(value, Mapping):
        pairs = value.items()
        return {"dict": [[_key(key, place), _encoded(one, (*place, key), tensors)] for key, one in pairs]}
    if isinstance(value, list | tuple) and type(value) in (list, tuple):
        items: list[JsonValue] = [_encoded(one, (*place, at), tensors) for at, one in enumerate(value)]
        return items if isinstance(value, list) else {"tuple": items}
    _refuse(
        place,
        f"a {type(value).__name__} cannot be saved; allowed are tensors, arrays, dicts with names or integers"
        " as keys, lists, tuples, text, bytes, numbers, true, false and None",
    )


def _key(key: Any, place: Place) -> str | int:
    if type(key) is str:
        return _checked_text(key, place)
    if type(key) is int and key.bit_length() <= LARGEST_INTEGER_BITS:
        return key
    _refuse(place, f"the key {key!a} is neither a name nor an integer")


def _named(tensor: Tensor, place: Place, tensors: dict[str, Tensor]) -> str:
    """A name that no other tensor has; places such as a/0 and a/"0" would share theirs."""
    plain = "/".join(str(step) for step in place)
    name, again = plain, 1
    while name in tensors or name in ("", RESERVED_NAME):
        again += 1
        name = f"{plain}#{again}"
    tensors[name] = tensor
    return name


def _as_tensor(array: Any, place: Place) -> Tensor:
    try:
        return torch.from_numpy(np.array(array, order="C"))
    except TypeError:
        _refuse(place, f"an array of {array.dtype} cannot be saved; use native numbers or booleans")


def _checked_text(text: str, place: Place) -> str:
    if any("\ud800" <= character <= "\udfff" for character in text):
        _refuse(place, f"the text {text[:40]!a} holds half a surrogate pair, which no file can hold")
    return text


def _decoded(value: Any, tensors: Mapping[str, Tensor], source: str) -> Any:
    if isinstance(value, list):
        return [_decoded(one, tensors, source) for one in value]
    if not isinstance(value, dict):
        return value
    if len(value) != 1:
        _fail(source, f"an object with the keys {', '.join(value) or 'none'}")
    ((tag, inner),) = value.items()
    match tag, inner:
        case "tensor", str() if inner in tensors:
            return tensors[inner]
        # NumPy has no bfloat16, so no array was written as one.
        case "array", str() if inner in tensors and tensors[inner].dtype != torch.bfloat16:
            return tensors[inner].numpy()
        case "float", "nan" | "inf" | "-inf":
            return float(inner)
        case "bytes", str() if HEX.fullmatch(inner):
            return bytes.fromhex(inner)
        case "tuple", list():
            return tuple(_decoded(one, tensors, source) for one in inner)
        case "dict", list():
            return dict(_pair(one, tensors, source) for one in inner)
    _fail(source, f"a value of the kind {tag!a} that names {ascii(inner)[:60]}")


def _pair(value: Any, tensors: Mapping[str, Tensor], source: str) -> tuple[str | int, Any]:
    if not isinstance(value, list) or len(value) != 2 or type(value[0]) not in (str, int):
        _fail(source, f"an entry of a dict is {ascii(value)[:60]}")
    return value[0], _decoded(value[1], tensors, source)


def _refuse(place: Place, what: str) -> NoReturn:
    raise UsageError(f"{path_text(place) or 'the state'}: {what}")


def _fail(source: str, what: str) -> NoReturn:
    raise ModelError(
        f"{source}: {what}, which this version cannot read",
        hint="If a newer version wrote the file, update: pip install --upgrade chimera-edge",
    )
