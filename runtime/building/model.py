"""The whole program of a model: embedding, layers, loop, and the norm before the head."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from configs.inventory import Layer, layers
from quant.packing import PackedRows
from runtime.building import steps
from runtime.building.feed_forward import add_feed_forward
from runtime.building.loop import add_loop
from runtime.building.mixers.table import MIXERS
from runtime.building.plan import Passage, Plan, Stream
from runtime.building.workspace import Int8Rows, Rows
from runtime.program import Count, LastRow, Step


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Outline:
    """The ends of a built program."""

    tokens: Count
    """How many tokens a call has."""
    ids: NDArray[np.int64]
    """Where the caller puts them."""
    embedding: PackedRows
    """The table of embedding and head."""
    stream: Stream
    """The residual stream behind the last layer."""


def add_model(plan: Plan) -> Outline:
    """All steps from ids to the residual stream behind the last layer."""
    config, workspace = plan.config, plan.workspace
    tokens = Count(cell=workspace.array("tokens", (1,), np.int64))
    ids = workspace.array("ids", (workspace.num_rows,), np.int64)
    embedding = plan.tensors.rows("embedding.weight")
    stream = Stream(
        x=workspace.rows("stream", config.hidden_size),
        normed=workspace.rows("stream.normed", config.hidden_size),
        acts=workspace.int8("stream", config.hidden_size),
    )
    plan.program.together(tokens, steps.lookup(embedding, ids=ids, y=stream.x))
    all_layers, looping = layers(config), config.looping

    def add_layers(some: tuple[Layer, ...], number: int, count: Count) -> None:
        for layer in some:
            passage = Passage(plan=plan, layer=layer, round_number=number, count=count)
            MIXERS[layer.kind](passage, stream)
            add_feed_forward(passage, stream)

    if not looping.enabled:
        add_layers(all_layers, 0, tokens)
    else:
        looped = tuple(layer for layer in all_layers if layer.looped)
        add_layers(all_layers[: looping.loop[0]], 0, tokens)
        add_loop(
            plan,
            stream,
            tokens=tokens,
            add_round=lambda number, count, _: add_layers(looped, number, count),
        )
        add_layers(all_layers[looping.loop[1] + 1 :], 0, tokens)
    return Outline(tokens=tokens, ids=ids, embedding=embedding, stream=stream)


def final_norm(plan: Plan, stream: Stream, *, acts: Int8Rows, last_alone: bool) -> Step:
    """The norm before the head, of the last token or of all; the residual stream stays as it is."""
    x, addend = stream.x, stream.addend
    total = plan.workspace.rows("final.sum", plan.config.hidden_size)
    normed = plan.workspace.rows("final.normed", plan.config.hidden_size)
    gain = plan.tensors.floats("final_norm.weight")
    step = steps.norm_both(
        x, addend=addend, gain=gain, eps=plan.config.rms_norm_eps, normed=normed, acts=acts, total=total
    )
    if not last_alone:
        return step
    arguments = {**step.arguments, steps.vector.X: _last(x)}
    if addend is not None:
        arguments[steps.residual.ADDEND] = _last(addend)
    return Step(kernel=step.kernel, arguments=arguments, num_places=step.num_places, units=1)


def _last(rows: Rows) -> LastRow:
    return LastRow(rows.address, rows.stride)
