"""The tasks on which methods of fine-tuning are compared."""

import json
from pathlib import Path

import pytest

from benchmarks.finetune_tasks.tasks import SIZES, TASKS, items, write_items
from configs.text.records import PromptRecord, read_records


@pytest.mark.parametrize("task", TASKS)
def test_no_question_is_in_two_parts(task: str):
    parts = [items(task, part=part, seed=3) for part in SIZES]
    assert [len(part) for part in parts] == list(SIZES.values())
    prompts = [item.prompt for part in parts for item in part]
    assert len(set(prompts)) == len(prompts)
    assert items(task, part="test", seed=3) == parts[-1]
    assert items(task, part="test", seed=4) != parts[-1]


@pytest.mark.parametrize("task", TASKS)
def test_the_answer_is_right_and_another_is_not(task: str):
    first, second = items(task, part="train", seed=0)[:2]
    assert first.check(f" {first.answer}\n")
    assert not first.check("")
    assert not first.check(f"{first.answer} {second.answer}")


def test_the_classes_are_as_many():
    said = [item.answer for item in items("mood", part="test", seed=0)]
    assert 0.4 < said.count("good") / len(said) < 0.6
    assert set(said) == {"good", "bad"}


def test_files_are_records(tmp_path: Path):
    write_items(tmp_path, seed=1)
    for task in TASKS:
        records = list(read_records(tmp_path / task / "test.jsonl"))
        assert [record.prompt for record in records if isinstance(record, PromptRecord)] == [
            item.prompt for item in items(task, part="test", seed=1)
        ]
        assert set(json.loads((tmp_path / task / "valid.jsonl").read_text().splitlines()[0])) == {
            "prompt",
            "completion",
        }
