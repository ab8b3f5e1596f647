"""What training reads back: token shards with their index, checkpoints."""

import hashlib
import io
import json
import random
from functools import cache

import numpy as np
import torch

from chimera.data.shard_index import DATA_NAMES, INDEX_NAME, VERSION
from chimera.data.shards import open_shards
from chimera.train.checkpoint import FORMAT, FORMAT_VERSION, load
from chimera.train.sealed import BEFORE_DIGEST, DIGEST_AT, LENGTH_BYTES, NO_DIGEST, write_sealed
from chimera.train.tree_codec import to_json
from configs.errors import DataError, ModelError
from tests.fuzz.mutations import changed_bytes, changed_json, one_of
from tests.fuzz.packed import changed_header_text
from tests.fuzz.target import Target, joined, put, scratch, separated

SHARD_FILES = (INDEX_NAME, *DATA_NAMES)
NPY_SHAPE = b"'shape': ("


def load_shards(data: bytes) -> None:
    """Map shards and read all that a batch or a report reads of them."""
    files = separated(data, SHARD_FILES)
    folder = scratch("shards")
    folder.mkdir(exist_ok=True)
    for name in SHARD_FILES:
        (folder / name).write_bytes(files.get(name, b""))
    shards = open_shards(folder)
    assert len(shards.bytes_N()) == shards.num_documents == len(shards.answers_N())
    assert shards.num_bytes() >= 0
    assert (
        int(shards.starts_N[-1] + shards.lengths_N[-1]) == shards.num_tokens if shards.num_documents else True
    )
    assert all(0 <= number < len(shards.sources) for number in shards.source_N.tolist())


@cache
def shards_seed() -> bytes:
    """Two sources, three documents, 16-bit tokens."""
    lengths = np.array([3, 1, 5], dtype=np.int32)
    tokens = np.arange(9, dtype=np.uint16)
    files = {
        "tokens.bin": tokens.tobytes(),
        "answers.bin": bytes([0, 1, 0, 1, 1, 0, 0, 0, 1]),
        "lengths.npy": _npy(lengths),
        "sources.npy": _npy(np.array([0, 1, 0], dtype=np.uint16)),
        "bytes.npy": _npy(np.array([1, 2, 3, 4, 5, 6, 7, 8, 0, 3], dtype=np.uint16)),
    }
    index = {
        "version": VERSION,
        "dtype": "uint16",
        "tokenizer": "0" * 64,
        "sources": ["story", "sum"],
        "files": {},
        "made_from": "0" * 64,
    }
    return joined(indexed({INDEX_NAME: json.dumps(index).encode(), **files}), SHARD_FILES)


def changed_shards(data: bytes, rng: random.Random) -> bytes:
    """The index changed as JSON, or a table in its header or data, mostly with the digest that fits."""
    files = separated(data, SHARD_FILES)
    name = rng.choice(SHARD_FILES)
    held = files.get(name, b"")
    if name == INDEX_NAME:
        files[name] = changed_json(held, rng)
    elif name.endswith(".npy") and rng.random() < 0.5 and held.find(NPY_SHAPE) >= 0:
        at = held.index(NPY_SHAPE) + len(NPY_SHAPE)
        end = held.find(b")", at)
        shape = rng.choice(
            (b"", b"3, 3", b"0,", b"-1,", b"%d," % 2**40, b"%d, %d" % (2**33, 2**33), b"99,", b"4,")
        )
        files[name] = held[:at] + shape + held[end:]
    else:
        files[name] = changed_bytes(held, rng)
    return joined(indexed(files) if name != INDEX_NAME and rng.random() < 0.9 else files, SHARD_FILES)


def indexed(files: dict[str, bytes]) -> dict[str, bytes]:
    """The files with sizes and digests in their index, where it can take them."""
    try:
        index = json.loads(files[INDEX_NAME])
        index["files"] = {
            name: [len(files.get(name, b"")), hashlib.sha256(files.get(name, b"")).hexdigest()]
            for name in DATA_NAMES
        }
        return {**files, INDEX_NAME: json.dumps(index).encode()}
    except (ValueError, TypeError, RecursionError):
        return files


def _npy(values: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, values)
    return file.getvalue()


def load_checkpoint(data: bytes) -> None:
    """A checkpoint gives a tree of plain values and tensors that lie in memory of their own."""
    state = load(put("step-000000001.safetensors", data)).state
    waiting: list[object] = [state]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            waiting += value.values()
        elif isinstance(value, list | tuple):
            waiting += value
        elif isinstance(value, torch.Tensor):
            value.clone()
        else:
            assert isinstance(value, str | int | float | bytes | np.ndarray | None)


@cache
def checkpoint_seed() -> bytes:
    """A tensor of many kinds, and every kind of value."""
    tree, tensors = to_json(
        {
            "model": {"w": torch.arange(6.0).reshape(2, 3), "b": torch.ones(2, dtype=torch.bfloat16)},
            "flags": [
                True,
                None,
                1.5,
                float("nan"),
                (1, b"\x01"),
                {3: np.arange(3), "none": torch.empty(0, 4)},
            ],
            "mask": torch.tensor([True, False]),
        }
    )
    metadata = {"format": FORMAT, "format_version": FORMAT_VERSION, "step": "1", "tree": tree}
    path = scratch("seed.safetensors")
    with path.open("wb") as file:
        write_sealed(file, tensors, metadata=metadata)
    return path.read_bytes()


def changed_seal(data: bytes, rng: random.Random) -> bytes:
    """The header's JSON or the tree in it changed, sealed again."""
    length = int.from_bytes(data[:LENGTH_BYTES], "little")
    text, rest = data[LENGTH_BYTES : LENGTH_BYTES + length], data[LENGTH_BYTES + length :]
    text = changed_header_text(text, rng) if rng.random() < 0.9 else changed_bytes(text, rng)
    if rng.random() < 0.2:
        rest = changed_bytes(rest, rng)
    return sealed(len(text).to_bytes(LENGTH_BYTES, "little") + text + rest)


def sealed(data: bytes) -> bytes:
    """The file with its own digest, if the digest has its place."""
    if not data[LENGTH_BYTES:].startswith(BEFORE_DIGEST):
        return data
    head, tail = data[:DIGEST_AT], data[DIGEST_AT + len(NO_DIGEST) :]
    return head + hashlib.sha256(head + NO_DIGEST.encode() + tail).hexdigest().encode() + tail


SHARDS = Target(
    name="shards",
    load=load_shards,
    seeds=lambda: [shards_seed()],
    mutate=changed_shards,
    refusals=(DataError,),
    sources=("chimera.data.shard_index", "chimera.data.shards"),
)
CHECKPOINT = Target(
    name="checkpoint",
    load=load_checkpoint,
    seeds=lambda: [checkpoint_seed()],
    mutate=one_of(changed_seal, changed_seal, changed_bytes),
    refusals=(ModelError,),
    sources=("chimera.train.sealed", "chimera.train.tree_codec", "chimera.train.checkpoint"),
)
