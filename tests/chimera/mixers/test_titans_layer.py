"""What only the Titans layer has: slots, a memory that reaches beyond the window, surprise."""

from typing import Any

import pytest
import torch
from torch import Tensor

from chimera.mixers.titans.attention import MemoryTokens, Slots, Tokens, attend
from chimera.mixers.titans.layer import TitansMAC
from chimera.mixers.titans.layout import chunk_layout
from chimera.mixers.titans.state import AttentionState, TitansState
from configs.errors import UsageError
from quant.activations import dequantize_activations, quantize_activations
from quant.qat.linear import set_quant_mix
from tests.chimera.mixers.helpers import assert_close, flat, gradients

WIDTH = 16


def layer_of(**changes: Any) -> TitansMAC:
    torch.manual_seed(0)
    sizes = {"width": WIDTH, "num_heads": 2, "head_dim": 8, "num_slots": 3, "window": 8, "memory_chunk": 8}
    layer = TitansMAC(**(sizes | changes))
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    set_quant_mix(layer, 0.0)
    return layer


def tokens(num_tokens: int, *, batch: int = 1) -> Tensor:
    torch.manual_seed(1)
    return torch.randn(batch, num_tokens, WIDTH)


@pytest.mark.parametrize("shut", [True, False])
def test_the_memory_reaches_where_the_window_does_not(shut: bool):
    layer = layer_of()
    with torch.no_grad():
        # Shut, the memory writes nothing. Open, it writes fully. It forgets little, and all tokens alike.
        layer.theta_bias.fill_(-1e4 if shut else 10.0)
        layer.alpha_bias.fill_(-10.0)
        layer.alpha_proj.weight.zero_()
    x = tokens(200)
    changed = x.clone()
    changed[:, 0] += 1.0
    with torch.no_grad():
        difference = (layer(x)[0] - layer(changed)[0]).abs().amax(dim=-1)[0]
    # The convolution reaches 3 tokens on, and the window 7 further.
    assert (difference[:11] > 0).any()
    assert (difference[-32:] == 0).all() == shut


def test_slots_are_learnt():
    layer = layer_of()
    y, _ = layer(tokens(20))
    y.square().sum().backward()
    for slots in (layer.slot_keys, layer.slot_values):
        assert slots is not None
        assert slots.grad is not None
        assert (slots.grad.abs().amax(dim=1) > 0).all()


def test_slots_are_always_in_view():
    # A slot that every query meets with a large score is all that is seen, whatever the tokens are.
    torch.manual_seed(0)
    slots = Slots(keys_HPK=1e4 * torch.ones(2, 1, 8), values_HPV=torch.randn(2, 1, 8))
    for num_tokens in (1, 30):
        x = torch.rand(1, 2, num_tokens, 8) + 0.1
        layout = chunk_layout(
            batch=1, num_tokens=num_tokens, memory_chunk=8, position_B=None, packing=None, device=x.device
        )
        answers = layout.to_chunks(x.transpose(1, 2))
        seen = attend(
            Tokens(x, x, x, x), memory=MemoryTokens(answers, answers, layout.filled_BSC), slots=slots,
            past=None, document_BT=torch.zeros(1, num_tokens, dtype=torch.int64), layout=layout, window=8,
        )  # fmt: skip
        assert_close(seen, slots.values_HPV.squeeze(1).expand_as(seen), tolerance=1e-6)


def test_gradients_reach_the_gates_of_the_memory():
    layer = layer_of(backprop_chunks=2)
    y, _ = layer(tokens(40))
    y.square().sum().backward()
    for name, parameter in layer.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().max() > 0, name


def test_surprise_is_the_same_in_a_row_and_step_by_step():
    layer, x = layer_of(), tokens(30, batch=2)
    with torch.no_grad():
        whole = layer.forward_with_surprise(x)
        state, steps = None, list[Tensor]()
        for t in range(30):
            output = layer.forward_with_surprise(x[:, t : t + 1], state)
            state = output.state
            steps.append(output.surprise_BT)
    assert whole.surprise_BT.shape == (2, 30)
    assert (whole.surprise_BT > 0).all()
    assert_close(torch.cat(steps, dim=1), whole.surprise_BT, tolerance=1e-5)


def test_the_position_goes_on_beyond_the_window():
    layer, x = layer_of(), tokens(50)
    with torch.no_grad():
        _, state = layer(x)
        assert state.attention.position_B.tolist() == [50]
        for t in range(20):
            _, state = layer.step(x[:, t], state)
    assert state.attention.position_B.tolist() == [70]
    # Were it to stand still, the same tokens again would meet the same rotations, and the same ring.
    with torch.no_grad():
        repeated = x[:, :1].expand(-1, 60, -1)
        _, early = layer(repeated)
        _, later = layer(repeated[:, :8], early)
    held = early.attention.window_keys_BHWK, later.attention.window_keys_BHWK
    assert (held[0] - held[1]).abs().max() > 1e-3


def test_what_a_stream_has_not_reached_is_zero():
    layer = layer_of(window=16)
    with torch.no_grad():
        _, state = layer(tokens(5))
    attention = state.attention
    assert (attention.window_keys_BHWK[:, :, 5:] == 0).all()
    assert (attention.chunk_values_BHCV[:, :, 5:] == 0).all()
    assert all(part.isfinite().all() for part in flat(state))


@pytest.mark.parametrize("num_tokens", [1, 2, 20])
def test_places_not_reached_yet_are_never_read(num_tokens: int):
    layer, x = layer_of(window=16), tokens(5 + num_tokens)
    with torch.no_grad():
        _, state = layer(x[:, :5])
        held = state.attention
        poisoned = AttentionState(
            *(
                torch.cat((part[:, :, :5], torch.full_like(part[:, :, 5:], 1e30)), dim=2)
                for part in held[:-1]
            ),
            held.position_B,
        )
        found = layer(x[:, 5:], state._replace(attention=poisoned))
        expected = layer(x[:, 5:], state)
    assert_close(found[0], expected[0], tolerance=0.0)


def window_layers() -> list[TitansMAC]:
    """One whose window holds codes, and one whose window holds floats."""
    layers = [layer_of(window=32), layer_of(window=32, window_bits=32)]
    for layer in layers:
        set_quant_mix(layer, 1.0)
    return layers


@pytest.mark.parametrize("tokens_at_once", [1, 20])
def test_the_window_holds_codes(tokens_at_once: int):
    held: list[TitansState] = []
    for layer in window_layers():
        state: TitansState | None = None
        with torch.no_grad():
            for part in tokens(20, batch=2).split(tokens_at_once, dim=1):
                _, state = layer(part, state)
        assert state is not None
        held.append(state)
    codes, floats = (state.attention for state in held)
    for found, wanted in (
        (codes.window_keys_BHWK, floats.window_keys_BHWK),
        (codes.window_values_BHWV, floats.window_values_BHWV),
    ):
        quantized = quantize_activations(wanted.reshape(-1, 8).cpu().numpy())
        assert torch.equal(found.reshape(-1, 8).cpu(), torch.from_numpy(dequantize_activations(quantized)))
        assert not torch.equal(found, wanted)
    # What the memory reads and writes is not rounded.
    assert_close(held[0].fast, held[1].fast, tolerance=0.0)
    assert_close(codes.chunk_values_BHCV, floats.chunk_values_BHCV, tolerance=0.0)


def test_gradients_pass_the_codes_as_they_are():
    found: list[list[Tensor]] = []
    for layer in window_layers():
        x = tokens(20)
        inputs = layer._inputs(x, tails=layer.initial_state(1).tails, packing=None)
        seen = layer._tokens(inputs, torch.arange(20).unsqueeze(0))
        found.append(gradients((seen.rotated_k_BHTK, seen.v_BHTV), list(layer.parameters())))
    assert_close(found[0], found[1], tolerance=0.0)
    assert sum(grad.abs().max() > 0 for grad in found[0]) >= 4


def test_sizes_that_cannot_work_are_refused():
    with pytest.raises(UsageError, match="even number of channels, got 9"):
        layer_of(head_dim=9)
    with pytest.raises(UsageError, match="backprop_chunks must be at least 1"):
        layer_of(backprop_chunks=0)
