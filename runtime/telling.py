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

    def __post_init__(self) -> None:
        if self.max_tokens < 1:
            raise UsageError(f"an answer of {self.max_tokens} tokens; at least 1 is allowed")
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
        while not self._is_cancelled():
            choice = self._choose()
            if choice.token in self._ends:
                self._finish = "end"
                # The model ended here, so half a character is a whole answer's last mistake, and is shown.
                yield from self._shown(self._stopper.feed(self._decoder.flush()))
                break
            self._choices.append(choice)
            self._stream.accept([choice.token])
            yield from self._shown(self._stopper.feed(self._decoder.feed(choice.token)))
            if self._stopper.found is not None:
                self._finish = "stop"
                return
            if len(self._choices) == self._limits.max_tokens:
                self._finish = "length"
                break
            self._stream.catch_up()
        yield from self._shown(self._stopper.flush())

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
