"""The README is true: its tree is the disk's, its transcripts are the command's, its code runs."""

import re
import subprocess
import sys
from pathlib import Path

from tests.house.files import PACKAGES, ROOT, repository_files
from tests.house.transcripts import README, record, transcripts

TREE = re.compile(r"<!-- tree -->\n```text\n(.*?)```\n", re.DOTALL)
TREE_LINE = re.compile(r"^(?P<indent>(?:  )?)(?P<name>[\w.\-]+/?) +(?P<purpose>\S.*)$")
PYTHON_BLOCK = re.compile(r"^```python\n(.*?)^```$", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"\]\((?!https?://|#)([^)#]+)")


def tree_on_the_page(page: str) -> list[str]:
    """The paths that the annotated tree names, folders with a slash; every line says what the thing is."""
    found = TREE.search(page)
    assert found, "the README has no tree after its marker"
    paths: list[str] = []
    folder = ""
    for line in found[1].splitlines():
        entry = TREE_LINE.match(line)
        assert entry, f"not a name and its purpose: {line!r}"
        if not entry["indent"]:
            folder = entry["name"]
            paths.append(folder)
        else:
            paths.append(folder + entry["name"])
    return paths


def tree_on_the_disk() -> list[str]:
    """All that stands at the top, and in the six packages what stands one step below."""
    paths: set[str] = set()
    for path in repository_files():
        parts = path.parts
        if parts[0] == ".gitignore":
            continue
        paths.add(parts[0] + "/" * (len(parts) > 1))
        if parts[0] in PACKAGES and parts[1] != "__init__.py":
            paths.add(f"{parts[0]}/{parts[1]}" + "/" * (len(parts) > 2))
    return sorted(paths)


def test_the_tree_is_the_disk():
    assert sorted(tree_on_the_page(README.read_text())) == tree_on_the_disk()


def test_the_transcripts_are_what_the_commands_print():
    shown = transcripts(README.read_text())
    assert shown
    for command, transcript in shown:
        assert transcript == record(command)


def test_the_python_on_the_pages_runs(tmp_path: Path):
    for page in (path for path in repository_files() if path.suffix == ".md"):
        for block in PYTHON_BLOCK.findall((ROOT / page).read_text()):
            result = subprocess.run(
                [sys.executable, "-W", "error", "-c", block],
                cwd=tmp_path,
                capture_output=True,
                text=True,
                timeout=120,
            )
            assert result.returncode == 0, f"{page}:\n{block}\n{result.stderr}"


def test_links_between_pages_lead_somewhere():
    for page in (path for path in repository_files() if path.suffix == ".md"):
        for target in LINK.findall((ROOT / page).read_text()):
            assert (ROOT / page.parent / target).exists(), f"{page} links to {target}"


def test_the_readme_calls_goals_that_exist():
    goals = set(re.findall(r"^([a-z][a-z-]*):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for page in ("README.md", "CONTRIBUTING.md", ".ci/run"):
        named = set(re.findall(r"\bmake ([a-z][a-z-]*)", (ROOT / page).read_text()))
        assert named & goals, page
        # Prose may say "make sure"; code may not.
        code = set(re.findall(r"(?:`|^)make ([a-z][a-z-]*)", (ROOT / page).read_text(), re.MULTILINE))
        assert code <= goals, page
