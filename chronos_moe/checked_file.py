"""Small files of arrays that carry their kind and a checksum, so that what is read is what was written.

They are safetensors files, so any tool can open them. What the arrays mean is checked by whoever reads them.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from configs.errors import ModelError
from quant.atomic import atomic_file

Arrays = Mapping[str, NDArray[Any]]
LENGTH_BYTES = 8


def write_checked(path: Path, arrays: Arrays, *, kind: str, about: Mapping[str, str]) -> None:
    """Write a file, whole or not at all."""
    metadata = {**about, "format": kind, "checksum": _checksum(arrays, about)}
    with atomic_file(path) as file:
        file.write(
            save({name: np.ascontiguousarray(array) for name, array in arrays.items()}, metadata=metadata)
        )


def read_checked(
    path: Path, *, kind: str, what: str, hint: str
) -> tuple[dict[str, str], dict[str, NDArray[Any]]]:
    """What a file of some kind says of itself, and its arrays, in memory of their own."""
    try:
        data = path.read_bytes()
        arrays: dict[str, NDArray[Any]] = load(data)
        header = json.loads(data[LENGTH_BYTES : LENGTH_BYTES + int.from_bytes(data[:LENGTH_BYTES], "little")])
    except OSError as error:
        raise ModelError(f"cannot read {path}: {error.strerror or error}", hint=hint) from error
    except (SafetensorError, ValueError, KeyError) as error:
        raise ModelError(f"{path} is no {what}: {error}", hint=hint) from error
    about = dict(cast(dict[str, str], header.get("__metadata__") or {}))
    found, checksum = about.pop("format", None), about.pop("checksum", None)
    if found != kind:
        raise ModelError(f"{path} is no {what}: its format is {found!r}, not {kind!r}", hint=hint)
    if checksum != _checksum(arrays, about):
        raise ModelError(f"{path} is damaged: it is not as it was written", hint=hint)
    return about, arrays


def whole(value: object) -> int:
    """A whole number out of a description; anything else is a ValueError."""
    if type(value) is not int or not 0 <= value < 2**31:
        raise ValueError(f"{value!r} is no whole number")
    return value


def _checksum(arrays: Arrays, about: Mapping[str, str]) -> str:
    found = hashlib.sha256(json.dumps(dict(about), sort_keys=True).encode())
    for name in sorted(arrays):
        found.update(f"{name} {arrays[name].dtype} {arrays[name].shape} ".encode())
        found.update(np.ascontiguousarray(arrays[name]).tobytes())
    return found.hexdigest()
