"""The same layer on a GPU: values, bits from run to run, no waiting for the CPU, compiled."""

import pytest
import torch
from torch import Tensor

from chronos_moe.feed_forward import MoEFeedForward
from chronos_moe.router import choose
from tests.chronos_moe.layers import NUM_EXPERTS, gradients, moe_layer, tokens

pytestmark = [
    pytest.mark.gpu,
    # The compiler of some versions of PyTorch calls what PyTorch itself has deprecated.
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    # Float32 products stay float32 here: the router's choice must not depend on a lossy type.
    pytest.mark.filterwarnings("ignore:TensorFloat32 tensor cores:UserWarning"),
    pytest.mark.filterwarnings("ignore:\\s*Online softmax is disabled:UserWarning"),
    pytest.mark.filterwarnings("ignore:Synchronization debug mode is a prototype:UserWarning"),
]


def low_precision(layer: MoEFeedForward, x: Tensor) -> dict[str, Tensor]:
    with torch.autocast("cuda", dtype=torch.bfloat16):
        return gradients(layer, x)


def poison() -> None:
    """Leave NaN in freed memory, so that what a kernel does not write shows."""
    for _ in range(4):
        torch.full((1 << 22,), float("nan"), device="cuda")


def test_float32_agrees_with_the_cpu():
    layer, x = moe_layer(mix=0.0), tokens(3, 40)
    expected = gradients(layer, x)
    got = gradients(layer.cuda(), x.cuda())
    for name, value in expected.items():
        assert (got[name].cpu() - value).norm() / value.norm() < 1e-5, name


@pytest.mark.parametrize("compiled", [False, True])
def test_equal_scores_go_to_the_lower_id(compiled: bool):
    torch.compiler.reset()
    pick = torch.compile(choose, fullgraph=True) if compiled else choose
    scores = torch.randint(0, 3, (5000, 16), generator=torch.Generator().manual_seed(0)) / 4
    expected = choose(scores, bias_E=None, num_chosen=4)
    assert torch.equal(pick(scores.cuda(), bias_E=None, num_chosen=4).cpu(), expected)


@pytest.mark.parametrize("compiled", [False, True])
def test_low_precision_has_the_same_bits_each_run_and_no_unwritten_memory(compiled: bool):
    torch.compiler.reset()
    layer, x = moe_layer().cuda(), tokens(4, 500).cuda()
    with torch.no_grad():
        layer.router_bias[2] = layer.router_bias[5] = -10.0
    plain = gradients(layer, x)
    if compiled:
        layer.compile(fullgraph=True)
    poison()
    first = low_precision(layer, x)
    poison()
    second = low_precision(layer, x)
    for name, value in first.items():
        assert torch.isfinite(value).all(), name
        assert torch.equal(second[name], value), name
        assert (value.float() - plain[name]).norm() / plain[name].norm() < 0.05, name
    for name in ("experts.gate_proj.weight", "experts.up_proj.weight", "experts.down_proj.weight"):
        assert not first[name][[2, 5]].any(), name


def test_a_training_step_never_waits_for_the_gpu():
    layer, x = moe_layer().cuda(), tokens(4, 500).cuda()
    direction = torch.randn_like(x)
    low_precision(layer, x)
    torch.cuda.set_sync_debug_mode("error")
    try:
        with torch.autocast("cuda", dtype=torch.bfloat16):
            y, record = layer(x, available=torch.ones(NUM_EXPERTS, device="cuda"))
        y.backward(direction.to(y.dtype))
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert record.chosen.shape == (4, 500, 2)
