"""The steps of a layer with experts: the shared one for all tokens, the chosen ones for theirs.

Every expert has a block of argument tables. The weights in it are fixed; how many tokens it has, and where
their rows are, is written by `dispatch`. So what a token costs is known from its choice alone, and an expert
that nobody chose is never touched.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from quant.kernels.experts import places as at
from quant.native import Kernel, KernelsOf, address_of
from quant.packing import num_pairs
from runtime.building import steps
from runtime.building.choosing import choice_of
from runtime.building.plan import Passage, Projection, Stream
from runtime.building.products import projection
from runtime.building.steps import Table
from runtime.building.workspace import Int8Rows, Rows, Workspace
from runtime.program import TOKENS, Count, Step

if TYPE_CHECKING:
    from runtime.building.shelf import Pass

visits = KernelsOf("quant.kernels.experts.visits")
PRODUCTS = {"gate": at.GATE, "up": at.UP, "down": at.DOWN}
"""Projection of an expert: its table in the expert's block."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Pairs:
    """Buffers with a row for each pair of token and expert, at its place."""

    tokens: Int8Rows
    gate: Rows
    up: Rows
    values: Rows
    inner: Int8Rows
    down: Rows


def add_experts(passage: Passage, stream: Stream) -> None:
    """All but the norm before it."""
    config, workspace = passage.config, passage.workspace
    moe = config.backbone.moe
    pairs = _pairs(passage)
    shared = workspace.rows("experts.shared", config.hidden_size)
    stream.addend = workspace.rows("added", config.hidden_size)
    gathered = Count(cell=workspace.array("experts.num_gathered", (1,), np.int64))
    choice = choice_of(passage)
    passage.plan.chosen.append(choice.chosen)
    table: Table = {
        **choice.table,
        **_dispatch(passage, pairs, tokens=stream.acts),
        **_rows(stream.acts, to=pairs.tokens),
        at.NUM_GATHERED: gathered.address,
        at.ROWS: pairs.down.address,
        at.ROWS_STRIDE: pairs.down.stride,
        at.SHARED: shared.address,
        at.SHARED_STRIDE: shared.stride,
        at.WIDTH: config.hidden_size,
        at.Y: stream.addend.address,
        at.Y_STRIDE: stream.addend.stride,
    }
    entry, inner, final = _shared_expert(passage, stream.acts, y=shared)
    weigh = steps.kernel_of("weigh_experts")
    if passage.layer.decided_behind is None:
        passage.together(choice.score(stream.normed), *entry)
        passage.together(choice.choose(), inner)
    else:
        passage.together(*entry)
        passage.together(inner)
    passage.together(_step(visits.dispatch, table, units=1), final)
    passage.plan.program.together(gathered, _step(visits.gather, table, units_per_token=1))
    # One kernel serves all experts, whose matrices are of one form.
    some = passage.tensors.laid(passage.name("ffn.experts.0.gate_proj.weight"))
    matmul = steps.ternary_kernel(some)
    weighing = _step(weigh, table, units_per_token=1)
    shelved = _shelved(passage, table, weighing)
    if shelved is not None:
        passage.together(shelved.note, shelved.hold)
    passage.together(
        *(
            _step(visits.visit, _calling(table, matmul, offset), units=num_pairs(moe.moe_intermediate_size))
            for offset in (at.GATE, at.UP)
        )
    )
    swiglu = _calling(table, steps.kernel_of("swiglu_norm_quantize"), at.INNER)
    passage.together(_step(visits.visit_rows, swiglu, units_per_token=moe.num_experts_per_tok))
    down = _calling(table, matmul, at.DOWN)
    passage.together(
        _step(visits.visit, down, units=num_pairs(config.hidden_size)),
        *([] if shelved is None else [shelved.stand_in]),
    )
    passage.together(weighing, *([] if shelved is None else [shelved.release]))


def _shelved(passage: Passage, table: Table, weigh: Step) -> "Pass | None":
    """What waits for experts, where they lie on disk."""
    shelf, workspace = passage.tensors.shelf, passage.workspace
    if shelf is None:
        return None
    num_experts = passage.config.backbone.moe.n_routed_experts
    return shelf.add_pass(
        passage.layer.index,
        visited_E=workspace.array("experts.visited", (num_experts,), np.int64),
        num_visited=workspace.array("experts.num_visited", (1,), np.int64),
        # Each pass has its own: the next one may run in the same call, with all of its experts there.
        away_E=workspace.array(f"experts.away.{len(shelf.passes)}", (num_experts,), np.int64),
        table=table,
        weigh=weigh,
    )


def counted_name(layer: int) -> str:
    """The buffer in which the visits of a layer's experts are counted."""
    return f"experts.counted.{layer}"


def _step(kernel: Kernel, table: Table, *, units: int = 0, units_per_token: int = 0) -> Step:
    return Step(
        kernel=kernel,
        arguments=table,
        num_places=at.NUM_PLACES,
        units=units,
        units_per_token=units_per_token,
    )


def _calling(table: Table, kernel: Kernel, offset: int) -> Table:
    """For a step that calls a kernel with a table of each visited expert."""
    return {**table, at.FUNCTION: address_of(kernel), at.TABLE: offset}


def _pairs(passage: Passage) -> _Pairs:
    moe, workspace, D = passage.config.backbone.moe, passage.workspace, passage.config.hidden_size
    count, inner = workspace.num_rows * moe.num_experts_per_tok, moe.moe_intermediate_size
    return _Pairs(
        tokens=workspace.int8("experts.tokens", D, num_rows=count),
        gate=workspace.rows("experts.gate", inner, num_rows=count),
        up=workspace.rows("experts.up", inner, num_rows=count),
        values=workspace.rows("experts.values", inner, num_rows=count),
        inner=workspace.int8("experts.inner", inner, num_rows=count),
        down=workspace.rows("experts.down", D, num_rows=count),
    )


def _dispatch(passage: Passage, pairs: _Pairs, *, tokens: Int8Rows) -> Table:
    """Where pairs are sorted to."""
    moe, workspace = passage.config.backbone.moe, passage.workspace
    E, A, T = moe.n_routed_experts, moe.num_experts_per_tok, workspace.num_rows
    tables = passage.tensors.made(passage.name("experts"), lambda: _tables(passage, pairs))
    return {
        at.NUM_TOKENS: TOKENS,
        at.PAIR_PLACES: workspace.array("experts.places", (T, A), np.int64).ctypes.data,
        at.PAIR_TOKENS: workspace.array("experts.sorted", (T * A,), np.int64).ctypes.data,
        at.TABLES: tables.ctypes.data,
        at.VISITED: workspace.array("experts.visited", (E,), np.int64).ctypes.data,
        at.NUM_VISITED: workspace.array("experts.num_visited", (1,), np.int64).ctypes.data,
        at.COUNTED: workspace.array(counted_name(passage.layer.index), (E,), np.int64).ctypes.data,
        at.BASES: _bases(workspace, pairs, tokens=tokens).ctypes.data,
    }


def _rows(tokens: Int8Rows, *, to: Int8Rows) -> Table:
    """Rows of tokens, and where they are gathered."""
    return {
        at.Q: tokens.codes.ctypes.data,
        at.Q_STRIDE: tokens.stride,
        at.D: tokens.scales.ctypes.data,
        at.STARTS: tokens.neg_sums.ctypes.data,
        at.D_STRIDE: tokens.scales_stride,
        at.SORTED_Q: to.codes.ctypes.data,
        at.SORTED_D: to.scales.ctypes.data,
        at.SORTED_STARTS: to.neg_sums.ctypes.data,
    }


def _bases(workspace: Workspace, pairs: _Pairs, *, tokens: Int8Rows) -> NDArray[np.int64]:
    """Addresses of the rows of place 0."""
    bases = workspace.array("experts.bases", (at.NUM_BASES,), np.int64)
    for rows, first in ((tokens, at.TOKEN_Q), (pairs.tokens, at.PAIR_Q), (pairs.inner, at.INNER_Q)):
        bases[first : first + 3] = [x.ctypes.data for x in (rows.codes, rows.scales, rows.neg_sums)]
    for place, rows in (
        (at.GATE_ROWS, pairs.gate),
        (at.UP_ROWS, pairs.up),
        (at.INNER_ROWS, pairs.values),
        (at.DOWN_ROWS, pairs.down),
    ):
        bases[place] = rows.address
    return bases


def _tables(passage: Passage, pairs: _Pairs) -> NDArray[np.int64]:
    """The experts' blocks of tables with all that does not depend on a choice."""
    moe, prefix = passage.config.backbone.moe, passage.name("ffn.experts.")
    blocks = np.zeros((moe.n_routed_experts, at.BLOCK_BYTES // 8), dtype=np.int64)
    rows = {
        "gate": (pairs.tokens, pairs.gate),
        "up": (pairs.tokens, pairs.up),
        "down": (pairs.inner, pairs.down),
    }
    for expert, block in enumerate(blocks):
        for name, offset in PRODUCTS.items():
            acts, y = rows[name]
            packed = passage.tensors.laid(f"{prefix}{expert}.{name}_proj.weight")
            _write(block, offset, {**steps.weights(packed), **steps.quantized(acts), **steps.results(y)})
        gain = passage.tensors.floats(f"{prefix}{expert}.down_norm")
        _write(block, at.INNER, _inner_table(passage, pairs, gain=gain))
    return blocks


def _inner_table(passage: Passage, pairs: _Pairs, *, gain: steps.Floats) -> Table:
    return steps.swiglu_table(
        pairs.gate, up=pairs.up, gain=gain, eps=passage.eps, values=pairs.values, acts=pairs.inner
    )


def _write(block: NDArray[np.int64], offset: int, table: Table) -> None:
    for place, value in table.items():
        assert isinstance(value, int), "an expert's table depends on no call"
        block[offset // 8 + place] = value


def _shared_expert(passage: Passage, acts: Int8Rows, *, y: Rows) -> tuple[list[Projection], Step, Projection]:
    """The products at its entry, what is between, and the last product."""
    moe, workspace = passage.config.backbone.moe, passage.workspace
    width = moe.n_shared_experts * moe.moe_intermediate_size
    gate, up, values = (workspace.rows(f"shared.{name}", width) for name in ("gate", "up", "values"))
    inner = workspace.int8("shared.values", width)

    entry = [
        projection(passage, f"ffn.shared.{name}_proj", acts=acts, y=rows)
        for name, rows in (("gate", gate), ("up", up))
    ]
    gain = passage.floats("ffn.shared.down_norm")
    between = steps.swiglu(gate, up=up, gain=gain, eps=passage.eps, values=values, acts=inner)
    return entry, between, projection(passage, "ffn.shared.down_proj", acts=inner, y=y)
