"""Hostile inputs are refused with our words or taken: no crash, other error, much memory or long work."""

import json
import subprocess
import sys
from typing import Any

import pytest

from tests.fuzz.hostile import HOSTILE
from tests.fuzz.replay import names
from tests.fuzz.target import ROOT
from tests.fuzz.targets import TARGETS

CASES = [(target, name) for target in TARGETS for name in names(target)]


@pytest.fixture(scope="module")
def outcomes() -> dict[tuple[str, str], dict[str, Any]]:
    """What became of each input, all in one process; the input of a crash has no outcome."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.fuzz.replay"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        errors="replace",
    )
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    found = {(line["target"], line["name"]): line for line in lines}
    assert lines, done.stderr
    last = lines[-1]
    last.setdefault(
        "failed", f"exit code {done.returncode}: {done.stderr[-2000:]}"
    ) if done.returncode else None
    return found


@pytest.mark.parametrize(("target", "name"), CASES)
def test_a_hostile_input_is_refused_with_words_or_taken(
    outcomes: dict[tuple[str, str], dict[str, Any]], target: str, name: str
):
    outcome = outcomes[target, name]
    assert "failed" not in outcome, outcome["failed"]
    if name in HOSTILE.get(target, {}):
        words = HOSTILE[target][name][1]
        assert words in (outcome["words"] or "") if words else outcome["words"] is None, outcome["words"]


def test_every_loader_has_hostile_inputs():
    assert {target for target in TARGETS if not names(target)} <= {"json"}
