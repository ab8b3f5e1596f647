"""A runner and its head whose logits are a plain function of all ids that the state has read."""

import hashlib
from array import array
from collections.abc import Callable, Sequence
from typing import Self

import numpy as np
from numpy.typing import NDArray

from configs.text.tokenizer import Tokenizer
from runtime.streams.kept import Outlook, StreamState

Floats = NDArray[np.float32]
Integers = NDArray[np.int64]
Law = Callable[[Sequence[int]], Floats]


class ReadIds:
    """A state: the ids that it has read."""

    def __init__(self, ids: Sequence[int], *, rounds: int | None) -> None:
        self.ids, self.rounds = array("I", ids), rounds
        self.is_broken_off = False

    @property
    def position(self) -> int:
        return len(self.ids)

    @property
    def num_bytes(self) -> int:
        return 1000

    def copy(self) -> Self:
        found = type(self)(self.ids, rounds=self.rounds)
        found.is_broken_off = self.is_broken_off
        return found


class Scripted:
    """Reads ids, and gives the logits of what was read last, as an engine does."""

    def __init__(self, law: Law) -> None:
        self.law = law
        self.num_read = 0
        self.state: ReadIds | None = None
        self.expected: list[bool] = []

    def begun(self, rounds: int | None) -> ReadIds:
        return ReadIds((), rounds=rounds)

    def read(
        self,
        state: StreamState,
        ids: Sequence[int],
        *,
        exit_threshold: float,
        is_cancelled: Callable[[], bool] | None = None,
    ) -> None:
        assert isinstance(state, ReadIds)
        assert len(ids)
        state.ids.extend(ids)
        self.num_read += len(ids)
        self.state = state

    def outlook(self, state: StreamState) -> Outlook | None:
        return b"outlook" if state is self.state else None

    def recall(self, state: StreamState, outlook: Outlook) -> None:
        assert isinstance(state, ReadIds)
        assert outlook == b"outlook"
        self.state = state

    def expect(self, *, all_logits: bool) -> None:
        self.expected.append(all_logits)

    def logits(self) -> Floats:
        assert self.state is not None
        return self.law(self.state.ids)

    def candidates(self, changed: Integers, *, count: int, below_best: float) -> Integers | None:
        return None

    def selected(self, ids: Integers) -> Floats:
        return self.logits()[ids]

    @property
    def ids(self) -> list[int]:
        """What the state of the last reading has read."""
        assert self.state is not None
        return list(self.state.ids)


def chance(num_ids: int, *, never: Sequence[int] = ()) -> Law:
    """Logits that any change of what was read changes; some ids have none."""

    def law(ids: Sequence[int]) -> Floats:
        digest = hashlib.sha256(array("I", ids).tobytes()).digest()
        rng = np.random.default_rng(int.from_bytes(digest[:8], "little"))
        logits = rng.standard_normal(num_ids, dtype=np.float32)
        logits[list(never)] = -np.inf
        return logits

    return law


def saying(tokenizer: Tokenizer, replies: Sequence[str]) -> Law:
    """Replies in turn, each after the assistant's name; then the end of the turn."""
    speaker = tokenizer.specials["<|assistant|>"]
    end = tokenizer.specials["<|im_end|>"]
    spelled = [tokenizer.encode(reply) for reply in replies]

    def law(ids: Sequence[int]) -> Floats:
        turn = list(ids).count(speaker) - 1
        said = len(ids) - 1 - max(place for place, token in enumerate(ids) if token == speaker)
        rest = spelled[turn][said:]
        logits = np.zeros(tokenizer.vocab_size, dtype=np.float32)
        logits[rest[0] if rest else end] = 10
        return logits

    return law
