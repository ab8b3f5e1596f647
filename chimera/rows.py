"""Rows and tokens of states and packings: taking some of a batch, and putting them back."""

from typing import Any, cast

from torch import Tensor

from chimera.mixers.packing import Packing, document_of, packing_of

State = Any


def first_tensor(state: State) -> Tensor:
    """Any tensor of a state, for its batch and device."""
    return state if isinstance(state, Tensor) else first_tensor(state[0])


def take_rows(state: State, rows: Tensor) -> State:
    """The state of some streams of a batch."""
    if isinstance(state, Tensor):
        return state[rows]
    return _like(state, (take_rows(part, rows) for part in state))


def put_rows(state: State, rows: Tensor, new: State) -> State:
    """The state of a batch in which some streams have moved on."""
    if isinstance(state, Tensor):
        return state.index_copy(0, rows, new.to(state.dtype))
    return _like(state, (put_rows(part, rows, moved) for part, moved in zip(state, new, strict=True)))


def packing_rows(packing: Packing | None, rows: Tensor) -> Packing | None:
    """The documents of some rows."""
    return None if packing is None else packing._replace(resets_BT=packing.resets_BT[rows])


def packing_tokens(packing: Packing | None, tokens_T: Tensor) -> Packing | None:
    """The documents of one row of which only some tokens are left."""
    if packing is None:
        return None
    documents_BT = document_of(packing.resets_BT)[:, tokens_T]
    left = packing_of(documents_BT)
    # The row's first tokens may go on from a document that began before it: number 0, which resets nothing.
    goes_on_BT = documents_BT == 0
    return left._replace(resets_BT=left.resets_BT & ~goes_on_BT)


def _like(state: State, parts: Any) -> State:
    made = type(state)
    return made(*parts) if hasattr(made, "_fields") else cast(State, made(parts))
