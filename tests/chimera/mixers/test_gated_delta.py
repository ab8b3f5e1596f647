"""The gated delta rule: its three forms against each other, and what the rule promises."""

from typing import NamedTuple

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from chimera.mixers.gated_delta.chunk import gated_delta_chunks
from chimera.mixers.gated_delta.reference import gated_delta_reference
from chimera.mixers.gated_delta.step import gated_delta_step
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
    """Tokens and a state."""

    q: Tensor
    k: Tensor
    v: Tensor
    log_decay: Tensor
    erase: Tensor
    write: Tensor
    state: Tensor

    def at(self, span: slice) -> "Inputs":
        return Inputs(*(x[:, span] for x in self[:-1]), self.state)


def inputs(
    num_tokens: int,
    *,
    batch: int = 2,
    heads: int = 2,
    key_dim: int = 8,
    value_dim: int = 5,
    dtype: torch.dtype = FLOAT64,
    seed: int = 0,
) -> Inputs:
    """Random tokens as the layer makes them, but with two different write gates."""
    torch.manual_seed(seed)
    vectors = (batch, num_tokens, heads)
    return Inputs(
        *leaves(
            F.normalize(torch.randn(*vectors, key_dim, dtype=dtype), dim=-1),
            F.normalize(torch.randn(*vectors, key_dim, dtype=dtype), dim=-1),
            torch.randn(*vectors, value_dim, dtype=dtype),
            -F.softplus(2 * torch.randn(vectors, dtype=dtype) - 2),
            torch.rand(vectors, dtype=dtype),
            torch.rand(vectors, dtype=dtype),
            torch.randn(batch, heads, key_dim, value_dim, dtype=dtype),
        )
    )


def by_reference(x: Inputs, resets_BT: Tensor | None = None) -> tuple[Tensor, Tensor]:
    return gated_delta_reference(
        x.q, x.k, x.v, log_decay_BTH=x.log_decay, erase_BTH=x.erase, write_BTH=x.write,
        state_BHKV=x.state, resets_BT=resets_BT,
    )  # fmt: skip


def by_chunks(x: Inputs, resets_BT: Tensor | None = None, *, chunk_size: int = 16) -> tuple[Tensor, Tensor]:
    return gated_delta_chunks(
        x.q, x.k, x.v, log_decay_BTH=x.log_decay, erase_BTH=x.erase, write_BTH=x.write,
        state_BHKV=x.state, resets_BT=resets_BT, chunk_size=chunk_size,
    )  # fmt: skip


def by_steps(x: Inputs) -> tuple[Tensor, Tensor]:
    state, outputs = x.state, list[Tensor]()
    for t in range(x.q.shape[1]):
        output, state = gated_delta_step(
            x.q[:, t], x.k[:, t], x.v[:, t], log_decay_BH=x.log_decay[:, t], erase_BH=x.erase[:, t],
            write_BH=x.write[:, t], state_BHKV=state,
        )  # fmt: skip
        outputs.append(output)
    return torch.stack(outputs, dim=1), state


@pytest.mark.parametrize(
    ("num_tokens", "chunk_size"), [(1, 64), (7, 1), (40, 16), (130, 64), (130, 130), (300, 256)]
)
def test_chunks_are_the_reference(num_tokens: int, chunk_size: int):
    x = inputs(num_tokens)
    expected, found = by_reference(x), by_chunks(x, chunk_size=chunk_size)
    assert_close(found, expected, tolerance=1e-10)
    assert_close(gradients(found, x), gradients(expected, x), tolerance=1e-10)


@pytest.mark.parametrize("chunk_size", [1, 16, 64, 256])
def test_chunks_are_the_reference_in_float32(chunk_size: int):
    x = inputs(300, key_dim=64, value_dim=64, batch=1)
    narrow = Inputs(*(tensor.float() for tensor in x))
    assert_close(by_chunks(narrow, chunk_size=chunk_size), by_reference(x), tolerance=1e-5)


def test_steps_are_the_reference():
    x = inputs(20)
    expected, found = by_reference(x), by_steps(x)
    assert_close(found, expected, tolerance=1e-12)
    assert_close(gradients(found, x), gradients(expected, x), tolerance=1e-12)


@settings(max_examples=25)
@given(case=lengths_and_cuts(most_tokens=50), chunk_size=st.integers(1, 20))
def test_the_state_carries_over_any_cut(case: tuple[int, list[int]], chunk_size: int):
    num_tokens, cuts = case
    x = inputs(num_tokens, heads=1)

    def run(span: slice, state: Tensor) -> tuple[Tensor, Tensor]:
        return by_chunks(x.at(span)._replace(state=state), chunk_size=chunk_size)

    whole = by_chunks(x, chunk_size=chunk_size)
    cut = in_pieces(run, pieces(num_tokens, cuts), x.state)
    assert_close(cut, whole, tolerance=1e-11)
    assert_close(gradients(cut, x), gradients(whole, x), tolerance=1e-11)


@settings(max_examples=25)
@given(case=lengths_and_cuts(most_tokens=50), chunk_size=st.integers(1, 20))
def test_packed_documents_are_separate_ones(case: tuple[int, list[int]], chunk_size: int):
    num_tokens, cuts = case
    x = inputs(num_tokens, batch=1, heads=1)
    spans = pieces(num_tokens, cuts)
    resets_BT = resets_at(num_tokens, [start for start, _ in spans[1:]])
    packed = by_chunks(x, resets_BT, chunk_size=chunk_size)
    # The first document goes on from the state, every other starts from nothing.
    parts = [
        by_chunks(
            x.at(slice(*span))._replace(state=torch.zeros_like(x.state) if span[0] else x.state),
            chunk_size=chunk_size,
        )
        for span in spans
    ]
    separate = (torch.cat([output for output, _ in parts], dim=1), parts[-1][1])
    assert_close(packed, separate, tolerance=1e-11)
    assert_close(packed, by_reference(x, resets_BT), tolerance=1e-11)
    assert_close(gradients(packed, x), gradients(separate, x), tolerance=1e-11)


def test_gradcheck():
    x = inputs(7, batch=1, heads=1, key_dim=3, value_dim=2)
    resets_BT = resets_at(7, [4])

    def run(*tensors: Tensor) -> tuple[Tensor, Tensor]:
        return by_chunks(Inputs(*tensors), resets_BT, chunk_size=3)

    assert torch.autograd.gradcheck(run, tuple(x))


def gates(num_tokens: int, *, alpha: float, beta: float) -> dict[str, Tensor]:
    ones = torch.ones(1, num_tokens, 1, dtype=FLOAT64)
    return {"log_decay_BTH": (alpha * ones).log(), "erase_BTH": beta * ones, "write_BTH": beta * ones}


def test_orthonormal_keys_are_recalled_exactly():
    torch.manual_seed(0)
    k = torch.linalg.qr(torch.randn(64, 64, dtype=FLOAT64)).Q.view(1, 64, 1, 64)
    v = torch.randn(1, 64, 1, 64, dtype=FLOAT64)
    _, state = gated_delta_chunks(
        k, k, v, **gates(64, alpha=1.0, beta=1.0), state_BHKV=torch.zeros(1, 1, 64, 64, dtype=FLOAT64)
    )
    recalled = torch.einsum("btk,bkv->btv", k[:, :, 0], state[:, 0])
    assert (recalled - v[:, :, 0]).abs().max() <= 1e-12


def test_a_second_write_replaces_the_first():
    k = F.normalize(torch.randn(1, 1, 1, 8, dtype=FLOAT64), dim=-1).expand(-1, 2, -1, -1)
    v = torch.randn(1, 2, 1, 5, dtype=FLOAT64)
    o, _ = gated_delta_chunks(
        k, k, v, **gates(2, alpha=1.0, beta=1.0), state_BHKV=torch.zeros(1, 1, 8, 5, dtype=FLOAT64)
    )
    assert_close(o, v, tolerance=1e-12)


@pytest.mark.parametrize("alpha", [1.0, 0.9])
def test_without_writing_the_state_only_fades(alpha: float):
    x = inputs(20, batch=1, heads=1)
    _, state = gated_delta_chunks(
        x.q, x.k, x.v, **gates(20, alpha=alpha, beta=0.0), state_BHKV=x.state, chunk_size=8
    )
    assert_close(state, alpha**20 * x.state, tolerance=1e-13)


def test_no_output_depends_on_a_later_token():
    x = inputs(20)
    o, _ = by_chunks(x, chunk_size=8)
    grads = Inputs(*torch.autograd.grad(o[:, 11].sum(), x))
    for grad in grads[:-1]:
        assert (grad[:, 12:] == 0).all()
    # And it does depend on the earlier ones, across the chunks' borders.
    assert (grads.v[:, :12].abs().amax(dim=(0, 2, 3)) > 0).all()


def test_strong_decay_underflows_to_nothing_and_not_to_nan():
    x = inputs(64, dtype=torch.float32)
    x = x._replace(log_decay=(x.log_decay - 100.0).detach().requires_grad_())
    o, state = by_chunks(x, chunk_size=32)
    o.sum().backward()
    assert o.isfinite().all()
    assert state.isfinite().all()
    assert all(tensor.grad is not None and tensor.grad.isfinite().all() for tensor in x)


def test_a_long_run_from_bfloat16_stays_finite_and_does_not_drift():
    x = Inputs(*(tensor.detach() for tensor in inputs(4096, batch=1, key_dim=16, value_dim=16)))
    x = x._replace(log_decay=x.log_decay * 1e-3)  # hardly any forgetting: errors would pile up
    narrow = Inputs(*(tensor.bfloat16() for tensor in x))
    rounded = Inputs(*(tensor.double() for tensor in narrow))
    o, state = by_chunks(narrow, chunk_size=64)
    assert o.dtype == state.dtype == torch.float32
    assert_close((o, state), by_chunks(rounded, chunk_size=64), tolerance=1e-5)


def test_float32_steps_do_not_drift_from_chunks():
    x = Inputs(*(tensor.detach() for tensor in inputs(1024, batch=1, dtype=torch.float32)))
    x = x._replace(log_decay=x.log_decay * 1e-3)
    exact = by_chunks(Inputs(*(tensor.double() for tensor in x)))
    assert_close(by_steps(x), exact, tolerance=1e-5)


def test_autocast_changes_nothing():
    x = inputs(40, dtype=torch.float32)
    expected = by_chunks(x)
    with torch.autocast(x.q.device.type, torch.bfloat16):
        found = by_chunks(x)
        stepped = by_steps(x)
    assert_close(found, expected, tolerance=0.0)
    assert_close(stepped, expected, tolerance=1e-5)


@pytest.mark.oracle
@pytest.mark.parametrize("form", ["torch_chunk_gated_delta_rule", "torch_recurrent_gated_delta_rule"])
def test_it_is_that_of_transformers(form: str):
    from transformers.models.qwen3_next import modeling_qwen3_next

    x = inputs(150, key_dim=16, value_dim=16, dtype=torch.float32)
    x = x._replace(write=x.erase)
    # Optional kernels of other packages may stand in front of the plain functions.
    expected = getattr(modeling_qwen3_next, form).__wrapped__(
        x.q, x.k, x.v, g=x.log_decay, beta=x.erase, initial_state=x.state, output_final_state=True
    )
    found = by_chunks(x._replace(q=x.q * 16**-0.5), chunk_size=64)
    assert_close(found, expected, tolerance=2e-6)


@pytest.mark.oracle
def test_it_is_that_of_opengdn():
    from opengdn.reference import gated_delta

    x = inputs(60)
    x = x._replace(write=x.erase)
    o, state = gated_delta(x.q, x.k, x.v, x.log_decay.exp(), x.erase, x.state.mT)
    found = by_chunks(x)
    assert_close(found, (o, state.mT), tolerance=1e-12)
    assert_close(gradients(found, x), gradients((o, state.mT), x), tolerance=1e-12)
