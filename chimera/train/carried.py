"""The states that rows carry from step to step, taken apart for a checkpoint and put together again."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from torch import Tensor

from chimera.model import ChimeraForCausalLM, ModelState
from chimera.rows import first_tensor


def detached(state: ModelState) -> ModelState:
    """A state that gradients do not go back through."""
    return _each(state, Tensor.detach)


def tensors_of(state: ModelState) -> list[Tensor]:
    """The tensors of a state in their order."""
    return list(_walk(state))


def state_of(model: ChimeraForCausalLM, tensors: Sequence[Tensor], *, rounds: int) -> ModelState:
    """The state that had these tensors, for a model of as many rounds."""
    found = iter(tensors)
    return _each(model.initial_state(1, rounds=rounds), lambda _: next(found))


def rounds_of(state: ModelState) -> int:
    """Rounds that a state stands for: a layer of the loop has one for each."""
    return max(len(held) for held in state)


def num_rows(state: ModelState) -> int:
    """Streams of a state."""
    return len(first_tensor(state))


def _walk(state: Any) -> Iterator[Tensor]:
    if isinstance(state, Tensor):
        yield state
        return
    for part in state:
        yield from _walk(part)


def _each(state: Any, change: Callable[[Tensor], Tensor]) -> Any:
    if isinstance(state, Tensor):
        return change(state)
    parts = (_each(part, change) for part in state)
    return type(state)(*parts) if hasattr(state, "_fields") else tuple(parts)
