"""A scorer of the user's: a Python file with `score(prompt, answer, completion)`, which gives a number.

It need not be a function with a derivative, as nothing here takes one. It is the user's own code and runs as
such. More is better.
"""

import importlib.util
import math
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

from configs.errors import ChimeraError, UsageError
from runtime.finetune.method import Item

NAME = "score"


class Scorer:
    """The function of a file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._score = _function(path)

    def __call__(self, item: Item, completion: str) -> float:
        """The number for a completion. What raises is told with the place in the file, and the item."""
        try:
            found: object = self._score(item.prompt, item.answer, completion)
        except Exception as error:
            raise ChimeraError(
                f"{self._place(error)}: the scorer raised {type(error).__name__}: {error}, given what was "
                f"answered to {item.file}:{item.line}: {completion[:60]!r}",
                hint="Mend the scorer, then go on with --resume.",
            ) from error
        if isinstance(found, bool) or (isinstance(found, int | float) and math.isfinite(found)):
            return float(found)
        raise ChimeraError(
            f"{self.path}: the scorer gave {str(found)[:40]!r} for {item.file}:{item.line}; a finite number "
            "is needed",
            hint="Mend the scorer, then go on with --resume.",
        )

    def _place(self, error: Exception) -> str:
        """The last line of the file that the error went through."""
        lines = [
            frame.lineno
            for frame in traceback.extract_tb(error.__traceback__)
            if Path(frame.filename) == self.path
        ]
        return f"{self.path}:{lines[-1]}" if lines else str(self.path)


def _function(path: Path) -> Callable[..., Any]:
    spec = importlib.util.spec_from_file_location("chimera_scorer", path)
    if spec is None or spec.loader is None or not path.is_file():
        raise UsageError(f"{path} is no Python file", hint="As in: --scorer score.py")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        lines = [
            frame.lineno
            for frame in traceback.extract_tb(error.__traceback__)
            if Path(frame.filename) == path
        ]
        place = f"{path}:{lines[-1]}" if lines else str(path)
        raise UsageError(f"{place}: the scorer cannot be loaded: {type(error).__name__}: {error}") from error
    function = getattr(module, NAME, None)
    if not callable(function):
        raise UsageError(
            f"{path} has no function {NAME}", hint=f"It needs: def {NAME}(prompt, answer, completion): …"
        )
    return cast("Callable[..., Any]", function)
