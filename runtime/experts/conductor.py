"""What is done where a program stops because an expert is not in memory.

Compiled code goes through a whole call as long as all experts that it visits are there, which costs a few
instructions for each; under `strict` it also waits a while for those of one token. Else it stops behind the
pass's choice, and here the missing ones are read: those that are there need not wait for the others. Where
not all fit at once, a pass of many tokens goes in waves, each as large as the budget. Which wave an expert
comes in changes no bit, as tokens meet their experts one by one.

`strict` waits for every expert. `soft` lets the shared expert stand in for what is away, and has that read
meanwhile. `deadline` waits as long as a token may, and goes on as `soft` does. A read for which nobody waited
and that failed stops whoever wants its expert next.
"""

import time
from collections.abc import Callable

import numpy as np

from chronos_moe.store.predictors import Wish
from chronos_moe.store.store import ExpertStore
from quant.pool import Pool
from runtime.building.shelf import Pass, Shelf
from runtime.experts.asked import ExpertsAsked
from runtime.program import Program


class Conductor:
    """Runs the jobs of a program that may stop."""

    def __init__(self, shelf: Shelf, store: ExpertStore, *, asked: ExpertsAsked) -> None:
        self._shelf, self._store, self._asked = shelf, store, asked
        self._stood_in: Pass | None = None
        self._has_run = False
        self._left_s = 0.0
        if asked.on_miss == "strict":
            store.let_compute_wait()

    def run(self, pool: Pool, program: Program, *, num_tokens: int, with_tail: bool) -> None:
        """A whole call. An error, and whatever else is raised meanwhile, ends it where it is."""
        stop, meter = self._shelf.ledger.stop, self._store.meter
        self._left_s = num_tokens * (self._asked.deadline_ms or 0.0) / 1e3
        meter.tokens += num_tokens
        self._has_run = False
        job = program.job_with_tail if with_tail else program.job
        while True:
            begin = time.perf_counter()
            try:
                pool.run(job)
            except KeyboardInterrupt:
                # It may have come behind the job.
                self._has_run = True
                raise
            self._has_run = True
            meter.span("compute", begin, time.perf_counter())
            self._store.note_spans()
            self._come_back()
            if not stop[0]:
                break
            stopped = self._shelf.passes[int(stop[0]) - 1]
            stop[0] = 0
            self._serve(stopped, lambda one: self._run_wave(pool, program, one))
            job = program.part(stopped.hold, with_tail=with_tail)

    def abandon(self) -> bool:
        """After an error: nothing is in use, and the next call begins anew. Gives whether anything ran."""
        ledger = self._shelf.ledger
        ledger.stop[0] = 0
        self._come_back()
        self._store.forget_errors()
        self._let_go(np.flatnonzero(ledger.words & 1).tolist())
        return self._has_run

    def _serve(self, stopped: Pass, run_wave: Callable[[Pass], None]) -> None:
        """Have the pass's experts there: all, or the last of them, and the others have been run."""
        visited = _visited(stopped)
        if self._asked.on_miss != "strict":
            self._serve_soft(stopped, visited)
        elif len(visited) <= self._store.slots.num_slots:
            self._serve_whole(stopped, visited, run_wave)
        else:
            self._serve_waves(stopped, visited, run_wave)

    def _serve_whole(self, stopped: Pass, visited: list[int], run_wave: Callable[[Pass], None]) -> None:
        """What is there is run while the others are read."""
        # Compiled code has counted them as visits where it waited for them, in vain.
        is_counted = bool(self._shelf.ledger.is_patient[0]) and len(visited) <= self._shelf.num_chosen
        away = self._store.demand(stopped.row, visited, is_visit=not is_counted)
        there = [expert for expert in visited if expert not in away]
        if there and away:
            self._run_some(stopped, there, run_wave)
            _visit(stopped, list(away))
        self._wait_for(away)

    def _serve_waves(self, stopped: Pass, visited: list[int], run_wave: Callable[[Pass], None]) -> None:
        """As many as half of the room holds are run while the next are read."""
        each = max(1, self._store.slots.num_slots // 2)
        visited.sort(key=lambda expert: not self._store.is_there(stopped.row, expert))
        waves = [visited[first : first + each] for first in range(0, len(visited), each)]
        for number, wave in enumerate(waves):
            self._wait_for(self._store.demand(stopped.row, wave))
            if number == len(waves) - 1:
                _visit(stopped, wave)
                return
            self._store.wish(
                [Wish(layer=stopped.row, expert=expert, passes_ahead=0) for expert in waves[number + 1]]
            )
            self._run_some(stopped, wave, run_wave)

    def _run_some(self, stopped: Pass, experts: list[int], run_wave: Callable[[Pass], None]) -> None:
        _visit(stopped, experts)
        run_wave(stopped)
        first = stopped.row * self._shelf.ledger.num_experts
        self._let_go([first + expert for expert in experts])

    def _run_wave(self, pool: Pool, program: Program, wave: Pass) -> None:
        begin = time.perf_counter()
        pool.run(program.part(wave.hold, before=wave.weigh))
        self._store.meter.span("compute", begin, time.perf_counter())
        assert not self._shelf.ledger.stop[0], "what was brought is there"

    def _wait_for(self, away: dict[int, int]) -> None:
        """Wait for experts, however long it takes."""
        begin = time.perf_counter()
        self._store.wait(away.values())
        self._stalled(begin, away)
        self._store.check(away.values())

    def _serve_soft(self, stopped: Pass, visited: list[int]) -> None:
        """Take what is there, or comes in time; the shared expert stands in for the others."""
        visited.sort(key=lambda expert: not self._store.is_there(stopped.row, expert))
        asked = visited[: self._store.slots.num_slots]
        first = stopped.row * self._shelf.ledger.num_experts
        # Others may have stood in for them before, and nobody was told why they did not come.
        self._store.check(first + expert for expert in visited)
        begin = time.perf_counter()
        away = self._store.demand(stopped.row, asked)
        if self._left_s > 0:
            self._store.wait(away.values(), timeout_s=self._left_s)
            self._stalled(begin, away)
            self._left_s -= time.perf_counter() - begin
        self._store.check(away.values())
        here = [expert for expert in asked if self._store.is_there(stopped.row, expert)]
        missed = [expert for expert in visited if expert not in here]
        _visit(stopped, here)
        stopped.away_E[missed] = 1
        self._stood_in = stopped
        self._store.meter.stand_ins += len(missed)
        self._store.meter.misses += len(visited) - len(asked)

    def _stalled(self, begin: float, away: dict[int, int]) -> None:
        end = time.perf_counter()
        if away:
            self._store.meter.stalls += 1
            self._store.meter.stall_s += end - begin
            self._store.meter.span("stall", begin, end)

    def _let_go(self, numbers: list[int]) -> None:
        """Experts are no longer in use. Nobody else writes the word of one that is."""
        self._shelf.ledger.words[numbers] &= -2

    def _come_back(self) -> None:
        """The pass in which the shared expert stood in is over."""
        if self._stood_in is not None:
            self._stood_in.away_E[:] = 0
            self._stood_in = None


def _visited(one: Pass) -> list[int]:
    """The experts that a pass still has to visit."""
    return one.visited_E[: int(one.num_visited[0])].tolist()


def _visit(one: Pass, experts: list[int]) -> None:
    one.visited_E[: len(experts)] = experts
    one.num_visited[0] = len(experts)
