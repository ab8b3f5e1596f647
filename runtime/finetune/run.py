"""A run of fine-tuning by forward passes: it begins or goes on, takes its steps, and writes its log.

All that a step does is given by its number, the seed and the log, so that a run which was killed and goes on
ends with the bytes of one that was not, and so that workers who share the work come to the same numbers.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import Field, asdict, dataclass, fields, replace
from math import inf, isfinite, isnan, sqrt
from pathlib import Path
from typing import Any

import numpy as np

from configs.errors import AdapterError, ChimeraError, UsageError
from quant.adapter import (
    LOOK,
    Adapter,
    AdapterHeader,
    Record,
    Setting,
    header_crc,
    packed_record,
    read_adapter,
    unpacked_record,
)
from quant.adapter_log import AdapterLog, check_free, check_same, first_steps, write_adapter
from runtime.adapting.learnt import named, number_told, take, told_by, whole_told
from runtime.finetune.items import digest_of
from runtime.finetune.method import METHODS, Alone, Exchange, Item, Method
from runtime.finetune.scorer import Scorer
from runtime.finetune.settings import Batches, RunSettings

MOST = "most"
"""The setting of a log that says what a slope counts as at most."""
VALIDATION, SCORER = "validation", "scorer"
"""Settings that say what a look depends on beside the weights, as looks are compared with each other."""
DIGEST_SHOWN = 16
"""Characters of a digest among the settings."""
CALIBRATION_STEPS = 8
"""Looks from which the usual slope is known, where no rate is given."""
CALIBRATION_AT = (1 << 32) - CALIBRATION_STEPS
"""Their numbers, which no step has."""
LEAST_SLOPE, LARGEST_SLOPE = 1e-30, 1e30
"""Of usual ones: rates and lengths have to be numbers that a log can hold."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Tick:
    """How far a run is."""

    step: int
    steps: int
    loss: float
    """The mean of the last steps."""
    look: Record | None
    """The last look at the validation data."""
    seconds_left: float
    log_bytes: int


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Task:
    """What is learnt."""

    items: Sequence[Item]
    validation: Sequence[Item]
    digest: str
    """Of the data."""
    seed: int
    scorer: Scorer | None = None


class Run:
    """One worker's part in it."""

    def __init__(
        self,
        method: Method,
        task: Task,
        settings: RunSettings,
        *,
        name: str,
        exchange: Exchange | None = None,
        progress: Callable[[Tick], None] | None = None,
    ) -> None:
        """`name` is the method's."""
        if settings.objective == "score" and task.scorer is None:
            raise UsageError("the objective is a score, and there is no scorer", hint="Add --scorer FILE.")
        self._method, self._task, self._settings, self._name = method, task, settings, name
        self._exchange = exchange or Alone()
        self._progress = progress
        self._batches = Batches(task.items, size=settings.batch, seed=task.seed)
        self._losses: list[float] = []
        self._looks: list[Record] = []

    def begin(self, path: Path) -> Adapter:
        """A new log, and all steps."""
        check_free(path)
        header = self._header()
        with AdapterLog.begin(path, header) as log:
            self._go(log)
        return self._ended(path)

    def go_on(self, path: Path) -> Adapter:
        """The steps that a log lacks."""
        with AdapterLog.go_on(path) as log:
            self._check_same(log.header, path)
            for record in log.records:
                self._take_in(record)
                if record.kind != LOOK:
                    # Workers whose logs part would learn different things from here on.
                    self._exchange.end(record.step, packed_record(record, log.header, header_crc(log.header)))
                    with named(path):
                        take(record, self._method, settings=log.header.settings)
            self._go(log)
        return self._ended(path)

    def _check_same(self, header: AdapterHeader, path: Path) -> None:
        """Refuse a log of another model, data or method. How long and how fast it learns, the log says."""
        told = asdict(self._settings) | {"steps": header.settings["steps"]}
        wanted = self._header_of({**header.settings, **self._method.settings, **told, **self._looked_at()})
        check_same(header, wanted, path=path)

    def _go(self, log: AdapterLog) -> None:
        began, first = time.monotonic(), log.num_steps
        self._look_if_due(log)
        while log.num_steps < self._settings.steps and not self._is_over():
            step = log.num_steps
            known = self._exchange.record(step)
            record = self._step(step, log.header) if known is None else unpacked_record(known, log.header)
            if known is None:
                self._exchange.end(step, packed_record(record, log.header, header_crc(log.header)))
            log.append(record)
            take(record, self._method, settings=log.header.settings)
            self._take_in(record)
            self._look_if_due(log)
            done = step + 1 - first
            self._tell(log, (time.monotonic() - began) / done * (self._settings.steps - step - 1))
        self._exchange.leave()

    def _step(self, step: int, header: AdapterHeader) -> Record:
        settings = self._settings
        rate = float(np.float32(settings.rate_at(step, first=float(header.settings["rate"]))))
        most = float(header.settings[MOST])
        slopes, loss = self._slopes(step, share=settings.rate_at(step, first=1.0))
        clipped = [max(-most, min(most, slope)) for slope in slopes] if most else slopes
        lengths = tuple(self._method.length(-rate * slope / settings.pairs) for slope in clipped)
        return Record(step=step, loss=float(np.float32(loss)), rate=rate, numbers=lengths)

    def _slopes(
        self, step: int, *, share: float = 1.0, batch: Sequence[Item] | None = None
    ) -> tuple[list[float], float]:
        """The slope along each direction of a step, and the mean loss of both sides."""
        self._method.begin(share)
        settings, items = self._settings, self._batches.of(step) if batch is None else batch
        chunks = [items[at : at + settings.unit] for at in range(0, len(items), settings.unit)]
        sides = [(pair, side) for pair in range(settings.pairs) for side in (1, -1)]

        def compute(unit: int) -> list[float]:
            (pair, side), chunk = sides[unit // len(chunks)], chunks[unit % len(chunks)]
            self._method.look(step, pair=pair, side=side)
            return self._measured(chunk)

        found = self._exchange.numbers(step, count=len(sides) * len(chunks), compute=compute)
        means: list[float] = []
        for at in range(0, len(found), len(chunks)):
            total = 0.0
            for numbers in found[at : at + len(chunks)]:
                for number in numbers:  # in the order of the items, whoever computed them
                    total += number
            means.append(total / len(items))
        if not all(map(np.isfinite, means)):
            raise ChimeraError(
                f"step {step}: the loss is no number",
                hint="The weights have gone astray: begin again with a smaller --move.",
            )
        slopes = [self._method.slope(means[at], means[at + 1]) for at in range(0, len(means), 2)]
        return slopes, sum(means) / len(means)

    def _measured(self, items: Sequence[Item]) -> list[float]:
        if self._settings.objective == "loss":
            return self._method.losses(items).tolist()
        return [-score for score in self._scores(items)]

    def _scores(self, items: Sequence[Item]) -> list[float]:
        scorer = self._task.scorer
        assert scorer is not None, "checked at the beginning"
        most = self._settings.max_tokens
        return [scorer(item, self._method.answer(item, max_tokens=most)) for item in items]

    def _look_if_due(self, log: AdapterLog) -> None:
        steps = log.num_steps
        is_due = steps % self._settings.look_every == 0 or steps == self._settings.steps
        if not self._task.validation or not is_due or any(look.step == steps for look in self._looks):
            return
        items, unit = self._task.validation, self._settings.unit
        self._method.look(steps, side=0)
        losses: list[float] = []
        for at in range(0, len(items), unit):  # a method may need memory for all that it is given at once
            losses += self._method.losses(items[at : at + unit]).tolist()
        scores = self._scores(items) if self._task.scorer is not None else []
        loss = sum(losses) / len(losses)
        if not isfinite(loss):
            raise ChimeraError(
                f"after step {steps}: the loss of the validation data is no number",
                hint="The weights have gone astray: begin again with a smaller --move.",
            )
        score = sum(scores) / len(scores) if scores else float("nan")
        record = Record(kind=LOOK, step=steps, loss=float(np.float32(loss)), rate=float(np.float32(score)))
        log.append(record)
        self._take_in(record)

    def _take_in(self, record: Record) -> None:
        if record.kind == LOOK:
            self._looks.append(record)
        else:
            self._losses.append(record.loss)

    def _is_over(self) -> bool:
        patience = self._settings.patience
        return bool(patience and self._looks and len(self._looks) - 1 - self._best() >= patience)

    def _best(self) -> int:
        """The number of the best look; the first of those that are as good."""
        return min(range(len(self._looks)), key=lambda number: _badness(self._looks[number]))

    def _ended(self, path: Path) -> Adapter:
        """With an early stop, a log ends where the best look was."""
        adapter = read_adapter(path)
        if self._settings.patience and self._looks:
            best = self._looks[self._best()].step
            if best < adapter.num_steps:
                write_adapter(path, replace(adapter, records=first_steps(adapter.records, best)))
                adapter = read_adapter(path)
        return adapter

    def _header(self) -> AdapterHeader:
        """With the rate that was given, or the one that moves so far as was asked for at the usual slope."""
        settings = self._settings
        usual = self._usual_slope()
        rate = self._move() / usual if settings.rate is None else settings.rate
        return self._header_of(
            {
                **self._method.settings,
                **asdict(replace(settings, move=self._move(), rate=rate)),
                MOST: settings.clip * usual,
                **self._looked_at(),
            }
        )

    def _looked_at(self) -> dict[str, Setting]:
        """The data that is looked at, and whether there is a score."""
        items = self._task.validation
        return {
            VALIDATION: digest_of(items)[:DIGEST_SHOWN] if items else "none",
            SCORER: "none" if self._task.scorer is None else "there",
        }

    def _move(self) -> float:
        """How far a step of usual slope goes."""
        if self._settings.move is not None:
            return self._settings.move
        entry = METHODS[self._name]
        return self._settings.move_within(entry.reach) if entry.move is None else entry.move

    def _header_of(self, settings: dict[str, Setting]) -> AdapterHeader:
        return AdapterHeader(
            method=self._name,
            base=self._method.base,
            seed=self._task.seed,
            numbers=self._settings.pairs,
            settings=settings,
            data=self._task.digest,
            beneath=self._method.beneath,
        )

    def _usual_slope(self) -> float:
        """The root mean square of some slopes at the beginning."""
        found = [
            slope
            for number in range(CALIBRATION_STEPS)
            for slope in self._slopes(CALIBRATION_AT + number, batch=self._batches.of(number))[0]
        ]
        usual = sqrt(sum(slope * slope for slope in found) / len(found))
        if usual and not LEAST_SLOPE <= usual <= LARGEST_SLOPE:
            raise ChimeraError(
                f"the usual slope is {usual:g}; from {LEAST_SLOPE:g} to {LARGEST_SLOPE:g} can be learnt by",
                hint="Take a scorer whose numbers are nearer to 1.",
            )
        if not usual:
            raise ChimeraError(
                f"moving the model changes no {self._settings.objective}, so that there is nothing to learn "
                "from",
                hint="Take a larger --epsilon, or another model."
                if self._settings.objective == "loss"
                else "Take a larger --epsilon, a scorer that tells better answers from worse, or the loss.",
            )
        self._method.look(0, side=0)
        return usual

    def _tell(self, log: AdapterLog, seconds_left: float) -> None:
        if self._progress is not None:
            last = self._losses[-self._settings.look_every :]
            self._progress(
                Tick(
                    step=log.num_steps,
                    steps=self._settings.steps,
                    loss=sum(last) / len(last),
                    look=self._looks[-1] if self._looks else None,
                    seconds_left=seconds_left,
                    log_bytes=log.num_bytes,
                )
            )


def settings_of(adapter: Adapter, *, steps: int | None = None) -> RunSettings:
    """What a log's run was told; it may be given more steps."""
    told = adapter.header.settings
    missing = [name for name in (*(field.name for field in fields(RunSettings)), MOST) if name not in told]
    if missing:
        raise AdapterError(
            f"{adapter.path} does not say {', '.join(missing)} of its run, so that nobody can go on with it",
            hint="Begin another log; this one can be applied as it is.",
        )
    with told_by(adapter):
        given: dict[str, Any] = {field.name: _told(told, field) for field in fields(RunSettings)}
        settings = RunSettings(**given)
        if number_told(told, MOST) < 0:
            raise UsageError(f"{MOST} {told[MOST]}; a slope counts for 0 at least")
    return settings if steps is None else replace(settings, steps=steps)


def _told(settings: Mapping[str, Setting], field: Field[Any]) -> Setting:
    """What a log says of an option: of the kind that its default is of, and a rate is a number always."""
    if isinstance(field.default, int):
        return whole_told(settings, field.name)
    return str(settings[field.name]) if isinstance(field.default, str) else number_told(settings, field.name)


def _badness(look: Record) -> float:
    found = look.loss if look.score is None else -look.score
    return inf if isnan(found) else found
