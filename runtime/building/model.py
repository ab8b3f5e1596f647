"""The whole program of a model: embedding, layers, loop, and the norm before the head."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from configs.inventory import Layer, layers
from quant.packing import PackedRows
from runtime.building import steps
from runtime.building.choosing import decide_behind
from runtime.building.feed_forward import add_feed_forward
from runtime.building.foresight import add_lookahead
from runtime.building.loop import add_loop
from runtime.building.mixers.table import MIXERS
from runtime.building.plan import Passage, Plan, Stream
from runtime.building.workspace import Int8Rows, Rows
from runtime.program import Count, HeardRow, Step


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
    tokens = plan.count(workspace.array("tokens", (plan.num_counts,), np.int64))
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
            add_behind(layer, number, count)

    def add_behind(layer: Layer, number: int, count: Count) -> None:
        if layer.index == 0:
            add_lookahead(plan, stream, count=count)
        # What the loop's last layer leaves in a round is no result yet.
        if not (layer.looped and layer.index == looping.loop[1]):
            decide_behind(plan, stream, source=layer.index, number=number, count=count)

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
        decide_behind(plan, stream, source=looping.loop[1], number=0, count=tokens)
        add_layers(all_layers[looping.loop[1] + 1 :], 0, tokens)
    return Outline(tokens=tokens, ids=ids, embedding=embedding, stream=stream)


def final_norm(plan: Plan, stream: Stream, *, acts: Int8Rows) -> Step:
    """The norm before the head, of all tokens; the residual stream stays as it is."""
    total, normed = _final_rows(plan)
    return _final_norm(plan, stream, acts=acts, total=total, normed=normed)


def heard_norms(plan: Plan, stream: Stream, *, acts: Int8Rows) -> tuple[list[Step], list[Count]]:
    """The same for the tokens that the head is to hear, one a row, and the counts of who they are."""
    cells = plan.workspace.array("heard", (plan.num_streams,), np.int64)
    counts = [Count(cell=cells[number : number + 1]) for number in range(plan.num_streams)]
    total, normed = _final_rows(plan)
    found: list[Step] = []
    for number, count in enumerate(counts):
        step = _final_norm(
            plan, stream, acts=acts.row(number), total=total.row(number), normed=normed.row(number)
        )
        arguments = {**step.arguments, steps.vector.X: _heard(stream.x, number)}
        if stream.addend is not None:
            arguments[steps.residual.ADDEND] = _heard(stream.addend, number)
        found.append(
            Step(kernel=step.kernel, arguments=arguments, num_places=step.num_places, units=1, count=count)
        )
    return found, counts


def _final_rows(plan: Plan) -> tuple[Rows, Rows]:
    """Where sums and norms go, which nobody reads."""
    width = plan.config.hidden_size
    return plan.workspace.rows("final.sum", width), plan.workspace.rows("final.normed", width)


def _final_norm(plan: Plan, stream: Stream, *, acts: Int8Rows, total: Rows, normed: Rows) -> Step:
    return steps.norm_both(
        stream.x,
        addend=stream.addend,
        gain=plan.tensors.floats("final_norm.weight"),
        eps=plan.config.rms_norm_eps,
        normed=normed,
        acts=acts,
        total=total,
    )


def _heard(rows: Rows, number: int) -> HeardRow:
    return HeardRow(rows.address, rows.stride, number)
