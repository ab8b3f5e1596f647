"""The steps that foresee experts, for an engine whose experts may lie on a disk.

The lookahead router reads the residual stream behind layer 0. What it says, and what is decided ahead, is
left in one buffer [steps, layers with experts, experts], a step being this token or one of those to come.
Nothing that the model computes depends on it, so an engine with all experts in memory leaves it out.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from quant.kernels.elementary import places as vector
from quant.kernels.experts import foresight_places as at
from quant.native import KernelsOf
from runtime.building import steps
from runtime.building.plan import Chosen, Plan, Stream
from runtime.building.products import add
from runtime.building.tensors import Floats
from runtime.program import TOKENS, Count, Step

if TYPE_CHECKING:
    from runtime.building.shelf import Shelf

kernels = KernelsOf("quant.kernels.experts.foresight")


def foresees(plan: Plan) -> bool:
    """Whether there is anything to foresee, and anybody who reads it."""
    moe = plan.config.backbone.moe
    return moe.enabled and bool(moe.layers) and (plan.foresees or plan.tensors.shelf is not None)


def foresight_of(plan: Plan) -> NDArray[np.float32]:
    """The buffer. It holds what the last call foresaw."""
    from chronos_moe.store.predictors import FORESIGHT

    moe = plan.config.backbone.moe
    shape = (1 + moe.lookahead_steps, len(moe.layers), moe.n_routed_experts)
    return plan.workspace.array(FORESIGHT, shape, np.float32)


def add_lookahead(plan: Plan, stream: Stream, *, count: Count) -> None:
    """Behind layer 0: what the lookahead router says of every layer with experts."""
    if not foresees(plan):
        return
    inner = plan.tensors.floats("lookahead.hidden")
    out = plan.tensors.made("lookahead.out", lambda: by_steps(plan.tensors.floats("lookahead.out"), plan))
    foresight, workspace = foresight_of(plan), plan.workspace
    hidden = workspace.rows("lookahead.hidden", len(inner))
    scores = workspace.rows("lookahead.scores", foresight.size)
    addend = stream.take_addend()
    if addend is not None:
        plan.program.together(count, add(addend, to=stream.x))
    ones = plan.tensors.made("lookahead.ones", lambda: np.ones(hidden.width, dtype=np.float32))
    gated: steps.Table = {
        **steps.source(hidden),
        **steps.results(hidden),
        # SiLU is SwiGLU whose other side is one, the same row for all tokens.
        vector.UP: ones.ctypes.data,
        vector.UP_STRIDE: 0,
    }
    blocks = -(-hidden.width // 64)
    silu = Step(
        kernel=steps.kernel_of("swiglu"),
        arguments=gated,
        num_places=vector.NUM_PLACES,
        units_per_token=blocks,
    )
    joined: steps.Table = {
        at.X: scores.address,
        at.X_STRIDE: scores.stride,
        at.NUM_TOKENS: TOKENS,
        at.NUM_NOW: foresight[0].size,
        at.Y: foresight.ctypes.data,
    }
    join = Step(kernel=kernels.join, arguments=joined, num_places=at.NUM_PLACES, units=foresight.size)
    plan.program.together(count, steps.dense(stream.x, weight=inner, y=hidden))
    plan.program.together(count, silu)
    plan.program.together(count, steps.dense(hidden, weight=out, y=scores))
    plan.program.together(count, join)
    _announce(plan, count=count)


def tell_certain(plan: Plan, decided: Sequence[Chosen], *, count: Count) -> None:
    """Say of layers whose experts are decided which they are."""
    if not foresees(plan):
        return
    moe, foresight, shelf = plan.config.backbone.moe, foresight_of(plan), plan.tensors.shelf
    told = list[Step]()
    on_disk: steps.Table = {} if shelf is None else _asking(shelf)
    for chosen in decided:
        row = moe.layers.index(chosen.layer)
        arguments: steps.Table = {
            **on_disk,
            at.ROW: row,
            at.DECISIONS: 0 if shelf is None else shelf.ledger.decisions[row].ctypes.data,
            at.CHOSEN: chosen.experts_TA.ctypes.data,
            at.NUM_CHOSEN: moe.num_experts_per_tok,
            at.NUM_EXPERTS: moe.n_routed_experts,
            at.NUM_TOKENS: TOKENS,
            at.Y: foresight[0, row].ctypes.data,
        }
        told.append(Step(kernel=kernels.certain, arguments=arguments, num_places=at.NUM_PLACES, units=1))
    plan.program.together(count, *told)
    if shelf is not None:
        order = Step(kernel=kernels.order, arguments=on_disk, num_places=at.NUM_PLACES, units=1)
        plan.program.together(count, order)


def by_steps(out: Floats, plan: Plan) -> Floats:
    """The second matrix with the rows of one step side by side; in the file those of a layer are."""
    moe = plan.config.backbone.moe
    by_layer = out.reshape(len(moe.layers), 1 + moe.lookahead_steps, moe.n_routed_experts, -1)
    return np.ascontiguousarray(by_layer.swapaxes(0, 1)).reshape(out.shape)


def _asking(shelf: "Shelf") -> steps.Table:
    """By which compiled code asks for what is decided."""
    ledger = shelf.ledger
    return {
        at.HEEDED: ledger.address_of_heeded("decisions"),
        at.DESK: ledger.desk.ctypes.data,
        at.MISSING: ledger.missing.ctypes.data,
    }


def _announce(plan: Plan, *, count: Count) -> None:
    """Wake who reads by guesses. No pass of the call has begun."""
    shelf = plan.tensors.shelf
    if shelf is None:
        return
    arguments: steps.Table = {
        at.NEWS: shelf.ledger.news.ctypes.data,
        at.HEEDED: shelf.ledger.address_of_heeded("guesses"),
        at.PLACE: shelf.ledger.place.ctypes.data,
    }
    plan.program.together(
        count, Step(kernel=kernels.announce, arguments=arguments, num_places=at.NUM_PLACES, units=1)
    )
