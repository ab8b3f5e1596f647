"""A process that runs a model with experts on disk, perhaps in a group with a limit, and tells how it went.

    python -m runtime.measuring.experts_child '{"model": …}'

`Task` says what is asked. The last line on stdout is the answer, in JSON.
"""

import hashlib
import json
import os
import statistics
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

Side = Literal["resident", "store", "pages", "random pages"]
"""All in memory; the store; pages of mapped files, as the system reads them and without reading ahead."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Task:
    """What a process is to do."""

    model: str
    side: Side
    members: str | None
    """The file of a control group to which it writes its number first."""
    experts_bytes: int | None
    threads: int
    warm_tokens: int
    tokens: int
    rounds: int | None = None
    policy: str = "lru"
    predictor: str | None = None
    spans: bool = False
    seed: int = 0

    def to_json(self) -> str:
        """One line."""
        return json.dumps(asdict(self))


def main(text: str) -> None:
    """Do it and print the answer."""
    task = Task(**json.loads(text))
    if task.members is not None:
        Path(task.members).write_text(str(os.getpid()))
    print(json.dumps(answer_of(task)))


def answer_of(task: Task) -> dict[str, Any]:
    """Read tokens one by one; only those after the first ones count."""
    import numpy as np

    from runtime.engine import Engine

    with Engine.open(task.model, num_threads=task.threads, experts=_asked(task)) as engine:
        assert engine.experts is not None, "the model has experts on disk"
        if task.side == "resident":
            engine.experts.load_all()
        draws = np.random.default_rng(task.seed)
        ids = draws.integers(0, engine.config.vocab_size, task.warm_tokens + task.tokens)
        state = engine.new_state(task.rounds)
        for token in ids[: task.warm_tokens]:
            engine.step(state, int(token))
        before, read_before = engine.experts.report(), _read_bytes()
        if engine.experts.meter.spans is not None:
            engine.experts.meter.spans.clear()
        seconds, text = list[float](), hashlib.sha256()
        for token in ids[task.warm_tokens :]:
            begin = time.perf_counter()
            engine.step(state, int(token))
            seconds.append(time.perf_counter() - begin)
            text.update(engine.logits().tobytes())
        after, read_after = engine.experts.report(), _read_bytes()
        return {
            "side": task.side,
            "tokens_per_s": len(seconds) / sum(seconds),
            "median_ms": statistics.median(seconds) * 1e3,
            "disk_bytes_a_token": (read_after - read_before) / len(seconds),
            "stall_ms_a_token": (after["stall_ms"] - before["stall_ms"]) / len(seconds),
            "logits": text.hexdigest(),
            "resident_bytes": _resident_bytes(),
            "experts": after,
            "spans": engine.experts.meter.spans,
        }


def _asked(task: Task) -> Any:
    from runtime.experts.asked import ExpertsAsked

    pages: Any = {"pages": "normal", "random pages": "random"}.get(task.side)
    policy: Any = task.policy
    predictor: Any = task.predictor
    return ExpertsAsked(
        memory_bytes=task.experts_bytes if task.side == "store" else None,
        pages=pages,
        policy=policy,
        predictor=predictor,
        keeps_spans=task.spans,
    )


def _read_bytes() -> int:
    """What this process had the disk read; page faults count, and so does reading ahead."""
    for line in Path("/proc/self/io").read_text().splitlines():
        name, _, value = line.partition(": ")
        if name == "read_bytes":
            return int(value)
    return 0


def _resident_bytes() -> int:
    import psutil

    return int(psutil.Process().memory_info().rss)


if __name__ == "__main__":
    main(sys.argv[1])
