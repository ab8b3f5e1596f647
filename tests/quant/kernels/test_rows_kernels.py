"""The products of embeddings and heads: extremes, tokens together and alone, chosen rows, looked-up rows."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from configs.errors import UsageError
from quant.activations import QuantizedActivations, quantize_activations
from quant.cpu import Form
from quant.embedding import MAX_CODES, RowBits, RowWeights, lookup_rows, rows_matmul
from quant.kernels.calls import lookup_call, rows_call, selected_rows_call
from quant.kernels.operation import Kernel, difference
from quant.kernels.table import OPERATIONS
from quant.packing import PackedRows, pack_rows
from tests.quant.kernels import fast

BITS: tuple[RowBits, ...] = (8, 4, 2)
KERNELS: list[tuple[RowBits, Form, Kernel]] = [
    (bits, form, one) for bits in BITS for form, one in OPERATIONS[f"int{bits}_matmul"].forms.items()
]


def table(rows: int, inputs: int, bits: RowBits, *, seed: int = 0) -> tuple[RowWeights, PackedRows]:
    rng = np.random.default_rng(seed)
    limit = MAX_CODES[bits]
    codes = rng.integers(-limit, limit + 1, (rows, inputs), dtype=np.int8)
    weights = RowWeights(codes=codes, scales=rng.random(rows, dtype=np.float32), bits=bits)
    return weights, pack_rows(weights)


def some_tokens(count: int, inputs: int, *, seed: int = 0) -> QuantizedActivations:
    return quantize_activations(
        np.random.default_rng(seed).standard_normal((count, inputs), dtype=np.float32)
    )


@given(
    st.sampled_from(BITS), st.integers(1, 70), st.integers(1, 200), st.integers(1, 9), st.integers(0, 2**32)
)
@settings(max_examples=25)
def test_any_size_equals_the_reference(bits: RowBits, rows: int, inputs: int, tokens: int, seed: int) -> None:
    weights, packed = table(rows, inputs, bits, seed=seed)
    acts = some_tokens(tokens, inputs, seed=seed)
    assert not difference((fast.rows_matmul(packed, acts),), (rows_matmul(weights, acts),))
    ids = np.random.default_rng(seed).integers(0, rows, 5)
    one = some_tokens(1, inputs, seed=seed)
    assert not difference((fast.selected_rows(packed, one, ids),), (rows_matmul(weights, one)[0, ids],))
    assert not difference((fast.lookup_rows(packed, ids),), (lookup_rows(weights, ids),))


@pytest.mark.parametrize(("bits", "form", "kernel"), KERNELS)
@pytest.mark.parametrize("sign", [-1, 1])
@pytest.mark.parametrize("activation", [-1.0, 1.0])
def test_the_largest_sums_do_not_overflow(
    bits: RowBits, form: Form, kernel: Kernel, sign: int, activation: float
) -> None:
    codes = np.full((32, 192), sign * MAX_CODES[bits], dtype=np.int8)
    weights = RowWeights(codes=codes, scales=np.ones(32, dtype=np.float32), bits=bits)
    packed = pack_rows(weights)
    for tokens in (1, 6):
        acts = quantize_activations(np.full((tokens, 192), activation, dtype=np.float32))
        call = rows_call(packed, acts)
        call.run(kernel, 0, call.units)
        assert not difference((call.y,), (rows_matmul(weights, acts),)), form


@pytest.mark.parametrize(("bits", "form", "kernel"), KERNELS)
def test_tokens_together_equal_tokens_alone(bits: RowBits, form: Form, kernel: Kernel) -> None:
    _, packed = table(70, 320, bits)
    acts = some_tokens(11, 320)
    together = rows_call(packed, acts)
    together.run(kernel, 0, together.units)
    for token in range(11):
        part = slice(token, token + 1)
        alone = rows_call(
            packed,
            QuantizedActivations(
                codes=acts.codes[part],
                scales=acts.scales[part],
                neg_sums=acts.neg_sums[part],
                num_inputs=acts.num_inputs,
            ),
        )
        alone.run(kernel, 0, alone.units)
        assert not difference((together.y[part],), (alone.y,)), f"{form}, token {token}"


@pytest.mark.parametrize("bits", BITS)
def test_bytes_that_no_weight_has_give_the_same_bits_in_all_forms(bits: RowBits) -> None:
    """A damaged file is refused when it is verified; unverified, it must at least not differ between CPUs."""
    _, packed = table(64, 192, bits)
    packed.codes.view(np.uint8)[...] = np.random.default_rng(5).integers(0, 256, packed.codes.shape)
    packed.codes.view(np.uint8)[:, :3] = 0x80
    acts = quantize_activations(
        np.sign(np.random.default_rng(6).standard_normal((5, 192))).astype(np.float32)
    )
    found: list[np.ndarray] = []
    for kernel in OPERATIONS[f"int{bits}_matmul"].forms.values():
        call = rows_call(packed, acts)
        call.run(kernel, 0, call.units)
        found.append(call.y)
    assert all(not difference((found[0],), (other,)) for other in found[1:])


def test_ids_outside_the_table_are_refused() -> None:
    _, packed = table(40, 64, 8)
    acts = some_tokens(1, 64)
    for ids in (np.array([40]), np.array([-1, 3])):
        for make in (lambda ids: lookup_call(packed, ids), lambda ids: selected_rows_call(packed, acts, ids)):
            with pytest.raises(UsageError, match=r"ids must lie in 0 … 39"):
                make(ids)
    with pytest.raises(UsageError, match="int64"):
        lookup_call(packed, np.array([1], dtype=np.int32))
    with pytest.raises(UsageError, match="one token, got 2"):
        selected_rows_call(packed, some_tokens(2, 64), np.array([1]))


def test_arrays_that_do_not_fit_are_refused_before_an_address_is_formed() -> None:
    _, packed = table(40, 200, 8)
    acts = some_tokens(3, 200)
    broken = {
        "the tiles": PackedRows(
            codes=packed.codes[:, :-1], scales=packed.scales, num_rows=40, num_inputs=200, bits=8
        ),
        "the scales": PackedRows(
            codes=packed.codes, scales=packed.scales[:1], num_rows=40, num_inputs=200, bits=8
        ),
    }
    for what, wrong in broken.items():
        with pytest.raises(UsageError, match=f"{what} must be"):
            rows_call(wrong, acts)
    strided = QuantizedActivations(
        codes=np.asfortranarray(acts.codes), scales=acts.scales, neg_sums=acts.neg_sums, num_inputs=200
    )
    with pytest.raises(UsageError, match="not contiguous"):
        rows_call(packed, strided)
    with pytest.raises(UsageError, match="inputs"):
        rows_call(packed, some_tokens(3, 199))
    call = rows_call(packed, acts)
    with pytest.raises(UsageError, match=r"the work is 0 … 2, got the part 1 … 3"):
        call.run(OPERATIONS["int8_matmul"].forms["plain"], 1, 3)
