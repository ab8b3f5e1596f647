"""The packages around us: which there are, whether they work, and what is remembered of them."""

import re
import tomllib
from pathlib import Path

import pytest

from runtime.extras import GUESTS, PACKAGES, Guest, Package, environment_mark, examine, import_problem, survey

PYPROJECT = Path(__file__).resolve().parents[2] / "pyproject.toml"
OURS_ALONE = {"dev", "oracle"}
"""Extras that only this repository's own tests need."""
REQUIREMENT = re.compile(r"(?P<name>[\w-]+)>=(?P<least>[\d.]+)")


class Shelf:
    """A folder of packages that every process of a test finds first."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def put(self, name: str, code: str, *, version: str = "2.0") -> None:
        module, info = name.replace("-", "_"), self.folder / f"{name.replace('-', '_')}-{version}.dist-info"
        (self.folder / f"{module}.py").write_text(code)
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")


@pytest.fixture
def shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shelf:
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return Shelf(tmp_path)


def package(name: str, *, least: str = "1.5") -> Package:
    return Package(name=name, module=name.replace("-", "_"), least=least, extra="odd")


def test_the_table_is_what_the_project_asks_for():
    project = tomllib.loads(PYPROJECT.read_text())["project"]
    asked = {"": project["dependencies"]} | {
        extra: lines for extra, lines in project["optional-dependencies"].items() if extra not in OURS_ALONE
    }
    wanted = {
        (extra, found["name"], found["least"])
        for extra, lines in asked.items()
        for line in lines
        if (found := REQUIREMENT.match(line))
    }
    assert {(found.extra, found.name, found.least) for found in PACKAGES} == wanted


def test_a_package_that_works_is_present(shelf: Shelf):
    shelf.put("oddly-fine", "")
    found = examine(package("oddly-fine"))
    assert (found.state, found.version, found.why, found.install, found.tried) == (
        "present", "2.0", "", "", "now",
    )  # fmt: skip


def test_a_package_that_is_not_there_is_missing_and_can_be_had():
    found = examine(package("oddly-absent"))
    assert (found.state, found.version, found.tried) == ("missing", "", "")
    assert found.install == 'pip install "chimera-edge[odd]"'


@pytest.mark.parametrize(
    ("version", "state"), [("1.4.9", "unusable"), ("1.5", "present"), ("1.10", "present")]
)
def test_an_old_package_is_unusable(shelf: Shelf, version: str, state: str):
    shelf.put("oddly-old", "", version=version)
    found = examine(package("oddly-old"))
    assert found.state == state
    assert ("1.5 is the first" in found.why) == (state == "unusable")


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("import not_there_at_all", "ModuleNotFoundError: No module named 'not_there_at_all'"),
        ("raise ImportError('libodd.so.3: cannot open shared object file')", "libodd.so.3"),
        # As Intel's extension leaves a process whose PyTorch is not of its version.
        ("import os\nprint('ERROR! needs PyTorch 2.8', flush=True)\nos._exit(127)", "needs PyTorch 2.8"),
        ("import os\nos.kill(os.getpid(), 11)", "ended by signal 11"),
    ],
)
def test_a_package_that_fails_is_unusable_for_its_own_reason(shelf: Shelf, code: str, words: str):
    shelf.put("oddly-broken", code)
    found = examine(package("oddly-broken"))
    assert (found.state, found.tried) == ("unusable", "now")
    assert words in found.why
    assert found.install


def test_an_import_that_never_ends_is_given_up(shelf: Shelf):
    shelf.put("oddly-slow", "import time\ntime.sleep(60)")
    assert "longer than 0.5 s" in import_problem("oddly_slow", seconds=0.5)


def test_intels_extension_is_a_guest_that_is_looked_at(shelf: Shelf):
    assert [guest.name for guest in GUESTS] == ["intel-extension-for-pytorch"]
    shelf.put(GUESTS[0].name, "import os\nprint('ERROR! needs PyTorch 2.8', flush=True)\nos._exit(127)")
    found = examine(GUESTS[0])
    assert (found.extra, found.state, found.install) == ("none", "unusable", "")
    assert "needs PyTorch 2.8" in found.why
    assert GUESTS[0].remark in found.why


def test_what_works_is_imported_once(shelf: Shelf):
    log = shelf.folder / "log"
    shelf.put("oddly-fine", f"open({str(log)!r}, 'a').write('x')")
    shelf.put("oddly-broken", "raise ValueError('no')")
    guest = Guest(name="oddly-absent", module="oddly_absent", remark="")
    told: list[str] = []

    def look(known: dict[str, str]) -> tuple[list[str], dict[str, str]]:
        found = survey(
            packages=(package("oddly-fine"), package("oddly-broken")),
            guests=(guest,),
            known=known,
            progress=told.append,
        )
        return [finding.tried for finding in found.findings], found.marks

    tried, marks = look({})
    assert tried == ["now", "now", ""]
    assert set(marks) == {"oddly_fine"}
    assert look(marks) == (["before", "now", ""], marks)
    assert log.read_text() == "x"
    shelf.put("oddly-new", "")
    tried, others = look(marks)
    assert tried == ["now", "now", ""]
    assert others != marks
    (shelf.folder / "oddly_fine.py").write_text("raise ValueError('no more')")
    assert look(others) == (["now", "now", ""], {})
    assert told == ["oddly-fine", "oddly-broken", "oddly-absent"] * 4


def test_the_mark_of_an_environment_stays_until_something_changes(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch
):
    mark = environment_mark()
    assert environment_mark() == mark
    monkeypatch.setenv("LD_LIBRARY_PATH", str(shelf.folder))
    assert environment_mark() != mark
