"""The matrix LSTM: queries and keys read the convolved input, values and gates the input itself."""

from quant.kernels.mlstm import places as at
from runtime.building import steps
from runtime.building.mixers.shared import (
    add_output,
    contiguous,
    gates,
    heads,
    input_norm,
    output_gate,
    projection,
    side_by_side,
)
from runtime.building.plan import Passage, Stream
from runtime.building.workspace import Rows
from runtime.program import TOKENS, Step


def add_mlstm(passage: Passage, stream: Stream) -> None:
    config, workspace = passage.config, passage.workspace
    passage.together(input_norm(passage, stream))
    _, (q, k, v) = side_by_side(passage, "mixer.qkv")
    products = [projection(passage, "v_proj", acts=stream.acts, y=v)]
    gate = None
    if config.xlstm.use_output_gate:
        gate = output_gate(passage)
        products.append(projection(passage, "gate_proj", acts=stream.acts, y=gate))
    (inputs, forgets), gate_products = gates(passage, stream, ("i", "f"))
    convolved = workspace.rows("mixer.input", config.hidden_size)
    taps = passage.tensors.made(
        passage.name("taps"), lambda: contiguous(passage.floats("mixer.conv.weight").T)
    )
    convolution = steps.convolution(stream.normed, weight_YC=taps, tail=passage.state("tail"), y=convolved)
    passage.together(convolution, *products, *gate_products)
    acts = workspace.int8("mixer.input", config.hidden_size)
    passage.together(steps.quantize(convolved, acts=acts))
    passage.together(
        *(projection(passage, f"{name}_proj", acts=acts, y=y) for name, y in (("q", q), ("k", k)))
    )
    passage.together(_memory(passage, (q, k, v), inputs=inputs, forgets=forgets, gate=gate))
    add_output(passage, stream)


def _memory(
    passage: Passage, qkv: tuple[Rows, Rows, Rows], *, inputs: Rows, forgets: Rows, gate: Rows | None
) -> Step:
    config, y = passage.config, heads(passage)
    q, k, v = qkv
    table: steps.Table = {
        at.QUERIES: q.of_stream,
        at.QUERY_STRIDE: q.stride,
        at.KEYS: k.of_stream,
        at.KEY_STRIDE: k.stride,
        at.VALUES: v.of_stream,
        at.VALUE_STRIDE: v.stride,
        at.INPUT_GATES: inputs.of_stream,
        at.INPUT_STRIDE: inputs.stride,
        at.FORGET_GATES: forgets.of_stream,
        at.FORGET_STRIDE: forgets.stride,
        at.INPUT_BIASES: passage.floats("mixer.i_bias").ctypes.data,
        at.FORGET_BIASES: passage.floats("mixer.f_bias").ctypes.data,
        at.IS_EXPONENTIAL: int(config.xlstm.exponential_gating),
        at.GAIN: passage.floats("mixer.head_norm.weight").ctypes.data,
        at.EPSILON: steps.bits_of(passage.eps),
        at.MEMORY: passage.state("memory"),
        at.NORMALISER: passage.state("normaliser"),
        at.LOG_SCALE: passage.state("log_scale"),
        at.HEAD_SIZE: config.head_dim,
        at.NUM_TOKENS: TOKENS,
        at.Y: y.of_stream,
        at.Y_STRIDE: y.stride,
    }
    if gate is not None:
        table |= {at.GATES: gate.of_stream, at.GATE_STRIDE: gate.stride}
    kernel = steps.kernel_of("mlstm")
    return Step(kernel=kernel, arguments=table, num_places=at.NUM_PLACES, units=config.num_heads)
