"""The loop that makes an answer: choose a token, show its text, read it, until something ends it."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from time import perf_counter

from configs.errors import UsageError
from configs.text.stream import StreamDecoder
from configs.text.tokenizer import Tokenizer
from runtime.answer import Answer, Finish, Timings
from runtime.sampler import Choice, Head, Sampler
from runtime.stops import StopFilter
from runtime.stream import Stream


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """Where an answer ends besides where the model ends it."""

    max_tokens: int = 4096
    stops: tuple[str, ...] = ()
    max_seconds: float | None = None
    """From the beginning of the prompt; a clock may end a text, and never changes it."""
    max_bytes: int | None = None
    """Memory of the stream: its state, those that are kept, and four bytes a token."""

    def __post_init__(self) -> None:
        if self.max_tokens < 1:
            raise UsageError(f"an answer of {self.max_tokens} tokens; at least 1 is allowed")
        if self.max_seconds is not None and not 0 < self.max_seconds < float("inf"):
            raise UsageError(f"an answer of {self.max_seconds} seconds; more than 0 are allowed")
        StopFilter(self.stops)


class Telling:
    """One answer in the making. Iterating over it gives its text; `answer` then tells what it was."""

    def __init__(
        self,
        stream: Stream,
        *,
        head: Head,
        sampler: Sampler,
        tokenizer: Tokenizer,
        ends: frozenset[int],
        limits: Limits,
        branch: int,
        continuing: bool,
        num_log_probs: int | None,
        is_cancelled: Callable[[], bool],
    ) -> None:
        self._stream, self._head, self._sampler = stream, head, sampler
        self._ends, self._limits, self._branch = ends, limits, branch
        self._num_log_probs, self._is_cancelled = num_log_probs, is_cancelled
        self._decoder = StreamDecoder(tokenizer, continuing=continuing)
        self._stopper = StopFilter(limits.stops)
        self._choices: list[Choice] = []
        self._text: list[str] = []
        self._finish: Finish = "cancelled"
        self._times = [perf_counter()]
        self.has_begun = False
        """Whether the prompt was read whole."""
        self.is_over = False

    def prompt_read(self) -> None:
        """The prompt was read, and what is read from now on is the answer."""
        self.has_begun = True
        self._times.append(perf_counter())

    @property
    def text(self) -> str:
        """All that may be shown of the answer."""
        return "".join(self._text)

    @property
    def ids(self) -> list[int]:
        """The tokens of the answer, those of a stop string too."""
        return [choice.token for choice in self._choices]

    def __iter__(self) -> Iterator[str]:
        while not self.is_over:
            yield from self.advance()
            if not self.is_over:
                self._stream.catch_up()

    def advance(self) -> Sequence[str]:
        """Choose a token, accept it, and give what may be shown; it is over, or the token has to be read."""
        if self._is_cancelled():
            return self.end("cancelled")
        if (reason := self._limit_met()) is not None:
            return self.end(reason)
        choice = self._choose()
        if choice.token in self._ends:
            # The model ended here, so half a character is a whole answer's last mistake, and is shown.
            shown = self._shown(self._stopper.feed(self._decoder.flush()))
            return [*shown, *self.end("end")]
        # The stream first: what an interrupt leaves unsaid of an answer is still part of the talk.
        self._stream.accept([choice.token])
        self._choices.append(choice)
        shown = self._shown(self._stopper.feed(self._decoder.feed(choice.token)))
        if self._stopper.found is not None:
            self._finish, self.is_over = "stop", True
            return shown
        if len(self._choices) == self._limits.max_tokens:
            return [*shown, *self.end("length")]
        return shown

    def end(self, finish: Finish) -> Sequence[str]:
        """End the answer, and give what was held back of it."""
        self._finish, self.is_over = finish, True
        return self._shown(self._stopper.flush())

    def _limit_met(self) -> Finish | None:
        limits = self._limits
        if limits.max_seconds is not None and perf_counter() - self._times[0] >= limits.max_seconds:
            return "time"
        if limits.max_bytes is not None and self._stream.num_bytes > limits.max_bytes:
            return "memory"
        return None

    def answer(self, *, prompt_tokens: int) -> Answer:
        """What the answer is by now."""
        held = self._stopper.flush()
        if held:
            self._text.append(held)
        return Answer(
            text=self.text,
            ids=tuple(self.ids),
            finish=self._finish,
            stop=self._stopper.found,
            position=self._stream.position,
            timings=self._timings(prompt_tokens),
            choices=() if self._num_log_probs is None else tuple(self._choices),
        )

    def _choose(self) -> Choice:
        choice = self._sampler.choose(
            self._head,
            recent=self._stream.recent(self._sampler.settings.repetition_window),
            position=self._stream.position,
            branch=self._branch,
            num_log_probs=self._num_log_probs,
        )
        self._times.append(perf_counter())
        return choice

    def _shown(self, text: str) -> Sequence[str]:
        if not text:
            return ()
        self._text.append(text)
        return (text,)

    def _timings(self, prompt_tokens: int) -> Timings:
        started, read, first, *_ = (*self._times, self._times[-1], self._times[-1])
        return Timings(
            prompt_tokens=prompt_tokens,
            prompt_s=read - started,
            answer_tokens=len(self._choices),
            first_token_s=first - started,
            answer_s=self._times[-1] - first,
        )


def cut_at_stop(
    stream: Stream, answer: Answer, *, tokenizer: Tokenizer, answer_at: int, continuing: bool
) -> None:
    """Take a stop string out of a stream. Whole tokens stay as they were said, a part is spelled."""
    decoder = StreamDecoder(tokenizer, continuing=continuing)
    shown = kept = spelled = 0
    for number, token in enumerate(answer.ids, start=1):
        shown += len(decoder.feed(token))
        if shown > len(answer.text):
            break
        if not decoder.pending:
            kept, spelled = number, shown
    stream.rewind(answer_at + kept)
    stream.accept(tokenizer.encode(answer.text[spelled:]))
