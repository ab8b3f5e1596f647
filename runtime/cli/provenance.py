"""Whether our six packages all come from one place.

Their names are plain words, so a user's own folder `configs/`, or somebody's package `runtime`, can hide one
of them on Python's path. Found here, before anything foreign is imported, that is one clear message instead
of an odd failure deep inside. Only the standard library is imported, since any other import could be the
foreign one.
"""

import ast
import importlib.util
from importlib.abc import InspectLoader
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import NamedTuple

DISTRIBUTION = "chimera-edge"
PACKAGES = ("configs", "quant", "chronos_moe", "chimera", "runtime", "exports")
ROOT = Path(__file__).resolve().parents[2]


class Stray(NamedTuple):
    """A package of ours that Python would not import from our folder."""

    package: str
    found: Path | None
    """What Python would import instead; None when there is nothing of that name."""

    @property
    def message(self) -> str:
        if self.found is None:
            return f"our package {self.package!r} is missing: it should be in {ROOT}"
        return f"{self.found} hides our package {self.package!r}, which is in {ROOT}"

    @property
    def hint(self) -> str:
        if self.found is None:
            return f"Install it again with: pip install --force-reinstall {DISTRIBUTION}"
        if self.found.is_relative_to(ROOT):
            return (
                f"Another distribution has written over it. Uninstall that one, then: "
                f"pip install --force-reinstall {DISTRIBUTION}"
            )
        return (
            f"Take {self.found.parent} out of PYTHONPATH, or run from another folder (`python -P` leaves "
            f"the present one out), or give {self.found.name!r} another name."
        )


def find_strays() -> list[Stray]:
    """Look for each package as an import would, without importing it."""
    strays: list[Stray] = []
    for package in PACKAGES:
        spec = importlib.util.find_spec(package)
        if spec is None or spec.origin is None:
            # No origin: a folder without __init__.py, which Python takes only where it finds no real package.
            strays.append(Stray(package, None))
            continue
        origin = Path(spec.origin).resolve()
        if origin != ROOT / package / "__init__.py":
            strays.append(Stray(package, origin.parent if origin.name == "__init__.py" else origin))
        elif _distribution_named_in(spec) != DISTRIBUTION:
            strays.append(Stray(package, origin.parent))
    return strays


def _distribution_named_in(spec: ModuleSpec) -> str | None:
    """`__distribution__` of a package, read from its source so that a foreign one is never run."""
    if not isinstance(spec.loader, InspectLoader):
        return None
    try:
        tree = ast.parse(spec.loader.get_source(spec.name) or "")
    except SyntaxError:
        return None
    for statement in tree.body:
        match statement:
            case ast.Assign(targets=[ast.Name(id="__distribution__")], value=ast.Constant(value=str(name))):
                return name
            case _:
                continue
    return None
