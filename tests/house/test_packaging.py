"""What is installed, from what, and what the repository may hold."""

import os
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from configs.version import VERSION
from quant.ahead.archive import path_of
from quant.ahead.make import levels_of_host
from runtime.cli import provenance
from tests.house.files import PACKAGES, ROOT, python_files, repository_files

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
MEGABYTE = 1_000_000
# Larger files that are worth their weight: path → why.
LARGE_FILES: dict[str, str] = {
    "runtime/models/demo/model.b158": "the trained model that answers out of the box",
}
# Split, so that this file does not name them either.
REGISTRY_HOSTS = [
    re.compile(rf"\b{name}\.{end}\b")
    for name, end in [
        ("pypi", "org"),
        ("pythonhosted", "org"),
        ("pypi", "python"),
        ("registry", "npmjs"),
        ("npmjs", "com"),
        ("yarnpkg", "com"),
        ("crates", "io"),
        ("download.pytorch", "org"),
        ("deb", "debian"),
        ("proxy.golang", "org"),
        ("conda", "anaconda"),
    ]
]


def pins() -> dict[str, str]:
    """The constraints file: package → the version that is tested."""
    lines = (line.strip() for line in (ROOT / "constraints.txt").read_text().splitlines())
    pairs = (line.split("==") for line in lines if line and not line.startswith("#"))
    return {canonicalize_name(name): version for name, version in pairs}


def installed_extras() -> set[str]:
    """The extras of the environment that the tests run in."""
    found = re.search(r"--editable '\.\[([\w,]+)\]'", (ROOT / "Makefile").read_text())
    assert found
    return set(found[1].split(","))


def test_every_package_that_is_tested_with_is_pinned_within_its_range():
    project = PROJECT["project"]
    requirements = list(project["dependencies"])
    for extra in installed_extras():
        requirements += project["optional-dependencies"][extra]
    for requirement in map(Requirement, requirements):
        pin = pins().get(canonicalize_name(requirement.name))
        assert pin is not None, f"{requirement.name} has no pin"
        assert requirement.specifier.contains(pin), f"{requirement} does not allow {pin}"


def test_pytorch_never_comes_with_the_base_install():
    names = {canonicalize_name(Requirement(line).name) for line in PROJECT["project"]["dependencies"]}
    assert not names & {"torch", "torchao", "transformers", "tokenizers", "onnxruntime"}


def test_the_wheel_holds_the_six_packages_and_nothing_else(tmp_path: Path):
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path), str(ROOT)]
    # Those for this machine, which the tests make anyway.
    environment = {**os.environ, "CHIMERA_KERNELS": "host"}
    result = subprocess.run(build, capture_output=True, text=True, timeout=600, env=environment)
    assert result.returncode == 0, result.stdout + result.stderr
    (wheel,) = tmp_path.glob("*.whl")
    assert wheel.name == f"chimera_edge-{VERSION}-py3-none-any.whl"
    about = f"chimera_edge-{VERSION}.dist-info/"
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        entry_points = archive.read(f"{about}entry_points.txt").decode()
    ours = {path.as_posix() for path in repository_files() if path.parts[0] in PACKAGES}
    kernels = {name for name in names if name.startswith("quant/ahead/objects/")}
    assert {path_of(level.name).relative_to(ROOT).as_posix() for level in levels_of_host()} <= kernels
    assert {name for name in names if not name.startswith(about)} == ours | kernels
    assert {f"{about}licenses/LICENSE", f"{about}licenses/THIRD_PARTY.md"} <= names
    assert entry_points == (
        "[console_scripts]\nchimera = runtime.cli.main:main\n"
        "chimera-mezo = runtime.cli.finetune:main\nchimera-run = runtime.cli.run:main\n"
    )


def test_the_six_packages_are_named_alike_everywhere():
    tool = PROJECT["tool"]
    assert PACKAGES == provenance.PACKAGES
    assert list(PACKAGES) == tool["hatch"]["build"]["targets"]["wheel"]["packages"]
    assert list(PACKAGES) == tool["importlinter"]["root_packages"] == tool["pyright"]["include"]
    assert PROJECT["project"]["name"] == provenance.DISTRIBUTION


def test_strict_types_reach_every_file_that_they_should():
    strict = PROJECT["tool"]["pyright"]["strict"]
    places = [pattern.removesuffix("/*.py") for pattern in strict]
    for path in python_files("configs", "quant", "runtime"):
        whole_folder = any(path.is_relative_to(place) for place in strict)
        in_folder = any(f"{path.parent.as_posix()}/*.py" == pattern for pattern in strict)
        assert whole_folder or in_folder or path.is_relative_to("quant/qat"), path
    assert all((ROOT / place).is_dir() for place in places)


def test_no_file_names_the_host_of_a_package_registry():
    for path in repository_files():
        text = (ROOT / path).read_text(encoding="utf-8", errors="replace")
        named = [host.pattern for host in REGISTRY_HOSTS if host.search(text)]
        assert named == [], path


def test_a_large_file_has_a_reason():
    large = {path.as_posix() for path in repository_files() if (ROOT / path).stat().st_size > MEGABYTE}
    assert large == set(LARGE_FILES)
