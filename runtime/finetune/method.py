"""What the loop of fine-tuning asks of a method, and of those who share the work with it.

    loss at w + ε z, loss at w − ε z   →   slope g   →   w goes −rate · g along z

z is a direction that a seed gives. A method knows what w is and how it moves; the loop knows data, rates,
the log and when to stop. `METHODS` is the one place where a method's module is named.
"""

import importlib
import importlib.util
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from configs.errors import MissingExtra, UsageError
from configs.schema.model import ModelConfig
from configs.text.template import ChatTemplate
from configs.text.tokenizer import Tokenizer
from quant.adapter import Adapter, Setting


class Entry(NamedTuple):
    """Where a method lives."""

    module: str
    summary: str
    needs_torch: bool = False
    reach: float = 0.35
    """How far a run may carry what moves, as a root mean square, where nothing is said of its steps."""
    move: float | None = None
    """Or how far a usual step goes, however many there are."""


METHODS: dict[str, Entry] = {
    "scales": Entry("runtime.finetune.scales", "the scales of a packed model's ternary weights"),
    "codes": Entry("runtime.finetune.codes", "the ternary codes themselves, some at a time", move=0.7),
    "state": Entry("runtime.finetune.state", "what a stream remembers before its first word", reach=1.0),
    "mezo": Entry("exports.mezo", "latent weights, in PyTorch", needs_torch=True, reach=0.14),
}


LATENT = "mezo"
"""The method whose logs move weights that no packed file holds."""
EXCHANGE = "chimera.finetune.exchange"
"""Where the exchange of several workers lives."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Item:
    """A sequence to learn from."""

    ids_T: NDArray[np.int64]
    counted_T: NDArray[np.bool_]
    """Which ids the loss is the loss of; the first never is."""
    num_prompt: int
    """Ids before the answer."""
    prompt: str
    answer: str
    file: str
    line: int


@dataclass(frozen=True, kw_only=True, slots=True)
class MethodOptions:
    """What a method is prepared with."""

    model: Path
    seed: int
    adapters: tuple[Path, ...] = ()
    """Adapters that the model has while it learns, in their order."""
    epsilon: float | None = None
    """How far a look goes; None is the method's own."""
    rounds: int | None = None
    num_threads: int | None = None
    settings: Mapping[str, str] = field(default_factory=dict[str, str])
    """The method's own settings by name; it refuses what it does not know."""

    def rounds_of(self, config: ModelConfig) -> int:
        """The rounds that a model takes while it learns."""
        rounds = config.rounds_default if self.rounds is None else self.rounds
        if not 1 <= rounds <= config.rounds_most:
            raise UsageError(f"{rounds} rounds, but this model takes 1 to {config.rounds_most}")
        return rounds


@dataclass(frozen=True, kw_only=True, slots=True)
class OwnOptions:
    """The part of the options that is a method's own."""

    epsilon: float | None = None
    rounds: int | None = None
    settings: Mapping[str, str] = field(default_factory=dict[str, str])


class Method(Protocol):
    """A model that can be moved along directions."""

    @property
    def base(self) -> str:
        """Digest of the model that is changed."""
        ...

    @property
    def beneath(self) -> tuple[str, ...]:
        """Digests of the adapters that it has already."""
        ...

    @property
    def settings(self) -> Mapping[str, Setting]:
        """What a replay has to know beside the seed."""
        ...

    @property
    def tokenizer(self) -> Tokenizer: ...

    @property
    def template(self) -> ChatTemplate | None:
        """How the model reads conversations, if it does."""
        ...

    def begin(self, share: float) -> None:
        """A step begins whose rate is this share of the first one."""
        ...

    def look(self, step: int, *, pair: int = 0, side: int) -> None:
        """Stand to one side of the weights along a pair's direction: −1, 1, or 0 for none."""
        ...

    def slope(self, above: float, below: float) -> float:
        """g of a pair, out of the losses on its two sides; its usual size is that of the first steps."""
        ...

    def length(self, wanted: float) -> float:
        """The nearest length that it can go, as a float32 holds it; the log has this one."""
        ...

    def apply(self, step: int, lengths: Sequence[float], *, decay: float = 0.0) -> None:
        """End a step: go so far along each pair's direction. `decay` is the share of what was learnt that is
        given up before."""
        ...

    def losses(self, items: Sequence[Item]) -> NDArray[np.float64]:
        """Each sequence's mean loss over its counted ids; no item's depends on who is beside it."""
        ...

    def answer(self, item: Item, *, max_tokens: int) -> str:
        """What the model says to an item's prompt, the best token each time."""
        ...

    def close(self) -> None:
        """End the threads."""
        ...


class MethodModule(Protocol):
    """What the module of a method must hold."""

    def prepare(self, options: MethodOptions) -> Method: ...

    def options_of(self, settings: Mapping[str, Setting]) -> OwnOptions:
        """What a log's settings say of the options that it was begun with."""
        ...


class LatentModule(MethodModule, Protocol):
    """The module of a method whose weights only it can make again from a log."""

    def merge(self, adapter: Adapter, *, model: Path, out: Path) -> str:
        """Pack what a log's steps make of a model; gives the digest."""
        ...


class Exchange(Protocol):
    """Those who share the work of a step. A unit is some sequences on one side of one pair."""

    def record(self, step: int) -> bytes | None:
        """The record of a step that others have ended already."""
        ...

    def numbers(
        self, step: int, *, count: int, compute: Callable[[int], Sequence[float]]
    ) -> list[list[float]]:
        """What each unit of a step gives, in order; this worker computes some or all of them."""
        ...

    def end(self, step: int, record: bytes) -> None:
        """Say what was learnt in a step; all have come to the same."""
        ...

    def leave(self) -> None:
        """Say good-bye."""
        ...


class Alone:
    """Nobody else is there."""

    def record(self, step: int) -> bytes | None:
        """As `Exchange` says; and so on."""
        return None

    def numbers(
        self, step: int, *, count: int, compute: Callable[[int], Sequence[float]]
    ) -> list[list[float]]:
        return [list(compute(unit)) for unit in range(count)]

    def end(self, step: int, record: bytes) -> None:
        pass

    def leave(self) -> None:
        pass


class ExchangeModule(Protocol):
    """What the module of an exchange must hold."""

    def open_exchange(self, run: str, *, where: str) -> Exchange: ...


def load_method(name: str) -> MethodModule:
    """Import the module of a method."""
    entry = METHODS.get(name)
    if entry is None:
        raise UsageError(f"there is no method {name!r}", hint=f"The methods are: {', '.join(METHODS)}.")
    if entry.needs_torch and importlib.util.find_spec("torch") is None:
        raise MissingExtra(package="torch", extra="train", purpose=f"--method {name}")
    return cast(MethodModule, importlib.import_module(entry.module))


def is_of_latents(name: str) -> bool:
    """Whether a method moves weights that no packed file holds."""
    return name == LATENT


def load_latent_method() -> LatentModule:
    """Import the method of latent weights."""
    return cast(LatentModule, load_method(LATENT))


def load_exchange(*, run: str, where: str) -> Exchange:
    """Import those who share the work, and meet them at a place. `run` names what is learnt."""
    if importlib.util.find_spec("torch") is None:
        raise MissingExtra(package="torch", extra="train", purpose="--workers")
    module = cast(ExchangeModule, importlib.import_module(EXCHANGE))
    return module.open_exchange(run, where=where)
