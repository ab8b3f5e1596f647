"""A scorer of the user's: a Python file with `score(prompt, answer, completion)`, which gives a number.

It need not be a function with a derivative, as nothing here takes one. It is the user's own code and runs as
such. More is better.
"""

import importlib.util
import traceback
from collections.abc import Callable
from math import nan
from numbers import Real
from pathlib import Path
from typing import Any, cast

import numpy as np

from configs.errors import ChimeraError, UsageError
from runtime.finetune.method import Item

NAME = "score"
LARGEST = 1e30
"""Of a score: a log holds it as a float32."""


class Scorer:
    """The function of a file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._score = _function(path.resolve(), name=path)

    def __call__(self, item: Item, completion: str) -> float:
        """The number for a completion. What raises is told with the place in the file, and the item."""
        try:
            found: object = self._score(item.prompt, item.answer, completion)
        except (Exception, SystemExit) as error:
            raise ChimeraError(
                f"{_place(error, self.path)}: the scorer raised {type(error).__name__}: {error}, given what "
                f"was answered to {item.file}:{item.line}: {completion[:60]!r}",
                hint="Mend the scorer, then go on with --resume.",
            ) from error
        number = _number(found)
        if abs(number) <= LARGEST:
            return number
        # Not every number has words: Python writes no integer of many digits.
        shown = "a number too large" if isinstance(found, int) else str(found)[:40]
        raise ChimeraError(
            f"{self.path}: the scorer gave {shown!r} for {item.file}:{item.line}; a number from "
            f"-{LARGEST:g} to {LARGEST:g} is needed",
            hint="Mend the scorer, then go on with --resume.",
        )


def _number(found: object) -> float:
    """What a scorer gave, NumPy's numbers among it; what is none is no number."""
    if not isinstance(found, Real | np.bool_):
        return nan
    try:
        return float(cast(float, found))
    except OverflowError:
        return nan


def _place(error: BaseException, path: Path) -> str:
    """The last line of a file that an error went through."""
    whole = path.resolve()
    lines = [
        frame.lineno for frame in traceback.extract_tb(error.__traceback__) if Path(frame.filename) == whole
    ]
    return f"{path}:{lines[-1]}" if lines else str(path)


def _function(path: Path, *, name: Path) -> Callable[..., Any]:
    spec = importlib.util.spec_from_file_location("chimera_scorer", path)
    if spec is None or spec.loader is None or not path.is_file():
        raise UsageError(f"{name} is no Python file", hint="As in: --scorer score.py")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        raise UsageError(
            f"{_place(error, name)}: the scorer cannot be loaded: {type(error).__name__}: {error}"
        ) from error
    function = getattr(module, NAME, None)
    if not callable(function):
        raise UsageError(
            f"{name} has no function {NAME}", hint=f"It needs: def {NAME}(prompt, answer, completion): …"
        )
    return cast("Callable[..., Any]", function)
