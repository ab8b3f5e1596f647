"""Adapters played again: the weights, or the beginnings of streams, that a run ended with.

Adapters are composed in the order in which they are named: each moves what those before it have left.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Protocol

from configs.errors import AdapterError
from quant.adapter import SHOWN, Adapter, Setting, other_base
from quant.container import B158File
from runtime.adapting.codes import Codes
from runtime.adapting.learnt import Learnt, made_of, replay
from runtime.adapting.scales import Scales
from runtime.adapting.state import STATE


class _OfWeights(Protocol):
    def __call__(self, file: B158File, *, seed: int, settings: Mapping[str, Setting]) -> Learnt: ...


OF_WEIGHTS: dict[str, _OfWeights] = {"scales": Scales, "codes": Codes}
"""The methods that learn a packed file's weights."""


def check_adapters(adapters: Sequence[Adapter], *, base: str) -> None:
    """Refuse adapters that were learnt on another model, or on top of others than those before them."""
    for number, adapter in enumerate(adapters):
        check_adapter(adapter, base=base, before=adapters[:number])


def check_adapter(adapter: Adapter, *, base: str, before: Sequence[Adapter]) -> None:
    """Refuse an adapter that a model with those before it cannot have."""
    header = adapter.header
    if header.method not in (*OF_WEIGHTS, STATE):
        raise AdapterError(
            f"{adapter.path} was learnt by the method {header.method!r}, which moves no packed weights; "
            f"those that do are {', '.join((*OF_WEIGHTS, STATE))}",
            hint="Make the model that was learnt by `chimera adapter merge`, and run that."
            if header.method == "mezo"
            else "Read it with the version of Chimera that wrote it.",
        )
    if header.base != base:
        raise other_base(adapter.path, header.base, base)
    digests = tuple(other.digest for other in before)
    if adapter.digest in digests:
        raise AdapterError(
            f"{adapter.path} is the same adapter as {before[digests.index(adapter.digest)].path}, which "
            "the model has already",
            hint="Name each adapter once.",
        )
    if header.beneath and header.beneath != digests:
        raise AdapterError(
            f"{adapter.path} was learnt on top of {_named(header.beneath)}, and before it come "
            f"{_named(digests)}",
            hint="Name the adapters that it was learnt with, in their order, and it behind them.",
        )


def learn_weights(file: B158File, adapters: Sequence[Adapter]) -> None:
    """Give a file, whose map is this process's own, the weights that adapters of weights have learnt."""
    for adapter in adapters:
        make = OF_WEIGHTS.get(adapter.header.method)
        if make is not None:
            replay(adapter, made_of(adapter, partial(make, file)))


def _named(digests: Sequence[str]) -> str:
    return ", ".join(f"{digest[:SHOWN]}…" for digest in digests) or "none"
