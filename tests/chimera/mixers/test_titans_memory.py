"""The Titans memory: chunks and steps against gradients by automatic differentiation, token by token."""

from typing import NamedTuple

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from chimera.mixers.packing import Packing
from chimera.mixers.titans.chunk import MemoryChunks, memory_chunks
from chimera.mixers.titans.layout import ChunkLayout, chunk_layout
from chimera.mixers.titans.memory import read_memory, write_gradient
from chimera.mixers.titans.reference import MemoryTrace, memory_reference
from chimera.mixers.titans.state import FastWeights, fresh_weights
from chimera.mixers.titans.step import enter_chunk, memory_step
from tests.chimera.mixers.helpers import (
    FLOAT64,
    assert_close,
    gradients,
    leaves,
    lengths_and_cuts,
    pieces,
    resets_at,
)

CHUNK = 8


class Inputs(NamedTuple):
    """Tokens, and the weights that a document begins with."""

    k: Tensor
    v: Tensor
    log_keep: Tensor
    log_momentum: Tensor
    rate: Tensor
    initial: Tensor

    def at(self, span: slice) -> "Inputs":
        return Inputs(*(x[:, span] for x in self[:-1]), self.initial)


def inputs(
    num_tokens: int,
    *,
    batch: int = 2,
    heads: int = 2,
    dim: int = 4,
    rate: float = 0.3,
    dtype: torch.dtype = FLOAT64,
) -> Inputs:
    torch.manual_seed(num_tokens)
    gates = (batch, num_tokens, heads)
    return Inputs(
        *leaves(
            F.normalize(torch.randn(*gates, dim, dtype=dtype), dim=-1),
            torch.randn(*gates, dim, dtype=dtype),
            F.logsigmoid(torch.randn(gates, dtype=dtype) + 2),
            F.logsigmoid(torch.randn(gates, dtype=dtype)),
            rate * torch.rand(gates, dtype=dtype),
            0.5 * torch.randn(heads, 2, dim, dim, dtype=dtype),
        )
    )


def layout_of(x: Inputs, *, position_B: Tensor | None = None, packing: Packing | None = None) -> ChunkLayout:
    batch, num_tokens = x.k.shape[:2]
    return chunk_layout(
        batch=batch,
        num_tokens=num_tokens,
        memory_chunk=CHUNK,
        position_B=position_B,
        packing=packing,
        device=x.k.device,
    )


def by_chunks(
    x: Inputs,
    state: FastWeights,
    layout: ChunkLayout,
    *,
    backprop_chunks: int | None = None,
    bound: float = 1.0,
) -> MemoryChunks:
    return memory_chunks(
        x.k, x.v, log_keep_BTH=x.log_keep, log_momentum_BTH=x.log_momentum, rate_BTH=x.rate, state=state,
        initial=x.initial, layout=layout, backprop_chunks=backprop_chunks, gradient_bound=bound,
    )  # fmt: skip


def by_reference(
    x: Inputs,
    state: FastWeights,
    *,
    position_B: Tensor | None = None,
    resets_BT: Tensor | None = None,
    bound: float = 1.0,
) -> MemoryTrace:
    start_B = torch.zeros(x.k.shape[0], dtype=torch.int64) if position_B is None else position_B
    return memory_reference(
        x.k, x.v, log_keep_BTH=x.log_keep, log_momentum_BTH=x.log_momentum, rate_BTH=x.rate, state=state,
        initial=x.initial, position_B=start_B, memory_chunk=CHUNK, resets_BT=resets_BT, gradient_bound=bound,
    )  # fmt: skip


def by_steps(x: Inputs, state: FastWeights, position_B: Tensor) -> tuple[Tensor, Tensor, FastWeights]:
    borders, surprises = list[Tensor](), list[Tensor]()
    for t in range(x.k.shape[1]):
        state = enter_chunk(state, position_B=position_B + t, memory_chunk=CHUNK)
        borders.append(state.border)
        state, surprise = memory_step(
            x.k[:, t], x.v[:, t], log_keep_BH=x.log_keep[:, t], log_momentum_BH=x.log_momentum[:, t],
            rate_BH=x.rate[:, t], state=state,
        )  # fmt: skip
        surprises.append(surprise)
    return torch.stack(borders, dim=1), torch.stack(surprises, dim=1), state


def of_tokens(memory: MemoryChunks, layout: ChunkLayout) -> tuple[Tensor, Tensor, FastWeights]:
    """Border, surprise and last state, as the reference gives them."""
    weights = memory.border.flatten(3).unsqueeze(3).expand(-1, -1, -1, CHUNK, -1)
    border = layout.to_tokens(weights).unflatten(-1, memory.border.shape[3:])
    return border, layout.to_tokens(memory.surprise.unsqueeze(-1)).squeeze(-1), memory.state


def random_state(x: Inputs) -> FastWeights:
    """A state in the midst of a stream."""
    shape = (x.k.shape[0], *x.initial.shape)
    return FastWeights(*leaves(*(0.3 * torch.randn(shape, dtype=x.k.dtype) for _ in range(3))))


def compare(found: tuple[Tensor, Tensor, FastWeights], expected: MemoryTrace, given_by: list[Tensor]) -> None:
    assert_close(found, expected, tolerance=1e-11)
    learnt = (expected.border, expected.state)
    assert_close(gradients((found[0], found[2]), given_by), gradients(learnt, given_by), tolerance=1e-10)


@pytest.mark.parametrize("num_tokens", [1, 8, 21, 40])
@pytest.mark.parametrize("start", [None, [0, 0], [5, 8], [16, 3]])
def test_chunks_are_the_reference(num_tokens: int, start: list[int] | None):
    x = inputs(num_tokens)
    position_B = None if start is None else torch.tensor(start)
    state = fresh_weights(x.initial, 2) if start is None else random_state(x)
    layout = layout_of(x, position_B=position_B)
    given_by = [*x, *(() if start is None else state)]
    expected = by_reference(x, state, position_B=position_B)
    compare(of_tokens(by_chunks(x, state, layout), layout), expected, given_by)


@pytest.mark.parametrize("start", [[0, 0], [5, 8]])
def test_steps_are_the_reference(start: list[int]):
    x = inputs(21)
    state, position_B = random_state(x), torch.tensor(start)
    expected = by_reference(x, state, position_B=position_B)
    compare(by_steps(x, state, position_B), expected, [*x, *state])


@settings(max_examples=25)
@given(case=lengths_and_cuts(most_tokens=40), start=st.integers(0, 10), more=st.integers(0, 2))
def test_packed_documents_are_separate_ones(case: tuple[int, list[int]], start: int, more: int):
    num_tokens, cuts = case
    x = inputs(num_tokens, batch=1, heads=1)
    state, position_B = random_state(x), torch.tensor([start])
    spans = pieces(num_tokens, cuts)
    resets_BT = resets_at(num_tokens, [first for first, _ in spans[1:]])
    # Room for more documents than there are costs empty chunks and changes nothing.
    packing = Packing(resets_BT, len(spans) - 1 + more)
    layout = layout_of(x, position_B=position_B, packing=packing)
    found = of_tokens(by_chunks(x, state, layout), layout)
    compare(found, by_reference(x, state, position_B=position_B, resets_BT=resets_BT), [*x, *state])
    for first, after in spans[1:]:
        alone = x.at(slice(first, after))
        own = layout_of(alone)
        border, surprise, _ = of_tokens(by_chunks(alone, fresh_weights(x.initial, 1), own), own)
        assert_close(found[0][:, first:after], border, tolerance=1e-12)
        assert_close(found[1][:, first:after], surprise, tolerance=1e-12)


@settings(max_examples=25)
@given(case=lengths_and_cuts(most_tokens=40))
def test_the_state_carries_over_any_cut(case: tuple[int, list[int]]):
    num_tokens, cuts = case
    x = inputs(num_tokens, heads=1)
    fresh = fresh_weights(x.initial, 2)
    layout = layout_of(x)
    whole = of_tokens(by_chunks(x, fresh, layout), layout)
    state, parts = fresh, list[tuple[Tensor, Tensor]]()
    for first, after in pieces(num_tokens, cuts):
        part = x.at(slice(first, after))
        layout = layout_of(part, position_B=torch.tensor([first, first]))
        border, surprise, state = of_tokens(by_chunks(part, state, layout), layout)
        parts.append((border, surprise))
    cut = (*(torch.cat(tensors, dim=1) for tensors in zip(*parts, strict=True)), state)
    assert_close(cut, whole, tolerance=1e-12)
    assert_close(gradients((cut[0], state), x), gradients((whole[0], whole[2]), x), tolerance=1e-11)


def test_a_row_with_more_documents_than_stated_is_refused():
    # On the CPU alone: a GPU's own check of an index leaves its process without a GPU.
    with torch.device("cpu"), pytest.raises((RuntimeError, IndexError), match="out of bounds"):
        layout_of(inputs(10, batch=1), packing=Packing(torch.ones(1, 10, dtype=torch.bool), 1))


def test_the_factors_are_the_gradient():
    torch.manual_seed(0)
    weights, k, v = torch.randn(2, 5, 5, dtype=FLOAT64), torch.randn(3, 5, dtype=FLOAT64), torch.randn(3, 5)
    k = F.normalize(k, dim=-1)

    def loss(weights: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return 0.5 * (read_memory(weights, k.unsqueeze(0)).squeeze(0) - v).square().sum()

    expected = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0, 0))(weights, k, v.double())
    found = write_gradient(weights, k=k, v=v.double())
    assert_close(
        found.left.transpose(0, 1)[..., None] * found.right.transpose(0, 1)[..., None, :],
        expected,
        tolerance=1e-12,
    )
    assert_close(found.squared_norm.sqrt(), expected.flatten(1).norm(dim=-1), tolerance=1e-12)


def test_gradcheck():
    x = inputs(11, batch=1, heads=1, dim=2)
    x = Inputs(*(tensor.detach().requires_grad_() for tensor in x))
    layout = layout_of(x, packing=Packing(resets_at(11, [9]), 1))

    def run(*tensors: Tensor) -> tuple[Tensor, ...]:
        again = Inputs(*tensors)
        memory = by_chunks(again, fresh_weights(again.initial, 1), layout)
        return memory.border, *memory.state

    assert torch.autograd.gradcheck(run, tuple(x), fast_mode=True)


@pytest.mark.parametrize("backprop_chunks", [1, 2, 3])
def test_gradients_reach_as_many_chunks_back_as_asked(backprop_chunks: int):
    x = inputs(5 * CHUNK, batch=1)
    fresh = fresh_weights(x.initial, 1)
    layout = layout_of(x)
    found = by_chunks(x, fresh, layout, backprop_chunks=backprop_chunks)
    full = by_chunks(x, fresh, layout)
    assert_close((found.border, found.state), (full.border, full.state), tolerance=1e-12)

    # By definition: a chunk's border from the weights some chunks back, which are given.
    borders: list[Tensor] = []
    for chunk in range(5):
        first = max(0, chunk - backprop_chunks)
        start = by_reference(x.at(slice(0, first * CHUNK)), fresh).state if first else fresh
        if chunk >= backprop_chunks:
            start = FastWeights(*(weights.detach() for weights in start))
        span = x.at(slice(first * CHUNK, chunk * CHUNK))
        borders.append(by_reference(span, start).state.memory if chunk > first else start.memory)
    expected = torch.stack(borders, dim=2)
    assert_close(found.border, expected, tolerance=1e-12)
    assert_close(gradients(found.border, x), gradients(expected, x), tolerance=1e-11)


def test_without_gradients_the_passes_are_left_out_and_the_values_stay():
    x = inputs(30)
    fresh, layout = fresh_weights(x.initial, 2), layout_of(x)
    expected = by_chunks(x, fresh, layout, backprop_chunks=2)
    with torch.no_grad():
        found = by_chunks(x, fresh, layout, backprop_chunks=2)
    assert_close(found, expected, tolerance=1e-13)
    assert not found.border.requires_grad


def constant_gates(x: Inputs, *, keep: float, momentum: float, rate: float) -> Inputs:
    ones = torch.ones_like(x.rate).detach()
    return x._replace(
        log_keep=(keep * ones).log().clamp_min(-1e4),
        log_momentum=(momentum * ones).log().clamp_min(-1e4),
        rate=rate * ones,
    )


def test_without_momentum_and_forgetting_it_is_gradient_descent():
    x = constant_gates(inputs(CHUNK, batch=1, heads=1), keep=1.0, momentum=0.0, rate=0.1)
    memory = by_chunks(x, fresh_weights(x.initial, 1), layout_of(x), bound=1e6)
    weights = x.initial[0].detach().requires_grad_()
    loss = 0.5 * (read_memory(weights, x.k[0, :, 0]) - x.v[0, :, 0]).square().sum()
    expected = weights - 0.1 * torch.autograd.grad(loss, weights)[0]
    assert_close(memory.state.memory[0, 0], expected, tolerance=1e-12)


def test_full_forgetting_leaves_the_last_push_alone():
    x = constant_gates(inputs(CHUNK, batch=1), keep=0.0, momentum=0.9, rate=0.1)
    state = by_chunks(x, fresh_weights(x.initial, 1), layout_of(x)).state
    assert_close(state.memory, state.momentum, tolerance=1e-14)


def test_what_is_repeated_surprises_less_and_what_is_new_more():
    x = inputs(6 * CHUNK, batch=1, heads=1, dim=16)
    x = constant_gates(x, keep=1.0, momentum=0.0, rate=0.02)
    first = torch.zeros(6 * CHUNK, dtype=torch.int64)
    first[-1] = 1  # one pair again and again, a chunk apart at least, and another at the end
    x = x._replace(k=x.k[:, first], v=x.v[:, first])
    surprise = by_chunks(x, fresh_weights(x.initial, 1), layout_of(x)).surprise[0, 0]
    repeated = surprise[:, 0]
    assert (repeated.diff() < 0).all()
    assert surprise[5, -1] > 2 * surprise[5, -2]


def test_a_pair_is_recalled_long_after_only_with_the_memory_on():
    # A pair is learnt, then come 4096 tokens that hardly write: the memory still answers for the pair.
    torch.manual_seed(0)
    learnt = 64 * CHUNK
    x = constant_gates(inputs(4096 + learnt, batch=1, heads=1, dim=16), keep=1.0, momentum=0.0, rate=1e-5)
    k, v = x.k[:, :1].detach(), x.v[:, :1].detach()
    strong = (torch.arange(4096 + learnt) < learnt)[None, :, None]
    x = x._replace(
        k=torch.where(strong[..., None], k, x.k), v=torch.where(strong[..., None], v, x.v),
        rate=torch.where(strong, 0.01, x.rate),
    )  # fmt: skip

    def error(rate: Tensor) -> float:
        with torch.no_grad():
            memory = by_chunks(x._replace(rate=rate), fresh_weights(x.initial, 1), layout_of(x))
            return (read_memory(memory.border[:, :, -1], k.transpose(1, 2)) - v).norm().item()

    assert error(x.rate) < 0.2 * error(torch.zeros_like(x.rate))


def test_a_long_run_in_float32_stays_finite_and_does_not_drift():
    x = Inputs(*(tensor.detach() for tensor in inputs(2048, batch=1, dim=16)))
    narrow = Inputs(*(tensor.float() for tensor in x))
    expected = by_chunks(x, fresh_weights(x.initial, 1), layout_of(x))
    found = by_chunks(narrow, fresh_weights(narrow.initial, 1), layout_of(narrow))
    assert_close(found.state, expected.state, tolerance=1e-4)
    start_B = torch.zeros(1, dtype=torch.int64)
    assert_close(
        by_steps(narrow, fresh_weights(narrow.initial, 1), start_B)[2], expected.state, tolerance=1e-4
    )


@pytest.mark.oracle
@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")
def test_it_is_that_of_titans_pytorch():
    """Where the two meet: gates per token, weights refreshed every chunk, gradients that are not clipped."""
    from titans_pytorch import NeuralMemory

    class Memory(nn.Module):
        def __init__(self, weights: Tensor) -> None:
            super().__init__()
            self.w1 = nn.Parameter(weights[0].clone())
            self.w2 = nn.Parameter(weights[1].clone())

        def forward(self, x: Tensor) -> Tensor:
            return read_memory(torch.stack((self.w1, self.w2), dim=-3), x)

    dim, num_tokens = 8, 3 * CHUNK
    torch.manual_seed(0)
    initial = 0.3 * torch.randn(1, 2, dim, dim)
    theirs = NeuralMemory(
        dim=dim, chunk_size=1, batch_size=CHUNK, heads=1, model=Memory(initial[0]), pre_rmsnorm=False,
        mem_model_norm_add_residual=False, per_head_learned_parameters=False,
        store_memory_loss_fn=lambda found, wanted: 0.5 * (found - wanted).square().sum(dim=-1),
        default_step_transform_max_lr=0.1,
    )  # fmt: skip
    sequence = torch.randn(2, num_tokens, dim)
    with torch.no_grad():
        theirs.to_keys.weight.copy_(torch.eye(dim) * 0.3)
        _, state = theirs(sequence)
        memory, momentum = state.states
        x = Inputs(
            k=theirs.to_keys(sequence).unsqueeze(2),
            v=theirs.to_values(sequence).unsqueeze(2),
            log_keep=F.logsigmoid(-theirs.to_decay_factor(sequence)).view(2, num_tokens, 1),
            log_momentum=F.logsigmoid(theirs.to_momentum(sequence)).view(2, num_tokens, 1),
            rate=0.1 * torch.sigmoid(theirs.to_adaptive_step(sequence)).view(2, num_tokens, 1),
            initial=initial,
        )
        found = by_chunks(x, fresh_weights(initial, 2), layout_of(x), bound=1e6).state
    for place, name in enumerate(("w1", "w2")):
        assert_close(found.memory[:, 0, place], memory[name], tolerance=1e-5)
        assert_close(found.momentum[:, 0, place], momentum[name][0], tolerance=1e-5)
    assert not torch.allclose(found.memory, initial, atol=1e-2)
