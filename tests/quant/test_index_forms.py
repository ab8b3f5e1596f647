"""TL1 and TL2: packing loses nothing, and products by tables are the products."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from configs.errors import ContainerError
from quant.activations import quantize_activations
from quant.index_forms import (
    NUM_PAIR_VALUES,
    NUM_TRIPLE_VALUES,
    pack_tl1,
    pack_tl2,
    tl1_matmul,
    tl2_matmul,
    unpack_tl1,
    unpack_tl2,
)
from quant.ternary import TernaryWeights, num_groups, ternary_matmul


def drawn(num_rows: int, num_inputs: int, *, seed: int) -> TernaryWeights:
    rng = np.random.default_rng(seed)
    scales = np.exp2(rng.uniform(-17, 2, (num_rows, num_groups(num_inputs, group_size=128))))
    codes = rng.integers(-1, 2, (num_rows, num_inputs), dtype=np.int8)
    return TernaryWeights(codes=codes, scales=scales.astype(np.float16), group_size=128)


@settings(max_examples=40, deadline=None)
@given(
    num_rows=st.integers(1, 40),
    num_inputs=st.integers(1, 400),
    num_tokens=st.integers(1, 4),
    seed=st.integers(0, 99),
)
def test_products_by_tables_have_the_bits_of_the_product(
    num_rows: int, num_inputs: int, num_tokens: int, seed: int
) -> None:
    weights = drawn(num_rows, num_inputs, seed=seed)
    tokens = np.random.default_rng(seed).standard_normal((num_tokens, num_inputs), dtype=np.float32)
    tokens[:, ::3] = np.copysign(np.float32(3), tokens[:, ::3])  # codes of ±127, the largest sums
    acts = quantize_activations(tokens)
    right = ternary_matmul(weights, acts)
    one, two = pack_tl1(weights), pack_tl2(weights)
    assert tl1_matmul(one, acts).tobytes() == right.tobytes()
    assert tl2_matmul(two, acts).tobytes() == right.tobytes()
    for again in (unpack_tl1(one), unpack_tl2(two)):
        assert np.array_equal(again.codes, weights.codes)
        assert np.array_equal(again.scales, weights.scales)


def test_bits_a_weight() -> None:
    weights = drawn(1, 64 * 32, seed=0)
    one, two = pack_tl1(weights), pack_tl2(weights)
    assert one.pairs.nbytes * 8 / (64 * 32) == 2
    assert (two.triples.nbytes + two.signs.nbytes + two.pairs.nbytes) * 8 / (64 * 32) == 1.6875


def test_every_triple_has_an_index_of_its_own() -> None:
    every = np.array(np.meshgrid(*[[-1, 0, 1]] * 3, indexing="ij"), dtype=np.int8).reshape(3, -1).T
    codes = np.zeros((27, 64), dtype=np.int8)
    codes[:, :3] = every
    packed = pack_tl2(TernaryWeights(codes=codes, scales=np.ones((27, 1), dtype=np.float16), group_size=128))
    found = {
        (int(index & 15), int(sign & 1))
        for index, sign in zip(packed.triples[:, 0, 0], packed.signs[:, 0], strict=True)
    }
    assert found == {(index, sign) for index in range(NUM_TRIPLE_VALUES) for sign in (0, 1)} - {(0, 1)}


def test_an_index_that_means_nothing_is_refused() -> None:
    one, two = pack_tl1(drawn(2, 64, seed=1)), pack_tl2(drawn(2, 64, seed=1))

    def with_byte(planes: np.ndarray, value: int) -> np.ndarray:
        changed = planes.copy()
        changed.reshape(-1)[0] = value
        return changed

    with pytest.raises(ContainerError, match="of a pair; allowed are 0 … 8"):
        unpack_tl1(replace(one, pairs=with_byte(one.pairs, NUM_PAIR_VALUES)))
    with pytest.raises(ContainerError, match="of a triple; allowed are 0 … 13"):
        unpack_tl2(replace(two, triples=with_byte(two.triples, NUM_TRIPLE_VALUES)))
    zero = replace(two, triples=np.zeros_like(two.triples), signs=with_byte(np.zeros_like(two.signs), 1))
    with pytest.raises(ContainerError, match="nothing to turn"):
        unpack_tl2(zero)
