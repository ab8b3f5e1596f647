"""The packages that an export needs: there, and new enough to run what is written."""

import importlib
from types import ModuleType

from configs.errors import ChimeraError, MissingExtra
from runtime.extras import PACKAGES

EXTRA = "export"
LEAST_RUNTIME = next(package.least for package in PACKAGES if package.name == "onnxruntime")
"""From here on products of 2-bit weights are fast."""


def needed(name: str, *, purpose: str) -> ModuleType:
    """A package of the extra, imported."""
    try:
        module = importlib.import_module(name)
    except ImportError:
        raise MissingExtra(package=name, extra=EXTRA, purpose=purpose) from None
    least = next(package.least for package in PACKAGES if package.name == name)
    found = str(getattr(module, "__version__", "0"))
    if numbers(found) < numbers(least):
        raise ChimeraError(
            f"{purpose} needs {name} {least} or newer, found {found}",
            hint=f'Update it with: pip install --upgrade "chimera-edge[{EXTRA}]"',
        )
    return module


def numbers(version: str) -> tuple[int, ...]:
    """A version's leading numbers, for comparing."""
    found: list[int] = []
    for part in version.split("."):
        digits = part[: len(part) - len(part.lstrip("0123456789"))]
        if not digits:
            break
        found.append(int(digits))
    return tuple(found)
