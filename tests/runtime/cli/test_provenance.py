"""Packages of somebody else's that bear our names are noticed, named, and never run."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from configs import errors
from runtime.cli import provenance

ROOT = Path(__file__).resolve().parents[3]
LOUD = 'raise RuntimeError("a foreign package was run")\n'


def make_package(folder: Path, name: str) -> Path:
    """A foreign package that gives itself away if anything imports it."""
    package = folder / name
    package.mkdir()
    (package / "__init__.py").write_text(LOUD)
    return package


def chimera(*arguments: str, path: list[Path], cwd: Path) -> "subprocess.CompletedProcess[str]":
    """Run the command as its installed script does, which leaves the present folder out of the path."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, path))}
    return subprocess.run(
        [sys.executable, "-P", "-m", "runtime.cli.main", *arguments],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def test_here_nothing_is_foreign():
    assert provenance.ROOT == ROOT
    assert provenance.find_strays() == []


def test_a_folder_that_holds_rivals_does_no_harm(tmp_path: Path):
    make_package(tmp_path, "configs")
    make_package(tmp_path, "runtime")
    result = chimera("--version", path=[ROOT], cwd=tmp_path)
    assert (result.returncode, result.stderr) == (0, "")


@pytest.mark.parametrize("name", [name for name in provenance.PACKAGES if name != "runtime"])
def test_a_rival_first_on_the_path_is_refused(tmp_path: Path, name: str):
    rival = make_package(tmp_path, name)
    result = chimera("--version", path=[tmp_path, ROOT], cwd=tmp_path)
    assert result.returncode == 1
    assert result.stdout == ""
    assert f"chimera: error: {rival} hides our package {name!r}, which is in {ROOT}\n" in result.stderr
    assert f"\nhint: Take {tmp_path} out of PYTHONPATH" in result.stderr
    assert "Traceback" not in result.stderr


def test_a_rival_is_refused_in_json_too(tmp_path: Path):
    (tmp_path / "configs.py").write_text(LOUD)
    result = chimera("inspect", "demo", "--json", path=[tmp_path, ROOT], cwd=tmp_path)
    error = json.loads(result.stderr)["error"]
    assert result.returncode == error["exit_code"] == errors.ForeignPackage.exit_code
    assert error["kind"] == errors.ForeignPackage.__name__
    assert str(tmp_path / "configs.py") in error["message"]


def test_a_foreign_runtime_keeps_the_command_from_starting(tmp_path: Path):
    """Python finds no command then, so nothing of ours can speak; but nothing wrong is computed either."""
    package = tmp_path / "runtime"
    package.mkdir()
    (package / "__init__.py").touch()
    result = chimera("--version", path=[tmp_path, ROOT], cwd=tmp_path)
    assert result.returncode == 1
    assert "runtime.cli" in result.stderr


@pytest.mark.parametrize("source", ["", '__distribution__ = "other"\n', "not python at all\n"])
def test_a_package_written_over_by_another_distribution_is_refused(tmp_path: Path, source: str):
    for package in provenance.PACKAGES:
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "quant" / "__init__.py").write_text(source)
    result = chimera("--version", path=[tmp_path], cwd=tmp_path)
    assert result.returncode == 1
    assert "Another distribution has written over it" in result.stderr


def test_a_missing_package_is_refused(tmp_path: Path):
    for package in provenance.PACKAGES:
        if package != "exports":
            shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    # -S leaves out site-packages, where an installed copy would be found and rightly called a stranger.
    result = subprocess.run(
        [sys.executable, "-S", "-m", "runtime.cli.main", "--version"],
        cwd=tmp_path,
        env={key: value for key, value in os.environ.items() if key != "PYTHONPATH"},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert result.returncode == 1
    assert result.stderr == (
        f"chimera: error: our package 'exports' is missing: it should be in {tmp_path}\n"
        "hint: Install it again with: pip install --force-reinstall chimera-edge\n"
    )
