"""The engine's Titans step beside the layer's: both are judged by the layer in float64.

Codes of the window may differ by one where a value lies at the middle of two codes up to rounding. Then what
the token's window gives differs too, by far more than rounding, so outputs are compared where no code in view
differs; the memory never sees a code.
"""

from copy import deepcopy
from typing import NamedTuple

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from chimera.mixers.projections import project_gates, unit
from chimera.mixers.titans.layer import LARGEST_RATE, TitansMAC, _Inputs
from chimera.mixers.titans.state import TitansState
from quant.kernels.elementary.reference import rotation_angles
from quant.kernels.table import OPERATIONS
from quant.kernels.titans import shapes
from quant.kernels.titans.calls import titans_call
from quant.kernels.titans.parameters import TitansParameters, titans_parameters
from quant.kernels.titans.reference import TitansTokens
from quant.kernels.titans.rotation import rotation_steps
from quant.qat.activations import fake_quantize_activations

NUM_TOKENS = 600
SHAPE = shapes.TitansShape(num_heads=2, head_dim=16, num_slots=3, window=24, memory_chunk=16)


class Arrived(NamedTuple):
    """What comes to the step after projections, convolutions and SiLU, [1, T, H, K] and [1, T, H]."""

    q: Tensor
    k: Tensor
    v: Tensor
    eta: Tensor
    theta: Tensor
    alpha: Tensor


class Run(NamedTuple):
    """Gated outputs [T, H, K], surprise [T, H], memory and momentum at the end, each token's codes."""

    y: NDArray[np.float64]
    surprise: NDArray[np.float64]
    memory: NDArray[np.float64]  # [H, 2, K, K]
    momentum: NDArray[np.float64]
    keys: NDArray[np.float64]  # [T, H, K] as the window has them
    values: NDArray[np.float64]


def layer_of() -> TitansMAC:
    torch.manual_seed(0)
    layer = TitansMAC(
        width=32,
        num_heads=SHAPE.num_heads,
        head_dim=SHAPE.head_dim,
        num_slots=SHAPE.num_slots,
        window=SHAPE.window,
        memory_chunk=SHAPE.memory_chunk,
    )
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
        layer.theta_bias.add_(6.0)  # it writes with nearly its full rate
    return layer


@torch.no_grad()
def arrived(layer: TitansMAC) -> Arrived:
    x_hat = layer.norm(torch.randn(1, NUM_TOKENS, 32, generator=torch.Generator().manual_seed(1)))
    x_tilde = fake_quantize_activations(x_hat)
    tails = layer.initial_state(1).tails
    q, k, v = (
        F.silu(conv(proj.project(x_tilde), tail=tail)[0]).unflatten(-1, (SHAPE.num_heads, SHAPE.head_dim))
        for conv, proj, tail in (
            (layer.q_conv, layer.q_proj, tails[0]),
            (layer.k_conv, layer.k_proj, tails[1]),
            (layer.v_conv, layer.v_proj, tails[2]),
        )
    )
    return Arrived(q, k, v, *project_gates(x_hat, (layer.eta_proj, layer.theta_proj, layer.alpha_proj)))


@torch.no_grad()
def by_layer(layer: TitansMAC, given: Arrived, dtype: torch.dtype) -> Run:
    """The layer's step in a precision of one's choice."""
    layer = deepcopy(layer).to(dtype)
    q, k, v, eta, theta, alpha = (part.to(dtype) for part in given)
    first = layer.initial_state(1)
    state: TitansState = TitansState(
        fast=type(first.fast)(*(part.to(dtype) for part in first.fast)),
        attention=type(first.attention)(
            *(part.to(dtype) for part in first.attention[:-1]), first.attention.position_B
        ),
        tails=first.tails,
    )
    parts: list[list[Tensor]] = [[], [], [], []]
    for t in range(NUM_TOKENS):
        now = slice(t, t + 1)
        inputs = _Inputs(
            q_BTHK=unit(q[:, now]),
            k_BTHK=unit(k[:, now]),
            v_BTHV=v[:, now],
            log_keep_BTH=F.logsigmoid(-(alpha[:, now] + layer.alpha_bias)),
            log_momentum_BTH=F.logsigmoid(eta[:, now] + layer.eta_bias),
            rate_BTH=LARGEST_RATE * torch.sigmoid(theta[:, now] + layer.theta_bias),
            tails=state.tails,
        )
        y, state, surprise = layer._step(inputs, state)
        place = t % SHAPE.window
        held = state.attention.window_keys_BHWK[0, :, place], state.attention.window_values_BHWV[0, :, place]
        for row, part in zip(parts, (y[0, 0], surprise[0, 0], *held), strict=True):
            row.append(part)
    y, surprise, keys, values = (torch.stack(row).double().numpy() for row in parts)
    memory, momentum = (part[0].double().numpy() for part in (state.fast.memory, state.fast.momentum))
    return Run(y, surprise, memory, momentum, keys, values)


def parameters_of(layer: TitansMAC) -> TitansParameters:
    tensors = {name: parameter.detach().numpy() for name, parameter in layer.named_parameters()}
    names = (
        "eta_bias", "theta_bias", "alpha_bias", "attn_scale", "slot_keys", "slot_values", "memory_key_gain",
        "memory_w1", "memory_w2",
    )  # fmt: skip
    return titans_parameters(
        SHAPE,
        **{name: tensors[name] for name in names},
        gate_gain=tensors["gate_norm.weight"],
        eps=layer.gate_norm.eps,
    )


def by_kernel(layer: TitansMAC, given: Arrived) -> Run:
    """The kernel, token by token as a stream decodes."""
    parameters = parameters_of(layer)
    state = shapes.empty_state(SHAPE)
    shapes.begin_text(state, initial_memory=parameters.initial_memory)
    steps = rotation_steps(head_dim=SHAPE.head_dim, theta=layer.rope_theta)
    rows = [part[0].flatten(1).numpy() for part in given]
    parts: list[list[NDArray[np.float32]]] = [[], [], [], []]
    for t in range(NUM_TOKENS):
        tokens = TitansTokens(*(part[t : t + 1] for part in rows), *rotation_angles(t, steps, 1))
        call = titans_call(SHAPE, parameters, tokens, state, position=np.array([t], dtype=np.int64))
        call.run(OPERATIONS["titans"].forms["plain"], 0, call.units)
        place, K = t % SHAPE.window, SHAPE.head_dim
        y, surprise = call.outputs
        parts[0].append(y.reshape(SHAPE.num_heads, K))
        parts[1].append(surprise[0])
        parts[2].append(state.keys[:, place, :K] * state.key_scales[:, place, None])
        parts[3].append(state.values[:, place, :K] * state.value_scales[:, place, None])
    running = (NUM_TOKENS - 1) // SHAPE.memory_chunk + 1
    memory, momentum = state.memory[:, running % 2], state.momentum
    return Run(
        *(np.stack(row).astype(np.float64) for row in parts[:2]),
        *(part[..., : SHAPE.head_dim].swapaxes(-1, -2).astype(np.float64) for part in (memory, momentum)),
        *(np.stack(row).astype(np.float64) for row in parts[2:]),
    )


def same_codes(found: Run, truth: Run) -> NDArray[np.bool_]:
    """[T, H] where a token and its head have the codes that they have in float64."""
    same = np.ones((NUM_TOKENS, SHAPE.num_heads), dtype=np.bool_)
    for one, other in ((found.keys, truth.keys), (found.values, truth.values)):
        step = np.maximum(np.abs(other).max(axis=2, keepdims=True), 1e-5) / 127
        assert (np.abs(one - other) <= 1.001 * step).all(), "a code differs by one at most"
        same &= (np.abs(one - other) < 0.5 * step).all(axis=2)
    return same


def in_view(same: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """[T, H] where this holds for all tokens of the window."""
    return np.stack([same[max(0, t + 1 - SHAPE.window) : t + 1].all(axis=0) for t in range(NUM_TOKENS)])


@pytest.fixture(scope="module")
def runs() -> dict[str, Run]:
    layer = layer_of()
    given = arrived(layer)
    return {
        "truth": by_layer(layer, given, torch.float64),
        "layer": by_layer(layer, given, torch.float32),
        "kernel": by_kernel(layer, given),
    }


def error(found: NDArray[np.float64], truth: NDArray[np.float64]) -> float:
    """The largest one, in units of float32's rounding of the largest value."""
    return float(np.abs(found - truth).max() / (np.abs(truth).max() * 2.0**-24))


# Roundings of a sum of n terms of one size: a few times √n units, n the longest sum. What a token sees is a
# sum over all places; the memory is one over the tokens that it has not forgotten.
SEEN = 4 * (SHAPE.num_slots + SHAPE.memory_chunk + SHAPE.window) ** 0.5
REMEMBERED = 4 * NUM_TOKENS**0.5


def test_both_precisions_see_nearly_all_codes_alike(runs: dict[str, Run]):
    for name in ("layer", "kernel"):
        same = same_codes(runs[name], runs["truth"])
        # A value is at such a middle with a chance of about 127 · 2^-24 for each rounding before it.
        assert (~same).sum() <= 3, name
        assert in_view(same).mean() > 0.8, name


@pytest.mark.parametrize("name", ["layer", "kernel"])
def test_outputs_are_those_of_float64(runs: dict[str, Run], name: str):
    found, truth = runs[name], runs["truth"]
    seen = in_view(same_codes(found, truth))
    assert error(found.y[seen], truth.y[seen]) < SEEN


@pytest.mark.parametrize("name", ["layer", "kernel"])
def test_the_memory_is_that_of_float64(runs: dict[str, Run], name: str):
    found, truth = runs[name], runs["truth"]
    assert truth.surprise.min() < 1 < truth.surprise.max(), "gradients of both sorts: clipped and not"
    assert error(found.surprise, truth.surprise) < SEEN
    assert error(found.memory, truth.memory) < REMEMBERED
    assert error(found.momentum, truth.momentum) < REMEMBERED


def test_errors_do_not_grow_with_the_text(runs: dict[str, Run]):
    found, truth = runs["kernel"], runs["truth"]
    seen = in_view(same_codes(found, truth))
    assert 20 * SHAPE.window < NUM_TOKENS
    for first in range(0, NUM_TOKENS, 100):
        part = slice(first, first + 100)
        assert error(found.y[part][seen[part]], truth.y[part][seen[part]]) < SEEN
        assert error(found.surprise[part], truth.surprise[part]) < SEEN
