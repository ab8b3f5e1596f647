"""The model that is shipped: whole, described truly, and the same text with any number of threads."""

import hashlib
import subprocess
import sys
from pathlib import Path

import pytest

from configs.load import load_config, preset, to_json
from quant.container import open_b158
from runtime.engine import Engine
from runtime.model_folder import open_model

DEMO = Path("runtime/models/demo")
PROMPT = "Once upon a time there was"
NUM_TOKENS = 200
GREEDY_DIGEST = "fec5865f4a4bc9a2"


def greedy(num_threads: int, *, cut: int) -> list[int]:
    """Ids of the best words after the prompt, read in two pieces."""
    tokenizer = open_model(DEMO).tokenizer()
    assert tokenizer is not None
    ids = tokenizer.encode(PROMPT)
    with Engine.open(DEMO, num_threads=num_threads) as engine:
        state = engine.new_state()
        engine.prefill(state, ids[:cut])
        engine.prefill(state, ids[cut:])
        chosen: list[int] = []
        for _ in range(NUM_TOKENS):
            chosen.append(int(engine.logits().argmax()))
            engine.step(state, chosen[-1])
    return chosen


@pytest.mark.parametrize(("num_threads", "cut"), [(1, 1), (2, 3), (3, 2)])
def test_two_hundred_words_are_what_they_are_everywhere(num_threads: int, cut: int):
    ids = greedy(num_threads, cut=cut)
    assert hashlib.sha256(str(ids).encode()).hexdigest()[:16] == GREEDY_DIGEST


def test_the_files_are_whole_and_small():
    with open_b158(DEMO / "model.b158") as file:
        file.verify()
    total = sum(path.stat().st_size for path in DEMO.iterdir())
    assert total < 12_000_000


def test_the_config_is_the_preset():
    assert to_json(load_config(DEMO)) == to_json(preset("demo"))


def test_the_card_shows_what_the_model_says():
    card = (DEMO / "MODEL_CARD.md").read_text()
    command = [sys.executable, "-m", "runtime.cli.run", "Write these words in reverse order: sun moon star"]
    said = subprocess.run(
        [*command, "--seed", "1"], capture_output=True, text=True, check=True
    ).stdout.strip()
    assert f"> {said}\n" in card
