"""Which way of reading is fastest on a disk, with how many reads at once: measured once, remembered.

Blocks of an expert's size are read at random out of the model's own files. The page cache is told to forget
them first, so that what is measured is the disk. What reads through the page cache takes memory twice, so it
has to be a good deal faster than what reads past it. Some disks give more for a moment, to whoever comes
first: so the order changes from turn to turn, the middle of the turns counts, and what is not much faster, or
not in every turn, counts as no faster. The key is the disk and the size of a block. Maps are for who asks for
them: where a sector is bad, a read of a map ends the process, and no error is told.
"""

import json
import os
import random
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from statistics import median
from typing import TypeAlias, cast

from chronos_moe.store.manifest import Manifest, Place
from chronos_moe.store.reading import READERS, Reader, ReaderName
from chronos_moe.store.slots import Slots
from configs.errors import ClusterError
from quant.cache import cache_folder, remember

SECONDS = 0.15
"""How long each candidate reads."""
TURNS = 3
SAME = 1.25
"""Rates that are so near to the best are as good: then several reads at once come sooner than one by one."""
Rates: TypeAlias = dict[tuple[ReaderName, int], list[float]]
"""Bytes a second of each way and number of reads at once, in each turn."""
WORTH = 1.2
"""How many times as fast as reading past the page cache a reading through it has to be."""
LEAST_BYTES = 64 * 2**20
"""Fewer tell nothing of a disk."""
USUAL_READERS = 4
CANDIDATES: tuple[tuple[ReaderName, int], ...] = (
    ("direct", 1), ("direct", 2), ("direct", 4), ("direct", 8), ("buffered", 4),
)  # fmt: skip


@dataclass(frozen=True, kw_only=True, slots=True)
class ReadingChoice:
    """How experts are read and why."""

    reader: ReaderName
    num_readers: int
    reason: str
    peak_bytes_s: float
    """The most that the disk gave in blocks of an expert's size; 0 where nobody measured."""


def best_reading(manifest: Manifest, folder: Path) -> ReadingChoice:
    """The way for a model's files."""
    paths = [folder / cluster.file for cluster in manifest.clusters]
    places = list(manifest.places().values())
    if len(places) * manifest.form.block_bytes < LEAST_BYTES:
        return _usual(paths)
    path = cache_folder() / "disks" / f"{_key(paths, manifest)}.json"
    found = _read(path)
    if found is None:
        found = measure(places, paths, block_bytes=manifest.form.block_bytes)
        remember(
            path, json.dumps({f"{name} {count}": rates for (name, count), rates in found.items()}).encode()
        )
    return chosen(found)


def measure(
    places: Sequence[Place], paths: Sequence[Path], *, block_bytes: int, seconds: float = SECONDS
) -> Rates:
    """Of each candidate that works here, in turns."""
    _forget(paths)
    found: Rates = {}
    for turn in range(TURNS):
        for name, num_threads in CANDIDATES[turn:] + CANDIDATES[:turn]:
            with suppress(OSError):
                reader = READERS[name](paths)
                try:
                    rate = _rate(
                        reader,
                        places,
                        paths,
                        block_bytes=block_bytes,
                        num_threads=num_threads,
                        seed=turn,
                        seconds=seconds,
                    )
                finally:
                    reader.close()
                found.setdefault((name, num_threads), []).append(rate)
    if not found:
        raise _unreadable(paths)
    return found


def _forget(paths: Sequence[Path]) -> None:
    """Have the page cache give up whole files, which it holds in large pieces once they were written."""
    for path in paths if hasattr(os, "posix_fadvise") else ():
        # A file system that cannot leaves there what the cache holds.
        with suppress(OSError), path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _rate(
    reader: Reader,
    places: Sequence[Place],
    paths: Sequence[Path],
    *,
    block_bytes: int,
    num_threads: int,
    seed: int,
    seconds: float,
) -> float:
    slots = Slots(num_slots=num_threads, block_bytes=block_bytes)
    handles = [os.open(path, os.O_RDONLY) for path in paths]
    try:
        return _raced(
            lambda place, number: _cold_read(reader, place, handles, slots.block(number).data),
            places,
            num_threads=num_threads,
            seed=seed,
            seconds=seconds,
        )
    finally:
        for handle in handles:
            os.close(handle)


def _cold_read(reader: Reader, place: Place, handles: Sequence[int], into: memoryview) -> int:
    """Read what the page cache has been told to forget."""
    if hasattr(os, "posix_fadvise"):
        os.posix_fadvise(handles[place.cluster], place.offset, len(into), os.POSIX_FADV_DONTNEED)
    reader.read(place, into)
    return len(into)


def _raced(
    read: Callable[[Place, int], int],
    places: Sequence[Place],
    *,
    num_threads: int,
    seed: int,
    seconds: float,
) -> float:
    """Bytes a second of some threads that read at random for a while."""
    read_bytes, errors = [0] * num_threads, list[OSError]()
    begin = time.perf_counter()

    def go(number: int) -> None:
        draws = random.Random(seed * 1000 + number)
        try:
            while not read_bytes[number] or time.perf_counter() - begin < seconds:
                read_bytes[number] += read(draws.choice(places), number)
        except OSError as error:
            errors.append(error)

    threads = [threading.Thread(target=go, args=(number,)) for number in range(num_threads)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    return sum(read_bytes) / (time.perf_counter() - begin)


def chosen(rates: Rates) -> ReadingChoice:
    """The way that rates speak for."""
    found = {way: median(turns) for way, turns in rates.items()}
    past = {way: rate for way, rate in found.items() if way[0] == "direct"}
    best = max(found, key=lambda way: found[way])
    if past and found[best] <= WORTH * max(past.values()):
        best = max(past, key=lambda way: past[way])
    usual = (best[0], USUAL_READERS)
    in_turns = zip(rates[best], rates.get(usual, ()), strict=False)
    if found[best] <= SAME * found.get(usual, 0.0) or any(rate < other for rate, other in in_turns):
        best = usual
    told = ", ".join(f"{name} × {count} {rate / 1e6:,.0f} MB/s" for (name, count), rate in found.items())
    return ReadingChoice(
        reader=best[0], num_readers=best[1], reason=f"measured here: {told}", peak_bytes_s=peak_of(rates)
    )


def peak_of(rates: Rates) -> float:
    """The most that a disk gave."""
    return max(map(max, rates.values()))


def _usual(paths: Sequence[Path]) -> ReadingChoice:
    """Where there is too little to measure."""
    reasons = ["too few bytes to measure a disk by"]
    names: dict[ReaderName, None] = {name: None for name, _ in CANDIDATES}
    for name in names:
        try:
            READERS[name](paths).close()
        except OSError as error:
            reasons.append(f"not {name}: {error.strerror or error}")
        else:
            return ReadingChoice(
                reader=name, num_readers=USUAL_READERS, reason="; ".join(reasons), peak_bytes_s=0.0
            )
    raise _unreadable(paths)


def _unreadable(paths: Sequence[Path]) -> ClusterError:
    return ClusterError(
        f"{paths[0].parent}: its experts cannot be read in any way", hint="Look at the disk and the files."
    )


def _key(paths: Sequence[Path], manifest: Manifest) -> str:
    devices = sorted({path.stat().st_dev for path in paths})
    return sha256(f"{devices} {manifest.form.block_bytes} {CANDIDATES} {TURNS}".encode()).hexdigest()[:16]


def _read(path: Path) -> Rates | None:
    """What was remembered, if every number can be one."""
    try:
        read: object = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
    if not isinstance(read, dict):
        return None
    numbers = cast("dict[str, object]", read)
    found: Rates = {}
    for name, count in CANDIDATES:
        match numbers.get(f"{name} {count}"):
            case [*rates] if rates and all(isinstance(rate, float) and 0 < rate < 1e13 for rate in rates):
                found[name, count] = cast("list[float]", rates)
            case None:
                continue
            case _:
                return None
    return found or None
