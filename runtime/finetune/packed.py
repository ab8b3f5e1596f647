"""What the methods of packed models share: an engine, the losses of sequences, and answers."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from configs.errors import UsageError
from configs.text.template import ChatTemplate
from configs.text.tokenizer import Tokenizer
from quant.adapter import Setting
from runtime.adapting.learnt import Learnt
from runtime.engine import Engine
from runtime.finetune.losses import NUM_STREAMS, Losses
from runtime.finetune.method import Item, MethodOptions
from runtime.model_folder import PackedModel, open_model
from runtime.turns import end_ids
from runtime.verified import check_whole


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Opened:
    """A packed model that is about to learn."""

    model: PackedModel
    engine: Engine


class PackedMethod:
    """A packed model that moves along directions. What moves, and how far, its method says."""

    def __init__(
        self,
        opened: Opened,
        learnt: Learnt,
        *,
        options: MethodOptions,
        settings: Mapping[str, Setting],
        look_length: float,
        length: Callable[[float], float],
    ) -> None:
        """`look_length` is how far a look goes, in the unit of rates."""
        self.base = opened.model.file.digest
        self.beneath = tuple(adapter.digest for adapter in opened.model.adapters)
        rounds = options.rounds_of(opened.model.config)
        self.settings = {**settings, "rounds": rounds}
        self.length = length
        self.tokenizer: Tokenizer = opened.model.tokenizer()
        self.template: ChatTemplate | None = opened.model.fitting_template(self.tokenizer)
        self.engine = opened.engine
        self._learnt, self._look_length, self._rounds = learnt, look_length, rounds
        self._exit_threshold = opened.model.config.exit_threshold_default
        self._losses = Losses(self.engine, rounds=rounds, exit_threshold=self._exit_threshold)
        self._ends = end_ids(self.tokenizer, self.template)

    def begin(self, share: float) -> None:
        """As `runtime.finetune.method` says; and so on. Looks go as far at any rate."""

    def look(self, step: int, *, pair: int = 0, side: int) -> None:
        self._learnt.look(step, pair=pair, side=side)

    def slope(self, above: float, below: float) -> float:
        return (above - below) / (2 * self._look_length)

    def apply(self, step: int, lengths: Sequence[float], *, decay: float = 0.0) -> None:
        self._learnt.apply(step, lengths, decay=decay)

    def losses(self, items: Sequence[Item]) -> NDArray[np.float64]:
        return self._losses.of(items)

    def answer(self, item: Item, *, max_tokens: int) -> str:
        state, ids = self.engine.new_state(self._rounds), list[int]()
        self.engine.prefill(state, item.ids_T[: item.num_prompt], exit_threshold=self._exit_threshold)
        for _ in range(max_tokens):
            token = int(np.argmax(self.engine.logits()[: self.tokenizer.vocab_size]))
            if token in self._ends:
                break
            ids.append(token)
            self.engine.step(state, token, exit_threshold=self._exit_threshold)
        return self.tokenizer.decode(ids)

    def close(self) -> None:
        self.engine.close()


def opened_to_learn(options: MethodOptions, *, moves_codes: bool = False) -> Opened:
    """The model that the options name, with memory of its own for what is about to move."""
    model = open_model(options.model, adapters=options.adapters, is_learning=True, moves_codes=moves_codes)
    options.rounds_of(model.config)
    check_whole([model.file])
    engine = Engine(model, num_threads=options.num_threads, num_streams=NUM_STREAMS)
    return Opened(model=model, engine=engine)


def number_of(settings: Mapping[str, str], name: str, *, default: int) -> int:
    """A whole number that a method is told by name."""
    words = settings.get(name, str(default))
    if not words.isascii() or not words.isdigit() or len(words) > 12:
        raise UsageError(f"{name} is {words[:40]!r}; a whole number is needed")
    return int(words)


def check_settings(settings: Mapping[str, str], *, method: str, known: Sequence[str] = ()) -> None:
    """Refuse settings that a method does not have."""
    for name in settings:
        if name not in known:
            raise UsageError(
                f"the method {method} has no setting {name!r}; it has {', '.join(known) or 'none'}",
                hint="Leave out --set, or choose another method.",
            )
