"""What all mixers have: a norm, projections side by side, gates, a convolution, and the way back."""

from collections.abc import Sequence

import numpy as np

from runtime.building import products, steps
from runtime.building.plan import Passage, Projection, Stream
from runtime.building.states import padded_width, three_wide
from runtime.building.tensors import Floats
from runtime.building.workspace import Int8Rows, Rows
from runtime.program import Step


def input_norm(passage: Passage, stream: Stream) -> Step:
    """The norm of the residual stream, as floats and in int8 form."""
    return steps.norm_both(
        stream.x,
        addend=stream.take_addend(),
        gain=passage.floats("mixer.norm.weight"),
        eps=passage.eps,
        normed=stream.normed,
        acts=stream.acts,
    )


def side_by_side(passage: Passage, name: str) -> tuple[Rows, tuple[Rows, Rows, Rows]]:
    """A buffer for queries, keys and values, and its three parts."""
    whole = passage.workspace.rows(name, three_wide(passage.config))
    wide, inner = padded_width(passage.config), passage.config.inner_width
    q, k, v = (whole.columns(part * wide, inner) for part in range(3))
    return whole, (q, k, v)


def projection(passage: Passage, name: str, *, acts: Int8Rows, y: Rows) -> Projection:
    """The product of a name like `q_proj`."""
    return products.projection(passage, f"mixer.{name}", acts=acts, y=y)


def output_gate(passage: Passage) -> Rows:
    """A buffer for the gate on the heads' outputs."""
    return passage.workspace.rows("mixer.gate", passage.config.inner_width)


def gates(
    passage: Passage, stream: Stream, names: Sequence[str], *, buffer: str = "mixer.gates"
) -> tuple[list[Rows], list[Step]]:
    """One number a head for each name, from the norm as floats."""
    rows = [
        passage.workspace.rows(f"{buffer}.{number}", passage.config.num_heads) for number in range(len(names))
    ]
    from_floats = [
        steps.dense(stream.normed, weight=passage.floats(f"mixer.{name}_proj.weight"), y=y)
        for name, y in zip(names, rows, strict=True)
    ]
    return rows, from_floats


def convolve_three(passage: Passage, qkv: Rows, *, y: Rows) -> Step:
    """The convolutions of queries, keys and values as one."""
    missing = padded_width(passage.config) - passage.config.inner_width

    def taps() -> Floats:
        weights = (passage.floats(f"mixer.{name}_conv.weight").T for name in ("q", "k", "v"))
        return contiguous(np.concatenate([np.pad(w, ((0, 0), (0, missing))) for w in weights], axis=1))

    weight = passage.tensors.made(passage.name("taps"), taps)
    return steps.convolution(qkv, weight_YC=weight, tail=passage.state("tail"), y=y)


def contiguous(array: Floats) -> Floats:
    """The same numbers, row after row."""
    return np.ascontiguousarray(array)


def heads(passage: Passage) -> Rows:
    """A buffer for the heads' outputs."""
    return passage.workspace.rows("mixer.heads", passage.config.inner_width)


def add_output(passage: Passage, stream: Stream, *also: Step) -> None:
    """The last norm and projection. The sum with the residual stream is left to who reads that next."""
    acts = passage.workspace.int8("mixer.output", passage.config.inner_width)
    gain = passage.floats("mixer.out_norm.weight")
    passage.together(steps.norm_quantize(heads(passage), gain=gain, eps=passage.eps, acts=acts), *also)
    stream.addend = passage.workspace.rows("added", passage.config.hidden_size)
    passage.together(projection(passage, "o_proj", acts=acts, y=stream.addend))
