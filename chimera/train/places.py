"""Where in its data a run is after any number of steps: its stages, and the batches of each step."""

from typing import Any, NamedTuple

import torch

from chimera.data.batches import Batch, Batches, batches_of
from chimera.data.shards import Shards
from chimera.train.schedule import Course
from chimera.train.settings import TrainSettings
from chimera.train.step import MicroBatch
from chimera.train.workers import Workers


class Place(NamedTuple):
    """A step's stage, and its number there."""

    stage: Batches
    step: int


class Places:
    """The steps of a run, each with its batches: functions of the step's number alone."""

    def __init__(self, shards: Shards, settings: TrainSettings, workers: Workers) -> None:
        self._device = workers.device
        self._stages = [
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
        self._accumulate = 1 if settings.carries else settings.geometry.accumulate
        per_epoch = self._stages[0].batches_per_epoch
        self._stage_steps = settings.stage_steps(batches_per_epoch=per_epoch)
        self.num_steps = sum(self._stage_steps)
        self.course: Course = settings.course(batches_per_epoch=per_epoch)

    def of(self, step: int) -> Place:
        """The place of a step; beyond the end, in the last stage."""
        for stage, count in zip(self._stages, self._stage_steps[:-1], strict=False):
            if step < count:
                return Place(stage, step)
            step -= count
        return Place(self._stages[-1], step)

    def batches(self, step: int) -> list[Batch]:
        """What a step learns from, its micro-batches in order."""
        stage, own = self.of(step)
        return [stage.batch(own * self._accumulate + number) for number in range(self._accumulate)]

    def first_batch(self, step: int) -> int:
        """The number of a step's first batch in its stage."""
        return self.of(step).step * self._accumulate

    def carries(self, step: int) -> bool:
        """Whether a step leaves a state that the next one may go on from."""
        return self.of(step).stage.slices > 1

    def goes_on(self, step: int) -> bool:
        """Whether a step begins in the middle of its rows, where the step before ended."""
        stage, own = self.of(step)
        return step < self.num_steps and own % stage.slices > 0

    def on_device(self, batches: list[Batch], *, step: int) -> list[MicroBatch]:
        """A step's batches where they are computed with."""
        most = self.of(step).stage.max_documents
        return [_on_device(one, self._device, most) for one in batches]


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
