"""The layer in float against the layers of transformers, values and gradients."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from chronos_moe.feed_forward import MoEFeedForward
from quant.qat.linear import set_quant_mix

pytestmark = pytest.mark.oracle

WIDTH, INNER, NUM_EXPERTS, NUM_CHOSEN = 32, 48, 8, 3
# x / sqrt(mean(x²) + eps) · sqrt(eps) is x to one part in eps, so a huge eps takes the norm before the last
# product away, which the others don't have. A power of four, so that its root is exact.
NO_NORM_EPS = 4.0**20


def our_layer(theirs: nn.Module, **changes: Any) -> MoEFeedForward:
    """Our layer with their weights, λ = 0, and no norm inside."""
    layer = MoEFeedForward(WIDTH, INNER, num_experts=NUM_EXPERTS, num_chosen=NUM_CHOSEN, **changes)
    weights = dict(theirs.named_parameters())
    with torch.no_grad():
        layer.router.copy_(weights["gate.weight"])
        layer.experts.gate_proj.weight.copy_(weights["experts.gate_up_proj"][:, :INNER])
        layer.experts.up_proj.weight.copy_(weights["experts.gate_up_proj"][:, INNER:])
        layer.experts.down_proj.weight.copy_(weights["experts.down_proj"])
        for part in (layer.experts, layer.shared):
            part.eps = NO_NORM_EPS
            part.down_norm.fill_(NO_NORM_EPS**0.5)
        layer.shared.down_proj.weight.zero_()
    set_quant_mix(layer, 0.0)
    return layer


def random_weights(module: nn.Module) -> nn.Module:
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(0.2 * torch.randn(parameter.shape, generator=generator))
    return module


def compare(layer: MoEFeedForward, theirs: nn.Module) -> None:
    x = torch.randn(2, 9, WIDTH, generator=torch.Generator().manual_seed(1))
    x_ours = x.clone().requires_grad_()
    # Their layers read a normed input; ours norms it, with a gain of 1.
    x_theirs = x.clone().requires_grad_()
    y_ours, record = layer(x_ours)
    y_theirs = theirs(F.rms_norm(x_theirs, (WIDTH,), None, layer.eps))
    torch.testing.assert_close(y_ours, y_theirs, rtol=1e-5, atol=1e-6)
    direction = torch.randn(y_ours.shape, generator=torch.Generator().manual_seed(2))
    y_ours.backward(direction)
    y_theirs.backward(direction)
    assert record.chosen.shape == (2, 9, NUM_CHOSEN)
    grads = {name: parameter.grad for name, parameter in theirs.named_parameters()}
    gate_up = grads["experts.gate_up_proj"]
    assert gate_up is not None
    pairs: list[tuple[Tensor | None, Tensor | None]] = [
        (x_ours.grad, x_theirs.grad),
        (layer.router.grad, grads["gate.weight"]),
        (layer.experts.gate_proj.weight.grad, gate_up[:, :INNER]),
        (layer.experts.up_proj.weight.grad, gate_up[:, INNER:]),
        (layer.experts.down_proj.weight.grad, grads["experts.down_proj"]),
    ]
    for ours, expected in pairs:
        assert ours is not None
        assert expected is not None
        assert expected.abs().max() > 0
        torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-5)


def test_deepseek_v3():
    from transformers.models.deepseek_v3.configuration_deepseek_v3 import DeepseekV3Config
    from transformers.models.deepseek_v3.modeling_deepseek_v3 import DeepseekV3MoE

    config = DeepseekV3Config(
        hidden_size=WIDTH,
        moe_intermediate_size=INNER,
        n_routed_experts=NUM_EXPERTS,
        num_experts_per_tok=NUM_CHOSEN,
        n_shared_experts=2,
        n_group=1,
        topk_group=1,
        norm_topk_prob=True,
        routed_scaling_factor=1.0,
    )
    config._experts_implementation = "eager"
    theirs = random_weights(DeepseekV3MoE(config))
    bias = 0.3 * torch.randn(NUM_EXPERTS, generator=torch.Generator().manual_seed(3))
    theirs.gate.e_score_correction_bias.copy_(bias)
    layer = our_layer(theirs, num_shared=2)
    with torch.no_grad():
        layer.router_bias.copy_(bias)
        for name in ("gate_proj", "up_proj", "down_proj"):
            getattr(layer.shared, name).weight.copy_(getattr(theirs.shared_experts, name).weight)
    compare(layer, theirs)
    for name in ("gate_proj", "up_proj", "down_proj"):
        torch.testing.assert_close(
            getattr(layer.shared, name).weight.grad,
            getattr(theirs.shared_experts, name).weight.grad,
            rtol=1e-4,
            atol=1e-5,
        )


def test_mixtral():
    from transformers.models.mixtral.configuration_mixtral import MixtralConfig
    from transformers.models.mixtral.modeling_mixtral import MixtralSparseMoeBlock

    config = MixtralConfig(
        hidden_size=WIDTH,
        intermediate_size=INNER,
        num_local_experts=NUM_EXPERTS,
        num_experts_per_tok=NUM_CHOSEN,
        router_jitter_noise=0.0,
    )
    config._experts_implementation = "eager"
    theirs = random_weights(MixtralSparseMoeBlock(config))
    compare(our_layer(theirs, routing="softmax"), theirs)


def test_qwen3():
    from transformers.models.qwen3_moe.configuration_qwen3_moe import Qwen3MoeConfig
    from transformers.models.qwen3_moe.modeling_qwen3_moe import Qwen3MoeSparseMoeBlock

    config = Qwen3MoeConfig(
        hidden_size=WIDTH,
        moe_intermediate_size=INNER,
        num_experts=NUM_EXPERTS,
        num_experts_per_tok=NUM_CHOSEN,
        norm_topk_prob=True,
    )
    config._experts_implementation = "eager"
    theirs = random_weights(Qwen3MoeSparseMoeBlock(config))
    compare(our_layer(theirs, routing="softmax"), theirs)
