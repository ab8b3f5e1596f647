"""Where two saved talks part."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile

from runtime.streams.state_file import SavedState


@dataclass(frozen=True, kw_only=True, slots=True)
class Difference:
    """What two talks have in common and what each has of its own."""

    num_common: int
    """Tokens at the beginning that are the same."""
    rests: tuple[Sequence[int], Sequence[int]]
    """The tokens of each behind them."""
    unlike: tuple[str, ...]
    """What else is not the same, by name."""


def compared(one: SavedState, other: SavedState) -> Difference:
    """Compare token by token. Talks of two tokenizers have nothing in common."""
    pairs = zip(one.ids, other.ids, strict=False)
    same_words = one.about.identity.tokenizer == other.about.identity.tokenizer
    num_common = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs)) if same_words else 0
    theirs = _aspects(other)
    unlike = tuple(name for name, value in _aspects(one).items() if value != theirs[name])
    rests = (one.ids[num_common:], other.ids[num_common:])
    if not unlike and not any(rests) and bytes(one.state) != bytes(other.state):
        unlike = ("state",)
    return Difference(num_common=num_common, rests=rests, unlike=unlike)


def _aspects(saved: SavedState) -> dict[str, object]:
    """What may be unlike beside the tokens, by name."""
    about, identity = saved.about, saved.about.identity
    return {
        "model": identity.model,
        "tokenizer": identity.tokenizer,
        "chat template": identity.template,
        "adapters": identity.adapters,
        "rounds": about.rounds,
        "exit threshold": about.exit_threshold,
        "system message": about.system,
        "draws": about.sampling,
    }
