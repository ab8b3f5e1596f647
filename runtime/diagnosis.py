"""What `chimera doctor` tells: the machine, the installation, and what of both is broken.

Every part is looked at for itself, so that one which is broken is told with the rest. What a part needs is
imported as it is looked at, since it may be what is broken.
"""

import hashlib
import importlib.metadata
import json
import os
import platform
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeAlias, TypeVar, cast

from configs.errors import ChimeraError
from configs.version import VERSION
from runtime.extras import survey

Report: TypeAlias = dict[str, Any]
T = TypeVar("T")
Progress: TypeAlias = Callable[[str], None]

VARIABLES = (
    "CHIMERA_CPU",
    "CHIMERA_JIT",
    "NUMBA_CPU_NAME",
    "NUMBA_CPU_FEATURES",
    "NUMBA_DISABLE_JIT",
    "NUMBA_ENABLE_AVX",
    "NUMBA_OPT",
    "XDG_CACHE_HOME",
)
"""Variables of the environment that change what is told here."""


def diagnose(*, fresh: bool = False, progress: Progress | None = None) -> Report:
    """All parts. `broken` says what does not work, `remarks` what does, but not as it should.

    With `fresh` every package is imported anew, also those that are remembered to work.
    """
    diagnosis = _Diagnosis(progress or _unwatched, fresh=fresh)
    report = {
        "versions": diagnosis.part("versions", _versions),
        "cpu": diagnosis.part("CPU", _cpu),
        "threads": diagnosis.part("threads", _threads),
        "memory": diagnosis.part("memory", _memory),
        "kernels": diagnosis.part("kernels", diagnosis.kernels) or [],
        "layouts": diagnosis.part("layouts of weights", diagnosis.layouts) or [],
        "self_check": diagnosis.self_check,
        "caches": diagnosis.part("caches", diagnosis.caches),
        "model": diagnosis.part("the shipped model", diagnosis.model),
        "packages": diagnosis.part("packages", diagnosis.packages) or [],
        "environment": {name: os.environ[name] for name in VARIABLES if name in os.environ},
    }
    return {**report, "broken": diagnosis.broken, "remarks": diagnosis.remarks}


class _Diagnosis:
    """What was found so far."""

    def __init__(self, progress: Progress, *, fresh: bool) -> None:
        self.broken: list[str] = []
        self.remarks: list[str] = []
        self.self_check: Report | None = None
        self._progress = progress
        self._fresh = fresh

    def part(self, name: str, look: Callable[[], T]) -> T | None:
        """A part of the report, or None where it cannot be made."""
        self._progress(name)
        try:
            return look()
        except ChimeraError as error:
            self.broken.append(f"{name}: {error.message}" + (f" ({error.hint})" if error.hint else ""))
        except Exception as error:  # packages that do not fit each other fail in any way
            self.broken.append(f"{name}: {type(error).__name__}: {error}")
        return None

    def kernels(self) -> list[Report]:
        """The kernel of each operation, and the check of it here and now."""
        from quant.kernels.table import OPERATIONS
        from quant.native import code_of
        from quant.selfcheck import check, chosen

        begin = time.perf_counter()
        found: list[Report] = []
        failed: dict[str, str] = {}
        for operation in OPERATIONS:
            self._progress(f"kernel {operation}")
            try:
                choice = chosen(operation)
            except ChimeraError as error:
                failed[operation] = error.message
                continue
            wrong = check(operation, choice.form)
            if wrong:
                failed[operation] = f"{choice.form}: {wrong}"
            if "failed:" in choice.reason:
                self.remarks.append(f"kernel {operation} is {choice.form} only: {choice.reason}")
            only = len(OPERATIONS[operation].forms) == 1
            reason = f"the only form there is, for {choice.reason}" if only else choice.reason
            code = code_of(choice.kernel)
            found.append(
                {
                    "operation": operation,
                    "form": choice.form,
                    "reason": reason,
                    "code": code.origin,
                    "code_from": code.reason,
                }
            )
        self.self_check = {
            "checked": len(OPERATIONS),
            "failed": failed,
            "took_s": round(time.perf_counter() - begin, 2),
        }
        for wrong in dict.fromkeys(failed.values()):
            names = [operation for operation in failed if failed[operation] == wrong]
            which = (
                f"kernel {names[0]}" if len(names) == 1 else f"kernels {names[0]} and {len(names) - 1} more"
            )
            self.broken.append(f"{which}: {wrong}")
        return found

    def layouts(self) -> list[Report]:
        """How ternary weights would lie in memory, by where a model of their size is read from."""
        from quant import choice
        from quant.layouts import PRODUCTS
        from quant.pool_threads import default_threads
        from runtime import system

        if self.self_check is None or PRODUCTS["tiles"] in self.self_check["failed"]:
            return []  # what is wrong is told once
        if self._fresh:
            choice.forget()
        count, cache_bytes = default_threads().count, system.cache_bytes()
        found: list[Report] = []
        for place in choice.PLACES:
            best = choice.best_layout(place=place, num_threads=count, cache_bytes=cache_bytes)
            times = {layout: asdict(measured) for layout, measured in best.measured.items()}
            found.append(
                {
                    "place": place,
                    "threads": count,
                    "layout": best.layout,
                    "reason": best.reason,
                    "us": times,
                }
            )
        return found

    def caches(self) -> Report:
        """The folder of compiled kernels and remembered checks."""
        from quant import cache, jit

        folder = cache.cache_folder()
        kernels = folder / "kernels" / jit.compiler_key()
        files = _files(folder)
        report = {
            "folder": str(folder),
            "bytes": sum(files.values()),
            "writable": cache.remember(folder / "doctor", b""),
            "digest": jit.compiler_key(),
            "kernels": sum(1 for file in files if file.parent == kernels),
            "checks": sum(1 for file in files if file.parent == folder / "checked"),
        }
        (folder / "doctor").unlink(missing_ok=True)
        self.remarks += [f"cache: {note}" for note in cache.notes()]
        return report

    def model(self) -> Report | None:
        """What `chimera-run` runs where no model is named."""
        from runtime.model_folder import DEMO, open_model

        if not DEMO.is_dir():
            self.remarks.append(f"this installation holds no model of its own: there is no folder {DEMO}")
            return None
        model = open_model(DEMO)
        with model.file as file:
            model.tokenizer()
            problems = [f"{found.tensor}: {found.what}" for found in file.verify()]
            if problems:
                self.broken.append(f"the shipped model {file.path} is damaged: {problems[0]}")
            return {
                "path": str(file.path),
                "bytes": file.path.stat().st_size,
                "digest": file.digest,
                "is_sound": not problems,
            }

    def packages(self) -> list[Report]:
        """What comes with every installation, and what extras bring."""
        path = _path_of_marks()
        known = {} if self._fresh or path is None else _read_marks(path)
        found = survey(known=known, progress=lambda name: self._progress(f"package {name}"))
        if path is not None and found.marks != known:
            from quant import cache

            cache.remember(path, json.dumps(found.marks).encode())
        for finding in found.findings:
            if finding.state == "present":
                continue
            if not finding.extra:
                self.broken.append(
                    f"package {finding.name} is {finding.state}: {finding.why or 'it is not installed'} "
                    f"({finding.install})"
                )
            elif finding.state == "unusable":
                self.remarks.append(f"package {finding.name} is unusable: {finding.why}")
        return [asdict(finding) for finding in found.findings]


def _versions() -> Report:
    return {
        "chimera": VERSION,
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in ("numpy", "numba", "llvmlite")},
        "system": platform.platform(),
        "executable": sys.executable,
    }


def _cpu() -> Report:
    from quant import cpu
    from runtime import system

    target = cpu.target()
    return {
        "name": system.cpu_name(),
        "architecture": target.architecture,
        "features": sorted(cpu.machine_features()),
        "cache_bytes": system.cache_bytes() or None,
        "target": target.name,
        "target_from": target.origin,
        "target_features": sorted(target.features),
        "forms": {form: ", ".join(target.lacks(form)) for form in cpu.FORMS},
        "best_form_allowed": cpu.cap(),
    }


def _threads() -> Report:
    from quant.parking import parkings
    from quant.pool_threads import default_threads

    found = default_threads()
    return {"count": found.count, "reason": found.reason, "wait_by": parkings()[0]}


def _memory() -> Report:
    from runtime import system

    memory = system.memory()
    return {
        "total_bytes": memory.total_bytes,
        "available_bytes": memory.available_bytes,
        "available_is": memory.reason,
        "group": None if memory.group is None else asdict(memory.group),
        "program_bytes": system.own_bytes(),
    }


def _path_of_marks() -> Path | None:
    """Where working packages are remembered; None where what keeps the caches is broken."""
    try:
        from quant import cache
    except ImportError:
        return None
    name = hashlib.sha256(sys.prefix.encode()).hexdigest()[:16]
    return cache.cache_folder() / "imports" / f"{name}.json"


def _read_marks(path: Path) -> dict[str, str]:
    """What was remembered; what cannot be read is learnt anew."""
    try:
        found: object = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    if not isinstance(found, dict):
        return {}
    return {str(name): str(mark) for name, mark in cast("dict[object, object]", found).items()}


def _files(folder: Path) -> Mapping[Path, int]:
    """All files below a folder and their sizes; another process may take some away meanwhile."""
    found: dict[Path, int] = {}
    for path in folder.rglob("*"):
        try:
            if path.is_file():
                found[path] = path.stat().st_size
        except FileNotFoundError:
            continue
    return found


def _unwatched(what: str) -> None:
    """Nobody watches."""
