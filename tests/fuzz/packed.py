"""Packed weights: a `.b158` file whole, and the folder of a model whose weights are all zero."""

import json
import random
from functools import cache

import numpy as np

from configs.errors import ContainerError, ModelError
from configs.load import build_config
from configs.text.template import DEFAULT_TEMPLATE
from quant.container import open_b158
from quant.container_format import LENGTH_BYTES, header_bytes, stored_parts
from runtime.model_folder import open_model
from runtime.packed_specs import packed_specs
from tests.fuzz.mutations import Pairs, changed_bytes, changed_json, one_of, parsed, written
from tests.fuzz.target import Target, joined, put, scratch, separated
from tests.fuzz.vocabularies import small_sentencepiece
from tests.quant.b158_files import take_apart, with_header, write_small

FOLDER_FILES = ("header", "config.json", "tokenizer.model", "chat_template.jinja")


def load_file(data: bytes) -> None:
    """Open a file, read every tensor inside the map and nowhere else, and verify it."""
    with open_b158(put("file.b158", data)) as file:
        assert file._mapped is not None
        low, high = np.lib.array_utils.byte_bounds(np.frombuffer(file._mapped, dtype=np.uint8))
        for name in file.tensors:
            read = file.tensor(name)
            for array in [read] if isinstance(read, np.ndarray) else [read.codes, read.scales]:
                first, last = np.lib.array_utils.byte_bounds(array)
                assert low <= first < last <= high, f"{name!a} lies outside the map"
                array.copy()
        file.verify()
        assert isinstance(file.config, str)
        assert len(file.digest) == 64


@cache
def small_file() -> bytes:
    """A file with a tensor of every kind."""
    path = scratch("seed.b158")
    write_small(path, metadata={"model_name": "seed"})
    return path.read_bytes()


def changed_header(data: bytes, rng: random.Random) -> bytes:
    """The header's own JSON, or the JSON inside its metadata, changed; the length fits again."""
    length = int.from_bytes(data[:LENGTH_BYTES], "little")
    text, rest = data[LENGTH_BYTES : LENGTH_BYTES + length], data[LENGTH_BYTES + length :]
    return with_header(changed_header_text(text, rng), rest)


def changed_header_text(text: bytes, rng: random.Random) -> bytes:
    """The same for the text alone."""
    try:
        header = parsed(text)
    except ValueError:
        return changed_bytes(text, rng)
    metadata = dict(header).get("__metadata__") if isinstance(header, Pairs) else None
    pairs = metadata if isinstance(metadata, Pairs) else ()
    inner = [at for at, (_, value) in enumerate(pairs) if isinstance(value, str) and "{" in value]
    if not isinstance(metadata, Pairs) or not inner or rng.random() < 0.3:
        return changed_json(text.rstrip(), rng)
    at = rng.choice(inner)
    key, value = metadata[at]
    changed = changed_json(value.encode("utf-8", "surrogatepass"), rng)
    metadata[at] = (key, changed.decode("utf-8", "replace"))
    return written(header).encode("utf-8", "replace")


def changed_data(data: bytes, rng: random.Random) -> bytes:
    """Codes and scales changed, NaN among them, mostly with digests that agree."""
    try:
        parts = take_apart(data)
        extents = [entry["data_offsets"] for entry in parts.header.values()]
    except (ValueError, KeyError, TypeError, AttributeError):
        return changed_bytes(data, rng)
    whole = bytearray(parts.data)
    for _ in range(rng.choice((1, 1, 4))):
        at = rng.randrange(len(whole) + 1)
        patterns = (
            b"\x00\x7e",
            b"\x00\x7c",
            b"\x00\xfc",
            b"\x00\x00\xc0\x7f",
            b"\xff\xff\xff\xff",
            b"\x80",
            b"\x03",
        )
        pattern = rng.choice((*patterns, rng.randbytes(4)))
        whole[at : at + len(pattern)] = pattern[: len(whole) - at]
    parts.data = bytes(whole)
    if rng.random() < 0.8 and all(map(_is_extent, extents)):
        parts.digests = {
            name: digest(parts.data[entry["data_offsets"][0] : entry["data_offsets"][1]])
            for name, entry in parts.header.items()
        }
    return parts.together()


def load_folder(data: bytes) -> None:
    """Open a model's folder, its tokenizer and template. Only the header is data; weights are a hole."""
    files = separated(data, FOLDER_FILES)
    folder = scratch("model")
    folder.mkdir(exist_ok=True)
    for name in FOLDER_FILES[1:]:
        (folder / name).unlink(missing_ok=True)
        if files.get(name):
            (folder / name).write_bytes(files[name])
    header = with_header(files.get("header", b""), b"")
    with (folder / "model.b158").open("wb") as file:
        file.write(header)
        file.truncate(len(header) + _num_data_bytes())
    model = open_model(folder)
    tokenizer = model.tokenizer()
    assert tokenizer.vocab_size <= model.config.vocab_size
    model.template(tokenizer).render([{"role": "user", "content": "Hi"}], add_generation_prompt=True)


@cache
def _small_model() -> tuple[str, tuple[object, ...]]:
    config = build_config({"preset": "micro", "num_hidden_layers": 2, **_SMALLER}, source="seed")
    return json.dumps({"preset": "micro", "num_hidden_layers": 2, **_SMALLER}), packed_specs(config)


_SMALLER = {"backbone": {"layer_pattern": "GD SK", "moe": {"enabled": False}}, "looping": {"enabled": False}}


def _num_data_bytes() -> int:
    return sum(part.num_bytes for spec in _small_model()[1] for part in stored_parts(spec))


def folder_seeds() -> list[bytes]:
    """A folder with all its files, and one without a template of its own."""
    config, specs = _small_model()
    digests = {part.name: "0" * 64 for spec in specs for part in stored_parts(spec)}
    header = header_bytes(specs, config=config, metadata={"model_name": "seed"}, digests=digests)
    whole = {
        "header": header[LENGTH_BYTES:].rstrip(),
        "config.json": config.encode(),
        "tokenizer.model": small_sentencepiece(),
        "chat_template.jinja": DEFAULT_TEMPLATE.encode(),
    }
    return [joined(whole, FOLDER_FILES), joined({**whole, "chat_template.jinja": b""}, FOLDER_FILES)]


def changed_folder(data: bytes, rng: random.Random) -> bytes:
    """One file of a folder changed by its own kind, or both copies of the config alike."""
    files = separated(data, FOLDER_FILES)
    name = rng.choice((*FOLDER_FILES[:1] * 4, *FOLDER_FILES))
    text = files.get(name, b"")
    if name == "header":
        files[name] = changed_header_text(text, rng)
    else:
        files[name] = changed_json(text, rng) if name == "config.json" else changed_bytes(text, rng)
    return joined(files, FOLDER_FILES)


def _is_extent(value: object) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(type(size) is int for size in value)


def digest(data: bytes) -> str:
    import hashlib

    return hashlib.sha256(data).hexdigest()


FILE = Target(
    name="b158",
    load=load_file,
    seeds=lambda: [small_file()],
    mutate=one_of(changed_header, changed_header, changed_data, changed_bytes),
    refusals=(ContainerError,),
    sources=("quant.container", "quant.container_check", "quant.container_format", "configs.strict_json"),
)
FOLDER = Target(
    name="model",
    load=load_folder,
    seeds=folder_seeds,
    mutate=changed_folder,
    refusals=(ModelError,),
    sources=("runtime.model_folder", "runtime.packed_inspection", "quant.container_check", "configs.load"),
    max_bytes=1 << 18,
)
