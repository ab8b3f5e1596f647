"""The Titans layer's attention: blocks of queries and the ring, against one list of what a token sees."""

from typing import NamedTuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from chimera.mixers.packing import Packing, document_of
from chimera.mixers.titans.attention import (
    MemoryTokens,
    Slots,
    Tokens,
    attend,
    attend_once,
    held_positions,
    past_of,
    rolled,
)
from chimera.mixers.titans.attention_reference import attention_reference
from chimera.mixers.titans.layout import ChunkLayout, chunk_layout
from chimera.mixers.titans.rotary import rotate, rotation
from chimera.mixers.titans.state import AttentionState
from tests.chimera.mixers.helpers import FLOAT64, assert_close, gradients, leaves, pieces, resets_at

CHUNK = 8


class Case(NamedTuple):
    """Tokens of one row, their memory tokens, and the slots."""

    tokens: Tokens
    memory_keys_BHTK: Tensor
    memory_values_BHTV: Tensor
    slots: Slots

    def leaves(self) -> list[Tensor]:
        return [*self.tokens, self.memory_keys_BHTK, self.memory_values_BHTV, *self.slots]


def case_of(num_tokens: int, *, num_slots: int = 3, batch: int = 1, dim: int = 4) -> Case:
    torch.manual_seed(num_tokens)
    x = leaves(*(2 * torch.randn(batch, 2, num_tokens, dim, dtype=FLOAT64) for _ in range(6)))
    slots = leaves(*(torch.randn(2, num_slots, dim, dtype=FLOAT64) for _ in range(2)))
    return Case(Tokens(*x[:4]), x[4], x[5], Slots(*slots))


def by_blocks(
    case: Case, *, window: int, block: int, packing: Packing | None = None
) -> tuple[Tensor, ChunkLayout, Tensor]:
    batch, _, num_tokens, _ = case.tokens.q_BHTK.shape
    layout = chunk_layout(
        batch=batch, num_tokens=num_tokens, memory_chunk=CHUNK, position_B=None, packing=packing,
        device=case.slots.keys_HPK.device,
    )  # fmt: skip
    document_BT = (
        torch.zeros(1, num_tokens, dtype=torch.int64) if packing is None else document_of(packing.resets_BT)
    )
    seen = attend(
        case.tokens,
        memory=MemoryTokens(
            keys=layout.to_chunks(case.memory_keys_BHTK.transpose(1, 2)),
            values=layout.to_chunks(case.memory_values_BHTV.transpose(1, 2)),
            filled_BSC=layout.filled_BSC,
        ),
        slots=case.slots,
        past=None,
        document_BT=document_BT,
        layout=layout,
        window=window,
        block=block,
    )
    return seen, layout, document_BT


@settings(max_examples=40)
@given(
    num_tokens=st.integers(1, 40),
    window=st.integers(1, 30),
    block=st.integers(1, 24),
    num_slots=st.integers(0, 3),
    starts=st.lists(st.integers(0, 39), max_size=3),
)
def test_blocks_are_the_reference(
    num_tokens: int, window: int, block: int, num_slots: int, starts: list[int]
):
    case = case_of(num_tokens, num_slots=num_slots)
    begun = sorted({start for start in starts if start < num_tokens})
    packing = Packing(resets_at(num_tokens, begun), len(begun)) if starts else None
    found, layout, document_BT = by_blocks(case, window=window, block=block, packing=packing)
    expected = attention_reference(
        case.tokens,
        memory_keys_BHTK=case.memory_keys_BHTK,
        memory_values_BHTV=case.memory_values_BHTV,
        slots=case.slots,
        document_BT=document_BT,
        position_BT=layout.position_BT,
        window=window,
        memory_chunk=CHUNK,
    )
    assert_close(found, expected, tolerance=1e-12)
    given_by = case.leaves()
    assert_close(gradients(found, given_by), gradients(expected, given_by), tolerance=1e-11)


def test_a_window_counts_the_token_itself():
    case = case_of(30)
    seen, _, _ = by_blocks(case, window=5, block=4)
    (grad,) = torch.autograd.grad(seen[:, 20].sum(), case.tokens.v_BHTV)
    assert [t for t in range(30) if grad[:, :, t].abs().max() > 0] == [16, 17, 18, 19, 20]


@pytest.mark.parametrize("token", [11, 29])
def test_beyond_the_window_it_stays_causal(token: int):
    case = case_of(40)
    seen, _, _ = by_blocks(case, window=7, block=16)
    for grad in torch.autograd.grad(seen[:, token].sum(), case.leaves()[1:6]):
        assert (grad[:, :, token + 1 :] == 0).all()


def test_scores_of_any_size_stay_finite():
    case = case_of(20)
    large = case._replace(tokens=Tokens(*(1e3 * x for x in case.tokens)))
    seen, _, _ = by_blocks(large, window=6, block=8)
    assert seen.isfinite().all()
    assert all(grad.isfinite().all() for grad in gradients(seen, case.leaves()))


@settings(max_examples=25)
@given(cuts=st.lists(st.integers(1, 39), max_size=5), window=st.integers(1, 20))
def test_the_ring_holds_what_a_window_needs(cuts: list[int], window: int):
    torch.manual_seed(0)
    keys, values = torch.randn(2, 1, 2, 40, 4, dtype=FLOAT64)
    start_B = torch.zeros(1, dtype=torch.int64)
    ring = [torch.zeros(1, 2, window, 4, dtype=FLOAT64)] * 2
    for first, after in pieces(40, cuts):
        chunk = torch.zeros(1, 2, CHUNK, 4)
        past = past_of(AttentionState(chunk, chunk, *ring, start_B + first))
        held = min(first, window)
        assert past.valid_BW.sum() == held
        if held:
            assert torch.equal(past.keys[:, :, -held:], keys[:, :, first - held : first])
            assert torch.equal(past.values[:, :, -held:], values[:, :, first - held : first])
        ring = list(
            rolled(
                torch.cat((past.keys, keys[:, :, first:after]), dim=2),
                torch.cat((past.values, values[:, :, first:after]), dim=2),
                last_B=start_B + after - 1,
                window=window,
            )
        )
    assert_close(ring, rolled(keys, values, last_B=start_B + 39, window=window), tolerance=0.0)


def test_slots_of_a_ring():
    held = held_positions(torch.tensor([2, 5, 9]), slot_W=torch.arange(4))
    assert held.tolist() == [[0, 1, 2, -1], [4, 5, 2, 3], [8, 9, 6, 7]]


def test_one_token_sees_what_it_sees_in_a_row():
    case = case_of(21, batch=2)
    window = 6
    seen, _, _ = by_blocks(case, window=window, block=4)
    last_B = torch.full((2,), 20)
    ring = rolled(case.tokens.rotated_k_BHTK, case.tokens.v_BHTV, last_B=last_B, window=window)
    chunk = [torch.zeros(2, 2, CHUNK, 4, dtype=FLOAT64) for _ in range(2)]
    first = 20 // CHUNK * CHUNK
    for store, tokens in zip(chunk, (case.memory_keys_BHTK, case.memory_values_BHTV), strict=True):
        store[:, :, : 21 - first] = tokens[:, :, first:].detach()
        store[:, :, 21 - first :] = 1e6  # what is not there yet must not be looked at
    last = Tokens(*(x[:, :, -1:] for x in case.tokens))
    found = attend_once(
        last, state=AttentionState(*chunk, *ring, last_B + 1), slots=case.slots, position_B=last_B
    )
    assert_close(found, seen[:, -1], tolerance=1e-12)


def test_rotation_keeps_lengths_and_depends_on_distance_alone():
    torch.manual_seed(0)
    q, k = torch.randn(2, 8, dtype=FLOAT64)
    positions = torch.tensor([0, 3, 4_000_000, 4_000_003])
    by = rotation(positions, head_dim=8, theta=10_000.0)
    turned_q, turned_k = rotate(q.expand(4, -1), by), rotate(k.expand(4, -1), by)
    assert_close(turned_q.norm(dim=-1), q.norm().expand(4), tolerance=1e-12)
    near, far = turned_q[1] @ turned_k[0], turned_q[3] @ turned_k[2]
    assert near.item() == pytest.approx(far.item(), abs=1e-8)
    assert near.item() != pytest.approx((q @ k).item(), abs=1e-3)


@pytest.mark.oracle
def test_rotation_is_that_of_transformers():
    from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

    torch.manual_seed(0)
    q, k = torch.randn(2, 1, 3, 20, 8, dtype=FLOAT64)
    by = rotation(torch.arange(20), head_dim=8, theta=500.0)
    cos, sin = (torch.cat((x, x), dim=-1).unsqueeze(0) for x in by)
    assert_close((rotate(q, by), rotate(k, by)), apply_rotary_pos_emb(q, k, cos, sin), tolerance=1e-12)
