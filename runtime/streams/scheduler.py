"""Many answers at once over one engine: streams join and leave at any token, and share every step.

    with Scheduler(engine, tokenizer=tokenizer, ends=ends) as scheduler:
        tickets = [scheduler.submit(Request(ids=ids)) for ids in prompts]     any thread, any time
        scheduler.run()                                                       one thread, until all are done

A step has a token of every stream that answers and, beside them, slices of the prompts of those that still
read. Nothing that a stream says depends on who else is there: rows of a product know nothing of each other,
draws are numbered by seed and position, and clocks choose how much is read in a step, which changes no bit.

- A stream takes the memory of its state from when it gets a place until its answer is over; who waits holds
  nothing but ids.
- What goes wrong with one stream, be it a caller's function that raises, ends that stream alone.
- A step of several streams that fails is done anew by each of them alone, from its last whole state on. Who
  fails alone as well, because it wants an expert that the disk does not give, or has a state that no step
  takes, ends with that error; the others go on together. What was broken off is read again, so no text is
  other than it would have been.
- An interrupt waits for the end of a step, and whoever steps on after it has lost nothing.
"""

import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import perf_counter
from types import TracebackType
from typing import Self

from configs.errors import UsageError
from configs.schema.model import ModelConfig
from configs.text.tokenizer import Tokenizer
from runtime.answer import Finish
from runtime.binding import Part
from runtime.engine import Engine, Floats
from runtime.interrupts import held_back
from runtime.sampler import Sampler
from runtime.sampling import SamplingSettings
from runtime.state import State
from runtime.stream import Runner
from runtime.streams.kept import Outlook, StreamState
from runtime.streams.request import Request, Ticket
from runtime.streams.running import Running
from runtime.weigher import Weigher

STEP_SECONDS = 0.1
"""A step that answers wait for takes no longer than about this for reading prompts beside them."""
LEAST_SLICE = 4
"""Tokens of prompts that are read beside answers, however slow the machine."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Watchdog:
    """Ends answers on a machine that cannot keep up."""

    tick_ms: int
    """How long a step may take for each of its tokens."""
    max_overruns: int
    """So many steps in succession may take longer."""


def watchdog_of(config: ModelConfig) -> Watchdog:
    """The one that a model's config asks for."""
    deployment = config.deployment
    return Watchdog(tick_ms=deployment.watchdog_tick_ms, max_overruns=deployment.watchdog_max_overruns)


class _EngineRunner(Runner):
    """States of an engine, for streams that are read together and never by themselves."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def begun(self, rounds: int | None) -> StreamState:
        return self._engine.new_state(rounds)

    def read(
        self,
        state: StreamState,
        ids: Sequence[int],
        *,
        exit_threshold: float,
        is_cancelled: Callable[[], bool] | None = None,
    ) -> None:
        raise AssertionError("a scheduler reads for its streams")

    def outlook(self, state: StreamState) -> Outlook | None:
        assert isinstance(state, State), "a stream of this engine"
        return self._engine.outlook(state)

    def recall(self, state: StreamState, outlook: Outlook) -> None:
        assert isinstance(state, State), "a stream of this engine"
        self._engine.recall(state, outlook)


class Scheduler:
    """Answers requests, as many at a time as the engine has places."""

    def __init__(
        self,
        engine: Engine,
        *,
        tokenizer: Tokenizer,
        ends: frozenset[int],
        watchdog: Watchdog | None = None,
        step_seconds: float = STEP_SECONDS,
    ) -> None:
        self._engine, self._tokenizer, self._ends = engine, tokenizer, ends
        self._watchdog, self._step_seconds = watchdog, step_seconds
        self._runner = _EngineRunner(engine)
        self._num_ids = min(tokenizer.vocab_size, engine.config.vocab_size)
        padding = () if tokenizer.pad is None else (tokenizer.pad,)
        self._forbidden = tokenizer.masked_ids.union(padding) - ends
        self._weigher = Weigher(self._num_ids)
        self._places: list[Running | None] = [None] * engine.num_streams
        self._row_seconds = 0.0
        self._changed = threading.Condition()
        self._waiting: deque[Ticket] = deque()
        self._is_closed = False
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def num_places(self) -> int:
        """Streams that may have a place at once."""
        return len(self._places)

    @property
    def num_running(self) -> int:
        """Streams that have a place."""
        return sum(running is not None for running in self._places)

    @property
    def num_waiting(self) -> int:
        """Requests that wait for one."""
        return len(self._waiting)

    @property
    def num_bytes(self) -> int:
        """Memory of all streams that have a place."""
        return sum(running.stream.num_bytes for running in self._places if running is not None)

    def submit(self, request: Request) -> Ticket:
        """Ask for an answer. What cannot be answered is refused here."""
        self._check(request)
        ticket = Ticket(request)
        with self._changed:
            if self._is_closed:
                raise UsageError("this scheduler is closed", hint="Make another one.")
            self._waiting.append(ticket)
            self._changed.notify_all()
        return ticket

    def run(self) -> None:
        """Step until nothing is left to do."""
        while self.step():
            pass

    def start(self) -> None:
        """Step in a thread of its own, whenever there is something to do, until `close`."""
        assert self._thread is None, "it runs already"
        self._thread = threading.Thread(target=self._serve, name="streams", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Take nothing more, cancel what runs, and end."""
        with self._changed:
            self._is_closed = True
            for ticket in self._waiting:
                ticket.cancel()
            for running in self._places:
                if running is not None:
                    running.ticket.cancel()
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        else:
            self.run()

    def step(self) -> bool:
        """Read one token of each stream and slices of prompts; False where there was nothing to do."""
        with held_back():
            self._seat()
            parts = self._parts()
            if not any(parts):
                return False
            started = perf_counter()
            try:
                logits = self._engine.step_together(parts)
            except BaseException as error:
                self._break_off(parts, error)
                if not isinstance(error, Exception):
                    raise
                return True
            took = perf_counter() - started
            self._hear(parts, logits)
            self._look_at_clock(parts, took)
            return True

    def _break_off(self, parts: Sequence[Part | None], error: BaseException) -> None:
        """End who was alone in a step that failed; of several, each has to try alone."""
        places = [place for place, part in enumerate(parts) if part is not None]
        if len(places) == 1 and isinstance(error, Exception):
            self._fail(places[0], error)
            return
        for place in places:
            part, running = parts[place], self._places[place]
            assert part is not None
            assert running is not None, "who has a part has a place"
            try:
                running.go_apart(len(part.ids))
            except Exception as own:
                self._fail(place, own)

    def _serve(self) -> None:
        while True:
            with self._changed:
                while not (self._waiting or self.num_running):
                    if self._is_closed:
                        return
                    self._changed.wait()
            try:
                self.step()
            except BaseException as error:
                # Nobody steps any more, so nobody may wait.
                with self._changed:
                    self._is_closed = True
                    left = list(self._waiting)
                    self._waiting.clear()
                for ticket in left:
                    ticket.close(error=error)
                raise

    def _seat(self) -> None:
        """Give free places to who waits, and take them from who has left."""
        for place, running in enumerate(self._places):
            if running is not None and running.ticket.is_cancelled:
                self._end(place, running, "cancelled")
        for place in range(len(self._places)):
            while self._places[place] is None:
                with self._changed:
                    if not self._waiting:
                        return
                    ticket = self._waiting.popleft()
                self._begin(place, ticket)

    def _begin(self, place: int, ticket: Ticket) -> None:
        try:
            running = Running(
                ticket,
                runner=self._runner,
                tokenizer=self._tokenizer,
                ends=self._ends,
                sampler=lambda ticket: self._sampler(ticket.request.settings),
            )
        except Exception as error:
            ticket.close(error=error)
            return
        self._places[place] = running
        if ticket.is_cancelled:
            self._end(place, running, "cancelled")
        elif running.is_ready:
            self._let_speak(place, running, self._engine.logits)

    def _parts(self) -> list[Part | None]:
        """A token of each stream that answers; what room is left is shared among those that read."""
        for place, running in enumerate(self._places):
            if running is not None and running.apart_until is not None:
                parts: list[Part | None] = [None] * len(self._places)
                parts[place] = running.part(self._engine.slice_tokens)
                return parts
        readers = [running for running in self._places if running is not None and running.is_reading]
        num_answering = self.num_running - len(readers)
        room = self._engine.slice_tokens - num_answering
        if num_answering and self._row_seconds:
            fitting = int(self._step_seconds / self._row_seconds) - num_answering
            room = min(room, max(fitting, LEAST_SLICE, len(readers)))
        left = len(readers)
        parts = []
        for running in self._places:
            if running is None:
                parts.append(None)
            elif not running.is_reading:
                parts.append(running.part(1))
            else:
                # Who needs less than a fair share leaves more for the others.
                part = running.part(max(1, room // left))
                room, left = room - len(part.ids), left - 1
                parts.append(part)
        return parts

    def _hear(self, parts: Sequence[Part | None], logits: Floats) -> None:
        rows = iter(logits)
        for place, part in enumerate(parts):
            running = self._places[place]
            if part is None or running is None:
                continue
            row = next(rows) if part.is_heard else None
            try:
                running.has_read()
            except Exception as error:
                self._fail(place, error)
                continue
            if row is not None:
                self._let_speak(place, running, lambda row=row: row)

    def _let_speak(self, place: int, running: Running, scores: Callable[[], Floats]) -> None:
        try:
            for piece in running.hears(scores()[: self._num_ids]):
                running.ticket.tell(piece)
            if running.telling.is_over:
                self._close(place, running)
        except Exception as error:
            self._fail(place, error)

    def _look_at_clock(self, parts: Sequence[Part | None], took: float) -> None:
        rows = sum(len(part.ids) for part in parts if part is not None)
        self._row_seconds += (took / rows - self._row_seconds) * (0.2 if self._row_seconds else 1.0)
        if self._watchdog is None or any(part is not None and len(part.ids) > 1 for part in parts):
            return
        is_late = took > self._watchdog.tick_ms * 1e-3 * rows
        for place, running in enumerate(self._places):
            if running is not None:
                running.overruns = running.overruns + 1 if is_late else 0
                if running.overruns > self._watchdog.max_overruns:
                    self._end(place, running, "watchdog")

    def _end(self, place: int, running: Running, finish: Finish) -> None:
        """End an answer from outside."""
        try:
            for piece in running.telling.end(finish):
                running.ticket.tell(piece)
            self._close(place, running)
        except Exception as error:
            self._fail(place, error)

    def _close(self, place: int, running: Running) -> None:
        self._places[place] = None
        running.finish()

    def _fail(self, place: int, error: BaseException) -> None:
        running, self._places[place] = self._places[place], None
        if running is not None and not running.ticket.is_done:
            running.ticket.close(error=error)

    def _sampler(self, settings: SamplingSettings) -> Sampler:
        return Sampler(
            settings,
            num_ids=self._tokenizer.vocab_size,
            forbidden=self._forbidden,
            spared=self._tokenizer.special_ids,
            weigher=self._weigher,
        )

    def _check(self, request: Request) -> None:
        ids = request.ids
        if not len(ids) and (request.begin is None or not request.begin.position):
            raise UsageError("a request without a token has nothing to go on from")
        if len(ids) and not 0 <= min(ids) <= max(ids) < self._engine.config.vocab_size:
            raise UsageError(f"ids from {min(ids)} to {max(ids)} are not of this model's vocabulary")
        request.settings.check_ids(self._tokenizer.vocab_size)
