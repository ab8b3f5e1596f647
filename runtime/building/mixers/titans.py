"""Titans: projections and angles, the step over tokens, and the position, which grows behind it."""

import numpy as np

from quant.kernels.elementary import places as vector
from quant.kernels.titans import places as at
from quant.kernels.titans.calls import set_parameters
from quant.kernels.titans.rotation import rotation_steps
from runtime.building import steps
from runtime.building.mixers.shared import (
    add_output,
    convolve_three,
    gates,
    heads,
    input_norm,
    projection,
    side_by_side,
)
from runtime.building.plan import Passage, Stream
from runtime.building.states import titans_shape, titans_weights
from runtime.building.workspace import Rows
from runtime.program import TOKENS, TOKENS_CELL, OfStream, PlaceOf, Step

GATES = ("eta", "theta", "alpha")
STATE_PLACES = {
    "memory": at.MEMORY,
    "momentum": at.MOMENTUM,
    "answers": at.ANSWERS,
    "answer_scales": at.ANSWER_SCALES,
    "keys": at.KEYS,
    "key_scales": at.KEY_SCALES,
    "values": at.VALUES,
    "value_scales": at.VALUE_SCALES,
}
"""Field of the state: its place."""


def add_titans(passage: Passage, stream: Stream) -> None:
    half = passage.config.head_dim // 2
    sines, cosines = (passage.workspace.rows(f"mixer.{name}", half) for name in ("sines", "cosines"))
    angles = _angles(passage, sines=sines, cosines=cosines)
    position = steps.copy_integer(passage.state("position"), target=PlaceOf(angles, vector.POSITION))
    passage.together(input_norm(passage, stream), position)
    qkv, (q, k, v) = side_by_side(passage, "mixer.qkv")
    products = [
        projection(passage, f"{name}_proj", acts=stream.acts, y=y)
        for name, y in (("q", q), ("k", k), ("v", v))
    ]
    gate_rows, gate_products = gates(passage, stream, GATES)
    passage.together(*products, *gate_products, angles)
    convolved, parts = side_by_side(passage, "mixer.convolved")
    passage.together(convolve_three(passage, qkv, y=convolved))
    passage.together(_step(passage, parts, gate_rows=gate_rows, sines=sines, cosines=cosines))
    add_output(passage, stream, steps.add_integer(TOKENS_CELL, target=passage.state("position")))


def _angles(passage: Passage, *, sines: Rows, cosines: Rows) -> Step:
    config = passage.config

    def turns() -> np.ndarray[tuple[int], np.dtype[np.int64]]:
        return rotation_steps(head_dim=config.head_dim, theta=config.titans.rope_theta)

    table: steps.Table = {
        vector.X: passage.tensors.made("rotation", turns).ctypes.data,
        vector.NUM_INPUTS: sines.width,
        steps.product.Y: sines.of_stream,
        steps.product.Y_STRIDE: sines.stride,
        vector.COSINES: cosines.of_stream,
    }
    kernel = steps.kernel_of("rotation_angles")
    return Step(kernel=kernel, arguments=table, num_places=vector.NUM_PLACES, units_per_token=1)


def _step(
    passage: Passage, qkv: tuple[Rows, Rows, Rows], *, gate_rows: list[Rows], sines: Rows, cosines: Rows
) -> Step:
    config, y, workspace = passage.config, heads(passage), passage.workspace
    shape = titans_shape(config)
    parameters = passage.tensors.made(
        passage.name("parameters"), lambda: titans_weights(config, passage.layer, passage.tensors)
    )
    fixed = np.zeros(at.NUM_PLACES, dtype=np.int64)
    set_parameters(fixed, shape, parameters)
    # Streams are worked on at the same time, so each has scores of its own.
    num_streams = passage.plan.num_streams
    scores = workspace.array("titans.scores", (num_streams, config.num_heads, shape.num_scores), np.float32)
    surprise = workspace.rows("titans.surprise", config.num_heads)
    (q, k, v), (eta, theta, alpha) = qkv, gate_rows
    table: steps.Table = {
        **{place: int(value) for place, value in enumerate(fixed)},
        **{place: passage.state(field) for field, place in STATE_PLACES.items()},
        at.POSITION: passage.state("position"),
        at.NUM_TOKENS: TOKENS,
        at.Q: q.of_stream,
        at.K: k.of_stream,
        at.V: v.of_stream,
        at.X_STRIDE: q.stride,
        at.ETA: eta.of_stream,
        at.THETA: theta.of_stream,
        at.ALPHA: alpha.of_stream,
        at.GATE_STRIDE: eta.stride,
        at.SINES: sines.of_stream,
        at.COSINES: cosines.of_stream,
        at.ANGLE_STRIDE: sines.stride,
        at.SCORES: OfStream(scores.ctypes.data, scores.strides[0]),
        at.SCORE_STRIDE: scores.strides[1],
        at.Y: y.of_stream,
        at.Y_STRIDE: y.stride,
        at.SURPRISE: surprise.of_stream,
        at.SURPRISE_STRIDE: surprise.stride,
    }
    kernel = steps.kernel_of("titans")
    return Step(kernel=kernel, arguments=table, num_places=at.NUM_PLACES, units=config.num_heads)
