"""The README's annotated tree: all that stands at the top, and one step below in the six packages.

Run this module to bring the page up to date. A purpose that stands there stays; a new module or package gets
the first clause of its docstring, to be bettered by hand.
"""

import ast
import re
from pathlib import Path

from tests.house.files import PACKAGES, ROOT, repository_files
from tests.house.transcripts import README

TREE = re.compile(r"(?<=<!-- tree -->\n```text\n).*?(?=```\n)", re.DOTALL)
LINE = re.compile(r"^(?P<indent>(?:  )?)(?P<name>[\w.\-]+/?) +(?P<purpose>\S.*)$")
# What a reader needs to know of no more than git does.
UNNAMED = {".gitignore"}


def tree_on_the_page(page: str) -> dict[str, str]:
    """Path → purpose, in the order of the page; a folder ends in a slash. No line may lack its purpose."""
    found = TREE.search(page)
    assert found, "the README has no tree after its marker"
    purposes: dict[str, str] = {}
    folder = ""
    for line in found[0].splitlines():
        entry = LINE.match(line)
        assert entry, f"not a name and its purpose: {line!r}"
        if not entry["indent"]:
            folder = entry["name"]
        purposes[folder if not entry["indent"] else folder + entry["name"]] = entry["purpose"]
    return purposes


def tree_on_the_disk() -> list[str]:
    """The paths that the tree has to name, floors from the ground up, then the rest by name."""
    paths: set[str] = set()
    for path in repository_files():
        parts = path.parts
        if parts[0] in UNNAMED:
            continue
        paths.add(parts[0] + "/" * (len(parts) > 1))
        if parts[0] in PACKAGES and parts[1] != "__init__.py":
            paths.add(f"{parts[0]}/{parts[1]}" + "/" * (len(parts) > 2))
    return sorted(paths, key=_place)


def _place(path: str) -> tuple[int, bool, str, str]:
    top = path.partition("/")[0]
    return (
        PACKAGES.index(top) if top in PACKAGES else len(PACKAGES),
        not path.startswith(f"{top}/"),
        top,
        path,
    )


def rewrite(page: Path) -> None:
    """Write the tree of a page anew, keeping the purposes that it has."""
    text = page.read_text()
    known = tree_on_the_page(text)
    paths = tree_on_the_disk()
    rows = [
        ("  " * (path.strip("/").count("/")) + path.strip("/").rpartition("/")[2], path) for path in paths
    ]
    names = [name + "/" * path.endswith("/") for name, path in rows]
    width = max(map(len, names)) + 2
    lines = [
        f"{name:<{width}}{known.get(path) or _purpose(path)}\n"
        for name, path in zip(names, paths, strict=True)
    ]
    page.write_text(TREE.sub(lambda _: "".join(lines), text))


def _purpose(path: str) -> str:
    source = ROOT / path / "__init__.py" if path.endswith("/") else ROOT / path
    if source.suffix != ".py" or not source.is_file():
        raise SystemExit(f"{path} is new and has no docstring: name its purpose in the README's tree by hand")
    docstring = ast.get_docstring(ast.parse(source.read_text())) or ""
    clause = re.split(r"[.:;,](?:\s|$)", docstring)[0]
    return clause[:1].lower() + clause[1:]


if __name__ == "__main__":
    rewrite(README)
