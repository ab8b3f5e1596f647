"""Sections are what Python's own frozen dataclasses are."""

import copy
import pickle
from dataclasses import FrozenInstanceError, dataclass, field, fields, replace

import pytest

from configs.schema.section import section


@section
class Ours:
    """A section."""

    name: str
    size: int = 3
    parts: tuple[int, ...] = field(default_factory=lambda: (1, 2))


@dataclass(frozen=True, kw_only=True, slots=True)
class Theirs:
    """The same by Python."""

    name: str
    size: int = 3
    parts: tuple[int, ...] = field(default_factory=lambda: (1, 2))


def test_values_and_their_names_agree():
    ours, theirs = Ours(name="a", size=5), Theirs(name="a", size=5)
    assert [one.name for one in fields(ours)] == [one.name for one in fields(theirs)]
    assert repr(ours).replace("Ours", "Theirs") == repr(theirs)
    assert hash(ours) == hash(theirs)
    assert not hasattr(ours, "__dict__")


def test_equal_values_are_equal_and_others_are_not():
    assert Ours(name="a") == Ours(name="a", size=3, parts=(1, 2))
    assert Ours(name="a") != Ours(name="b")
    assert Ours(name="a") != Theirs(name="a")
    assert replace(Ours(name="a"), size=4) == Ours(name="a", size=4)


def test_nothing_can_be_changed():
    ours = Ours(name="a")
    with pytest.raises(FrozenInstanceError, match="size"):
        ours.size = 4  # pyright: ignore[reportAttributeAccessIssue]
    with pytest.raises(FrozenInstanceError, match="size"):
        del ours.size
    assert ours == Ours(name="a")


def test_copies_are_whole():
    ours = Ours(name="a", size=7)
    assert copy.deepcopy(ours) == copy.copy(ours) == pickle.loads(pickle.dumps(ours)) == ours


@pytest.mark.parametrize(
    ("given", "told"), [({}, "needs a value for name"), ({"name": "a", "sise": 1}, "has no sise")]
)
def test_what_lacks_or_is_too_much_is_named(given: dict[str, object], told: str):
    with pytest.raises(TypeError, match=told):
        Ours(**given)
