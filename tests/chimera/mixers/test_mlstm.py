"""The matrix LSTM: its four forms against each other, and what its stabiliser and gates promise."""

from typing import NamedTuple

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from chimera.mixers.mlstm.chunk import mlstm_chunks
from chimera.mixers.mlstm.parallel import mlstm_parallel
from chimera.mixers.mlstm.reference import mlstm_reference
from chimera.mixers.mlstm.state import MemoryState, empty_state
from chimera.mixers.mlstm.step import mlstm_step
from tests.chimera.mixers.helpers import (
    FLOAT64,
    assert_close,
    gradients,
    in_pieces,
    leaves,
    lengths_and_cuts,
    pieces,
    resets_at,
)


class Inputs(NamedTuple):
    """Tokens; gates are logarithms."""

    q: Tensor
    k: Tensor
    v: Tensor
    log_input: Tensor
    log_forget: Tensor

    def at(self, span: slice) -> "Inputs":
        return Inputs(*(x[:, span] for x in self))


def inputs(
    num_tokens: int,
    *,
    batch: int = 2,
    heads: int = 2,
    dim: int = 6,
    gate_std: float = 1.0,
    dtype: torch.dtype = FLOAT64,
) -> Inputs:
    torch.manual_seed(num_tokens)
    gates = (batch, num_tokens, heads)
    return Inputs(
        *leaves(
            *(torch.randn(*gates, dim, dtype=dtype) for _ in range(3)),
            gate_std * torch.randn(gates, dtype=dtype),
            F.logsigmoid(gate_std * torch.randn(gates, dtype=dtype)),
        )
    )


def empty(x: Inputs) -> MemoryState:
    batch, _, heads, dim = x.q.shape
    return empty_state(batch, num_heads=heads, key_dim=dim, value_dim=dim, dtype=x.q.dtype)


def full(x: Inputs) -> MemoryState:
    """A state that has seen something, with gradients through what it holds."""
    batch, _, heads, dim = x.q.shape
    memory, normaliser = leaves(
        torch.randn(batch, heads, dim, dim, dtype=x.q.dtype), torch.randn(batch, heads, dim, dtype=x.q.dtype)
    )
    return MemoryState(memory, normaliser, torch.randn(batch, heads, dtype=x.q.dtype))


def by_reference(x: Inputs, state: MemoryState, resets_BT: Tensor | None = None):
    return mlstm_reference(
        x.q, x.k, x.v, log_input_BTH=x.log_input, log_forget_BTH=x.log_forget, state=state,
        resets_BT=resets_BT,
    )  # fmt: skip


def by_chunks(x: Inputs, state: MemoryState, resets_BT: Tensor | None = None, *, chunk_size: int = 16):
    return mlstm_chunks(
        x.q, x.k, x.v, log_input_BTH=x.log_input, log_forget_BTH=x.log_forget, state=state,
        resets_BT=resets_BT, chunk_size=chunk_size,
    )  # fmt: skip


def in_parallel(x: Inputs, state: MemoryState, resets_BT: Tensor | None = None):
    return mlstm_parallel(
        x.q, x.k, x.v, log_input_BTH=x.log_input, log_forget_BTH=x.log_forget, state=state,
        resets_BT=resets_BT,
    )  # fmt: skip


def by_steps(x: Inputs, state: MemoryState) -> tuple[Tensor, MemoryState]:
    outputs: list[Tensor] = []
    for t in range(x.q.shape[1]):
        output, state = mlstm_step(
            x.q[:, t], x.k[:, t], x.v[:, t], log_input_BH=x.log_input[:, t],
            log_forget_BH=x.log_forget[:, t], state=state,
        )  # fmt: skip
        outputs.append(output)
    return torch.stack(outputs, dim=1), state


def unscaled(state: MemoryState) -> tuple[Tensor, Tensor]:
    """What is remembered, without the stabiliser: the part that gradients go through."""
    scale = state.log_scale_BH.exp().unsqueeze(-1)
    return state.memory_BHKV * scale.unsqueeze(-1), state.normaliser_BHK * scale


@pytest.mark.parametrize("gate_std", [1.0, 10.0])
@pytest.mark.parametrize(("num_tokens", "chunk_size"), [(1, 64), (7, 1), (50, 16), (130, 64), (70, 70)])
@pytest.mark.parametrize("state_of", [empty, full])
def test_all_forms_agree(num_tokens: int, chunk_size: int, gate_std: float, state_of):
    x = inputs(num_tokens, gate_std=gate_std)
    state = state_of(x)
    expected = by_reference(x, state)
    given_by = [tensor for tensor in (*x, *state) if tensor.requires_grad]
    wanted = gradients((expected[0], unscaled(expected[1])), given_by)
    for found in (by_chunks(x, state, chunk_size=chunk_size), in_parallel(x, state), by_steps(x, state)):
        assert_close(found, expected, tolerance=1e-10)
        assert_close(gradients((found[0], unscaled(found[1])), given_by), wanted, tolerance=1e-8)


def test_chunks_are_the_reference_in_float32():
    x = inputs(300, dim=64, batch=1)
    narrow = Inputs(*(tensor.float() for tensor in x))
    assert_close(by_chunks(narrow, empty(narrow), chunk_size=64), by_reference(x, empty(x)), tolerance=2e-5)


@settings(max_examples=25)
@given(case=lengths_and_cuts(most_tokens=50), chunk_size=st.integers(1, 20))
def test_the_state_carries_over_any_cut(case: tuple[int, list[int]], chunk_size: int):
    num_tokens, cuts = case
    x = inputs(num_tokens, heads=1)
    whole = by_chunks(x, empty(x), chunk_size=chunk_size)
    cut = in_pieces(
        lambda span, state: by_chunks(x.at(span), state, chunk_size=chunk_size),
        pieces(num_tokens, cuts),
        empty(x),
    )
    assert_close(cut, whole, tolerance=1e-11)
    assert_close(gradients(cut[0], x), gradients(whole[0], x), tolerance=1e-10)


@settings(max_examples=25)
@given(case=lengths_and_cuts(most_tokens=50), chunk_size=st.integers(1, 20))
def test_packed_documents_are_separate_ones(case: tuple[int, list[int]], chunk_size: int):
    num_tokens, cuts = case
    x = inputs(num_tokens, batch=1, heads=1)
    state = full(x)
    spans = pieces(num_tokens, cuts)
    resets_BT = resets_at(num_tokens, [start for start, _ in spans[1:]])
    parts = [
        by_chunks(x.at(slice(*span)), empty(x) if span[0] else state, chunk_size=chunk_size) for span in spans
    ]
    separate = (torch.cat([output for output, _ in parts], dim=1), parts[-1][1])
    wanted = gradients(separate[0], x)
    packed = by_chunks(x, state, resets_BT, chunk_size=chunk_size)
    for found in (packed, in_parallel(x, state, resets_BT), by_reference(x, state, resets_BT)):
        assert_close(found, separate, tolerance=1e-11)
        assert_close(gradients(found[0], x), wanted, tolerance=1e-10)


def test_gradcheck():
    x = inputs(7, batch=1, heads=1, dim=3)
    resets_BT = resets_at(7, [4])
    assert torch.autograd.gradcheck(
        lambda *tensors: by_chunks(Inputs(*tensors), empty(x), resets_BT, chunk_size=3)[0], tuple(x)
    )


@pytest.mark.parametrize("shift", [0.5, 30.0, 500.0])
def test_a_constant_added_to_all_input_gates_changes_nothing(shift: float):
    # As long as |n q| is larger than e^{−m} everywhere, which a lower shift at the start ensures.
    x = inputs(60, dim=8)
    high = x._replace(log_input=x.log_input + 8.0)
    h, _ = by_chunks(high, empty(x))
    shifted, _ = by_chunks(high._replace(log_input=high.log_input + shift), empty(x))
    assert_close(shifted, h, tolerance=1e-10)


@pytest.mark.parametrize("scale", [1e2, 1e4])
@pytest.mark.parametrize("form", [by_chunks, in_parallel, by_steps])
def test_gates_of_any_size_stay_finite(form, scale: float):
    x = inputs(40, dtype=torch.float32)
    x = x._replace(log_input=(scale * x.log_input.sign()).detach().requires_grad_())
    h, state = form(x, empty(x))
    h.sum().backward()
    assert h.isfinite().all()
    assert all(tensor.isfinite().all() for tensor in state)
    assert all(tensor.grad is not None and tensor.grad.isfinite().all() for tensor in x)


def test_a_closed_forget_gate_leaves_the_token_alone():
    x = inputs(20)
    log_forget = x.log_forget.detach().clone()
    log_forget[:, 12] = -50.0
    x = x._replace(log_forget=log_forget)
    h, _ = by_chunks(x, empty(x))
    grad = torch.autograd.grad(h[:, 12].sum(), x.v)[0]
    assert grad[:, :12].abs().max() < 1e-15
    alone, _ = by_chunks(x.at(slice(12, 13)), empty(x))
    assert_close(h[:, 12:13], alone, tolerance=1e-12)


@pytest.mark.parametrize("log_input", [0.0, 1e4])
@pytest.mark.parametrize("form", [by_chunks, in_parallel, by_steps])
def test_a_zero_query_reads_zero(form, log_input: float):
    # The second case has e^{−m} = 0 as well, so that only the floor is left below the fraction.
    x = inputs(9, dtype=torch.float32)
    x = x._replace(q=torch.zeros_like(x.q), log_input=torch.full_like(x.log_input, log_input))
    h, _ = form(x, empty(x))
    assert (h == 0).all()


def test_no_output_depends_on_a_later_token():
    x = inputs(20)
    h, _ = by_chunks(x, empty(x), chunk_size=8)
    grads = Inputs(*torch.autograd.grad(h[:, 11].sum(), x))
    for grad in grads:
        assert (grad[:, 12:] == 0).all()
    assert (grads.v[:, :12].abs().amax(dim=(0, 2, 3)) > 0).all()


def test_a_long_run_from_bfloat16_stays_finite_and_does_not_drift():
    x = Inputs(*(tensor.detach() for tensor in inputs(4096, batch=1, dim=16)))
    x = x._replace(log_forget=x.log_forget * 1e-3)
    narrow = Inputs(*(tensor.bfloat16() for tensor in x))
    rounded = Inputs(*(tensor.double() for tensor in narrow))
    h, state = by_chunks(narrow, empty(narrow), chunk_size=64)
    assert h.dtype == torch.float32
    # A small denominator enlarges rounding: the rule has no bound there but its floor.
    expected_h, expected = by_chunks(rounded, empty(x), chunk_size=64)
    assert_close(state, expected, tolerance=2e-5)
    assert ((h - expected_h).norm() / expected_h.norm()).item() < 1e-3


def test_float32_steps_do_not_drift_from_chunks():
    x = Inputs(*(tensor.detach() for tensor in inputs(1024, batch=1, dtype=torch.float32)))
    x = x._replace(log_forget=x.log_forget * 1e-3)
    wide = Inputs(*(tensor.double() for tensor in x))
    _, state = by_steps(x, empty(x))
    _, expected = by_chunks(wide, empty(wide))
    assert_close(state, expected, tolerance=2e-5)


def test_autocast_changes_nothing():
    x = inputs(40, dtype=torch.float32)
    expected = by_chunks(x, empty(x))
    with torch.autocast(x.q.device.type, torch.bfloat16):
        found, alongside = by_chunks(x, empty(x)), in_parallel(x, empty(x))
    assert_close(found, expected, tolerance=0.0)
    assert_close(alongside, expected, tolerance=1e-4)


def test_an_exponential_gate_keeps_the_maximum_and_a_sigmoid_one_cannot():
    # One head reads the largest number so far: keys and queries are the same, the gate follows the number.
    torch.manual_seed(0)
    numbers = torch.rand(1, 200, 1, dtype=FLOAT64)
    largest = numbers.cummax(dim=1).values
    same = torch.ones(1, 200, 1, 1, dtype=FLOAT64)
    kept = torch.zeros_like(numbers)  # log of an open forget gate

    def error(log_input: Tensor) -> float:
        x = Inputs(same, same, numbers.unsqueeze(-1), log_input, kept)
        h, _ = by_chunks(x, empty(x))
        return (h.squeeze(-1) - largest).abs()[:, 20:].max().item()

    assert error(200.0 * numbers) < 0.02
    slopes, offsets = torch.meshgrid(torch.linspace(0, 200, 9), torch.linspace(-200, 100, 13), indexing="ij")
    sigmoid = [
        error(F.logsigmoid(slope * numbers + offset))
        for slope, offset in zip(slopes.flatten().tolist(), offsets.flatten().tolist(), strict=True)
        # Far below zero σ is an exponential too, and its outputs too small to be a gate's.
        if slope + offset > 0
    ]
    assert min(sigmoid) > 0.05


@pytest.mark.oracle
@pytest.mark.parametrize("name", ["parallel--native_autograd", "chunkwise--native_autograd"])
def test_it_is_that_of_mlstm_kernels(name: str):
    from mlstm_kernels.torch import get_mlstm_kernel

    x = inputs(128, dim=16, dtype=torch.float32)
    forget = torch.randn(2, 128, 2)
    q, k, v, i, f = (tensor.transpose(1, 2) for tensor in (x.q, x.k, x.v, x.log_input, forget))
    arguments = {"chunk_size": 32} if name.startswith("chunkwise") else {}
    expected = get_mlstm_kernel(name)(
        q=q, k=k, v=v, i=i, f=f, eps=0.0, autocast_kernel_dtype=torch.float32, **arguments
    )
    x = x._replace(log_forget=F.logsigmoid(forget))
    found, _ = by_chunks(x, empty(x), chunk_size=64)
    assert_close(found, expected.transpose(1, 2), tolerance=2e-5)
    by = (x.q, x.k, x.v, x.log_input)
    assert_close(gradients(found, by), gradients(expected.transpose(1, 2), by), tolerance=1e-4)


@pytest.mark.oracle
def test_its_step_is_that_of_mlstm_kernels():
    from mlstm_kernels.torch.recurrent.native_step import mlstm_recurrent_step__native

    x = inputs(20, dim=16)
    forget = torch.randn(2, 20, 2, dtype=FLOAT64)
    x = x._replace(log_forget=F.logsigmoid(forget))
    state = full(x)
    found, last = by_steps(x, state)
    # There the scale is on the query, so that its memory is larger by √K.
    held = (state.memory_BHKV * 4, state.normaliser_BHK * 4, state.log_scale_BH.unsqueeze(-1))
    for t in range(20):
        h, held = mlstm_recurrent_step__native(
            x.q[:, t], x.k[:, t], x.v[:, t], x.log_input[:, t, :, None], forget[:, t, :, None], *held,
            eps=0.0, dtype_state=FLOAT64,
        )  # fmt: skip
        assert_close(found[:, t], h, tolerance=1e-11)
    assert_close((last.memory_BHKV * 4, last.normaliser_BHK * 4), held[:2], tolerance=1e-11)
