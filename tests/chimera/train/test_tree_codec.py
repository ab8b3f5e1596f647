"""Values come back as they were, by type too; what cannot is refused when it is written."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from chimera.train.tree_codec import from_json, to_json
from configs.errors import ModelError, UsageError

LEAVES = (
    st.none()
    | st.booleans()
    | st.integers(-(2**200), 2**200)
    | st.floats()
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=5)
    | st.binary(max_size=5)
    | st.integers(0, 3).map(lambda size: torch.arange(size))
    | st.integers(0, 3).map(lambda size: np.arange(size, dtype=np.uint32))
)
KEYS = st.integers(-3, 10**12) | st.sampled_from(["0", "1", "a/0", "", "__metadata__", "a"])
TREES = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(KEYS, inner, max_size=3)
    ),
    max_leaves=12,
)


def same(left: Any, right: Any) -> bool:
    if type(left) is not type(right):
        return False
    if isinstance(left, dict):
        return list(left) == list(right) and all(same(left[key], right[key]) for key in left)
    if isinstance(left, list | tuple):
        return len(left) == len(right) and all(map(same, left, right))
    if isinstance(left, torch.Tensor):
        return left.dtype == right.dtype and torch.equal(left, right)
    if isinstance(left, np.ndarray):
        return left.dtype == right.dtype and np.array_equal(left, right)
    if isinstance(left, float):
        return (
            math.isnan(right)
            if math.isnan(left)
            else (left, math.copysign(1, left))
            == (
                right,
                math.copysign(1, right),
            )
        )
    return left == right


@given(tree=st.dictionaries(KEYS, TREES, max_size=4))
@settings(max_examples=150)
def test_round_trip(tree: dict[Any, Any]):
    text, tensors = to_json(tree)
    assert same(from_json(text, tensors, source="test"), tree)
    assert "__metadata__" not in tensors


@pytest.mark.parametrize(
    ("value", "place"),
    [
        ({1, 2}, "a set cannot be saved"),
        (np.float32(1), "a float32 cannot be saved"),
        (np.array(["x"]), "an array of <U1 cannot be saved"),
        (np.array([None]), "an array of object cannot be saved"),
        ("\ud800", "half a surrogate pair"),
        (1 << 2000, "a int cannot be saved"),
        ({None: 1}, "the key None is neither a name nor an integer"),
        ({True: 1}, "the key True is neither"),
        (print, "a builtin_function_or_method cannot be saved"),
    ],
)
def test_what_cannot_be_saved_is_named_by_its_place(value: Any, place: str):
    with pytest.raises(UsageError, match=rf"extra\.x\[1\]: .*{place}"):
        to_json({"extra": {"x": [0, value]}})


def test_depth_has_a_limit():
    tree: dict[str, Any] = {}
    for _ in range(40):
        tree = {"a": tree}
    with pytest.raises(UsageError, match="nested more than 24 levels deep"):
        to_json(tree)


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        "{}",
        '{"tuple": []}',
        '{"dict": [["a"]]}',
        '{"dict": [[null, 1]]}',
        '{"dict": [["a", {"tensor": "b"}]]}',
        '{"dict": [["a", {"float": "1"}]]}',
        '{"dict": [["a", {"bytes": "xyz"}]]}',
        '{"dict": [["a", {"pickle": ""}]]}',
        '{"dict": [], "tuple": []}',
    ],
)
def test_a_text_that_no_writer_wrote_is_refused(text: str):
    with pytest.raises(ModelError, match="test"):
        from_json(text, {}, source="test")
