"""A talk with a model, text in and text out: prompts, replies, and ways back.

`say` and `complete` give the answer's text as it comes, in pieces of whole characters with nothing of a stop
string in them. After the last piece, `last` tells what the answer was. To stop iterating, or to call `cancel`
from a signal handler or another thread, ends an answer between two tokens; what was said by then stays said.

A stream only reads on (`runtime.turns`), so a turn costs the same however long the talk is. `undo` and
`regenerate` go back to where a turn began; an answer that is given anew is drawn on another branch of the
same seed.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from configs.errors import UsageError
from configs.text.template import ChatTemplate
from configs.text.tokenizer import Piece, Tokenizer
from runtime.answer import Answer
from runtime.interrupts import held_back
from runtime.sampler import Head, Sampler
from runtime.sampling import SamplingSettings
from runtime.stream import KEPT_BYTES, Progress, Runner, Snapshot, Stream
from runtime.streams.kept import StreamState
from runtime.telling import Limits, Telling, cut_at_stop
from runtime.turns import Message, begun, continuation, end_ids, opening


class ReadyHead(Head, Protocol):
    """A head that wants to know before the tokens are read what will be asked of it."""

    def expect(self, *, all_logits: bool) -> None:
        """Whether all logits are needed for each choice to come, or those that can win."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Turn:
    """One exchange."""

    start: int | None
    """Where it begins in the stream; None where the stream was written anew since."""
    message: str
    is_chat: bool
    branch: int
    reply: str


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Talk:
    """A session at some moment: what it takes to go on from there, and back from there as well."""

    snapshot: Snapshot
    system: str
    turns: tuple[Turn, ...]
    is_stale: bool
    """Whether the stream no longer holds what the turns say, and has to be written anew."""
    settings: SamplingSettings
    rounds: int | None
    exit_threshold: float


class Session:
    """One stream of one model, and the text that it stands for."""

    def __init__(
        self,
        runner: Runner,
        *,
        head: ReadyHead,
        tokenizer: Tokenizer,
        template: ChatTemplate | None = None,
        settings: SamplingSettings | None = None,
        limits: Limits | None = None,
        system: str = "",
        rounds: int | None = None,
        exit_threshold: float = 0.0,
        num_log_probs: int | None = None,
        kept_bytes: int = KEPT_BYTES,
    ) -> None:
        self._runner, self._head, self._tokenizer, self._template = runner, head, tokenizer, template
        self._rounds, self._exit_threshold, self._kept_bytes = rounds, exit_threshold, kept_bytes
        self._ends = end_ids(tokenizer, template)
        self._system = system
        self._cancelled = False
        self.limits = limits or Limits()
        self.num_log_probs = num_log_probs
        self.settings = settings or SamplingSettings()
        self.last: Answer | None = None
        """The last answer, once it is over."""
        self.reset()

    @property
    def settings(self) -> SamplingSettings:
        """How tokens are chosen; it may be changed between answers."""
        return self._sampler.settings

    @settings.setter
    def settings(self, settings: SamplingSettings) -> None:
        padding = () if self._tokenizer.pad is None else (self._tokenizer.pad,)
        self._sampler = Sampler(
            settings,
            num_ids=self._tokenizer.vocab_size,
            forbidden=self._tokenizer.masked_ids.union(padding) - self._ends,
            spared=self._tokenizer.special_ids,
        )

    @property
    def has_chat(self) -> bool:
        """Whether the model's tokenizer has words for a chat."""
        return self._template is not None

    @property
    def is_chat(self) -> bool:
        """Whether what is said next is a message; a text that was begun is gone on with."""
        return self.has_chat and all(turn.is_chat for turn in self._turns[-1:])

    @property
    def system(self) -> str:
        """The message before the talk."""
        return self._system

    @property
    def ids(self) -> Sequence[int]:
        """The tokens of the stream so far."""
        return self._stream.ids()

    @property
    def position(self) -> int:
        """Tokens of the stream so far."""
        return self._stream.position

    @property
    def state(self) -> StreamState:
        """The stream's state, to be looked at."""
        return self._stream.state

    @property
    def state_bytes(self) -> int:
        """Memory of the stream's state."""
        return self._stream.state_bytes

    @property
    def messages(self) -> list[Message]:
        """The talk so far: system, user and assistant in turn."""
        return [*self._before(), *(message for turn in self._turns for message in _exchange(turn))]

    def reset(self, *, system: str | None = None) -> None:
        """Forget the talk, and perhaps begin with another system message."""
        with held_back():
            self._system = self._system if system is None else system
            self._turns: list[Turn] = []
            self._stream = self._new_stream()
            self._is_stale = False

    @property
    def rounds(self) -> int | None:
        """Rounds of the loop; None is the model's own number."""
        return self._rounds

    def set_rounds(self, rounds: int | None, *, kept_bytes: int | None = None) -> None:
        """Take so many rounds of the loop from now on. Each has a state, so the talk is read anew for it.

        Rounds that are refused change nothing. `kept_bytes` is the memory for states that are kept then.
        """
        with held_back():
            ids, before = self._stream.ids(), (self._rounds, self._kept_bytes)
            self._rounds = rounds
            self._kept_bytes = self._kept_bytes if kept_bytes is None else kept_bytes
            try:
                self._stream = self._new_stream()
            except BaseException:
                self._rounds, self._kept_bytes = before
                raise
            self._stream.accept(ids)

    def talk(self) -> Talk:
        """The talk as it is now, to be gone on with later, elsewhere, or twice."""
        return Talk(
            snapshot=self._stream.snapshot(),
            system=self._system,
            turns=tuple(self._turns),
            is_stale=self._is_stale,
            settings=self.settings,
            rounds=self._rounds,
            exit_threshold=self._exit_threshold,
        )

    def resume(self, talk: Talk, *, settings: SamplingSettings | None = None) -> None:
        """Be where a talk was. What is said next is what would have been said next there."""
        with held_back():
            self.settings = settings or talk.settings
            if (talk.rounds, talk.exit_threshold) != (self._rounds, self._exit_threshold):
                self._rounds, self._exit_threshold = talk.rounds, talk.exit_threshold
                self._stream = self._new_stream()
            self._stream.restore(talk.snapshot)
            self._system, self._turns, self._is_stale = talk.system, list(talk.turns), talk.is_stale
            self.last = None

    @property
    def turns(self) -> Sequence[Turn]:
        """The exchanges so far."""
        return tuple(self._turns)

    def cancel(self) -> None:
        """End the answer that is being given, before its next token."""
        self._cancelled = True

    def say(self, message: str, *, progress: Progress | None = None) -> Iterator[str]:
        """Answer a message of a chat."""
        if self._template is None:
            raise UsageError(
                "this model's tokenizer has no words for a chat",
                hint="Let the model go on with a text instead.",
            )
        return self._answer(message, is_chat=True, progress=progress)

    def complete(self, text: str, *, progress: Progress | None = None) -> Iterator[str]:
        """Go on with a text, after all that came before."""
        return self._answer(text, is_chat=False, progress=progress)

    def regenerate(self, *, progress: Progress | None = None) -> Iterator[str]:
        """Answer the last message anew, on another branch."""
        return self._answered_anew(self._taken_back(), progress)

    def _answered_anew(self, turn: Turn, progress: Progress | None) -> Iterator[str]:
        num_turns = len(self._turns)
        try:
            yield from self._answer(
                turn.message, is_chat=turn.is_chat, branch=turn.branch + 1, progress=progress
            )
        finally:
            if turn.is_chat and len(self._turns) == num_turns:
                # No answer began, so the old one stands; the stream no longer holds it.
                self._turns.append(replace(turn, start=None))
                self._is_stale = True

    def undo(self) -> str:
        """Take back the last message and its answer, and give the message."""
        return self._taken_back().message

    def _answer(
        self, message: str, *, is_chat: bool, progress: Progress | None, branch: int = 0
    ) -> Iterator[str]:
        self._cancelled, self.last = False, None
        prompt_ids = self._prompt_ids(message, is_chat=is_chat)
        start = self._stream.position
        telling = Telling(
            self._stream,
            head=self._head,
            sampler=self._sampler,
            tokenizer=self._tokenizer,
            ends=self._ends,
            limits=self.limits,
            branch=branch,
            continuing=not is_chat,
            num_log_probs=self.num_log_probs,
            is_cancelled=lambda: self._cancelled,
        )
        self._head.expect(all_logits=self.settings.needs_all or self.num_log_probs is not None)
        self._stream.keep()
        waited = 0
        try:
            self._stream.accept(prompt_ids)
            if not self._stream.num_waiting:
                self._stream.look_out()
            waited = self._stream.num_waiting
            if self._stream.catch_up(is_cancelled=lambda: self._cancelled, progress=progress):
                telling.prompt_read()
                if self.limits.stops:
                    self._stream.keep()
                yield from telling
        finally:
            # Also where the caller has stopped listening, and where a fault broke the answer off.
            with held_back():
                answer = telling.answer(prompt_tokens=waited if telling.has_begun else 0)
                if not telling.has_begun:
                    self._stream.rewind(start)
                else:
                    if answer.finish == "stop":
                        cut_at_stop(
                            self._stream,
                            answer,
                            tokenizer=self._tokenizer,
                            answer_at=start + len(prompt_ids),
                            continuing=not is_chat,
                        )
                    reply = answer.text
                    self._turns.append(
                        Turn(start=start, message=message, is_chat=is_chat, branch=branch, reply=reply)
                    )
                self.last = replace(answer, position=self._stream.position)

    def _taken_back(self) -> Turn:
        if not self._turns:
            raise UsageError("nothing has been said yet", hint="Say something first.")
        with held_back():
            turn = self._turns.pop()
            if turn.start is None:
                self._is_stale = True
            elif not self._is_stale:
                self._stream.rewind(turn.start)
            return turn

    def _prompt_ids(self, message: str, *, is_chat: bool) -> list[int]:
        """What is read for a turn; the stream is at its beginning then."""
        if self._turns and self._turns[-1].is_chat != is_chat:
            raise UsageError(
                "a session either chats or goes on with a text", hint="Reset it, or make another."
            )
        pieces = self._pieces(message) if is_chat else (message,)
        if pieces is None:
            self._turns = [replace(turn, start=None) for turn in self._turns]
            self._stream, self._is_stale = self._new_stream(), False
            pieces = self._opening(message)
        ids = self._tokenizer.encode_pieces(pieces)
        if self._stream.position:
            return ids
        ids = begun(self._tokenizer, ids)
        if not ids:
            raise UsageError("an empty prompt, and the tokenizer has no token to begin a text with")
        return ids

    def _pieces(self, message: str) -> tuple[Piece, ...] | None:
        """What the template adds to the stream for a message; None where the stream must be written anew."""
        assert self._template is not None, "checked where a chat begins"
        if not self._turns and not self._is_stale:
            return self._opening(message)
        # A stream written anew whose reading was broken off holds none of the talk.
        if self._is_stale or not self._stream.position:
            return None
        said = [*self._before(), *_exchange(self._turns[-1])]
        return continuation(self._template, said, _user(message))

    def _opening(self, message: str) -> tuple[Piece, ...]:
        assert self._template is not None, "checked where a chat begins"
        return opening(self._template, [*self.messages, _user(message)])

    def _before(self) -> list[Message]:
        return [{"role": "system", "content": self._system}] if self._system else []

    def _new_stream(self) -> Stream:
        return Stream(
            self._runner,
            rounds=self._rounds,
            exit_threshold=self._exit_threshold,
            kept_bytes=self._kept_bytes,
        )


def _user(message: str) -> Message:
    return {"role": "user", "content": message}


def _exchange(turn: Turn) -> list[Message]:
    """The messages of a turn; a text that was gone on with is none."""
    return [_user(turn.message), {"role": "assistant", "content": turn.reply}] if turn.is_chat else []
