"""What holds for every mixer as a layer, whatever it computes inside."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from chimera.mixers.gated_delta.layer import GatedDeltaNet
from chimera.mixers.mlstm.layer import MLSTM
from chimera.mixers.packing import Packing, packing_of
from chimera.mixers.table import build_mixer
from chimera.mixers.titans.layer import TitansMAC
from configs.inventory import MIXERS, layers
from configs.load import preset
from quant.qat.linear import set_quant_mix
from tests.chimera.mixers.helpers import assert_close, flat, gradients, in_pieces, pieces

WIDTH = 24
OUTSIDE_MODES = torch._C.DisableTorchFunction
"""On a GPU tests run in a mode that puts new tensors there, inside which PyTorch cannot compile."""
SIZES = {"width": WIDTH, "num_heads": 2, "head_dim": 8}
# Small windows and chunks, so that a few tokens cross many borders.
SMALL_TITANS = {"window": 10, "memory_chunk": 8, "query_block": 8, "backprop_chunks": None}

LAYERS: dict[str, Callable[[], nn.Module]] = {
    "gated_deltanet": lambda: GatedDeltaNet(**SIZES, chunk_size=8),
    "gated_deltanet_with_gate": lambda: GatedDeltaNet(**SIZES, chunk_size=64, use_output_gate=True),
    "exact_flow": lambda: GatedDeltaNet(**SIZES, chunk_size=8, rule="exact_flow"),
    "mlstm": lambda: MLSTM(**SIZES, chunk_size=8),
    "mlstm_with_gate": lambda: MLSTM(**SIZES, chunk_size=64, use_output_gate=True),
    "mlstm_with_sigmoid": lambda: MLSTM(**SIZES, chunk_size=8, exponential_gating=False),
    "titans": lambda: TitansMAC(**SIZES, num_slots=3, **SMALL_TITANS),
    "titans_without_slots": lambda: TitansMAC(**SIZES, num_slots=0, **SMALL_TITANS),
}
every_layer = pytest.mark.parametrize("name", LAYERS)
# One of each kind, for what is slow to try.
one_of_each = pytest.mark.parametrize("name", ["gated_deltanet", "exact_flow", "mlstm", "titans"])


def layer_of(name: str, *, quantized: bool = False) -> Any:
    """A layer with lively gates. Unquantised, forms differ by rounding alone: a code never flips."""
    torch.manual_seed(0)
    layer = LAYERS[name]()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
        if isinstance(layer, TitansMAC):
            layer.theta_bias.add_(6.0)  # it writes with nearly its full rate
    if not quantized:
        set_quant_mix(layer, 0.0)
    return layer


def tokens(num_tokens: int, *, batch: int = 2) -> Tensor:
    torch.manual_seed(1)
    return torch.randn(batch, num_tokens, WIDTH, requires_grad=True)


def stepped(layer: Any, x_BTD: Tensor, state: Any = None) -> tuple[Tensor, Any]:
    outputs: list[Tensor] = []
    for t in range(x_BTD.shape[1]):
        y_BD, state = layer.step(x_BTD[:, t], state)
        outputs.append(y_BD)
    return torch.stack(outputs, dim=1), state


def learnt(layer: nn.Module, x_BTD: Tensor) -> list[Tensor]:
    return [x_BTD, *layer.parameters()]


def assert_same_gradients(found: Any, expected: Any, given_by: Sequence[Tensor]) -> None:
    wanted = gradients(expected, given_by)
    assert any(grad.abs().max() > 0 for grad in wanted)
    assert_close(gradients(found, given_by), wanted, tolerance=5e-5)


@every_layer
def test_a_prompt_is_its_tokens_one_by_one(name: str):
    layer, x = layer_of(name), tokens(37)
    whole, steps = layer(x), stepped(layer, x)
    assert_close(whole, steps, tolerance=1e-5)
    assert_same_gradients(whole[0], steps[0], learnt(layer, x))


@every_layer
def test_quantised_it_is_still_the_same(name: str):
    layer, x = layer_of(name, quantized=True), tokens(37)
    with torch.no_grad():
        assert_close(layer(x), stepped(layer, x), tolerance=1e-5)


@one_of_each
@settings(max_examples=8)
@given(cuts=st.lists(st.integers(1, 36), min_size=1, max_size=4))
def test_the_state_carries_over_any_cut(name: str, cuts: list[int]):
    layer, x = layer_of(name), tokens(37)
    whole = layer(x)
    cut = in_pieces(lambda span, state: layer(x[:, span], state), pieces(37, cuts), None)
    assert_close(cut, whole, tolerance=1e-5)
    assert_same_gradients(cut[0], whole[0], learnt(layer, x))


@every_layer
def test_an_initial_state_is_none_at_all(name: str):
    layer, x = layer_of(name), tokens(20)
    given_state = layer(x, layer.initial_state(2))
    assert_close(given_state, layer(x), tolerance=1e-6)
    assert_same_gradients(given_state[0], layer(x)[0], learnt(layer, x))


def packed_and_separate(
    layer: Any, x_BTD: Tensor, cuts: Sequence[Sequence[int]]
) -> tuple[tuple[Tensor, Any], tuple[Tensor, list[Any]]]:
    """The rows packed, and their documents one by one with the last states."""
    num_tokens = x_BTD.shape[1]
    ids = torch.zeros(x_BTD.shape[:2], dtype=torch.int64)
    rows, states = list[Tensor](), list[Any]()
    for row, cut in enumerate(cuts):
        outputs: list[Tensor] = []
        state: Any = None
        for number, (start, stop) in enumerate(pieces(num_tokens, cut)):
            ids[row, start:stop] = number
            y_BTD, state = layer(x_BTD[row : row + 1, start:stop])
            outputs.append(y_BTD)
        rows.append(torch.cat(outputs, dim=1))
        states.append(state)
    together = [torch.cat(parts) for parts in zip(*(flat(state) for state in states), strict=True)]
    return layer(x_BTD, packing=packing_of(ids)), (torch.cat(rows), together)


@every_layer
def test_packed_documents_are_separate_ones(name: str):
    # Documents of one token, of less than a chunk, across chunks, and border on border.
    layer, x = layer_of(name), tokens(37)
    packed, separate = packed_and_separate(layer, x, [[1, 2, 9, 30], [16, 24]])
    assert_close(packed, separate, tolerance=1e-5)
    assert_same_gradients(packed[0], separate[0], learnt(layer, x))


@one_of_each
@settings(max_examples=8)
@given(cuts=st.lists(st.integers(1, 29), max_size=6))
def test_any_packing_will_do(name: str, cuts: list[int]):
    layer, x = layer_of(name), tokens(30, batch=1)
    with torch.no_grad():
        packed, separate = packed_and_separate(layer, x, [cuts])
        # Where a head has hardly anything to say its norm magnifies float32's last digits; in float64 the
        # operators' own tests hold the forms together.
        assert_close(packed, separate, tolerance=1e-4)


@one_of_each
@pytest.mark.parametrize("split", [1, 11, 29])
def test_a_packed_row_goes_on_from_a_state(name: str, split: int):
    layer, x = layer_of(name), tokens(30)
    ids = torch.tensor([[0] * 5 + [1] * 9 + [2] * 16, [0] * 12 + [1] * 18])
    whole_packing = packing_of(ids)
    whole = layer(x, packing=whole_packing)
    resets_BT = whole_packing.resets_BT
    first = layer(x[:, :split], packing=Packing(resets_BT[:, :split], 3))
    second = layer(x[:, split:], first[1], packing=Packing(resets_BT[:, split:], 3))
    assert_close((torch.cat((first[0], second[0]), dim=1), second[1]), whole, tolerance=1e-5)


@one_of_each
def test_streams_of_a_batch_may_stand_at_different_places(name: str):
    layer, x = layer_of(name), tokens(40)
    with torch.no_grad():
        _, early = layer(x[:1, :3])
        _, late = layer(x[1:, :21])
        joint = joined(early, late)
        follow = torch.cat((x[:1, 3:15], x[1:, 21:33]))
        found = layer(follow, joint)
        expected = [layer(follow[:1], early), layer(follow[1:], late)]
        assert_close(found[0], torch.cat([y for y, _ in expected]), tolerance=1e-5)
        assert_close(found[1], joined(*(state for _, state in expected)), tolerance=1e-5)
        y, _ = layer.step(follow[:, 0], joint)
        assert_close(y, found[0][:, 0], tolerance=1e-5)


def joined(one: Any, other: Any) -> Any:
    """The states of two streams as the state of a batch."""
    if isinstance(one, Tensor):
        return torch.cat((one, other))
    parts = [joined(a, b) for a, b in zip(one, other, strict=True)]
    return type(one)(*parts) if hasattr(one, "_fields") else tuple(parts)


@every_layer
def test_no_output_depends_on_a_later_token(name: str):
    layer, x = layer_of(name), tokens(37)
    y, _ = layer(x)
    (grad,) = torch.autograd.grad(y[:, 20].sum(), x)
    assert (grad[:, 21:] == 0).all()
    assert (grad[:, :21].abs().amax(dim=(0, 2)) > 0).all()


@every_layer
def test_under_autocast_products_are_narrow_and_recurrences_are_not(name: str):
    layer, x = layer_of(name), tokens(37)
    expected, _ = layer(x)
    with torch.autocast(x.device.type, torch.bfloat16):
        y, state = layer(x)
        steps, _ = stepped(layer, x)
    assert y.dtype == torch.bfloat16
    assert all(not part.is_floating_point() or part.dtype == torch.float32 for part in flat(state))
    scale = expected.norm().item()
    assert 1e-5 < (y - expected).norm().item() / scale < 0.05
    assert (y - steps).norm().item() / scale < 0.05
    assert all(grad.isfinite().all() for grad in gradients(y.double(), learnt(layer, x)))


@one_of_each
def test_a_long_run_in_bfloat16_stays_finite(name: str):
    layer, x = layer_of(name, quantized=True), 10 * tokens(2048, batch=1).detach()
    with torch.no_grad(), torch.autocast(x.device.type, torch.bfloat16):
        y, state = layer(x)
        y_next, _ = layer.step(x[:, 0], state)
    assert y.isfinite().all()
    assert y_next.isfinite().all()
    # Later outputs are no larger than early ones: nothing builds up.
    assert y[:, -512:].float().norm() < 4 * y[:, 64:576].float().norm()


@one_of_each
def test_steps_do_not_drift_from_a_whole_prompt(name: str):
    layer, x = layer_of(name), tokens(600, batch=1).detach()
    with torch.no_grad():
        whole, steps = layer(x), stepped(layer, x)
    assert_close(steps, whole, tolerance=3e-5)


@one_of_each
@pytest.mark.parametrize("backend", ["eager", pytest.param("aot_eager", marks=pytest.mark.slow)])
# torch.compile makes such an object itself when it meets an autograd function.
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
def test_it_compiles_without_a_graph_break(name: str, backend: str):
    layer, x = layer_of(name), tokens(12)
    if isinstance(layer, TitansMAC):
        layer.backprop_chunks = 2
    packing = packing_of(torch.tensor([[0] * 5 + [1] * 7, [0] * 10 + [1] * 2]))
    torch._dynamo.reset()
    compiled = torch.compile(layer, fullgraph=True, backend=backend)
    given_by = learnt(layer, x)
    with torch.no_grad():
        _, state = layer(x)
    for arguments in ({}, {"state": state, "packing": packing}):
        with OUTSIDE_MODES():
            found = compiled(x, **arguments)
        expected = layer(x, **arguments)
        assert_close(found, expected, tolerance=1e-5)
        assert_same_gradients(found[0], expected[0], given_by)
    with torch.no_grad():
        with OUTSIDE_MODES():
            found = compiled(x[:, :1], state)
        assert_close(found, layer(x[:, :1], state), tolerance=1e-5)


@pytest.mark.parametrize("layer", layers(preset("micro")), ids=lambda layer: f"{layer.index}_{layer.alias}")
def test_parameters_are_those_of_the_inventory(layer: Any):
    mixer = build_mixer(preset("micro"), layer)
    expected = {name: shape for name, shape, _ in MIXERS[layer.kind](preset("micro"))}
    found = {
        name.replace(".gain", ".weight"): tuple(parameter.shape)
        for name, parameter in mixer.named_parameters()
    }
    assert found == expected


@every_layer
def test_it_is_made_on_no_device_and_filled_later(name: str):
    with torch.device("meta"):
        layer = LAYERS[name]()
    assert all(parameter.is_meta for parameter in layer.parameters())
    assert layer(torch.empty(2, 12, WIDTH, device="meta"))[0].shape == (2, 12, WIDTH)
    layer = layer.to_empty(device=torch.get_default_device())
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.fill_(torch.nan)
        for module in layer.modules():
            if hasattr(module, "reset_parameters"):
                module.reset_parameters()
        for module in layer.modules():
            for key, parameter in module.named_parameters(recurse=False):
                if parameter.isnan().all():  # norms have ones and no method for it
                    assert "norm" in type(module).__name__.lower(), key
                    parameter.fill_(1.0)
        y, _ = layer(tokens(12))
    assert y.isfinite().all()


@every_layer
def test_fresh_parameters_lie_where_they_should(name: str):
    torch.manual_seed(0)
    layer: Any = LAYERS[name]()
    assert 0.005 < layer.q_proj.weight.std() < 0.007
    if isinstance(layer, GatedDeltaNet):
        alpha = torch.exp(-layer.A_log.exp() * nn.functional.softplus(layer.dt_bias))
        assert ((alpha > 0.19) & (alpha < 1)).all()
        assert (nn.functional.softplus(layer.dt_bias) >= 1e-3 - 1e-6).all()
    if isinstance(layer, MLSTM):
        assert layer.f_bias.tolist() == pytest.approx([3.0, 6.0])
        assert not layer.i_proj.weight.any()
    if isinstance(layer, TitansMAC):
        assert layer.attn_scale.tolist() == pytest.approx([8**0.5] * 2)
        assert layer.alpha_bias.tolist() == [-4.0, -4.0]
