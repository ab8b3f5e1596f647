"""The packages that this one builds on, and whether each can be used: imported in a process of its own.

A package that is there may still be of no use: too old, made for another version of its neighbour, lacking a
library of the system, or one that ends the process as it is imported. Its own words are the reason that is
told. What works is remembered by marks, which are others as soon as something is installed or removed.
"""

import hashlib
import importlib.metadata
import importlib.util
import os
import re
import subprocess
import sys
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

State: TypeAlias = Literal["present", "missing", "unusable"]
Tried: TypeAlias = Literal["now", "before", ""]
DISTRIBUTION = "chimera-edge"
IMPORT_SECONDS = 120
_LONGEST_REASON = 300


@dataclass(frozen=True, kw_only=True, slots=True)
class Package:
    """A package that something here can use."""

    name: str
    """As pip knows it."""
    module: str
    least: str
    """The first version that is known to do."""
    extra: str = ""
    """The extra that brings it; "" comes with every installation."""

    @property
    def install(self) -> str:
        """The command that brings it."""
        return f'pip install "{DISTRIBUTION}[{self.extra}]"' if self.extra else f"pip install {DISTRIBUTION}"


PACKAGES = (
    Package(name="jinja2", module="jinja2", least="3.1.6"),
    Package(name="numba", module="numba", least="0.68"),
    Package(name="numpy", module="numpy", least="2.2"),
    Package(name="psutil", module="psutil", least="6"),
    Package(name="rich", module="rich", least="13.7"),
    Package(name="safetensors", module="safetensors", least="0.5"),
    Package(name="sentencepiece", module="sentencepiece", least="0.2"),
    Package(extra="train", name="torch", module="torch", least="2.11"),
    Package(extra="train", name="optuna", module="optuna", least="4"),
    Package(extra="train", name="zstandard", module="zstandard", least="0.23"),
    Package(extra="export", name="onnx", module="onnx", least="1.19"),
    Package(extra="export", name="onnxruntime", module="onnxruntime", least="1.29"),
    Package(extra="hf", name="tokenizers", module="tokenizers", least="0.21"),
    Package(extra="transformers", name="transformers", module="transformers", least="5.23"),
    Package(extra="o200k", name="splintr-rs", module="splintr", least="0.22"),
    Package(extra="plot", name="matplotlib", module="matplotlib", least="3.9"),
    Package(extra="eval", name="lm-eval", module="lm_eval", least="0.4.9"),
    Package(extra="studio", name="gradio", module="gradio", least="5"),
)
"""What `pyproject.toml` asks for, but for what only our own tests need."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Guest:
    """A package that nothing here needs or brings, and that people ask about."""

    name: str
    module: str
    remark: str


GUESTS = (
    Guest(
        name="intel-extension-for-pytorch",
        module="intel_extension_for_pytorch",
        remark="nothing here uses it",
    ),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """What was found of a package."""

    name: str
    extra: str
    state: State
    version: str
    """What is installed, if anything is."""
    why: str
    """Why it is of no use, or what is to be said of it."""
    install: str
    """The command that would bring it; "" where it is there, and for guests."""
    tried: Tried
    """When it was imported; "" where there was no need."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Survey:
    """All packages, and the mark of each module that works, by which it is known again."""

    findings: tuple[Finding, ...]
    marks: dict[str, str]


def survey(
    *,
    packages: tuple[Package, ...] = PACKAGES,
    guests: tuple[Guest, ...] = GUESTS,
    known: Mapping[str, str] | None = None,
    progress: Callable[[str], None] | None = None,
) -> Survey:
    """Look for every package; those that have not the mark they are `known` by are imported elsewhere."""
    everyone = (*packages, *guests)
    environment = environment_mark()
    marks = {package.module: _mark(package.module, environment) for package in everyone}
    known = known or {}

    def examined(package: Package | Guest) -> Finding:
        mark = marks[package.module]
        return examine(package, is_known=bool(mark) and known.get(package.module) == mark)

    found: list[Finding] = []
    # An import takes up to seconds, and mostly one core.
    with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
        for finding in pool.map(examined, everyone):
            found.append(finding)
            if progress is not None:
                progress(finding.name)
    works = {
        package.module: marks[package.module]
        for package, finding in zip(everyone, found, strict=True)
        if finding.state == "present" and marks[package.module]
    }
    return Survey(findings=tuple(found), marks=works)


def examine(package: Package | Guest, *, is_known: bool = False) -> Finding:
    """Look for a package and import it elsewhere, unless it is known to work."""
    version = _installed(package.name)
    state, why, tried = _state(package, version, is_known=is_known)
    if isinstance(package, Guest):
        why = f"{why}; {package.remark}" if why else package.remark
    is_ours = isinstance(package, Package)
    return Finding(
        name=package.name,
        extra=package.extra if is_ours else "none",
        state=state,
        version=version,
        why=why,
        install=package.install if is_ours and state != "present" else "",
        tried=tried,
    )


def environment_mark() -> str:
    """A digest of all that is installed, and of what decides which libraries of the system are found."""
    places = [Path(place) for place in sys.path if place]
    installed = sorted(
        f"{entry} {entry.stat().st_mtime_ns}"
        for place in places
        if place.is_dir()
        for entry in (*place.glob("*.dist-info"), *place.glob("*.egg-info"), *place.glob("*.pth"))
    )
    libraries = Path("/etc/ld.so.cache")
    parts = [
        sys.version,
        sys.executable,
        os.environ.get("LD_LIBRARY_PATH", ""),
        os.environ.get("LD_PRELOAD", ""),
        str(libraries.stat().st_mtime_ns) if libraries.is_file() else "",
        *installed,
    ]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _mark(module: str, environment: str) -> str:
    """What a module that works is known by; nothing where there is none."""
    try:
        spec = importlib.util.find_spec(module)
    except ValueError:  # a module that something put in place of the real one
        return ""
    if spec is None or not spec.origin or not Path(spec.origin).is_file():
        return ""
    changed = Path(spec.origin).stat().st_mtime_ns
    return hashlib.sha256(f"{environment} {spec.origin} {changed}".encode()).hexdigest()


def _installed(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _state(package: Package | Guest, version: str, *, is_known: bool) -> tuple[State, str, Tried]:
    if not version:
        return "missing", "", ""
    if isinstance(package, Package) and _release(version) < _release(package.least):
        return "unusable", f"{version} is installed; {package.least} is the first that is known to do", ""
    if is_known:
        return "present", "", "before"
    wrong = import_problem(package.module)
    return ("unusable", wrong, "now") if wrong else ("present", "", "now")


def import_problem(module: str, *, seconds: float = IMPORT_SECONDS) -> str:
    """What is wrong with importing a module, in its own last words; nothing where it works."""
    try:
        # Imported here, it could end this process, or leave gigabytes behind in it.
        done = subprocess.run(
            [sys.executable, "-c", f"import {module}"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=seconds,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"its import takes longer than {seconds:g} s"
    if done.returncode == 0:
        return ""
    lines = [line.strip() for line in done.stdout.decode("utf-8", "replace").splitlines() if line.strip()]
    last = lines[-1][:_LONGEST_REASON] if lines else "it says nothing"
    if done.returncode < 0:
        return f"its import is ended by signal {-done.returncode}: {last}"
    return f"its import fails: {last}"


def _release(version: str) -> tuple[int, ...]:
    """The numbers of a version, without what comes after a sign or a letter."""
    found = re.match(r"[0-9]+(?:\.[0-9]+)*", version)
    numbers = [int(number) for number in found[0].split(".")] if found else []
    while numbers and not numbers[-1]:
        numbers.pop()
    return tuple(numbers)
