"""What a template may spend: every value that it makes or reads is paid for from one budget.

Without this a template of one line could fill the memory (a doubled string, a list that holds another many
times over) or run for hours. A value costs what printing it would cost, however often it holds the same part.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from contextvars import ContextVar
from types import GeneratorType
from typing import Any, cast

MAX_STEPS = 2_000_000
MAX_CHARACTERS = 16_000_000
MAX_RANGE = 10_000
MAX_BITS = 256
MAX_INDENT = 8
CHARACTERS_PER_STEP = 128


class Refused(Exception):
    """The template asked for too much, or for what the sandbox has not."""


class Budget:
    """The steps and characters that one rendering may still spend."""

    def __init__(self) -> None:
        self.steps = MAX_STEPS
        self.characters = MAX_CHARACTERS

    def pay(self, steps: int) -> None:
        self.steps -= steps
        if self.steps < 0:
            raise Refused(f"takes more than {MAX_STEPS} steps")

    def put_out(self, count: int) -> None:
        self.characters -= count
        if self.characters < 0:
            raise Refused(f"puts out more than {MAX_CHARACTERS} characters")


_budget: ContextVar[Budget] = ContextVar("budget")


def with_budget(render: Callable[[], str]) -> str:
    """Run a rendering with a budget of its own."""
    token = _budget.set(Budget())
    try:
        return render()
    finally:
        _budget.reset(token)


def current() -> Budget:
    """The budget of the rendering that goes on; a fresh one where jinja works on constants as it compiles."""
    return _budget.get(None) or Budget()


def paid(value: Any) -> Any:
    """Pay for a value that was just made; Refused if it is too large. An iterator becomes a list."""
    budget = current()
    if isinstance(value, GeneratorType):
        value = _listed(cast(Iterator[Any], value), budget)
    if isinstance(value, str):
        if len(value) > MAX_CHARACTERS:
            raise Refused(f"makes a text of more than {MAX_CHARACTERS} characters")
        budget.pay(1 + len(value) // CHARACTERS_PER_STEP)
    elif isinstance(value, int):
        if value.bit_length() > MAX_BITS:
            raise Refused(f"makes an integer of more than {MAX_BITS} bits")
        budget.pay(1)
    else:
        _pay_for_all(value, budget)
    return value


def _pay_for_all(value: Any, budget: Budget) -> None:
    """Pay a step for every value inside, however often the same one is held: what printing it would cost."""
    waiting, characters = [value], 0
    while waiting:
        item = waiting.pop()
        budget.pay(1)
        if isinstance(item, str):
            characters += len(item)
            if characters > MAX_CHARACTERS:
                raise Refused(f"makes a value of more than {MAX_CHARACTERS} characters")
        elif isinstance(item, Mapping):
            waiting.extend(cast(Mapping[Any, Any], item).keys())
            waiting.extend(cast(Mapping[Any, Any], item).values())
        elif isinstance(item, (list, tuple, set, frozenset)):
            waiting.extend(cast(Iterable[Any], item))
    budget.pay(characters // CHARACTERS_PER_STEP)


def _listed(values: Iterator[Any], budget: Budget) -> list[Any]:
    made: list[Any] = []
    for value in values:
        budget.pay(1)
        made.append(value)
    return made


def look_at(*values: Any, by_character: bool = False) -> None:
    """Pay for reading values from one end to the other, a text by its length or by the character."""
    budget = current()
    for value in values:
        size = len(cast(Sized, value)) if isinstance(value, (str, list, tuple, dict)) else 0
        budget.pay(1 + (size // CHARACTERS_PER_STEP if isinstance(value, str) and not by_character else size))


def text_of(value: Any) -> str:
    """str(value), after paying for it."""
    return value if isinstance(value, str) else str(paid(value))


def replace(value: Any, old: Any, new: Any, count: int = -1) -> str:
    """str.replace, refused before it makes something huge."""
    text, before, after = text_of(value), text_of(old), text_of(new)
    found = text.count(before) if count < 0 else min(text.count(before), count)
    if len(text) + found * len(after) > MAX_CHARACTERS:
        raise Refused(f"makes a text of more than {MAX_CHARACTERS} characters")
    return text.replace(before, after, count)


def join(values: Iterable[Any], separator: Any = "", attribute: str | int | None = None) -> str:
    """str.join of anything, refused before it makes something huge."""
    separator = text_of(separator)
    parts: list[str] = []
    total = 0
    for item in values:
        current().pay(1)
        parts.append(text_of(item if attribute is None else item[attribute]))
        total += len(parts[-1]) + len(separator)
        if total > MAX_CHARACTERS:
            raise Refused(f"makes a text of more than {MAX_CHARACTERS} characters")
    return separator.join(parts)


def to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """JSON as chat templates expect it: not escaped for HTML, and not for ASCII unless asked."""
    if indent is not None and not 0 <= indent <= MAX_INDENT:
        raise Refused(f"asks for an indent of {indent}; allowed: 0 to {MAX_INDENT}")
    if separators is not None and sum(map(len, separators)) > MAX_INDENT:
        raise Refused(f"asks for separators longer than {MAX_INDENT} characters")
    return json.dumps(
        paid(value), ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


def range_list(*bounds: int) -> list[int]:
    """range, as a list and not long."""
    numbers = range(*bounds)
    if len(numbers) > MAX_RANGE:
        raise Refused(f"asks for a range of {len(numbers)}; at most {MAX_RANGE} are allowed")
    return list(numbers)
