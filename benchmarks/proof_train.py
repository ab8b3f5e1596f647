"""One arm of the first proof at one learning rate, from first weights to measures, in any number of calls.

An arm is trained whole at each rate, and its best run counts: short probes were tried first and misled, since
a rate that is ahead after a twentieth of the tokens is often behind at the end.
"""

import math
import os
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.proof_arms import build_arm, costs
from benchmarks.proof_evaluate import evaluate
from benchmarks.proof_records import LAST, Records, Settings
from benchmarks.proof_tasks import open_needles, practice_needles, practice_recall
from chimera.data.batches import IGNORED, batches_of
from chimera.data.shards import Shards, open_shards
from chimera.train import checkpoint
from chimera.train.folder_lock import FolderLock
from chimera.train.groups import adamw, set_rates
from chimera.train.log import LOG_NAME, RunLog, read_log
from chimera.train.meter import peak_memory_bytes
from chimera.train.schedule import Schedule
from chimera.train.step import MicroBatch, StepOptions, TrainStep, prepare
from chimera.train.validation import validate
from configs.errors import ChimeraError

RATES = (2e-3, 4e-3, 1e-3)
MOST_RATES = 5
NEXT_RATE = 2.0
WEIGHT_DECAY, GRAD_CLIP = 0.1, 1.0
WARMUP_SHARE, MOST_WARMUP = 0.1, 100
QUICK_ROWS = 96
"""Of the validation text, on the way."""
LOG_EVERY = 10
VALIDATIONS, SAVES = 12, 6
"""In the course of a run, evenly spread."""
CURVE_POINTS = 120
SLOW = 4.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Machine:
    """How an arm is computed; nothing of it changes what is compared."""

    device: str
    compile: bool
    deadline: float
    """By the clock of `time.time`: then the arm saves and stops."""
    parent: int = field(default_factory=os.getppid)

    @property
    def is_over(self) -> bool:
        """Whether it is time to stop; it is, too, once the process that began the arm has died."""
        return time.time() >= self.deadline or os.getppid() != self.parent


def plan_of(work: Path, settings: Settings) -> str:
    """What names a proof: its settings, data and needles."""
    needles = open_needles(work, seq_len=settings.seq_len)
    shards = [open_shards(work / name) for name in ("train", "val")]
    return settings.digest(*(one.digest for one in shards), needles.digest)


def run_arm(work: Path, name: str, *, rate: float, settings: Settings, machine: Machine) -> bool:
    """Do what is left of an arm at a rate; whether it is finished."""
    records = Records(work, name, rate=rate, plan=plan_of(work, settings))
    if records.is_finished:
        return True
    folder = work / "runs" / records.name
    folder.mkdir(parents=True, exist_ok=True)
    lock = FolderLock(folder)
    try:
        return _Arm(work, name, settings=settings, machine=machine, records=records).through()
    finally:
        lock.release()


class _Diverged(Exception):
    """A loss or a gradient is no number."""

    def __init__(self, step: int) -> None:
        self.step = step
        super().__init__(f"step {step}")


class _Rows(NamedTuple):
    """The rows of a step, on the CPU."""

    ids_BT: NDArray[np.int64]
    labels_BT: NDArray[np.int64]
    resets_BT: NDArray[np.bool_]
    num_bytes: int


class _Arm:
    """The model of an arm, its steps and its place."""

    def __init__(
        self, work: Path, name: str, *, settings: Settings, machine: Machine, records: Records
    ) -> None:
        self.name, self.settings, self.machine, self.records = name, settings, machine, records
        self.began: float | None = time.time()
        self.folder = work / "runs" / records.name
        self.train, self.validation = open_shards(work / "train"), open_shards(work / "val")
        self.needles = open_needles(work, seq_len=settings.seq_len)
        self.vocab_size = vocab_size_of(self.train)
        text_rows = settings.rows - settings.recall_rows - settings.needle_rows
        self.batches = batches_of(self.train, rows=text_rows, seq_len=settings.seq_len, seed=settings.seed)
        self.device = torch.device(machine.device)
        on_gpu = self.device.type == "cuda"
        if on_gpu:
            torch.set_float32_matmul_precision("high")
        model = build_arm(name, size=settings.size, vocab_size=self.vocab_size, seed=settings.seed)
        self.model = model.to(self.device).train()
        self.loss = math.nan
        prepare(self.model, compile=machine.compile, checkpointing=False)
        self.step = TrainStep(
            self.model,
            adamw(self.model, weight_decay=WEIGHT_DECAY),
            grad_clip=GRAD_CLIP,
            seed=settings.seed,
            options=StepOptions(bf16=on_gpu, graphs=on_gpu and machine.compile),
        )

    def through(self) -> bool:
        """Sizes, training, measures; whether it came to the end."""
        if not self.records.of("sizes"):
            sizes = costs(
                self.name,
                size=self.settings.size,
                vocab_size=self.vocab_size,
                seq_len=self.settings.seq_len,
            )
            self.records.add("sizes", sizes | {"settings": asdict(self.settings)})
        try:
            trained = self._trained()
        except _Diverged as gone:
            self.records.add(LAST, {"diverged_at": gone.step})
            self.say(f"diverged at step {gone.step}")
            return True
        if not trained or self.machine.is_over:
            self.say("stopped; the next call goes on")
            return False
        measures = evaluate(
            self.model,
            validation=self.validation,
            needles=self.needles,
            seq_len=self.settings.seq_len,
            rows=self.settings.rows,
            questions=self.settings.questions,
            seed=self.settings.seed,
        )
        self.records.add(LAST, measures)
        self.say(f"finished: {measures['bits_per_byte']['all']:.4f} bits per byte")
        return True

    def say(self, text: str) -> None:
        """A line for whoever watches."""
        print(f"{self.records.name}: {text}", flush=True)

    def _trained(self) -> bool:
        """Whether the training is done, from its last checkpoint on."""
        schedule = self._schedule()
        done = self._resume()
        if done == schedule.num_steps and self.records.of("trained"):
            return True
        every = {
            "save": max(1, schedule.num_steps // SAVES),
            "validate": max(1, schedule.num_steps // VALIDATIONS),
        }
        log = RunLog(self.folder / LOG_NAME, steps_done=done)
        for step, rows in self._rows(done, schedule.num_steps):
            began = time.perf_counter()
            if not self._one(step, schedule, rows):
                raise _Diverged(step)
            done, took = step + 1, time.perf_counter() - began
            over, last = self.machine.is_over, done == schedule.num_steps
            if done % LOG_EVERY == 0 or last:
                log.write(self._place(done) | {"loss": self.loss, "step_ms": round(took * 1e3, 2)})
            if done % every["validate"] == 0 or last:
                score = self._quick_score()
                log.write(self._place(done) | {"validation": score})
                self.say(
                    f"step {done} of {schedule.num_steps}, loss {self.loss:.4f}, {score:.4f} bits per byte"
                )
            if done % every["save"] == 0 or last or over:
                self._save(done)
            if over and not last:
                return False
        log.close()
        course = _course(read_log(self.folder / LOG_NAME), self.settings)
        memory = round(peak_memory_bytes(self.device) / 1e9, 1)
        self.records.add("trained", {"memory_gb": memory, **course})
        return True

    def _place(self, done: int) -> dict[str, int]:
        return {"step": done, "tokens": done * self.settings.step_tokens}

    def _resume(self) -> int:
        """Steps done; the state is that of the last checkpoint, or the first."""
        found = checkpoint.load_latest(self.folder / "checkpoints", say=self.say)
        if found is None:
            return 0
        if found.state["plan"] != self.records.plan:
            raise ChimeraError(
                f"{self.folder} holds a run of another proof", hint="Remove it, or name another folder."
            )
        self.model.load_state_dict(found.state["model"])
        self.step.optimizer.load_state_dict(found.state["optimizer"])
        self.say(f"going on after step {found.step}")
        return found.step

    def _save(self, done: int) -> None:
        state = {
            "model": self.model.state_dict(),
            "optimizer": self.step.optimizer.state_dict(),
            "plan": self.records.plan,
        }
        checkpoint.save(self.folder / "checkpoints", state, step=done, keep=1)

    def _schedule(self) -> Schedule:
        num_steps = self.settings.num_steps
        warmup = min(MOST_WARMUP, max(1, int(WARMUP_SHARE * num_steps)))
        return Schedule(
            kind="cosine_warmup",
            peak=self.records.rate,
            num_steps=num_steps,
            warmup_steps=warmup,
            weight_decay=WEIGHT_DECAY,
        )

    def _one(self, step: int, schedule: Schedule, rows: "_Rows") -> bool:
        """One step; whether loss and gradient were numbers."""
        set_rates(self.step.optimizer.param_groups, rate=schedule.rate(step), decay=schedule.decay(step))
        result = self.step.run([self._on_device(rows)], step=step)
        self.loss = result.loss
        if self.began is not None:
            self.say(f"first step after {time.time() - self.began:.0f} s")
            self.began = None
        if result.finite and result.grad_norm == 0:
            raise ChimeraError(f"{self.name}: the gradient of step {step} is zero: nothing is learnt")
        return result.finite

    def _rows(self, first: int, end: int) -> Iterator[tuple[int, "_Rows"]]:
        """Some steps and their rows; the next ones are put together while the device works on these."""
        with ThreadPoolExecutor(1) as ahead:
            waiting = [ahead.submit(self._batch, step) for step in range(first, min(first + 1, end))]
            for step in range(first, end):
                rows = waiting.pop().result()
                if step + 1 < end:
                    waiting.append(ahead.submit(self._batch, step + 1))
                yield step, rows

    def _batch(self, step: int) -> "_Rows":
        """A step's rows: text, recall and needles, the same ones for every arm."""
        settings, text = self.settings, self.batches.batch(step)
        parts = [(text.ids_BT, text.labels_BT, text.resets_BT)]
        if settings.recall_rows:
            parts.append(
                practice_recall(
                    step=step,
                    rows=settings.recall_rows,
                    seq_len=settings.seq_len,
                    vocab_size=self.vocab_size,
                    seed=settings.seed,
                )
            )
        if settings.needle_rows:
            parts.append(practice_needles(self.needles, step=step, rows=settings.needle_rows))
        ids, labels, resets = (np.concatenate(one) for one in zip(*parts, strict=True))
        return _Rows(ids, labels, resets, text.num_bytes)

    def _on_device(self, rows: "_Rows") -> MicroBatch:
        # Not where the rows are put together: a copy in another thread would break a capture.
        ids, labels, resets = (torch.from_numpy(array).to(self.device) for array in rows[:3])
        return MicroBatch(
            ids_BT=ids,
            labels_BT=labels,
            resets_BT=resets,
            max_documents=self.batches.max_documents,
            num_labels=int((rows.labels_BT != IGNORED).sum()),
            num_bytes=rows.num_bytes,
        )

    def _quick_score(self) -> float:
        """Bits per byte of the first rows of the validation text."""
        return validate(
            self.model,
            self.validation,
            seq_len=self.settings.seq_len,
            rows=self.settings.rows,
            num_rows=QUICK_ROWS,
            bf16=self.step.options.bf16,
        ).bits_per_byte


def vocab_size_of(shards: Shards) -> int:
    """Ids that shards may hold."""
    return len(shards.id_bytes)


def next_rate(scores: dict[float, float], rates: Sequence[float]) -> float | None:
    """The rate to try next; None where the best one lies between two others, or enough were tried."""
    for rate in rates:
        if rate not in scores:
            return rate
    if len(scores) >= max(MOST_RATES, len(rates)) or len(scores) < 2:
        return None
    tried = sorted(scores)
    best = min(scores, key=lambda rate: scores[rate])
    if math.isinf(scores[best]) or best not in (tried[0], tried[-1]):
        return None
    return best * NEXT_RATE if best == tried[-1] else best / NEXT_RATE


def _course(log: Sequence[dict[str, Any]], settings: Settings) -> dict[str, Any]:
    """What a run's log comes to: the curves, thinned, and the speed of its steps."""
    steps = [one for one in log if "loss" in one]
    every = -(-len(steps) // CURVE_POINTS)
    took = np.array([one["step_ms"] for one in steps])
    # Without the steps in which the compiler was at work; the others differ by their rounds.
    mean = float(took[took <= SLOW * np.median(took)].mean())
    return {
        "steps": settings.num_steps,
        "tokens": settings.num_steps * settings.step_tokens,
        "tokens_per_s": round(settings.step_tokens / mean * 1e3),
        "losses": [[one["tokens"], one["loss"]] for one in steps[every - 1 :: every]],
        "validation": [[one["tokens"], one["validation"]] for one in log if "validation" in one],
    }
