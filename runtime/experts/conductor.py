"""What is done where a program stops because an expert is not in memory.

Compiled code goes through a whole call as long as all experts that it visits are there, which costs a few
instructions for each. Else it stops behind the pass's choice, and here the missing ones are read: those that
are there need not wait for the others where not all fit at once, so a pass of many tokens goes in waves, each
as large as the budget. Which wave an expert comes in changes no bit, as tokens meet their experts one by one.

`strict` waits for every expert. `soft` lets the shared expert stand in for what is away, and has that read
meanwhile. `deadline` waits as long as a token may, and goes on as `soft` does. A read for which nobody waited
and that failed stops whoever wants its expert next.
"""

import time
from collections.abc import Callable

import numpy as np

from chronos_moe.store.librarian import Librarian
from chronos_moe.store.predictors import Wish
from chronos_moe.store.store import ExpertStore, Reading
from quant.pool import Pool
from runtime.building.shelf import Pass, Shelf
from runtime.experts.asked import ExpertsAsked
from runtime.program import Program

_TURN_S = 0.2
"""A wait looks up so often, so that an interrupt is noticed where the system does not break it."""


class Conductor:
    """Runs the jobs of a program that may stop."""

    def __init__(
        self, shelf: Shelf, store: ExpertStore, librarian: Librarian | None, *, asked: ExpertsAsked
    ) -> None:
        self._shelf, self._store, self._librarian, self._asked = shelf, store, librarian, asked
        self._stood_in: Pass | None = None
        self._unwaited: dict[int, Reading] = {}
        """Readings of experts, by number, that others stood in for."""
        self._has_run = False
        self._left_s = 0.0
        self._interrupt: KeyboardInterrupt | None = None

    def run(
        self, pool: Pool, program: Program, *, num_tokens: int, with_tail: bool
    ) -> KeyboardInterrupt | None:
        """A whole call. An interrupt waits for its end and is given back; other errors end it where it is."""
        stop, meter = self._shelf.ledger.stop, self._store.meter
        self._left_s = num_tokens * (self._asked.deadline_ms or 0.0) / 1e3
        meter.tokens += num_tokens
        self._interrupt, self._has_run = None, False
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
            self._come_back()
            if not stop[0]:
                break
            stopped = self._shelf.passes[int(stop[0]) - 1]
            stop[0] = 0
            self._serve(stopped, lambda one: self._run_wave(pool, program, one))
            job = program.part(stopped.hold, with_tail=with_tail)
        if self._librarian is not None and self._librarian.error is not None:
            raise self._librarian.error
        return self._interrupt

    def abandon(self) -> bool:
        """After an error: nothing is in use, and the next call begins anew. Gives whether anything ran."""
        ledger = self._shelf.ledger
        ledger.stop[0] = 0
        self._come_back()
        self._unwaited.clear()
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
        readings = self._store.demand(stopped.row, visited)
        there = [expert for expert in visited if expert not in readings]
        if there and readings:
            self._run_some(stopped, there, run_wave)
            _visit(stopped, list(readings))
        self._wait_for(readings)

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

    def _wait_for(self, readings: dict[int, Reading]) -> None:
        """Wait for experts, however long it takes."""
        begin = time.perf_counter()
        for reading in readings.values():
            while True:
                try:
                    if reading.done.wait(_TURN_S):
                        break
                except KeyboardInterrupt as error:
                    # A token that were left half-way would leave its stream's state so.
                    self._interrupt = error
        self._stalled(begin, readings)
        self._store.check(readings.values())

    def _serve_soft(self, stopped: Pass, visited: list[int]) -> None:
        """Take what is there, or comes in time; the shared expert stands in for the others."""
        visited.sort(key=lambda expert: not self._store.is_there(stopped.row, expert))
        asked = visited[: self._store.slots.num_slots]
        self._check_unwaited(stopped, visited)
        begin = time.perf_counter()
        readings = self._store.demand(stopped.row, asked)
        if self._left_s > 0:
            self._wait_until(begin + self._left_s, readings)
            self._stalled(begin, readings)
            self._left_s -= time.perf_counter() - begin
        self._store.check(readings.values())
        self._unwaited.update({reading.number: reading for reading in readings.values()})
        here = [expert for expert in asked if self._store.is_there(stopped.row, expert)]
        away = [expert for expert in visited if expert not in here]
        _visit(stopped, here)
        stopped.away_E[away] = 1
        self._stood_in = stopped
        self._store.meter.stand_ins += len(away)
        self._store.meter.misses += len(visited) - len(asked)

    def _check_unwaited(self, stopped: Pass, visited: list[int]) -> None:
        """Refuse to go on where an expert of these was asked for before, and could not be read."""
        first = stopped.row * self._shelf.ledger.num_experts
        for expert in visited:
            reading = self._unwaited.get(first + expert)
            if reading is not None and reading.done.is_set():
                del self._unwaited[first + expert]
                self._store.check([reading])

    def _wait_until(self, end: float, readings: dict[int, Reading]) -> None:
        for reading in readings.values():
            try:
                left = end - time.perf_counter()
                if left <= 0 or not reading.done.wait(left):
                    return
            except KeyboardInterrupt as error:
                self._interrupt = error
                return

    def _stalled(self, begin: float, readings: dict[int, Reading]) -> None:
        end = time.perf_counter()
        if readings:
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
