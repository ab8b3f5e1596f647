"""The experts of an open engine that lie on disk: the store, who reads ahead, and what is told of both."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from chronos_moe.store.choice import ReadingChoice, best_reading
from chronos_moe.store.librarian import Librarian, heeded_by
from chronos_moe.store.meter import Meter
from chronos_moe.store.pages import MappedExperts
from chronos_moe.store.predictors import PREDICTORS, Clusters, Decided, Floats, Predictor
from chronos_moe.store.reading import open_reader
from chronos_moe.store.store import ExpertStore, check_budget
from quant.pool import Pool
from runtime.building.shelf import Shelf
from runtime.building.tensors import Tensors
from runtime.experts.asked import ExpertsAsked
from runtime.experts.conductor import Conductor
from runtime.interrupts import held_back
from runtime.program import Program
from runtime.state import State
from runtime.system import memory

USUAL_READERS = 4
LIMIT_SHARE = 7 / 8
"""Of what a limit or the machine leaves, for experts where nobody says how much; the rest is for talks."""


class OpenExperts:
    """What an engine has of experts on disk, from its program on."""

    def __init__(
        self,
        tensors: Tensors,
        *,
        asked: ExpertsAsked,
        left_bytes: int | None,
        foresight: Floats | None,
    ) -> None:
        """`left_bytes` is what a limit of memory leaves; None is no limit."""
        shelf, manifest = tensors.shelf, tensors.manifest
        assert shelf is not None, "the model has experts on disk"
        assert manifest is not None, "they have a manifest"
        self.asked, self.meter = asked, Meter(spans=[] if asked.keeps_spans else None)
        folder = tensors.files[0].path.parent
        self._shelf = shelf
        self._pages: MappedExperts | None = None
        self._store: ExpertStore | None = None
        self._conductor: Conductor | None = None
        self._librarian: Librarian | None = None
        self.reading: ReadingChoice | None = None
        if asked.pages is not None:
            self._pages = MappedExperts(
                manifest, folder, layers=shelf.layers, ledger=shelf.ledger, advice=asked.pages
            )
            return
        num_slots = _num_slots(shelf, asked, left_bytes)
        self.reading = best_reading(manifest, folder) if asked.reader is None else None
        name = asked.reader or (self.reading.reader if self.reading else "direct")
        readers = asked.num_readers or (self.reading.num_readers if self.reading else USUAL_READERS)
        self._store = ExpertStore(
            manifest,
            folder,
            layers=shelf.layers,
            ledger=shelf.ledger,
            order=shelf.order,
            num_slots=num_slots,
            reader=open_reader(
                name, [folder / cluster.file for cluster in manifest.clusters], is_checked=asked.is_checked
            ),
            num_readers=readers,
            policy=asked.policy,
            meter=self.meter,
        )
        predictor = _predictor(asked, foresight, clusters=manifest.by_rows(shelf.layers))
        if predictor is not None:
            shelf.ledger.heed(*heeded_by(predictor))
        if predictor is not None and not isinstance(predictor, Decided):
            self._librarian = Librarian(
                self._store,
                predictor,
                order=shelf.order,
                num_chosen=shelf.num_chosen,
                foresight=foresight,
            )
            self._librarian.start()
        self._conductor = Conductor(shelf, self._store, asked=asked)

    @property
    def num_bytes(self) -> int:
        """Memory of the slots."""
        return 0 if self._store is None else self._store.slots.num_bytes

    @property
    def store(self) -> ExpertStore | None:
        """What holds experts in memory; None where pages of mapped files do."""
        return self._store

    def run(
        self, pool: Pool, program: Program, *, num_tokens: int, with_tail: bool, states: Sequence[State]
    ) -> None:
        """A whole call of a program. What breaks it off half-way leaves states that nobody may go on with.

        An interrupt waits for its end, unless it has waited long for experts and comes again.
        """
        if self._conductor is None:
            pool.run(program.job_with_tail if with_tail else program.job)
            self.meter.tokens += num_tokens
            return
        before = [state.position for state in states]
        with held_back():
            # Said before and taken back behind it: wherever it is broken off, nobody takes half for whole.
            for state in states:
                state.is_broken_off = True
            has_run = True
            try:
                self._conductor.run(pool, program, num_tokens=num_tokens, with_tail=with_tail)
            except BaseException:
                has_run = self._conductor.abandon()
                raise
            finally:
                for state, position in zip(states, before, strict=True):
                    # The position moves behind all layers, so who has moved has read whole tokens.
                    state.is_broken_off = has_run and state.position == position

    @property
    def ahead_error(self) -> BaseException | None:
        """Why nothing is read ahead any more, where a predictor failed; texts go on, and wait more often."""
        return None if self._librarian is None else self._librarian.error

    def load_all(self) -> None:
        """Have every expert in memory; for a store that has room for all."""
        if self._store is None:
            return
        rows, experts = self._shelf.ledger.num_layers, range(self._shelf.ledger.num_experts)
        numbers = [
            number
            for row in range(rows)
            for number in self._store.demand(row, experts, is_visit=False).values()
        ]
        self._store.wait(numbers)
        self._store.check(numbers)

    def report(self) -> dict[str, Any]:
        """What was read and how well that went, for people's tables and for JSON."""
        if self._store is not None:
            self._store.settle()
        meter, ledger = self.meter, self._shelf.ledger
        peak = self.reading.peak_bytes_s if self.reading else 0.0
        found: dict[str, Any] = {
            "experts": ledger.words.size,
            "expert_bytes": self._shelf.form.block_bytes,
            "slots": 0 if self._store is None else self._store.slots.num_slots,
            "in_memory": int(np.count_nonzero(ledger.words)),
            "locked": self._store is not None and self._store.slots.is_locked,
            "on_miss": self.asked.on_miss,
            "policy": self.asked.policy,
            "reader": self.asked.reader or (self.reading.reader if self.reading else self.asked.pages),
            "reading": self.reading.reason if self.reading else "as asked",
            "visits": int(ledger.visits.sum()),
            "hits": meter.hits if self._store else 0,
            "late_hits": meter.late_hits,
            "misses": meter.misses,
            "stand_ins": meter.stand_ins,
            "hit_rate": meter.hit_rate,
            "reads": meter.reads,
            "wasted_reads": meter.wasted_reads,
            "wasted_a_useful": meter.wasted_a_useful,
            "failed_reads": meter.failed_reads,
            "dropped_wishes": meter.dropped_wishes,
            "read_bytes": meter.read_bytes,
            "tokens": meter.tokens,
            "ahead_error": None if self.ahead_error is None else _told(self.ahead_error),
            "stalls": meter.stalls,
            "stall_ms": meter.stall_s * 1e3,
            "stall_ms_a_token": meter.stall_ms_a_token,
            "disk_peak_bytes_s": peak,
            "disk_share": meter.read_bytes_s / peak if peak and meter.reads else None,
        }
        found["foreseen"] = [
            {
                "layer": self._shelf.layers[row],
                "horizon": horizon,
                "wished": one.wished,
                "visited": one.visited,
                "both": one.both,
                "recall": one.recall,
                "precision": one.precision,
            }
            for (row, horizon), one in sorted(meter.all_foreseen().items())
        ]
        return found

    def close(self) -> None:
        """Stop reading."""
        if self._librarian is not None:
            self._librarian.close()
        if self._store is not None:
            self._store.close()
        if self._pages is not None:
            self._pages.close()


def open_experts(
    tensors: Tensors, *, asked: ExpertsAsked | None, left_bytes: int | None, foresight: Floats | None
) -> OpenExperts:
    """The experts of a model that lie on disk."""
    return OpenExperts(tensors, asked=asked or ExpertsAsked(), left_bytes=left_bytes, foresight=foresight)


def _told(error: BaseException) -> str:
    """A mistake of a predictor's in a line."""
    return f"{type(error).__name__}: {error}"


def _num_slots(shelf: Shelf, asked: ExpertsAsked, left_bytes: int | None) -> int:
    """How many experts memory holds."""
    count = shelf.ledger.words.size
    budget = asked.memory_bytes
    if budget is None:
        available = memory().available_bytes
        budget = int(max(0, available if left_bytes is None else min(left_bytes, available)) * LIMIT_SHARE)
    return min(count, check_budget(budget, block_bytes=shelf.form.block_bytes, num_chosen=shelf.num_chosen))


def _predictor(asked: ExpertsAsked, foresight: Floats | None, *, clusters: Clusters) -> Predictor | None:
    if asked.predictor is None:
        return Decided() if foresight is not None else None
    if asked.predictor == "none":
        return None
    return PREDICTORS[asked.predictor](clusters) if isinstance(asked.predictor, str) else asked.predictor
