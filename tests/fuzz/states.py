"""Saved states of talks."""

import random
import struct
import zlib
from functools import cache

from configs.errors import ChimeraError, StateError
from runtime.streams.about import About, Identity, SavedSampling, SavedTurn, understood, written
from runtime.streams.sections import MAGIC, VERSION, write_sections
from runtime.streams.state_file import ID_BYTES, SECTIONS, open_state
from tests.fuzz.mutations import changed_bytes, changed_json, one_of
from tests.fuzz.target import Target, put, scratch

PREFIX, ENTRY = struct.Struct("<16sIIII"), struct.Struct("<16sQQII")
ALIGNMENT = 64


def load_state(data: bytes) -> None:
    """A state that is whole says what it says twice alike, and its arrays are as long as they say."""
    saved = open_state(put("talk.state", data))
    assert understood(written(saved.about), source="again") == saved.about
    assert len(saved.ids) == saved.about.position >= saved.about.num_read
    assert len(bytes(saved.state)) + len(saved.outlook) <= len(data)
    assert saved.num_bytes == len(saved.state) + len(saved.outlook) + ID_BYTES * len(saved.ids)
    try:
        saved.about.sampling.settings()
    except ChimeraError as error:
        raise StateError(error.message) from error


@cache
def state_seed() -> bytes:
    """A talk of one turn."""
    about = About(
        identity=Identity(name="seed", model="0" * 64, tokenizer="1" * 64),
        rounds=2,
        exit_threshold=0.0,
        position=3,
        num_read=2,
        sampling=SavedSampling(
            temperature=0.7,
            top_k=40,
            top_p=0.9,
            min_p=0.0,
            repetition_penalty=1.1,
            repetition_window=64,
            logit_bias=("5=off", "7=-1.5"),
            seed="12345",
        ),
        turns=(SavedTurn(start=0, message="Hi", reply="Hé", is_chat=True, branch=0),),
        version="1",
    )
    path = scratch("seed.state")
    write_sections(path, dict(zip(SECTIONS, (written(about), bytes(12), bytes(200), bytes(64)), strict=True)))
    return path.read_bytes()


def put_together(sections: dict[str, bytes], rng: random.Random | None = None) -> bytes:
    """A file of sections with right checksums; with `rng`, a number of its table may be another."""
    offset = _aligned(PREFIX.size + ENTRY.size * len(sections))
    begin, entries = offset, []
    for name, data in sections.items():
        numbers = [offset, len(data), zlib.crc32(data), 0]
        if rng is not None and rng.random() < 0.1:
            numbers[rng.randrange(2)] = rng.choice(
                (0, 1, offset + 64, 2**32, 2**63, 2**64 - 1, len(data) + 1)
            )
        entries.append(ENTRY.pack(name.encode("utf-8", "replace")[:16], *numbers))
        offset = _aligned(offset + len(data))
    table = b"".join(entries)
    file = bytearray(PREFIX.pack(MAGIC, VERSION, len(sections), zlib.crc32(table), 0) + table)
    file += bytes(begin - len(file))
    for number, data in enumerate(sections.values()):
        file += data
        if number < len(sections) - 1:
            file += bytes(_aligned(len(file)) - len(file))
    return bytes(file)


def changed_sections(data: bytes, rng: random.Random) -> bytes:
    """A section changed, dropped or doubled, with checksums that agree."""
    try:
        _, _, count, _, _ = PREFIX.unpack_from(data)
        found = [ENTRY.unpack_from(data, PREFIX.size + ENTRY.size * at) for at in range(min(count, 8))]
    except struct.error:
        return changed_bytes(data, rng)
    sections = {
        name.rstrip(b"\0").decode("utf-8", "replace"): data[begin : begin + size]
        for name, begin, size, _, _ in found
        if size < len(data)
    }
    name = rng.choice((*sections, "about", "more"))
    held = sections.get(name, b"")
    if name == "about" and rng.random() < 0.9:
        sections[name] = changed_json(held, rng)
    elif rng.random() < 0.2:
        sections.pop(name, None)
    else:
        sections[name] = changed_bytes(held, rng)
    return put_together(sections, rng)


def _aligned(offset: int) -> int:
    return -(-offset // ALIGNMENT) * ALIGNMENT


STATE = Target(
    name="state",
    load=load_state,
    seeds=lambda: [state_seed()],
    mutate=one_of(changed_sections, changed_sections, changed_bytes),
    refusals=(StateError,),
    sources=(
        "runtime.streams.sections",
        "runtime.streams.state_file",
        "runtime.streams.about",
        "configs.codec",
    ),
)
