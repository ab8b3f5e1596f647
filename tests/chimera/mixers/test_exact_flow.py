"""The delta rule's exact flow, against the matrix exponential of its differential equation."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from chimera.mixers.gated_delta.chunk import gated_delta_chunks
from chimera.mixers.gated_delta.exact_flow import exact_flow_gates, mean_decay
from chimera.mixers.gated_delta.reference import gated_delta_reference
from tests.chimera.mixers.helpers import FLOAT64, assert_close, gradients, leaves


def flow(state_KV: Tensor, k: Tensor, v: Tensor, *, alpha: float, beta: float) -> Tensor:
    """One unit of time of dS/dτ = −((1−α) I + αβ k kᵀ) S + β k vᵀ, by the exponential of the whole system."""
    key_dim, value_dim = state_KV.shape
    system = torch.zeros(key_dim + value_dim, key_dim + value_dim, dtype=FLOAT64)
    system[:key_dim, :key_dim] = -(
        (1 - alpha) * torch.eye(key_dim, dtype=FLOAT64) + alpha * beta * torch.outer(k, k)
    )
    system[:key_dim, key_dim:] = beta * torch.outer(k, v)
    solution = torch.linalg.matrix_exp(system)
    return solution[:key_dim, :key_dim] @ state_KV + solution[:key_dim, key_dim:]


def written(state_KV: Tensor, k: Tensor, v: Tensor, *, alpha: float, beta: float) -> Tensor:
    """The same by the gated delta rule with the exact flow's gates."""
    k_BTHK, v_BTHV = k.view(1, 1, 1, -1), v.view(1, 1, 1, -1)
    log_alpha, write = (torch.full((1, 1, 1), x, dtype=FLOAT64) for x in (alpha, beta))
    gates = exact_flow_gates(k_BTHK, log_alpha_BTH=log_alpha.log(), beta_BTH=write)
    _, state = gated_delta_reference(
        k_BTHK, k_BTHK, v_BTHV, **gates._asdict(), state_BHKV=state_KV.view(1, 1, *state_KV.shape)
    )
    return state[0, 0]


@settings(max_examples=50)
@given(
    length=st.sampled_from([0.0, 1e-7, 1e-3, 0.1, 1.0, 2.0, 10.0]),
    alpha=st.sampled_from([1e-3, 0.5, 0.99, 0.999999, 1.0]),
    beta=st.floats(1e-6, 1.0),
)
def test_it_is_the_matrix_exponential(length: float, alpha: float, beta: float):
    torch.manual_seed(0)
    k = torch.nn.functional.normalize(torch.randn(4, dtype=FLOAT64), dim=0) * length
    v, state_KV = torch.randn(3, dtype=FLOAT64), torch.randn(4, 3, dtype=FLOAT64)
    expected = flow(state_KV, k, v, alpha=alpha, beta=beta)
    # PyTorch's matrix exponential is off by up to 1e-11 here; at forty digits the gates are right to 2e-16.
    assert_close(written(state_KV, k, v, alpha=alpha, beta=beta), expected, tolerance=2e-11)


def test_without_decay_erase_and_write_are_one_gate():
    k, beta = torch.randn(1, 5, 2, 8, dtype=FLOAT64), torch.rand(1, 5, 2, dtype=FLOAT64)
    gates = exact_flow_gates(k, log_alpha_BTH=torch.zeros_like(beta), beta_BTH=beta)
    length_squared = k.square().sum(dim=-1)
    assert_close(gates.log_decay_BTH, torch.zeros_like(beta), tolerance=0.0)
    assert_close(gates.erase_BTH, -torch.expm1(-beta * length_squared) / length_squared, tolerance=1e-14)
    assert_close(gates.write_BTH, gates.erase_BTH, tolerance=1e-14)


def test_weak_writing_is_the_delta_rule_to_second_order():
    torch.manual_seed(0)
    k, beta = torch.randn(1, 5, 2, 8, dtype=FLOAT64), torch.rand(1, 5, 2, dtype=FLOAT64)
    errors = [
        (exact_flow_gates(k, log_alpha_BTH=torch.zeros_like(beta), beta_BTH=s * beta).erase_BTH - s * beta)
        .abs()
        .max()
        .item()
        for s in (1e-3, 1e-4)
    ]
    assert errors[0] / errors[1] == pytest.approx(100, rel=0.02)


def test_large_inputs_leave_the_state_bounded_where_eulers_step_explodes():
    torch.manual_seed(0)
    k = 10 * torch.randn(1, 64, 1, 8, dtype=FLOAT64)
    v = 10 * torch.randn(1, 64, 1, 8, dtype=FLOAT64)
    beta, none = torch.full((1, 64, 1), 0.7, dtype=FLOAT64), torch.zeros(1, 64, 1, dtype=FLOAT64)
    empty = torch.zeros(1, 1, 8, 8, dtype=FLOAT64)
    gates = exact_flow_gates(k, log_alpha_BTH=none, beta_BTH=beta)
    _, exact = gated_delta_chunks(k, k, v, **gates._asdict(), state_BHKV=empty)
    _, euler = gated_delta_chunks(
        k, k, v, log_decay_BTH=none, erase_BTH=beta, write_BTH=beta, state_BHKV=empty
    )
    assert exact.norm() < v.norm()
    assert euler.norm() > 1e20


def test_two_gates_agree_in_chunks_and_token_by_token():
    torch.manual_seed(0)
    k, v, log_alpha, beta = leaves(
        torch.randn(2, 50, 2, 8, dtype=FLOAT64),
        torch.randn(2, 50, 2, 5, dtype=FLOAT64),
        -torch.rand(2, 50, 2, dtype=FLOAT64),
        torch.rand(2, 50, 2, dtype=FLOAT64),
    )
    state = torch.randn(2, 2, 8, 5, dtype=FLOAT64)

    def gates() -> dict[str, Tensor]:
        return exact_flow_gates(k, log_alpha_BTH=log_alpha, beta_BTH=beta)._asdict()

    expected = gated_delta_reference(k, k, v, **gates(), state_BHKV=state)
    found = gated_delta_chunks(k, k, v, **gates(), state_BHKV=state, chunk_size=16)
    assert_close(found, expected, tolerance=1e-11)
    given_by = (k, v, log_alpha, beta)
    assert_close(gradients(found, given_by), gradients(expected, given_by), tolerance=1e-10)


def test_the_mean_decay_is_smooth_where_its_series_ends():
    x = torch.tensor([0.0, 1e-9, 0.00999, 0.01, 0.01001, 0.5, 30.0], dtype=FLOAT64, requires_grad=True)
    assert torch.autograd.gradcheck(mean_decay, (x,))
    at_border = mean_decay(torch.tensor([0.01 - 1e-15, 0.01], dtype=FLOAT64))
    assert at_border[0].item() == pytest.approx(at_border[1].item(), rel=1e-14)


@pytest.mark.parametrize("length", [0.0, 1e-20, 1e-6, 1e-3, 1e18])
def test_gradients_are_finite_for_keys_of_any_length(length: float):
    k = (torch.ones(1, 1, 1, 4) * length).requires_grad_()
    beta, log_alpha = leaves(torch.full((1, 1, 1), 0.5), torch.full((1, 1, 1), -0.1))
    gates = exact_flow_gates(k, log_alpha_BTH=log_alpha, beta_BTH=beta)
    torch.stack([gate.sum() for gate in gates]).sum().backward()
    assert all(gate.isfinite().all() for gate in gates)
    assert all(x.grad is not None and x.grad.isfinite().all() for x in (k, beta, log_alpha))
