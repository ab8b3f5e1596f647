"""Gated DeltaNet, its exact flow, and the span knot, which is one."""

from quant.kernels.delta import places as at
from quant.kernels.delta.reference import decay_rates
from runtime.building import steps
from runtime.building.mixers.shared import (
    add_output,
    convolve_three,
    gates,
    heads,
    input_norm,
    output_gate,
    projection,
    side_by_side,
)
from runtime.building.plan import DeltaGates, Passage, Stream
from runtime.building.workspace import Rows
from runtime.program import TOKENS, Step


def add_gated_delta(passage: Passage, stream: Stream) -> None:
    passage.together(input_norm(passage, stream))
    qkv, (q, k, v) = side_by_side(passage, "mixer.qkv")
    products = [
        projection(passage, f"{name}_proj", acts=stream.acts, y=y)
        for name, y in (("q", q), ("k", k), ("v", v))
    ]
    gate = None
    if passage.config.gated_deltanet.use_output_gate:
        gate = output_gate(passage)
        products.append(projection(passage, "gate_proj", acts=stream.acts, y=gate))
    (alphas, betas), gate_products = gates(passage, stream, ("alpha", "beta"), buffer=passage.name("gates"))
    passage.together(*products, *gate_products)
    convolved, parts = side_by_side(passage, "mixer.convolved")
    passage.together(convolve_three(passage, qkv, y=convolved))
    passage.together(_rule(passage, parts, alphas=alphas, betas=betas, gate=gate))
    add_output(passage, stream)


def _rule(
    passage: Passage, qkv: tuple[Rows, Rows, Rows], *, alphas: Rows, betas: Rows, gate: Rows | None
) -> Step:
    config, y = passage.config, heads(passage)
    is_exact = config.efla.enabled and passage.layer.alias in config.efla.target_layers.split()
    biases = passage.floats("mixer.dt_bias")
    rates = passage.tensors.made(passage.name("rates"), lambda: decay_rates(passage.floats("mixer.A_log")))
    q, k, v = qkv
    table: steps.Table = {
        at.QUERIES: q.of_stream,
        at.QUERY_STRIDE: q.stride,
        at.KEYS: k.of_stream,
        at.KEY_STRIDE: k.stride,
        at.VALUES: v.of_stream,
        at.VALUE_STRIDE: v.stride,
        at.ALPHAS: alphas.of_stream,
        at.ALPHA_STRIDE: alphas.stride,
        at.BETAS: betas.of_stream,
        at.BETA_STRIDE: betas.stride,
        at.RATES: rates.ctypes.data,
        at.BIASES: biases.ctypes.data,
        at.GAIN: passage.floats("mixer.head_norm.weight").ctypes.data,
        at.EPSILON: steps.bits_of(passage.eps),
        at.MEMORY: passage.state("memory"),
        at.HEAD_SIZE: config.head_dim,
        at.NUM_TOKENS: TOKENS,
        at.Y: y.of_stream,
        at.Y_STRIDE: y.stride,
    }
    if gate is not None:
        table |= {at.GATES: gate.of_stream, at.GATE_STRIDE: gate.stride}
    if passage.round_number == 0:  # the other rounds of a layer use the same buffers
        passage.plan.delta_gates.append(
            DeltaGates(
                alphas=alphas,
                betas=betas,
                rates=rates,
                biases=biases.copy(),  # nothing but addresses may outlive the map of the file
                is_exact=is_exact,
                is_looped=passage.layer.looped,
            )
        )
    kernel = steps.kernel_of("exact_flow" if is_exact else "gated_delta")
    return Step(kernel=kernel, arguments=table, num_places=at.NUM_PLACES, units=config.num_heads)
