"""The layer with experts: against single experts, against all of them densely, and what must not matter."""

import copy
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from chronos_moe.experts import FORMS
from chronos_moe.feed_forward import MoEFeedForward
from chronos_moe.soft_gate import draw_available
from chronos_moe.statistics import expert_counts
from configs.errors import UsageError
from quant.qat.activations import fake_quantize_activations
from quant.qat.linear import BitLinear, set_quant_mix
from tests.chronos_moe.layers import INNER, NUM_EXPERTS, WIDTH, gradients, moe_layer, tokens


def same_layer(layer: MoEFeedForward, *, form: str) -> MoEFeedForward:
    twin = copy.deepcopy(layer)
    assert form in FORMS
    twin.experts.form = form  # pyright: ignore[reportAttributeAccessIssue]
    return twin


def test_parameters_have_the_names_and_shapes_of_the_checkpoint():
    layer = MoEFeedForward(32, 48, num_experts=5, num_chosen=2, num_shared=2)
    assert {name: tuple(tensor.shape) for name, tensor in layer.state_dict().items()} == {
        "norm.weight": (32,),
        "router": (5, 32),
        "router_bias": (5,),
        "shared.gate_proj.weight": (96, 32),
        "shared.up_proj.weight": (96, 32),
        "shared.down_norm": (96,),
        "shared.down_proj.weight": (32, 96),
        "experts.gate_proj.weight": (5, 48, 32),
        "experts.up_proj.weight": (5, 48, 32),
        "experts.down_norm": (5, 48),
        "experts.down_proj.weight": (5, 32, 48),
    }
    assert {name for name, _ in layer.named_parameters()} == set(layer.state_dict()) - {"router_bias"}
    assert all(tensor.dtype == torch.float32 for tensor in layer.state_dict().values())


def test_the_published_layer_has_the_published_size():
    layer = MoEFeedForward(2560, 1728, num_experts=16, num_chosen=2, device=torch.device("meta"))
    ternary = sum(p.numel() for name, p in layer.named_parameters() if name.endswith("proj.weight"))
    assert ternary == 17 * 3 * 2560 * 1728


def test_initialisation_scales_the_way_out():
    layer = MoEFeedForward(128, 256, num_experts=8, num_chosen=2, init_std=0.1, down_init_std=0.01)
    for part in (layer.experts, layer.shared):
        assert part.gate_proj.weight.std().item() == pytest.approx(0.1, rel=0.05)
        assert part.up_proj.weight.std().item() == pytest.approx(0.1, rel=0.05)
        assert part.down_proj.weight.std().item() == pytest.approx(0.01, rel=0.05)
    assert layer.router.std().item() == pytest.approx(0.1, rel=0.1)
    assert not layer.router_bias.any()


def single_expert(layer: MoEFeedForward, expert: int, x_quantized: Tensor) -> Tensor:
    """One routed expert, built from ordinary ternary linear layers."""
    linears = {}
    for name in ("gate_proj", "up_proj", "down_proj"):
        weight = getattr(layer.experts, name).weight[expert].detach()
        linears[name] = BitLinear(weight.shape[1], weight.shape[0], norm=name == "down_proj")
        linears[name].weight = torch.nn.Parameter(weight.clone())
    linears["down_proj"].norm.weight = torch.nn.Parameter(layer.experts.down_norm[expert].detach().clone())
    gate = F.silu(linears["gate_proj"].project(x_quantized))
    return linears["down_proj"](gate * linears["up_proj"].project(x_quantized))


def test_an_expert_is_a_chain_of_ternary_linear_layers():
    layer, x = moe_layer(num_chosen=1), tokens(20)
    with torch.no_grad():
        x_quantized = fake_quantize_activations(x)
        for expert in range(NUM_EXPERTS):
            expert_TA, ones = torch.full((20, 1), expert), torch.ones(20, 1)
            expected = single_expert(layer, expert, x_quantized)
            dense = same_layer(layer, form="dense").experts(x_quantized, expert_TA, ones)
            torch.testing.assert_close(dense, expected, rtol=1e-6, atol=1e-6)
            torch.testing.assert_close(
                layer.experts(x_quantized, expert_TA, ones), expected, rtol=1e-6, atol=1e-6
            )


def test_stacked_weights_are_quantised_like_each_by_itself():
    layer = moe_layer(group_size="tensor")
    for linear in (layer.experts.gate_proj, layer.experts.down_proj):
        for expert in range(NUM_EXPERTS):
            single = BitLinear(
                linear.weight.shape[2], linear.weight.shape[1], norm=False, group_size="tensor"
            )
            single.weight = torch.nn.Parameter(linear.weight[expert].detach().clone())
            assert torch.equal(linear.quantized_weight()[expert], single.quantized_weight())


SHAPES = {
    "num_tokens": st.integers(1, 30),
    "num_experts": st.integers(2, 8),
    "seed": st.integers(0, 1000),
}


@settings(max_examples=15, deadline=None)
@given(**SHAPES, data=st.data())
def test_sorted_dispatch_equals_computing_all_experts(
    num_tokens: int, num_experts: int, seed: int, data: st.DataObject
):
    num_chosen = data.draw(st.integers(1, num_experts))
    layer = moe_layer(mix=0.0, seed=seed, num_experts=num_experts, num_chosen=num_chosen)
    x = tokens(num_tokens, seed=seed)
    ours, plain = gradients(layer, x), gradients(same_layer(layer, form="dense"), x)
    for name, expected in plain.items():
        # 1e-6 of the largest entry: single entries are differences of large terms.
        bound = 1e-6 * max(1.0, expected.abs().max().item())
        torch.testing.assert_close(
            ours[name], expected, rtol=0, atol=bound, msg=lambda m, n=name: f"{n}: {m}"
        )


def test_sorted_dispatch_equals_computing_all_experts_with_ternary_weights():
    layer, x = moe_layer(), tokens(3, 20)
    ours, plain = gradients(layer, x), gradients(same_layer(layer, form="dense"), x)
    for name, expected in plain.items():
        difference = (ours[name] - expected).norm() / expected.norm()
        # A sum in another order may move an activation that lies on a rounding edge to the next int8 code:
        # one part in 127 of one input. Everything else agrees to float32's precision.
        assert difference < 1e-3, name


def test_packed_and_batched_shapes_give_the_same():
    layer, x = moe_layer(mix=0.0), tokens(3, 20)
    y, record = layer(x)
    flat, flat_record = layer(x.flatten(end_dim=1))
    torch.testing.assert_close(y.flatten(end_dim=1), flat, rtol=0, atol=1e-6)
    assert torch.equal(record.chosen.flatten(end_dim=1), flat_record.chosen)
    assert record.probs.shape == (3, 20, NUM_EXPERTS)


def test_permuting_the_tokens_permutes_the_output():
    layer, x = moe_layer(mix=0.0), tokens(50)
    order = torch.randperm(50, generator=torch.Generator().manual_seed(1))
    (y, record), (y_moved, record_moved) = layer(x), layer(x[order])
    torch.testing.assert_close(y_moved, y[order], rtol=0, atol=1e-6)
    assert torch.equal(record_moved.chosen, record.chosen[order])


def test_two_runs_have_the_same_bits():
    layer, x = moe_layer(), tokens(4, 40)
    first, second = gradients(layer, x), gradients(layer, x)
    for name, expected in first.items():
        assert torch.equal(second[name], expected), name


def test_an_expert_without_tokens_gets_a_gradient_of_zero():
    layer, x = moe_layer(), tokens(30)
    with torch.no_grad():
        layer.router_bias[2] = layer.router_bias[5] = -10.0
    results = gradients(layer, x)
    for name in ("experts.gate_proj.weight", "experts.up_proj.weight", "experts.down_proj.weight"):
        busy = results[name].flatten(1).norm(dim=1) > 0
        assert busy.tolist() == [True, True, False, True, True, False], name
    assert not results["experts.down_norm"][[2, 5]].any()


def test_nothing_is_dropped_when_all_tokens_want_one_expert():
    layer, x = moe_layer(mix=0.0), tokens(200)
    with torch.no_grad():
        layer.router_bias[3] = 10.0
        layer.router_bias[1] = 5.0
    y, record = layer(x)
    assert expert_counts(record.chosen, num_experts=NUM_EXPERTS).tolist() == [0, 200, 0, 200, 0, 0]
    torch.testing.assert_close(y, same_layer(layer, form="dense")(x)[0], rtol=0, atol=1e-6)


def test_all_experts_there_equals_the_plain_layer_bit_for_bit():
    layer, x = moe_layer(), tokens(3, 20)
    plain = gradients(layer, x)
    for there in (torch.ones(NUM_EXPERTS), torch.ones(3, 20, NUM_EXPERTS, dtype=torch.bool)):
        gated = gradients(layer, x, available=there)
        for name, expected in plain.items():
            assert torch.equal(gated[name], expected), name
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(layer(x)[0], layer(x, available=torch.ones(NUM_EXPERTS))[0])


def test_no_expert_there_leaves_twice_the_shared_one():
    layer, x = moe_layer(), tokens(3, 20)
    x_hat = F.rms_norm(x, (WIDTH,), layer.norm.weight, layer.norm.eps)
    shared = layer.shared(fake_quantize_activations(x_hat))
    y, record = layer(x, available=torch.zeros(NUM_EXPERTS))
    torch.testing.assert_close(y, (1 + record.weights.sum(-1, keepdim=True)) * shared)


def test_a_missing_expert_is_replaced_by_the_shared_one():
    layer, x = moe_layer(), tokens(20)
    away = torch.tensor([1.0, 0.0, 1.0, 1.0, 0.0, 1.0])
    plain, record = layer(x)
    gated, _ = layer(x, available=away)
    untouched = away[record.chosen].bool().all(-1)
    assert 0 < untouched.sum() < 20
    assert torch.equal(gated[untouched], plain[untouched])
    none, _ = layer(x, available=torch.zeros(NUM_EXPERTS))
    half, _ = layer(x, available=torch.full((NUM_EXPERTS,), 0.5))
    torch.testing.assert_close(half, 0.5 * plain + 0.5 * none, rtol=1e-5, atol=1e-6)


def test_what_lies_in_the_memory_of_a_missing_expert_does_not_matter():
    layer, x = moe_layer(), tokens(20)
    away = torch.tensor([1.0, 0.0, 1.0, 1.0, 0.0, 1.0])
    expected, _ = layer(x, available=away)
    with torch.no_grad():
        layer.experts.down_norm[[1, 4]] = float("nan")
    assert torch.equal(layer(x, available=away)[0], expected)


def test_masking_experts_trains_the_fallback():
    layer, x = moe_layer(), tokens(20)
    plain = gradients(layer, x)["shared.down_proj.weight"]
    masked = gradients(layer, x, available=torch.zeros(NUM_EXPERTS))["shared.down_proj.weight"]
    torch.testing.assert_close(masked, 2 * plain)
    per_token = draw_available(20, NUM_EXPERTS, drop=0.5, generator=torch.Generator().manual_seed(0))
    assert torch.isfinite(gradients(layer, x, available=per_token)["y"]).all()


def test_the_bias_moves_in_training_and_is_frozen_in_evaluation():
    layer, x = moe_layer(), tokens(30)
    counts = expert_counts(layer(x)[1].chosen, num_experts=NUM_EXPERTS)
    layer.update_bias(counts)
    mean = counts.sum() / NUM_EXPERTS
    torch.testing.assert_close(layer.router_bias, 1e-3 * torch.sign(mean - counts))
    layer.eval()
    before = layer.router_bias.clone()
    with pytest.raises(UsageError, match="frozen in evaluation"):
        layer.update_bias(counts)
    assert torch.equal(layer.router_bias, before)
    softmax = moe_layer(routing="softmax")
    softmax.update_bias(counts)
    torch.testing.assert_close(softmax.router_bias, layer.router_bias / 16)
    softmax.update_bias(counts, rate=0.5)
    assert softmax.router_bias.abs().max() > 0.49


def test_a_step_of_the_optimiser_leaves_the_bias_alone():
    layer, x = moe_layer(), tokens(30)
    layer.router_bias.fill_(0.25)
    optimiser = torch.optim.SGD(layer.parameters(), lr=0.1)
    gradients(layer, x)
    optimiser.step()
    assert torch.equal(layer.router_bias, torch.full((NUM_EXPERTS,), 0.25))


def test_pressure_reaches_the_router():
    layer, x = moe_layer(), tokens(30)
    pressure = torch.zeros(NUM_EXPERTS)
    pressure[4] = 50.0
    _, record = layer(x, logit_pressure_E=pressure)
    assert (record.chosen[:, 0] == 4).all()
    assert (record.probs[:, 4] > layer(x)[1].probs[:, 4]).all()


def test_a_state_passes_through_a_file(tmp_path: Path):
    layer, x = moe_layer(), tokens(30)
    layer.update_bias(torch.arange(NUM_EXPERTS))
    torch.save(layer.state_dict(), tmp_path / "layer.pt")
    other = moe_layer(seed=5)
    other.load_state_dict(torch.load(tmp_path / "layer.pt"))
    assert torch.equal(other(x)[0], layer(x)[0])
    assert torch.equal(other.router_bias, layer.router_bias)


def test_low_precision_changes_the_products_and_not_the_routing():
    layer, x = moe_layer(), tokens(3, 20)
    plain = gradients(layer, x)
    record = layer(x)[1]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y, low_record = layer(x)
        low = gradients(layer, x)
    assert y.dtype == torch.bfloat16
    for ours, theirs in zip(low_record, record, strict=True):
        assert torch.equal(ours, theirs)
    for name, expected in plain.items():
        assert low[name].dtype == (torch.bfloat16 if name == "y" else torch.float32)
        # Eight bits of mantissa, and the int8 codes that they move.
        assert (low[name].float() - expected).norm() / expected.norm() < 0.05, name


def test_gradual_quantisation_reaches_every_expert():
    layer, x = moe_layer(), tokens(3, 20)
    ternary = layer(x)[0]
    set_quant_mix(layer, 1.0)
    assert torch.equal(layer(x)[0], ternary)
    set_quant_mix(layer, 0.0)
    for linear in (layer.experts.gate_proj, layer.experts.up_proj, layer.experts.down_proj):
        assert torch.equal(linear.quantized_weight(), linear.weight)
    assert (layer(x)[0] - ternary).norm() / ternary.norm() > 0.05
    set_quant_mix(layer, None)
    assert torch.equal(layer(x)[0], ternary)


def test_impossible_layers_are_refused():
    with pytest.raises(UsageError, match=r"7 of 6 experts per token; allowed are 1 … 6"):
        MoEFeedForward(WIDTH, INNER, num_experts=6, num_chosen=7)
    with pytest.raises(UsageError, match="0 shared experts; at least 1"):
        MoEFeedForward(WIDTH, INNER, num_experts=6, num_chosen=2, num_shared=0)
