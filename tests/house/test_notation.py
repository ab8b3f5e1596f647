"""Every letter of a tensor's name is in the legend of docs/notation.md, once."""

import ast
import re

from tests.house.files import ROOT, python_files

LEGEND_ROW = re.compile(r"^\| `([A-Z])` \|", re.MULTILINE)
# x_BTD, codes_RX_2_64: a lower-case word, then capital letters, then sizes that are fixed.
SHAPED = re.compile(r"^[a-z_]\w*?_([A-Z]+)(?:_\d+)*$")


def names_in(source: str) -> set[str]:
    """All names that a source gives to variables, arguments and attributes."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Name(id=name) | ast.arg(arg=name) | ast.Attribute(attr=name):
                names.add(name)
            case _:
                pass
    return names


def test_a_letter_has_one_meaning():
    letters = LEGEND_ROW.findall((ROOT / "docs/notation.md").read_text())
    assert letters == sorted(set(letters))


def test_every_shape_is_spelt_with_the_legend():
    legend = set(LEGEND_ROW.findall((ROOT / "docs/notation.md").read_text()))
    # configs/ holds no tensors, and its fields bear the names of the published file.
    for path in python_files("quant", "chronos_moe", "chimera", "runtime", "exports"):
        for name in names_in((ROOT / path).read_text()):
            shape = SHAPED.match(name)
            assert shape is None or set(shape[1]) <= legend, f"{path}: {name}"


def test_a_shape_is_told_from_other_names():
    names = ["x_BTD", "codes_RX_2_64", "weight_OZ", "MAX_CODE", "num_rows", "Tile_OI"]
    assert [shape[1] for name in names if (shape := SHAPED.match(name))] == ["BTD", "RX", "OZ"]
