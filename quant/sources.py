"""Which files a kernel's code comes from, and their digests: what tells stale code from fresh.

A kernel's sources are its own file and every file of our packages that it imports, at any depth.
"""

import hashlib
import re
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
"""The folder that holds our packages."""

_PACKAGES = ("configs", "quant", "chronos_moe", "chimera", "runtime", "exports")
_IMPORT = re.compile(
    r"^[ \t]*(?:from[ \t]+([\w.]+)[ \t]+import[ \t]+(\([^)]*\)|[^\n]*)|import[ \t]+([^\n]*))", re.MULTILINE
)


def source_digest(path: Path) -> str:
    """Digest of a source file and of every file of our packages that it imports, at any depth."""
    digest = hashlib.sha256()
    for file, own in sources_of(path).items():
        digest.update(f"{file.name}\n{own}\n".encode())
    return digest.hexdigest()


def sources_of(path: Path) -> dict[Path, str]:
    """That file and every one that it imports, in order, each with its own digest."""
    found: dict[Path, str] = {}
    waiting = [path.resolve()]
    while waiting:
        file = waiting.pop()
        if file not in found:
            found[file], imported = _read_source(file, file.stat().st_mtime_ns)
            waiting += imported
    return dict(sorted(found.items()))


def file_digest(path: Path) -> str | None:
    """Digest of one file as it is now; None where there is none, as in an installation without sources."""
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError:
        return None


@cache
def _read_source(file: Path, _changed_ns: int) -> tuple[str, list[Path]]:
    """Digest of one file, and the files of our packages that it names in imports."""
    data = file.read_bytes()
    imported: list[Path] = []
    for module, names, plain in _IMPORT.findall(data.decode()):
        wanted = [part.split()[0] for part in plain.split(",")] if plain else [module]
        for dotted in wanted:
            path = ROOT.joinpath(*dotted.split("."))
            if dotted.split(".")[0] in _PACKAGES:
                imported += [
                    path.with_suffix(".py"),
                    *(path / f"{name}.py" for name in re.findall(r"\w+", names)),
                ]
    return hashlib.sha256(data).hexdigest(), [path for path in imported if path.is_file()]
