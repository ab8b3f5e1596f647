"""A run: text, or shards of it, to a trained model in a folder that can be gone on with at any step.

Notable choices:
- the place in the data, the rounds of the loop and the masked experts are functions of the step, so a
  checkpoint holds weights, moments and one number, and a run that goes on is the run that never stopped;
- the next step's rows are put together while the device works on this one;
- several workers (torchrun) split the rows of each batch; the first of them owns the folder.
"""

import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from chimera.data.batches import Batch, Batches, batches_of
from chimera.data.shards import Shards
from chimera.model import build
from chimera.saving import save_model
from chimera.train import checkpoint
from chimera.train.divergence import stop_diverged
from chimera.train.flops import peak_flops, training_flops
from chimera.train.groups import adamw, set_rates
from chimera.train.inputs import Inputs, open_inputs
from chimera.train.log import LOG_NAME, RunLog
from chimera.train.meter import Meter
from chimera.train.plot import plot_run
from chimera.train.resume_pack import load_pack
from chimera.train.run_folder import RunFolder
from chimera.train.schedule import Course, Rewarmed
from chimera.train.settings import MAY_CHANGE, TrainSettings
from chimera.train.step import MicroBatch, StepOptions, StepResult, TrainStep, prepare
from chimera.train.telling import Display, Silent, duration
from chimera.train.validation import Score, validate
from configs.errors import UsageError
from configs.schema.model import ModelConfig
from quant.qat.linear import set_quant_mix

MODEL_NAME = "model"
REWARM_STEPS = 100
"""Steps over which the rate rises after a resume pack, whose moments begin again."""
BIG_VOCABULARY = 32_768
HEAD_CHUNK = 8192


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """How a run ended."""

    model: Path
    """The folder of the trained model."""
    step: int
    num_steps: int
    tokens: int
    loss: float | None
    """Of the last step; None where no step was left to take."""
    validation: Score | None
    seconds: float
    plots: tuple[Path, ...] = ()

    @property
    def complete(self) -> bool:
        """Whether the run has had all its steps."""
        return self.step >= self.num_steps

    def as_json(self) -> dict[str, Any]:
        """For programs."""
        return {
            "model": str(self.model),
            "step": self.step,
            "num_steps": self.num_steps,
            "complete": self.complete,
            "tokens": self.tokens,
            "loss": self.loss,
            "validation": None if self.validation is None else self.validation.as_json(),
            "seconds": round(self.seconds, 1),
            "plots": [str(path) for path in self.plots],
        }

    def words(self) -> str:
        """For people."""
        how_far = "done" if self.complete else f"stopped at step {self.step:,} of {self.num_steps:,}"
        loss = "" if self.loss is None else f", loss {self.loss:.4f}"
        lines = [f"{how_far}: {self.tokens:,} tokens in {duration(self.seconds)}{loss}"]
        if self.validation is not None:
            lines.append(f"validation: {self.validation.bits_per_byte:.4f} bits per byte")
        lines.append(f"model: {self.model}")
        lines += [f"curve: {path}" for path in self.plots]
        if not self.complete:
            lines.append("The same command with --resume goes on.")
        return "\n".join(lines)


def train(
    config: ModelConfig,
    *,
    settings: TrainSettings,
    data: Sequence[Path],
    out: Path,
    validation: Sequence[Path] = (),
    tokenizer: str | None = None,
    train_tokenizer: int | None = None,
    beside: Path | None = None,
    resume: bool = False,
    pack: Path | None = None,
    time_limit_s: float | None = None,
    display: Display | None = None,
) -> Outcome:
    """Train a model of a config, or go on with it, until its steps are done or its time is over."""
    started = time.monotonic()
    with ExitStack() as stack:
        workers = stack.enter_context(_workers(settings))
        display = display if display is not None and workers.rank == 0 else Silent()
        for note in settings.notes:
            display.say(note)
        inputs = _opened(
            workers,
            lambda: open_inputs(
                config,
                data=data,
                validation=validation,
                out=out,
                tokenizer=tokenizer,
                train_tokenizer=train_tokenizer,
                beside=beside,
                chat_share=1.0 if settings.answers_only else 0.5,
                say=display.say,
            ),
        )
        kept = settings.as_json() | inputs.digests()
        folder = None
        if workers.rank == 0:
            folder = stack.enter_context(
                RunFolder.open(out, config=config, settings=kept, may_change=MAY_CHANGE)
            )
            has_steps = bool(checkpoint.saved_steps(folder.checkpoints))
            if has_steps and not resume:
                raise UsageError(
                    f"{out} holds a run that has begun",
                    hint="Add --resume to go on with it, or name another folder.",
                )
        run = _Run(config, settings, inputs, workers=workers, out=out, display=display)
        run.begin(resume=resume, pack=pack)
        return run.through(started=started, time_limit_s=time_limit_s)


@dataclass(frozen=True, kw_only=True, slots=True)
class Workers:
    """The processes of a run."""

    rank: int
    count: int
    device: torch.device


@contextmanager
def _workers(settings: TrainSettings) -> Iterator[Workers]:
    """Join the other workers that torchrun has started; alone without it."""
    count, rank = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("RANK", "0"))
    device = torch.device(settings.device)
    if count == 1:
        yield Workers(rank=0, count=1, device=device)
        return
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield Workers(rank=rank, count=count, device=device)
    finally:
        dist.destroy_process_group()


def _opened(workers: Workers, make: Callable[[], Inputs]) -> Inputs:
    """The first worker makes what all of them read."""
    first = make() if workers.rank == 0 else None
    if workers.count > 1:
        dist.barrier()
    return make() if first is None else first


class _Run:
    """The model, its optimiser and its place in the data."""

    def __init__(
        self,
        config: ModelConfig,
        settings: TrainSettings,
        inputs: Inputs,
        *,
        workers: Workers,
        out: Path,
        display: Display,
    ) -> None:
        self.config, self.settings, self.inputs = config, settings, inputs
        self.workers, self.out, self.display = workers, out, display
        self.stages = _stages(inputs.train, settings, workers)
        self.accumulate = 1 if settings.carries else settings.geometry.accumulate
        per_epoch = self.stages[0].batches_per_epoch
        self.stage_steps = settings.stage_steps(batches_per_epoch=per_epoch)
        self.num_steps = sum(self.stage_steps)
        self.course: Course = settings.course(batches_per_epoch=per_epoch)
        torch.manual_seed(settings.seed)
        if workers.device.type == "cuda":
            torch.set_float32_matmul_precision("high")
        self.model = build(config).to(workers.device).train()
        if not settings.ternary:
            set_quant_mix(self.model, 0.0)
        self.optimizer = adamw(
            self.model, weight_decay=settings.weight_decay, decay_embedding=settings.decay_embedding
        )
        prepare(self.model, compile=settings.compile, checkpointing=settings.checkpointing)
        on_gpu = workers.device.type == "cuda"
        self.step = TrainStep(
            self.model,
            self.optimizer,
            grad_clip=settings.grad_clip,
            seed=settings.seed,
            options=StepOptions(
                bf16=settings.bf16,
                checkpointing=settings.checkpointing,
                graphs=on_gpu and settings.compile and not settings.checkpointing and not settings.carries,
                head_chunk=HEAD_CHUNK if config.vocab_size > BIG_VOCABULARY else None,
            ),
        )
        self.done = 0
        self.tokens = 0
        self.rewarmed_at: int | None = None

    def begin(self, *, resume: bool, pack: Path | None) -> None:
        """Take up the last checkpoint, or a resume pack, or start."""
        found = checkpoint.load_latest(self.out / "checkpoints", say=self.display.say) if resume else None
        if found is not None:
            self.model.load_state_dict(found.state["model"])
            self.optimizer.load_state_dict(found.state["optimizer"])
            self.done, self.tokens = found.step, found.state["extra"]["tokens"]
            if found.state["extra"]["rewarmed_at"] is not None:
                self._rewarm(found.state["extra"]["rewarmed_at"])
            self.display.say(f"going on after step {self.done:,}")
        elif pack is not None:
            carried = load_pack(pack)
            carried.check(config=self.config, digests=self.inputs.digests())
            carried.load_into(self.model)
            self.done, self.tokens = carried.step, carried.position["tokens"]
            self._rewarm(self.done)
            self.display.say(f"going on after step {self.done:,} of a resume pack; moments begin anew")

    def through(self, *, started: float, time_limit_s: float | None) -> Outcome:
        """All steps that are left, with log, validation and checkpoints."""
        is_first = self.workers.rank == 0
        log = RunLog(self.out / LOG_NAME, steps_done=self.done) if is_first else None
        meter = Meter(
            num_steps=self.num_steps,
            flops_per_token=training_flops(self.config),
            peak_flops=peak_flops(self.workers.device, bf16=self.settings.bf16) * self.workers.count,
            device=self.workers.device,
            imbalance_limit=self.config.diagnostics.thresholds.max_moe_imbalance,
            first_step=self.done,
            tokens_before=self.tokens,
        )
        loss: float | None = None
        score, validated_at = None, -1
        with ThreadPoolExecutor(1) as ahead:
            waiting: Future[list[Batch]] = ahead.submit(self._batches, self.done)
            while self.done < self.num_steps:
                batches = waiting.result()
                if self.done + 1 < self.num_steps:
                    waiting = ahead.submit(self._batches, self.done + 1)
                rate = self.course.rate(self.done)
                set_rates(self.optimizer.param_groups, rate=rate, decay=self.course.decay(self.done))
                result = self._one(batches)
                if not result.finite:
                    self._stop(result, rate)
                self.done += 1
                self.tokens += result.num_tokens
                loss = result.loss
                reading = meter.read(
                    loss=result.loss,
                    grad_norm=result.grad_norm,
                    rate=rate,
                    num_tokens=result.num_tokens,
                    num_bytes=result.num_bytes,
                    expert_counts_LE=result.counts_LE,
                    terms=result.terms,
                )
                self.display.update(reading)
                if log is not None:
                    log.write(reading.as_json())
                over = self._over(started, time_limit_s)
                last = self.done == self.num_steps or over
                if self.inputs.validation is not None and (last or self._due(self.settings.validate_every)):
                    score, validated_at = self._validate(), self.done
                    if log is not None:
                        log.write({"step": self.done, "tokens": self.tokens, "validation": score.as_json()})
                if is_first and (last or self._due(self.settings.save_every)):
                    self._save()
                if last or self._due(self.settings.save_every) or validated_at == self.done:
                    meter.skip()
                if over:
                    break
        plots: list[Path] = []
        if log is not None:
            log.close()
            plots = plot_run(self.out / LOG_NAME, self.out, title=self.out.name)
            save_model(self.model, self.out / MODEL_NAME)
            self.inputs.copy_tokenizer(self.out / MODEL_NAME)
        return Outcome(
            model=self.out / MODEL_NAME,
            step=self.done,
            num_steps=self.num_steps,
            tokens=self.tokens,
            loss=loss,
            validation=score,
            seconds=time.monotonic() - started,
            plots=tuple(plots),
        )

    def _one(self, batches: list[Batch]) -> StepResult:
        stage, _ = self._place(self.done)
        micro = [_on_device(one, self.workers.device, self.stages[stage].max_documents) for one in batches]
        if not batches[0].continues:
            self.step.state = None
        carries = self.stages[stage].slices > 1
        return self.step.run(micro, step=self.done, carry=carries)

    def _batches(self, step: int) -> list[Batch]:
        stage, within = self._place(step)
        first = within * self.accumulate
        return [self.stages[stage].batch(first + number) for number in range(self.accumulate)]

    def _place(self, step: int) -> tuple[int, int]:
        """The stage of a step, and its number there."""
        for stage, count in enumerate(self.stage_steps[:-1]):
            if step < count:
                return stage, step
            step -= count
        return len(self.stage_steps) - 1, step

    def _rewarm(self, at_step: int) -> None:
        self.rewarmed_at = at_step
        self.course = Rewarmed(course=self.course, at_step=at_step, num_steps=REWARM_STEPS)

    def _due(self, every: int) -> bool:
        return every > 0 and self.done % every == 0

    def _over(self, started: float, time_limit_s: float | None) -> bool:
        """Whether time is over, by the first worker's clock."""
        over = time_limit_s is not None and time.monotonic() - started >= time_limit_s
        if self.workers.count == 1 or time_limit_s is None:
            return over
        word = torch.tensor([int(over)], device=self.workers.device)
        dist.broadcast(word, src=0)
        return bool(word.item())

    def _validate(self) -> Score:
        assert self.inputs.validation is not None
        stage, _ = self._place(self.done - 1)
        return validate(
            self.model,
            self.inputs.validation,
            seq_len=self.stages[stage].seq_len,
            rows=max(1, self.settings.geometry.rows // self.workers.count),
            bf16=self.settings.bf16,
        )

    def _save(self) -> None:
        state = {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "extra": {"tokens": self.tokens, "rewarmed_at": self.rewarmed_at},
        }
        checkpoint.save(self.out / "checkpoints", state, step=self.done, keep=self.settings.keep)

    def _stop(self, result: StepResult, rate: float) -> None:
        stop_diverged(
            self.model,
            folder=self.out,
            step=self.done,
            loss=result.loss,
            grad_norm=result.grad_norm,
            rate=rate,
            position={"step": self.done, "batch": self._place(self.done)[1] * self.accumulate},
            terms=result.terms,
        )


def _stages(shards: Shards, settings: TrainSettings, workers: Workers) -> list[Batches]:
    return [
        batches_of(
            shards,
            rows=settings.geometry.rows,
            seq_len=stage.seq_len,
            length=stage.length,
            seed=settings.seed,
            answers_only=settings.answers_only,
        ).shard(workers.rank, workers.count)
        for stage in settings.stages
    ]


def _on_device(batch: Batch, device: torch.device, max_documents: int) -> MicroBatch:
    def moved(array: Any) -> torch.Tensor:
        tensor = torch.from_numpy(array)
        return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor

    return MicroBatch(
        ids_BT=moved(batch.ids_BT),
        labels_BT=moved(batch.labels_BT),
        resets_BT=moved(batch.resets_BT),
        max_documents=max_documents,
        num_labels=batch.num_labels,
        num_bytes=batch.num_bytes,
    )
