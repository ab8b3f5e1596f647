"""One stream among several: its prompt, its answer in the making, and why it ends."""

from collections.abc import Callable, Sequence

from configs.text.tokenizer import Tokenizer
from runtime.binding import Integers, Part
from runtime.engine import Floats
from runtime.sampler import Sampler
from runtime.state import State
from runtime.stream import Runner, Stream
from runtime.streams.request import Ticket
from runtime.telling import Telling, cut_at_stop


class RowHead:
    """Logits that are there already. Whoever asks for them has the stream that they are of."""

    def __init__(self) -> None:
        self.row: Floats | None = None

    def logits(self) -> Floats:
        """As `runtime.sampler.Head` says; and so on."""
        assert self.row is not None, "a stream chooses when it was heard"
        return self.row

    def candidates(self, changed: Integers, *, count: int, below_best: float) -> Integers | None:
        return None

    def selected(self, ids: Integers) -> Floats:
        return self.logits()[ids]


class Running:
    """A ticket that has a place."""

    def __init__(
        self,
        ticket: Ticket,
        *,
        runner: Runner,
        tokenizer: Tokenizer,
        ends: frozenset[int],
        sampler: Callable[[Ticket], Sampler],
    ) -> None:
        request = ticket.request
        self.ticket, self._tokenizer = ticket, tokenizer
        self.overruns = 0
        """Steps one after another that took longer than they may."""
        self.apart_until: int | None = None
        """Where it has to get to by itself, after a step of several that failed; None for together."""
        self.stream = Stream(
            runner,
            rounds=request.rounds,
            exit_threshold=request.exit_threshold,
            kept_bytes=0,
        )
        if request.begin is not None:
            self.stream.restore(request.begin)
        self._head = RowHead()
        self.telling = Telling(
            self.stream,
            head=self._head,
            sampler=sampler(ticket),
            tokenizer=tokenizer,
            ends=ends,
            limits=request.limits,
            branch=request.branch,
            continuing=request.is_continued,
            num_log_probs=request.num_log_probs,
            is_cancelled=lambda: ticket.is_cancelled,
        )
        if request.keeps_stream and request.limits.stops and self.stream.state.position:
            self.stream.keep()
        self.stream.accept(request.ids)
        if not self.stream.num_waiting:
            self.stream.look_out()
        self._prompt_tokens = self.stream.num_waiting
        self._answer_at = self.stream.position

    @property
    def is_reading(self) -> bool:
        """Whether the prompt is still being read."""
        return not self.telling.has_begun

    def part(self, most: int) -> Part:
        """What it reads next, of so many tokens at most."""
        state = self.stream.state
        assert isinstance(state, State), "a stream of an engine"
        ids = self.stream.next_part(most)
        return Part(
            state=state,
            ids=ids,
            exit_threshold=self.stream.exit_threshold,
            is_heard=len(ids) == self.stream.num_waiting,
        )

    @property
    def is_ready(self) -> bool:
        """Whether the head was given all that it needs, and nothing has to be read before a choice."""
        return self.is_reading and not self.stream.num_waiting

    def has_read(self) -> None:
        """The part was read, and nobody listens yet."""
        self.stream.has_read()
        if self.apart_until is not None and self.stream.state.position >= self.apart_until:
            self.apart_until = None

    def go_apart(self, num_tokens: int) -> None:
        """Read by itself from its last whole state on, up to where a step of so many tokens was to come."""
        wanted = min(self.stream.state.position + num_tokens, self.stream.position)
        self.apart_until = max(wanted, self.apart_until or 0)
        self.stream.heal()
        if not self.stream.num_waiting:
            # It was read whole, and the scores were lost.
            self.stream.wait_for_last()

    def hears(self, row: Floats) -> Sequence[str]:
        """Choose by the scores after the last token; gives what may be shown."""
        if self.is_reading:
            self.telling.prompt_read()
            if self.ticket.request.keeps_stream and self.ticket.request.limits.stops:
                self.stream.keep()
        self._head.row = row
        shown = self.telling.advance()
        self._head.row = None
        return shown

    def finish(self) -> None:
        """Close the ticket with what there is."""
        answer = self.telling.answer(prompt_tokens=self._prompt_tokens if self.telling.has_begun else 0)
        request = self.ticket.request
        if request.keeps_stream:
            if answer.finish == "stop":
                cut_at_stop(
                    self.stream,
                    answer,
                    tokenizer=self._tokenizer,
                    answer_at=self._answer_at,
                    continuing=request.is_continued,
                )
            self.ticket.stream = self.stream
        self.ticket.close(answer=answer)
