"""The page of all keys is the one that the schema gives, and says what there is to say."""

import subprocess
import sys
from pathlib import Path

from configs.document import STATE_TEXT, config_page
from configs.load import PRESETS
from configs.schema.keys import fields_of, inner_sections, sections
from configs.schema.model import ModelConfig
from configs.wording import range_text

ROOT = Path(__file__).resolve().parents[2]
PAGE = config_page()


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|").split(" | ")]


def tables() -> dict[str, dict[str, list[str]]]:
    """Heading → key → the cells of its row."""
    found: dict[str, dict[str, list[str]]] = {}
    for line in PAGE.splitlines():
        if line.startswith("## "):
            found[line.removeprefix("## ")] = {}
        elif line.startswith("| `"):
            row = cells(line)
            found[list(found)[-1]][row[0].strip("`")] = row
    return found


def test_the_page_is_up_to_date():
    assert (ROOT / "docs" / "config.md").read_text(encoding="utf-8") == PAGE, "run `make docs`"


def test_every_key_of_every_section_is_described_once():
    found = tables()
    described = {section: heading for heading, section in zip(found, unique_sections(), strict=True)}
    for section, heading in described.items():
        assert list(found[heading]) == [field.json for field in fields_of(section)]
        for field in fields_of(section):
            row = found[heading][field.json]
            assert len(row) == 7, row
            assert (row[3], row[4]) == (field.key.meaning, field.key.unit)
            limits = range_text(field.key) or (field.key.form.words if field.key.form else "")
            assert row[5] == limits
            assert row[6] == ("" if any(inner_sections(field.kind)) else STATE_TEXT[field.key.state])


def unique_sections() -> list[type]:
    return list(dict.fromkeys([ModelConfig, *(section for _, section in sections(ModelConfig))]))


def test_a_section_that_stands_in_many_places_names_them_all():
    for name, count in (("torch_compile", 5), ("zero_multiply_forward", 9)):
        (heading,) = (heading for heading in tables() if name in heading)
        assert heading.count("`P3_ternary_compute.implemented_optimizations.") == count


def test_presets_and_skipped_keys_are_listed():
    assert ", ".join(f"`{name}`" for name in PRESETS) in PAGE
    for name in ModelConfig.NOTES:
        assert f"`{name}`" in PAGE


def test_it_can_be_written_from_the_shell(tmp_path: Path):
    path = tmp_path / "page.md"
    subprocess.run([sys.executable, "-m", "configs.document", str(path)], cwd=ROOT, check=True, timeout=60)
    assert path.read_text(encoding="utf-8") == PAGE
