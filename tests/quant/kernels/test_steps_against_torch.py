"""The recurrent kernels against the layers that models are trained with."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import get_args

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from chimera.mixers.gated_delta.layer import DeltaRule, GatedDeltaNet
from chimera.mixers.mlstm.layer import MLSTM
from quant.kernels.convolution import kernels as convolution
from quant.kernels.convolution.calls import convolution_call
from quant.kernels.delta import kernels as delta
from quant.kernels.delta.calls import delta_call
from quant.kernels.delta.problems import preactivations, vectors
from quant.kernels.delta.reference import DeltaTokens, DeltaWeights, Rule, decay_rates
from quant.kernels.dense import kernels as dense
from quant.kernels.dense.calls import dense_call
from quant.kernels.elementary.calls import VectorCall
from quant.kernels.mlstm import kernels as mlstm
from quant.kernels.mlstm.calls import mlstm_call
from quant.kernels.mlstm.reference import MLSTMState, MLSTMTokens, MLSTMWeights
from quant.kernels.operation import Kernel
from quant.qat.activations import fake_quantize_activations
from quant.qat.linear import BitLinear, set_quant_mix
from tests.quant.kernels.step_bounds import ROUNDING, delta_truth, mlstm_truth

Floats = NDArray[np.float32]
DELTA_KERNELS: dict[Rule, Kernel] = {"delta": delta.gated_delta, "exact_flow": delta.exact_flow}
NUM_TOKENS, HEADS, SIZE, WIDTH = 512, 3, 64, 192
EPS = np.float32(1e-6)


@pytest.mark.parametrize("rule", DELTA_KERNELS)
def test_512_steps_of_the_delta_rule_drift_no_further_than_rounding(rule: Rule) -> None:
    rng = np.random.default_rng(0)
    tokens = DeltaTokens(
        q=vectors(NUM_TOKENS, WIDTH, rng),
        k=vectors(NUM_TOKENS, WIDTH, rng) * np.float32(1 if rule == "delta" else 0.3),
        v=vectors(NUM_TOKENS, WIDTH, rng),
        alpha=preactivations(NUM_TOKENS, HEADS, rng),
        beta=preactivations(NUM_TOKENS, HEADS, rng),
        gate=vectors(NUM_TOKENS, WIDTH, rng),
    )
    weights = DeltaWeights(
        rates=decay_rates(np.linspace(-9, 2.8, HEADS, dtype=np.float32)),
        dt_bias=np.linspace(-7, -2, HEADS, dtype=np.float32),
        gain=np.linspace(0.5, 2, SIZE, dtype=np.float32),
        eps=EPS,
    )
    start = rng.standard_normal((HEADS, SIZE, SIZE), dtype=np.float32)
    truth = delta_truth(tokens, weights, start, rule=rule)
    memory = start.copy()
    y = done(DELTA_KERNELS[rule], delta_call(tokens, weights, memory))
    assert (np.abs(y - truth.y_TD) <= truth.y_bound_TD).all()
    assert (np.linalg.norm(memory - truth.memory_HKV, axis=1) <= truth.memory_bound_HV).all()


@pytest.mark.parametrize("is_exponential", [False, True])
def test_512_steps_of_the_matrix_lstm_drift_no_further_than_rounding(is_exponential: bool) -> None:
    rng = np.random.default_rng(0)
    tokens = MLSTMTokens(
        q=vectors(NUM_TOKENS, WIDTH, rng),
        k=vectors(NUM_TOKENS, WIDTH, rng),
        v=vectors(NUM_TOKENS, WIDTH, rng),
        input_gate=preactivations(NUM_TOKENS, HEADS, rng).clip(-90, 90),
        forget_gate=preactivations(NUM_TOKENS, HEADS, rng),
        gate=vectors(NUM_TOKENS, WIDTH, rng),
    )
    weights = MLSTMWeights(
        input_bias=rng.standard_normal(HEADS, dtype=np.float32),
        forget_bias=np.linspace(3, 6, HEADS, dtype=np.float32),
        gain=np.linspace(0.5, 2, WIDTH, dtype=np.float32),
        eps=EPS,
        exponential_gating=is_exponential,
    )
    state = empty_state()
    truth = mlstm_truth(tokens, weights, state)
    y = done(mlstm.mlstm, mlstm_call(tokens, weights, state))
    assert (np.abs(y - truth.y_TD) <= truth.y_bound_TD).all()
    assert truth.log_scale_H is not None
    at_one_scale = state.memory * np.exp(state.log_scale - truth.log_scale_H)[:, None, None]
    assert (np.linalg.norm(at_one_scale - truth.memory_HKV, axis=1) <= truth.memory_bound_HV).all()


@pytest.mark.parametrize("rule", get_args(DeltaRule))
@pytest.mark.parametrize("use_output_gate", [False, True])
def test_a_gated_delta_layer_and_its_kernels_agree(rule: DeltaRule, use_output_gate: bool) -> None:
    torch.manual_seed(0)
    layer = GatedDeltaNet(
        width=96, num_heads=3, head_dim=32, use_output_gate=use_output_gate, rule=rule, init_std=0.1
    )
    x_hat, y, own = seen_by(layer, convolutions=[layer.q_conv, layer.k_conv, layer.v_conv])
    taps = np.concatenate([array(conv.weight) for conv in (layer.q_conv, layer.k_conv, layer.v_conv)])
    tail = np.zeros((3, 3 * 96), dtype=np.float32)
    call = convolution_call(np.concatenate(own, axis=1), np.ascontiguousarray(taps.T), tail)
    qkv = done(convolution.short_convolution, call)
    gates = done(
        dense.dense,
        dense_call(x_hat, np.concatenate([array(layer.alpha_proj.weight), array(layer.beta_proj.weight)])),
    )
    tokens = DeltaTokens(
        q=qkv[:, :96],
        k=qkv[:, 96:192],
        v=qkv[:, 192:],
        alpha=gates[:, :3],
        beta=gates[:, 3:],
        gate=projected(layer.gate_proj, layer, x_hat),
    )
    weights = DeltaWeights(
        rates=decay_rates(array(layer.A_log)),
        dt_bias=array(layer.dt_bias),
        gain=array(layer.head_norm.weight),
        eps=np.float32(layer.head_norm.eps),
    )
    found = done(DELTA_KERNELS[rule], delta_call(tokens, weights, np.zeros((3, 32, 32), dtype=np.float32)))
    assert_near(found, y)


@pytest.mark.parametrize("is_exponential", [False, True])
@pytest.mark.parametrize("use_output_gate", [False, True])
def test_a_matrix_lstm_layer_and_its_kernels_agree(is_exponential: bool, use_output_gate: bool) -> None:
    torch.manual_seed(0)
    layer = MLSTM(
        width=96,
        num_heads=3,
        head_dim=32,
        use_output_gate=use_output_gate,
        exponential_gating=is_exponential,
        init_std=0.1,
    )
    nn.init.normal_(layer.i_proj.weight, std=0.1)
    nn.init.normal_(layer.f_proj.weight, std=0.1)
    nn.init.uniform_(layer.head_norm.weight, 0.5, 2)
    x_hat, y, _ = seen_by(layer, convolutions=[])
    tail = np.zeros((3, 96), dtype=np.float32)
    call = convolution_call(x_hat, np.ascontiguousarray(array(layer.conv.weight).T), tail)
    convolved = done(convolution.short_convolution, call)
    gates = done(
        dense.dense,
        dense_call(x_hat, np.concatenate([array(layer.i_proj.weight), array(layer.f_proj.weight)])),
    )
    q, k = (projected(linear, layer, convolved) for linear in (layer.q_proj, layer.k_proj))
    v, gate = (projected(linear, layer, x_hat) for linear in (layer.v_proj, layer.gate_proj))
    assert q is not None and k is not None and v is not None  # noqa: PT018
    tokens = MLSTMTokens(q=q, k=k, v=v, input_gate=gates[:, :3], forget_gate=gates[:, 3:], gate=gate)
    weights = MLSTMWeights(
        input_bias=array(layer.i_bias),
        forget_bias=array(layer.f_bias),
        gain=array(layer.head_norm.weight),
        eps=np.float32(layer.head_norm.eps),
        exponential_gating=is_exponential,
    )
    found = done(mlstm.mlstm, mlstm_call(tokens, weights, empty_state(3, 32)))
    assert_near(found, y)


def seen_by(
    layer: GatedDeltaNet | MLSTM, *, convolutions: list[nn.Module]
) -> tuple[Floats, Floats, list[Floats]]:
    """Normed inputs, what stands before the last norm, and what each convolution reads.

    Half of the tokens go at once, the others one by one. Nothing is rounded to codes: a last bit may tip one.
    """
    set_quant_mix(layer, 0.0)
    x = torch.randn(1, 24, 96)
    with (
        recorded([layer.norm], after=True) as normed,
        recorded([layer.out_norm, *convolutions]) as read,
        torch.no_grad(),
    ):
        _, state = layer(x[:, :12])
        for t in range(12, 24):
            _, state = layer.step(x[:, t], state)
    before, *inputs = read
    return joined(normed[0]), joined(before), [joined(parts) for parts in inputs]


@contextmanager
def recorded(modules: list[nn.Module], *, after: bool = False) -> Iterator[list[list[Tensor]]]:
    """What each module takes, or gives, while inside."""
    found: list[list[Tensor]] = [[] for _ in modules]
    hooks = [
        module.register_forward_hook(
            lambda _, given, result, into=into: into.append(result if after else given[0])
        )
        for module, into in zip(modules, found, strict=True)
    ]
    yield found
    for hook in hooks:
        hook.remove()


def joined(parts: list[Tensor]) -> Floats:
    """All tokens of the one row."""
    return torch.cat(parts, dim=1)[0].numpy()


def projected(linear: BitLinear | None, layer: GatedDeltaNet | MLSTM, x_TD: Floats) -> Floats | None:
    if linear is None:
        return None
    with torch.no_grad():
        x = fake_quantize_activations(torch.from_numpy(x_TD), block=layer.act_block, mix=linear.quant_mix)
        return linear.project(x).numpy()


def array(parameter: Tensor) -> Floats:
    return parameter.detach().numpy()


def empty_state(num_heads: int = HEADS, size: int = SIZE) -> MLSTMState:
    return MLSTMState(
        memory=np.zeros((num_heads, size, size), dtype=np.float32),
        normaliser=np.zeros((num_heads, size), dtype=np.float32),
        log_scale=np.full(num_heads, -np.inf, dtype=np.float32),
    )


def done(kernel: Kernel, call: VectorCall) -> Floats:
    call.run(kernel, 0, call.units)
    return call.outputs[0]


def assert_near(found: Floats, right: Floats) -> None:
    """A hundred roundings of the largest: sums run over 96 numbers, and chunks have an order of their own."""
    assert np.abs(found - right).max() <= 100 * ROUNDING * np.abs(right).max()
