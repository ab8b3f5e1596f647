"""What a section of a config is: a frozen dataclass, whose methods are written once for all of them.

Python's own decorator writes and compiles six methods for every class, which took a tenth of the time from
the start of the program to its first word. These read the fields instead; a config is made once.
"""

from dataclasses import MISSING, FrozenInstanceError, dataclass, field, fields
from typing import Any, TypeVar, dataclass_transform

Cls = TypeVar("Cls", bound=type)


@dataclass_transform(kw_only_default=True, frozen_default=True, eq_default=True, field_specifiers=(field,))
def section(cls: Cls) -> Cls:
    """As `dataclass(frozen=True, kw_only=True, slots=True)`."""
    plain: Any = cls
    made = dataclass(init=False, repr=False, eq=False, kw_only=True, slots=True)(plain)
    for method in (_init, _repr, _eq, _hash, _setattr, _delattr, _setstate):
        setattr(made, f"_{method.__name__}__", method)
    return made


def _init(self: Any, **given: Any) -> None:
    for one in fields(self):
        if one.name in given:
            value = given.pop(one.name)
        elif one.default is not MISSING:
            value = one.default
        elif one.default_factory is not MISSING:
            value = one.default_factory()
        else:
            raise TypeError(f"{type(self).__name__} needs a value for {one.name}")
        object.__setattr__(self, one.name, value)
    if given:
        raise TypeError(f"{type(self).__name__} has no {', '.join(given)}")


def _values(self: Any) -> tuple[Any, ...]:
    return tuple(getattr(self, one.name) for one in fields(self))


def _repr(self: Any) -> str:
    shown = ", ".join(f"{one.name}={getattr(self, one.name)!r}" for one in fields(self))
    return f"{type(self).__qualname__}({shown})"


def _eq(self: Any, other: object) -> bool:
    return _values(self) == _values(other) if type(other) is type(self) else NotImplemented


def _hash(self: Any) -> int:
    return hash(_values(self))


def _setattr(self: Any, name: str, value: object) -> None:
    raise FrozenInstanceError(f"cannot assign to field {name!r}")


def _delattr(self: Any, name: str) -> None:
    raise FrozenInstanceError(f"cannot delete field {name!r}")


def _setstate(self: Any, state: tuple[None, dict[str, Any]]) -> None:
    for name, value in state[1].items():
        object.__setattr__(self, name, value)
