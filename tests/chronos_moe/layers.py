"""Small layers with experts, for the tests."""

from typing import Any

import torch
from torch import Tensor

from chronos_moe.feed_forward import MoEFeedForward
from quant.qat.linear import set_quant_mix

WIDTH, INNER, NUM_EXPERTS = 64, 48, 6


def moe_layer(*, mix: float | None = None, seed: int = 0, **changes: Any) -> MoEFeedForward:
    """A layer whose weights have the size that trained ones have, so that every part of the output counts."""
    settings: dict[str, Any] = {"num_experts": NUM_EXPERTS, "num_chosen": 2, "init_std": 0.1} | changes
    torch.manual_seed(seed)
    layer = MoEFeedForward(WIDTH, INNER, **settings)
    with torch.no_grad():
        layer.router.mul_(3)
        for gain in (layer.norm.weight, layer.shared.down_norm, layer.experts.down_norm):
            gain.add_(0.2 * torch.randn(gain.shape))
    set_quant_mix(layer, mix)
    return layer


def tokens(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, WIDTH, generator=torch.Generator().manual_seed(seed))


def gradients(layer: MoEFeedForward, x: Tensor, **changes: Any) -> dict[str, Tensor]:
    """Output and gradients of a fixed random direction; every parameter must have one."""
    x = x.clone().requires_grad_()
    layer.zero_grad(set_to_none=True)
    y, _ = layer(x, **changes)
    y.backward(torch.randn(y.shape, generator=torch.Generator().manual_seed(7)).to(y))
    assert x.grad is not None
    results = {"y": y.detach(), "x": x.grad}
    for name, parameter in layer.named_parameters():
        assert parameter.grad is not None, f"{name} has no gradient"
        results[name] = parameter.grad.clone()
    return results
