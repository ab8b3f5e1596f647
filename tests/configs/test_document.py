"""The page of all keys is the one that the schema gives."""

from pathlib import Path

from configs.document import config_page, sections
from configs.schema.keys import fields_of
from configs.schema.model import ModelConfig

PAGE = Path(__file__).parents[2] / "docs" / "config.md"


def test_the_page_is_up_to_date():
    assert PAGE.read_text(encoding="utf-8") == config_page(), "run `make docs`"


def test_every_key_of_every_section_is_on_the_page():
    page = config_page()
    for _, section in [("", ModelConfig), *sections(ModelConfig)]:
        for field in fields_of(section):
            assert f"| `{field.json}` |" in page
