"""The steps of a feed-forward part: SwiGLU for all tokens, or experts chosen for each."""

from runtime.building import steps
from runtime.building.experts import add_experts
from runtime.building.plan import Passage, Stream
from runtime.building.products import projection


def add_feed_forward(passage: Passage, stream: Stream) -> None:
    """One layer's feed-forward part; its result is left to be added to the residual stream."""
    passage.together(
        steps.norm_both(
            stream.x,
            addend=stream.take_addend(),
            gain=passage.floats("ffn.norm.weight"),
            eps=passage.eps,
            normed=stream.normed,
            acts=stream.acts,
        )
    )
    if passage.layer.experts:
        add_experts(passage, stream)
    else:
        _add_swiglu(passage, stream)


def _add_swiglu(passage: Passage, stream: Stream) -> None:
    workspace, width = passage.workspace, passage.config.intermediate_size
    gate, up, values = (workspace.rows(f"ffn.{name}", width) for name in ("gate", "up", "values"))
    acts = workspace.int8("ffn.values", width)
    passage.together(
        projection(passage, "ffn.gate_proj", acts=stream.acts, y=gate),
        projection(passage, "ffn.up_proj", acts=stream.acts, y=up),
    )
    gain = passage.floats("ffn.down_norm.weight")
    passage.together(steps.swiglu(gate, up=up, gain=gain, eps=passage.eps, values=values, acts=acts))
    stream.addend = workspace.rows("added", passage.config.hidden_size)
    passage.together(projection(passage, "ffn.down_proj", acts=acts, y=stream.addend))
