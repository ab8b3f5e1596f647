"""The README is true: its tree is the disk's, its transcripts are the command's, its code runs."""

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

from tests.house.files import ROOT, repository_files
from tests.house.transcripts import PAGES, README, record, transcripts
from tests.house.tree import tree_on_the_disk, tree_on_the_page

PYTHON_BLOCK = re.compile(r"^```python\n(.*?)^```$", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"\]\((?!https?://|#)([^)#]+)")


def test_the_tree_is_the_disk():
    assert list(tree_on_the_page(README.read_text())) == tree_on_the_disk()


def test_the_transcripts_are_what_the_commands_print():
    for page in PAGES:
        shown = transcripts(page.read_text())
        assert shown, page
        for command, transcript in shown:
            assert transcript == record(command), page


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


def test_the_goals_call_modules_that_exist():
    called = re.findall(r"\bpython -m ([\w.]+)", (ROOT / "Makefile").read_text())
    assert called
    assert {name for name in called if importlib.util.find_spec(name) is None} == set()


def test_the_readme_calls_goals_that_exist():
    goals = set(re.findall(r"^([a-z][a-z-]*):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for page in ("README.md", "CONTRIBUTING.md", ".ci/run"):
        named = set(re.findall(r"\bmake ([a-z][a-z-]*)", (ROOT / page).read_text()))
        assert named & goals, page
        # Prose may say "make sure"; code may not.
        code = set(re.findall(r"(?:`|^)make ([a-z][a-z-]*)", (ROOT / page).read_text(), re.MULTILINE))
        assert code <= goals, page
