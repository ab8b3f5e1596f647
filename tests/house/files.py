"""The files of the repository as git would take them: what stands on the disk, less what .gitignore names."""

import os
from functools import cache
from pathlib import Path

from pathspec import GitIgnoreSpec

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("configs", "quant", "chronos_moe", "chimera", "runtime", "exports")


@cache
def repository_files() -> tuple[Path, ...]:
    """Paths relative to the root, walked and not asked of git, so that an unpacked archive is tested too."""
    ignored = GitIgnoreSpec.from_lines((ROOT / ".gitignore").read_text().splitlines())
    found: list[Path] = []
    for folder, subfolders, names in os.walk(ROOT):
        here = Path(folder).relative_to(ROOT)
        subfolders[:] = [
            name
            for name in sorted(subfolders)
            if name != ".git" and not ignored.match_file(f"{(here / name).as_posix()}/")
        ]
        # In a linked work tree .git is a file.
        found += [
            here / name
            for name in sorted(names)
            if name != ".git" and not ignored.match_file((here / name).as_posix())
        ]
    return tuple(found)


def python_files(*folders: str) -> list[Path]:
    """The repository's Python files under any of `folders`, relative to the root."""
    return [
        path
        for path in repository_files()
        if path.suffix == ".py" and any(path.is_relative_to(folder) for folder in folders)
    ]
