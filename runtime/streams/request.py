"""What is asked of a scheduler, and what whoever asked holds in hand."""

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from queue import SimpleQueue

from configs.errors import UsageError
from runtime.answer import Answer
from runtime.sampling import SamplingSettings
from runtime.stream import Snapshot, Stream
from runtime.telling import Limits


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Request:
    """A text to be made of ids."""

    ids: Sequence[int]
    """What is read first: a prompt, or what comes after `begin`. It may be empty there."""
    settings: SamplingSettings = field(default_factory=SamplingSettings)
    limits: Limits = field(default_factory=Limits)
    begin: Snapshot | None = None
    """The stream that is gone on with; None is a new one."""
    rounds: int | None = None
    exit_threshold: float = 0.0
    branch: int = 0
    is_continued: bool = False
    """Whether the answer goes on in the middle of a text, so that a space at its beginning is shown."""
    num_log_probs: int | None = None
    keeps_stream: bool = False
    """Whether the stream is wanted when the answer is over: it holds its state's memory until then."""
    on_text: Callable[[str], None] | None = None
    """Is given the text as it comes, by the scheduler's thread. What it raises ends this answer alone."""
    on_end: Callable[["Ticket"], None] | None = None
    """Is told when it is over, by the scheduler's thread."""


class Ticket:
    """An answer that is being made. Any thread may hold it."""

    def __init__(self, request: Request) -> None:
        self.request = request
        self.stream: Stream | None = None
        """The stream behind the answer, for a request that keeps it."""
        self._cancelled = False
        self._done = threading.Event()
        self._answer: Answer | None = None
        self._error: BaseException | None = None
        self._pieces: SimpleQueue[str | None] = SimpleQueue()

    @property
    def is_cancelled(self) -> bool:
        return self._cancelled

    @property
    def is_done(self) -> bool:
        return self._done.is_set()

    @property
    def answer(self) -> Answer | None:
        """What was answered, once it is over."""
        return self._answer

    @property
    def error(self) -> BaseException | None:
        """What made it fail, once it is over."""
        return self._error

    def cancel(self) -> None:
        """End it before its next token. What was said stays said."""
        self._cancelled = True

    def result(self, timeout: float | None = None) -> Answer:
        """Wait until it is over. What made it fail is raised here."""
        if not self._done.wait(timeout):
            raise UsageError(
                f"the answer is not there after {timeout} seconds", hint="Wait on, or cancel it."
            )
        if self._error is not None:
            raise self._error
        assert self._answer is not None, "what is done has an answer or an error"
        return self._answer

    def __iter__(self) -> Iterator[str]:
        """The text as it comes, for one reader; then what made it fail is raised, if something did."""
        while (piece := self._pieces.get()) is not None:
            yield piece
        if self._error is not None:
            raise self._error

    def tell(self, piece: str) -> None:
        """Pass a piece on. For the scheduler."""
        self._pieces.put(piece)
        if self.request.on_text is not None:
            self.request.on_text(piece)

    def close(self, *, answer: Answer | None = None, error: BaseException | None = None) -> None:
        """It is over. For the scheduler."""
        self._answer, self._error = answer, error
        try:
            if self.request.on_end is not None:
                self.request.on_end(self)
        except Exception as raised:
            self._error = self._error or raised
        finally:
            self._done.set()
            self._pieces.put(None)
