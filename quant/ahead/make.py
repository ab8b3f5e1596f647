"""Makes the archives of kernels: `python -m quant.ahead.make` those for this machine, `--all` those for all.

Each kernel is taken as a text once for all levels that answer its questions alike, and becomes an object for
each. Objects are kept in the cache folder under the digests of what they were made from, so that an edit
costs the kernels that it touches.
"""

import argparse
import hashlib
import importlib
import importlib.metadata
import multiprocessing
import os
import re
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import cache as cache_calls
from functools import lru_cache
from pathlib import Path

from configs.errors import UsageError
from configs.version import VERSION
from quant import cache, cpu
from quant.ahead.archive import FOLDER, Archive, Made, path_of, to_bytes
from quant.ahead.levels import LEVELS, Level, level_named
from quant.ahead.loader import levels_here
from quant.atomic import atomic_file
from quant.kernels.forms import FORMS
from quant.sources import ROOT, sources_of

_KERNEL = re.compile(r"^@kernel\n(?:@.*\n)*def (\w+)\(", re.MULTILINE)
_PLACES = ("quant", "runtime")
_MAKERS = ("front.py", "back.py")
_DIGEST_BYTES = 32
_KEPT_SECONDS = 30 * 24 * 3600

Progress = Callable[[str], None]


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """A kernel and the file that it stands in."""

    name: str
    file: Path

    @property
    def module(self) -> str:
        return self.name.rpartition(".")[0]


@dataclass(kw_only=True, slots=True)
class _Plan:
    """What is to be made: kernels by levels; and what there is, by name and level."""

    wanted: dict[tuple[str, str], Path]
    """Kernel and level: where the cache keeps the object."""
    parts: dict[str, dict[Path, str]]
    """Kernel: its sources and their digests, as they were before anything was compiled."""
    found: dict[tuple[str, str], bytes] = field(default_factory=dict[tuple[str, str], bytes])

    def missing(self) -> set[tuple[str, str]]:
        return self.wanted.keys() - self.found.keys()


def main(argv: Sequence[str] | None = None) -> int:
    """Make archives and say how large they are."""
    parser = argparse.ArgumentParser(
        prog="python -m quant.ahead.make", description="Compile the kernels ahead."
    )
    parser.add_argument("--all", action="store_true", help="for every target, not for this machine alone")
    parser.add_argument("--level", action="append", metavar="NAME", help="for this target; may come often")
    parser.add_argument("--into", type=Path, default=FOLDER, metavar="FOLDER", help=f"default: {FOLDER}")
    parser.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)), metavar="N")
    parser.add_argument("--quiet", action="store_true", help="tell of what is compiled alone")
    args = parser.parse_args(argv)
    begin = time.monotonic()
    paths = make(_levels(args), folder=args.into, jobs=args.jobs, progress=_tell)
    if not args.quiet:
        for path in paths:
            _tell(f"{path}: {path.stat().st_size / 1000:,.0f} kB")
        _tell(f"done in {time.monotonic() - begin:.0f} s")
    return 0


def make(
    levels: Sequence[Level], *, folder: Path = FOLDER, jobs: int = 1, progress: Progress | None = None
) -> list[Path]:
    """Make the archives of some levels, from the cache as far as it goes."""
    tell = progress or _untold
    plan = _planned(levels)
    for place, path in plan.wanted.items():
        code = _kept(path)
        if code is not None:
            plan.found[place] = code
    while missing := plan.missing():
        leader = _leader(missing)
        tell(f"{len({name for name, level in missing if level == leader})} kernels for {leader}")
        for place, code in _compiled(missing, leader=leader, jobs=jobs):
            if place in missing:
                cache.remember(plan.wanted[place], hashlib.sha256(code).digest() + code)
                plan.found[place] = code
        left = {name for name, level in plan.missing() if level == leader}
        assert not left, f"no object came for {sorted(left)}"
    _clean()
    return [_written(level, plan, folder=folder) for level in levels]


@lru_cache(maxsize=1)
def sources() -> tuple[Source, ...]:
    """Every kernel of our packages."""
    found: list[Source] = []
    for place in _PLACES:
        for file in sorted((ROOT / place).rglob("*.py")):
            module = ".".join(file.relative_to(ROOT).with_suffix("").parts)
            names = _KERNEL.findall(file.read_text(encoding="utf-8"))
            found += [Source(name=f"{module}.{name}", file=file) for name in names]
    return tuple(found)


@cache_calls
def wanted_at(level: Level) -> frozenset[str]:
    """The names of the kernels that a level holds, or its base for it.

    Of an operation with several forms it is the best, and those that no lower level could hold; lower ones
    are found at lower levels.
    """
    target = target_of(level)
    below = [
        target_of(other)
        for other in LEVELS
        if other.architecture == level.architecture and other.needs < level.needs
    ]
    some_form: set[str] = set()
    held: set[str] = set()
    for forms in FORMS.values():
        some_form |= set(map(str, forms.values()))
        allowed: list[cpu.Form] = [form for form in cpu.FORMS if form in forms and target.allows(form)]
        new: list[cpu.Form] = [form for form in allowed if not any(other.allows(form) for other in below)]
        held |= {str(forms[form]) for form in (*allowed[:1], *new)}
    return frozenset({source.name for source in sources()} - some_form | held)


def target_of(level: Level) -> cpu.Target:
    """A level as the kernels' sources see it."""
    origin = "a level of kernels made ahead of time"
    return cpu.Target(architecture=level.architecture, name=level.cpu, features=level.needs, origin=origin)


def _levels(args: argparse.Namespace) -> tuple[Level, ...]:
    if args.level:
        unknown = [name for name in args.level if name not in {level.name for level in LEVELS}]
        if unknown:
            raise UsageError(f"no level {unknown[0]}; there are {', '.join(level.name for level in LEVELS)}")
        return tuple(level_named(name) for name in args.level)
    return LEVELS if args.all else levels_of_host()


def levels_of_host() -> tuple[Level, ...]:
    """The best levels that this machine can run, down to one that needs no other."""
    here = levels_here()
    whole = next(place for place, level in enumerate(here) if not level.base)
    return here[: whole + 1]


def _planned(levels: Sequence[Level]) -> _Plan:
    parts = {source.name: sources_of(source.file) for source in sources()}
    wanted: dict[tuple[str, str], Path] = {}
    for level in levels:
        for name in wanted_at(level):
            words = "\n".join((_digest_of(parts[name]), repr(level), _is_based(level, name), _makers_key()))
            key = hashlib.sha256(words.encode()).hexdigest()[:24]
            wanted[name, level.name] = _kept_folder() / level.name / f"{name}-{key}.o"
    return _Plan(wanted=wanted, parts=parts)


def _digest_of(part: dict[Path, str]) -> str:
    words = "\n".join(f"{file.relative_to(ROOT)} {digest}" for file, digest in part.items())
    return hashlib.sha256(words.encode()).hexdigest()


def _is_based(level: Level, name: str) -> str:
    """Whether a kernel may be left to the level's base."""
    return "based" if level.base and name in wanted_at(level_named(level.base)) else "alone"


def _leader(missing: Iterable[tuple[str, str]]) -> str:
    """The level with most to be made; among equals the best."""
    counts = {level.name: 0 for level in LEVELS}
    for _, level in missing:
        counts[level] += 1
    return max(counts, key=lambda name: counts[name])


def _compiled(
    missing: set[tuple[str, str]], *, leader: str, jobs: int
) -> Iterable[tuple[tuple[str, str], bytes]]:
    """Objects of one level, and of all others that answer like it, by processes that do nothing else."""
    chunks: dict[str, list[tuple[str, tuple[str, ...]]]] = {}
    for name in sorted({name for name, level in missing if level == leader}):
        others = tuple(level for other, level in missing if other == name and level != leader)
        chunks.setdefault(name.rpartition(".")[0], []).append((name, others))
    spawned = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, spawned, initializer=_begin, initargs=(leader,)) as pool:
        for made in pool.map(_make_chunk, chunks.values()):
            yield from made


def _begin(leader: str) -> None:
    """A process of its own: it stands for a level as long as it lives."""
    from quant.ahead import front

    front.take_over()
    cpu.stand_for(front.questioned(target_of(level_named(leader))))
    _led_by.append(leader)


_led_by: list[str] = []


def _make_chunk(chunk: list[tuple[str, tuple[str, ...]]]) -> list[tuple[tuple[str, str], bytes]]:
    """Kernels of one module for this process's level, and for others that answer like it."""
    from quant.ahead import back, front

    (leader,) = _led_by
    made: list[tuple[tuple[str, str], bytes]] = []
    for name, others in chunk:
        module, _, function = name.rpartition(".")
        text = front.text_of(getattr(importlib.import_module(module), function))
        own = text.answers(target_of(level_named(leader)))
        for level in map(level_named, (leader, *others)):
            if text.answers(target_of(level)) != own:
                continue
            base = level_named(level.base) if level.base else None
            is_in_base = base is not None and name in wanted_at(base) and text.answers(target_of(base)) == own
            code = b"" if is_in_base else back.object_of(text, name=name, level=level)
            made.append(((name, level.name), code))
    return made


def _written(level: Level, plan: _Plan, *, folder: Path) -> Path:
    """Write one archive. What is empty is found in the level's base."""
    held = {name: code for (name, of), code in plan.found.items() if of == level.name and code}
    parts = {name: plan.parts[name] for name in held}
    digests = {file: digest for part in parts.values() for file, digest in part.items()}
    places = {file: place for place, file in enumerate(sorted(digests))}
    archive = Archive(
        level=level.name,
        versions={"chimera": VERSION, **_versions()},
        sources=tuple((file.relative_to(ROOT).as_posix(), digests[file]) for file in places),
        objects={
            name: Made(code=code, sources=tuple(places[file] for file in parts[name]))
            for name, code in held.items()
        },
    )
    path = path_of(level.name, folder=folder)
    folder.mkdir(parents=True, exist_ok=True)
    with atomic_file(path) as out:
        out.write(to_bytes(archive))
    return path


def _kept_folder() -> Path:
    return cache.cache_folder() / "objects"


def _kept(path: Path) -> bytes | None:
    """What the cache holds, if it is as it was written."""
    try:
        data = path.read_bytes()
        os.utime(path)
    except OSError:
        return None
    code = data[_DIGEST_BYTES:]
    return code if hashlib.sha256(code).digest() == data[:_DIGEST_BYTES] else None


def _clean() -> None:
    """Forget objects that nobody has asked for in a month."""
    oldest = time.time() - _KEPT_SECONDS
    for path in _kept_folder().glob("*/*.o"):
        if path.stat().st_mtime < oldest:
            path.unlink(missing_ok=True)


@lru_cache(maxsize=1)
def _makers_key() -> str:
    """What decides an object besides its sources and its level."""
    here = Path(__file__).resolve().parent
    makers = [hashlib.sha256((here / name).read_bytes()).hexdigest() for name in _MAKERS]
    return "\n".join((*makers, *(f"{name} {version}" for name, version in _versions().items())))


def _versions() -> dict[str, str]:
    return {
        "python": ".".join(map(str, sys.version_info[:2])),
        **{name: importlib.metadata.version(name) for name in ("numba", "llvmlite")},
    }


def _tell(words: str) -> None:
    print(words, file=sys.stderr, flush=True)


def _untold(_: str) -> None:
    """Nobody wants to know."""


if __name__ == "__main__":
    sys.exit(main())
