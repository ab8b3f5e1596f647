"""Whole runs of the smallest model on a little text; `python -m` kills one until it comes to its end."""

import os
import random
import signal
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import torch

from chimera.data.shards import build_shards
from chimera.data.sources import sources_of
from chimera.train.initial import Initial
from chimera.train.log import read_log
from chimera.train.loop import train
from chimera.train.outcome import Outcome
from chimera.train.settings import Wishes, settings_of
from chimera.train.telling import Display
from configs.load import build_config
from configs.schema.training import PhaseName
from tests.chimera.data.samples import learnt_tokenizer, sentence, written

SHAPE: dict[str, Any] = {"rows": 2, "seq_len": 32, "device": "cpu", "compile": False, "bf16": False}
STEPS = 6
BY_CLOCK = {"tokens_per_s", "model_flops_used", "memory_bytes", "seconds_left"}
SINCE_START = {"smooth_loss", "smooth_bits_per_byte", "expert_violation", "expert_entropy"}
"""Means over the steps that this process has seen."""


class Data(NamedTuple):
    """What the runs read."""

    tokenizer: Path
    texts: Path
    """Shards of documents."""
    seen: Path
    """Shards that are never learnt from."""
    chats: Path
    """Shards of prompts with answers."""


def made_data(folder: Path) -> Data:
    """A tokenizer, and shards of some sentences."""
    words = learnt_tokenizer(folder / "tokenizer.model")

    def shards(name: str, records: list[dict[str, Any]]) -> Path:
        path = written(folder / f"{name}.jsonl", records)
        build_shards(sources_of([path]), words, folder / name, chat_share=1.0)
        return folder / name

    return Data(
        tokenizer=folder / "tokenizer.model",
        texts=shards("texts", [{"text": sentence(number)} for number in range(150)]),
        seen=shards("seen", [{"text": sentence(number)} for number in range(150, 160)]),
        chats=shards("chats", [{"prompt": f"Say {n}.", "completion": sentence(n)} for n in range(40)]),
    )


def run(
    out: Path,
    data: Path,
    *,
    changes: dict[str, Any] | None = None,
    phase: PhaseName = "pretrain",
    validation: tuple[Path, ...] = (),
    resume: bool = False,
    pack: Path | None = None,
    initial: Initial | None = None,
    time_limit_s: float | None = None,
    display: Display | None = None,
    **wishes: Any,
) -> Outcome:
    """Train the smallest model, or go on with it."""
    config = build_config({"preset": "micro", **(changes or {})}, source="test")
    asked = SHAPE | {"steps": STEPS, "accumulate": 2, "lr": 2e-3, "save_every": 2} | wishes
    return train(
        config,
        settings=settings_of(config, phase=phase, wishes=Wishes(**asked)),
        data=[data],
        validation=validation,
        out=out,
        resume=resume,
        initial=initial,
        pack=pack,
        time_limit_s=time_limit_s,
        display=display,
    )


def steps_of(out: Path) -> list[dict[str, Any]]:
    """The log of a run, without what the clock and the process have a part in."""
    return [
        {name: value for name, value in record.items() if name not in BY_CLOCK | SINCE_START}
        for record in read_log(out / "log.jsonl")
    ]


def learnt(out: Path) -> dict[str, bytes]:
    """Everything that a run has learnt: weights, and the last checkpoint with its moments."""
    last = max((out / "checkpoints").glob("step-*.safetensors"))
    return {last.name: last.read_bytes(), "model": (out / "model" / "model.safetensors").read_bytes()}


def main(out: Path, data: Path) -> None:
    """Run in processes that are killed at random moments, but for the last one; prints how often."""
    torch.set_num_threads(1)
    moments = random.Random(out.name)
    kills = 0
    while True:
        child = os.fork()
        if child == 0:
            run(out, data, resume=True)
            os._exit(0)
        if kills < 5:
            time.sleep(moments.uniform(0.05, 1.2))
            os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        end = os.waitstatus_to_exitcode(status)
        if end != -signal.SIGKILL:
            print(kills)
            sys.exit(end)
        kills += 1


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
