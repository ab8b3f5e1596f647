"""Recomputed activations keep the routing of the first run, and compiled layers have no graph breaks."""

import pytest
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from chronos_moe.checkpointing import keep_routing
from chronos_moe.feed_forward import MoEFeedForward
from tests.chronos_moe.layers import NUM_EXPERTS, gradients, moe_layer, tokens

# The compiler of some versions of PyTorch calls what PyTorch itself has deprecated.
traced = pytest.mark.filterwarnings("ignore::DeprecationWarning")


def checkpointed(layer: MoEFeedForward, x: Tensor, *, flip: bool, keep: bool) -> Tensor:
    """The experts' gradient; `flip` turns the bias over before the recompute."""
    contexts = {"context_fn": keep_routing} if keep else {}
    layer.zero_grad(set_to_none=True)
    y, _ = checkpoint(lambda x: layer(x), x, use_reentrant=False, **contexts)
    if flip:
        layer.router_bias.neg_()
    y.backward(torch.randn(y.shape, generator=torch.Generator().manual_seed(7)))
    if flip:
        layer.router_bias.neg_()
    assert layer.experts.gate_proj.weight.grad is not None
    return layer.experts.gate_proj.weight.grad.clone()


def test_recomputing_goes_to_the_experts_of_the_first_run():
    layer, x = moe_layer(), tokens(30)
    with torch.no_grad():
        layer.router_bias.copy_(torch.linspace(-1, 1, NUM_EXPERTS))
    expected = gradients(layer, x)["experts.gate_proj.weight"]
    assert torch.equal(checkpointed(layer, x, flip=False, keep=False), expected)
    assert torch.equal(checkpointed(layer, x, flip=False, keep=True), expected)
    assert torch.equal(checkpointed(layer, x, flip=True, keep=True), expected)
    assert not torch.equal(checkpointed(layer, x, flip=True, keep=False), expected), "the test would see it"


def test_a_kept_record_gives_the_same_layer_again():
    layer, x = moe_layer(), tokens(30)
    y, record = layer(x)
    layer.router_bias.copy_(torch.linspace(1, -1, NUM_EXPERTS))
    assert not torch.equal(layer(x)[0], y)
    again, record_again = layer(x, chosen=record.chosen)
    assert torch.equal(again, y)
    assert torch.equal(record_again.weights, record.weights)


@traced
@pytest.mark.parametrize(("gated", "autocast"), [(False, False), (True, True)])
def test_a_layer_compiles_without_graph_breaks(gated: bool, autocast: bool):
    torch.compiler.reset()
    layer, x = moe_layer(), tokens(3, 20)
    available = torch.tensor([1.0, 0.0, 1.0, 1.0, 0.0, 1.0]) if gated else None
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        expected = gradients(layer, x, available=available)
        layer.compile(fullgraph=True, backend="aot_eager")
        got = gradients(layer, x, available=available)
    for name, value in expected.items():
        torch.testing.assert_close(got[name], value, msg=lambda m, n=name: f"{n}: {m}")


@traced
def test_checkpointing_compiles_too():
    torch.compiler.reset()
    layer, x = moe_layer(), tokens(30)
    expected = gradients(layer, x)["experts.gate_proj.weight"]

    def run(x: Tensor) -> Tensor:
        return checkpoint(lambda x: layer(x)[0], x, use_reentrant=False, context_fn=keep_routing)

    y = torch.compile(run, fullgraph=True, backend="aot_eager")(x)
    layer.zero_grad(set_to_none=True)
    y.backward(torch.randn(y.shape, generator=torch.Generator().manual_seed(7)))
    assert layer.experts.gate_proj.weight.grad is not None
    torch.testing.assert_close(layer.experts.gate_proj.weight.grad, expected)
