"""A run: text, or shards of it, to a trained model in a folder that can be gone on with at any step.

Notable choices:
- the place in the data, the rounds of the loop and the masked experts are functions of the step, so a
  checkpoint holds weights, moments and one number, and a run that goes on is the run that never stopped;
- the next step's rows are put together while the device works on this one;
- several workers (torchrun) split the rows of each batch; the first of them owns the folder;
- an end that is asked for (Ctrl-C, a time limit) comes after a step, with a checkpoint.
"""

import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch

from chimera.data.batches import Batch
from chimera.model import build
from chimera.saving import save_model
from chimera.train import checkpoint
from chimera.train.carried import rounds_of, state_of, tensors_of
from chimera.train.divergence import stop_diverged
from chimera.train.flops import peak_flops, training_flops
from chimera.train.groups import adamw, set_rates
from chimera.train.initial import Initial
from chimera.train.inputs import Inputs, open_inputs
from chimera.train.interrupts import Interrupts, watched
from chimera.train.log import LOG_NAME, RunLog
from chimera.train.meter import Meter
from chimera.train.outcome import Outcome
from chimera.train.places import Places
from chimera.train.plot import plot_run
from chimera.train.resume_pack import load_pack
from chimera.train.run_folder import CHECKPOINTS_NAME, MODEL_NAME, RunFolder
from chimera.train.schedule import Rewarmed
from chimera.train.settings import MAY_CHANGE, TrainSettings
from chimera.train.step import StepOptions, StepResult, TrainStep, anchor_of, prepare
from chimera.train.telling import Display, Silent
from chimera.train.validation import MOST_ROWS, Score, validate
from chimera.train.workers import Workers, joined
from configs.errors import UsageError
from configs.schema.model import ModelConfig
from quant.qat.correction import GATE_SHARE
from quant.qat.linear import set_quant_mix
from quant.qat.sherry import arenas_at, set_arenas

REWARM_STEPS = 100
"""Steps over which the rate rises after a resume pack, whose moments begin again."""
BIG_VOCABULARY = 32_768
HEAD_CHUNK = 8192


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
    initial: Initial | None = None,
    resume: bool = False,
    pack: Path | None = None,
    time_limit_s: float | None = None,
    display: Display | None = None,
) -> Outcome:
    """Train a model of a config, or go on with it, until its steps are done or somebody asks for an end."""
    started = time.monotonic()
    with ExitStack() as stack:
        workers = stack.enter_context(joined(torch.device(settings.device)))
        display = display if display is not None and workers.is_first else Silent()
        for note in settings.notes:
            display.say(note)
        if config.chronos.lambda_anchor and initial is None:
            display.say(
                "chronos.lambda_anchor ties routing to a model begun with: without --init it does nothing"
            )
        inputs = workers.first_makes(
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
        if initial is not None:
            initial.check_words(inputs.train.tokenizer_digest)
            kept["initial"] = initial.digest()
        if workers.is_first:
            folder = stack.enter_context(
                RunFolder.open(out, config=config, settings=kept, may_change=MAY_CHANGE)
            )
            has_steps = bool(checkpoint.saved_steps(folder.checkpoints))
            if has_steps and not resume:
                raise UsageError(
                    f"{out} holds a run that has begun",
                    hint="Add --resume to go on with it, or name another folder.",
                )
        run = _Run(config, settings, inputs, initial=initial, workers=workers, out=out, display=display)
        run.begin(resume=resume, pack=pack)
        interrupts = stack.enter_context(watched(display.say, second_leaves=workers.count == 1))
        return run.through(started=started, time_limit_s=time_limit_s, interrupts=interrupts)


class _Run:
    """The model, its optimiser and its place in the data."""

    def __init__(
        self,
        config: ModelConfig,
        settings: TrainSettings,
        inputs: Inputs,
        *,
        initial: Initial | None,
        workers: Workers,
        out: Path,
        display: Display,
    ) -> None:
        self.config, self.settings, self.inputs = config, settings, inputs
        self.workers, self.out, self.display = workers, out, display
        self.places = Places(inputs.train, settings, workers)
        self.course = self.places.course
        torch.manual_seed(settings.seed)
        if workers.device.type == "cuda":
            torch.set_float32_matmul_precision("high")
        self.model = build(config).to(workers.device).train()
        if initial is not None:
            self.model.load_state_dict(initial.weights(config))
        if not settings.ternary:
            set_quant_mix(self.model, 0.0)
        # The reference is copied here, before blocks are compiled or wrapped.
        anchor = None if initial is None else anchor_of(self.model)
        self.optimizer = adamw(
            self.model, weight_decay=settings.weight_decay, decay_embedding=settings.decay_embedding
        )
        prepare(self.model, compile=settings.compile, checkpointing=settings.checkpointing)
        plain = settings.checkpointing or settings.carries or anchor is not None
        # In float32 experts ask the device how many tokens each has, which a replayed graph cannot.
        plain = plain or (config.backbone.moe.enabled and not settings.bf16)
        self.step = TrainStep(
            self.model,
            self.optimizer,
            grad_clip=settings.grad_clip,
            seed=settings.seed,
            options=StepOptions(
                bf16=settings.bf16,
                checkpointing=settings.checkpointing,
                graphs=workers.device.type == "cuda" and settings.compile and not plain,
                head_chunk=HEAD_CHUNK if config.vocab_size > BIG_VOCABULARY else None,
            ),
            anchor=anchor,
        )
        self.done = 0
        self.tokens = 0
        self.rewarmed_at: int | None = None

    def begin(self, *, resume: bool, pack: Path | None) -> None:
        """Take up the last checkpoint, or a resume pack, or start."""
        found = checkpoint.load_latest(self.out / CHECKPOINTS_NAME, say=self.display.say) if resume else None
        if found is not None:
            self.model.load_state_dict(found.state["model"])
            self.optimizer.load_state_dict(found.state["optimizer"])
            extra = found.state["extra"]
            self.done, self.tokens = found.step, extra["tokens"]
            if extra["rewarmed_at"] is not None:
                self._rewarm(extra["rewarmed_at"])
            if carried := extra.get("carried"):
                own = [self.workers.own_rows(tensor) for tensor in carried["tensors"]]
                self.step.state = state_of(self.model, own, rounds=carried["rounds"])
            self.display.say(f"going on after step {self.done:,}")
        elif pack is not None:
            brought = load_pack(pack)
            brought.check(config=self.config, digests=self.inputs.digests())
            brought.load_into(self.model)
            self.done, self.tokens = brought.step, brought.position["tokens"]
            self._rewarm(self.done)
            self.display.say(f"going on after step {self.done:,} of a resume pack; moments begin anew")

    def through(self, *, started: float, time_limit_s: float | None, interrupts: Interrupts) -> Outcome:
        """All steps that are left, with log, validation and checkpoints."""
        log = self._begin_folder() if self.workers.is_first else None
        meter = self._meter()
        loss: float | None = None
        score, validated_at = None, -1
        with ThreadPoolExecutor(1) as ahead:
            waiting: Future[list[Batch]] = ahead.submit(self.places.batches, self.done)
            while self.done < self.places.num_steps:
                batches = waiting.result()
                if self.done + 1 < self.places.num_steps:
                    waiting = ahead.submit(self.places.batches, self.done + 1)
                rate = self.course.rate(self.done)
                self._set_course(rate)
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
                interrupted = self.workers.any_says(interrupts.asked)
                timed_out = time_limit_s is not None and time.monotonic() - started >= time_limit_s
                last = self.workers.any_says(timed_out) or self.done == self.places.num_steps
                # Who asks for an end is not kept waiting for a look at other text.
                looks = last or self._due(self.settings.validate_every)
                if self.inputs.validation is not None and looks and not interrupted:
                    score, validated_at = self._validate(), self.done
                    if log is not None:
                        log.write({"step": self.done, "tokens": self.tokens, "validation": score.as_json()})
                saved = last or interrupted or self._due(self.settings.save_every)
                if saved:
                    self._save()
                if saved or validated_at == self.done:
                    meter.skip()
                if last or interrupted:
                    break
        plots = [] if log is None else self._leave_model(log)
        return Outcome(
            model=self.out / MODEL_NAME,
            step=self.done,
            num_steps=self.places.num_steps,
            tokens=self.tokens,
            loss=loss,
            validation=score,
            seconds=time.monotonic() - started,
            interrupted=interrupts.asked,
            plots=tuple(plots),
        )

    def _begin_folder(self) -> RunLog:
        """The log, and the tokenizer where the model will lie: a checkpoint is read without the model too."""
        (self.out / MODEL_NAME).mkdir(exist_ok=True)
        self.inputs.copy_tokenizer(self.out / MODEL_NAME)
        return RunLog(self.out / LOG_NAME, steps_done=self.done)

    def _meter(self) -> Meter:
        return Meter(
            num_steps=self.places.num_steps,
            flops_per_token=training_flops(self.config),
            peak_flops=peak_flops(self.workers.device, bf16=self.settings.bf16) * self.workers.count,
            device=self.workers.device,
            imbalance_limit=self.config.diagnostics.thresholds.max_moe_imbalance,
            first_step=self.done,
            tokens_before=self.tokens,
        )

    def _set_course(self, rate: float) -> None:
        """What changes from step to step by the step's number alone."""
        share = self.done / self.places.num_steps
        set_rates(
            self.optimizer.param_groups,
            rate=rate,
            decay=self.course.decay(self.done),
            gates_learn=share < GATE_SHARE,
        )
        if self.settings.ternary:
            set_arenas(self.model, arenas_at(share))

    def _one(self, batches: list[Batch]) -> StepResult:
        micro = self.places.on_device(batches, step=self.done)
        if not batches[0].continues:
            self.step.state = None
        return self.step.run(micro, step=self.done, carry=self.places.carries(self.done))

    def _leave_model(self, log: RunLog) -> list[Path]:
        """The model and the plots of a run that ends here."""
        log.close()
        plots = plot_run(self.out / LOG_NAME, self.out, title=self.out.name)
        save_model(self.model, self.out / MODEL_NAME)
        return plots

    def _rewarm(self, at_step: int) -> None:
        self.rewarmed_at = at_step
        self.course = Rewarmed(course=self.course, at_step=at_step, num_steps=REWARM_STEPS)

    def _due(self, every: int) -> bool:
        return every > 0 and self.done % every == 0

    def _validate(self) -> Score:
        assert self.inputs.validation is not None
        rows = self.settings.geometry.rows
        return validate(
            self.model,
            self.inputs.validation,
            seq_len=self.places.of(self.done - 1).stage.seq_len,
            rows=min(32, rows // self.workers.count),
            # As long as some steps, however many workers there are.
            num_rows=min(MOST_ROWS, 16 * rows),
            bf16=self.settings.bf16,
        )

    def _save(self) -> None:
        """All workers come here; the first one writes."""
        carried = self._carried()
        if not self.workers.is_first:
            return
        state = {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "extra": {"tokens": self.tokens, "rewarmed_at": self.rewarmed_at, "carried": carried},
        }
        checkpoint.save(self.out / CHECKPOINTS_NAME, state, step=self.done, keep=self.settings.keep)

    def _carried(self) -> dict[str, Any] | None:
        """The state that the next step goes on from, of all workers' rows; None where its rows are new."""
        if self.step.state is None or not self.places.goes_on(self.done):
            return None
        tensors = [self.workers.all_rows(tensor) for tensor in tensors_of(self.step.state)]
        return {"rounds": rounds_of(self.step.state), "tensors": tensors}

    def _stop(self, result: StepResult, rate: float) -> None:
        stop_diverged(
            self.model,
            folder=self.out,
            step=self.done,
            loss=result.loss,
            grad_norm=result.grad_norm,
            rate=rate,
            position={"step": self.done, "batch": self.places.first_batch(self.done)},
            terms=result.terms,
        )
