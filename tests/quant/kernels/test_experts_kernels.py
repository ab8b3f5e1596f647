"""Visits of experts: pairs sorted as the reference sorts them, and products with the bits of lone tokens."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from quant.activations import QuantizedActivations, quantize_activations
from quant.kernels import arguments as product
from quant.kernels.elementary import places as vector
from quant.kernels.experts import places as at
from quant.kernels.experts import visits
from quant.kernels.experts.reference import sort_pairs
from quant.kernels.swiglu import kernels as gated
from quant.kernels.swiglu.reference import swiglu_norm_quantize
from quant.kernels.ternary import plain
from quant.native import address_of
from quant.packing import PackedTernary, pack_ternary
from quant.ternary import TernaryWeights, quantize_ternary, ternary_matmul

EPS = np.float32(1e-6)


class Layer:
    """Experts with random weights, and every buffer that their visits need, poisoned."""

    def __init__(self, *, num_experts: int, width: int, inner: int, most_pairs: int) -> None:
        rng = np.random.default_rng(7)
        shapes = {"gate": (inner, width), "up": (inner, width), "down": (width, inner)}
        self.weights: list[dict[str, TernaryWeights]] = [
            {
                name: quantize_ternary(rng.standard_normal(shape, dtype=np.float32))
                for name, shape in shapes.items()
            }
            for _ in range(num_experts)
        ]
        self.packed: list[dict[str, PackedTernary]] = [
            {name: pack_ternary(weights) for name, weights in expert.items()} for expert in self.weights
        ]
        self.gains = rng.uniform(0.5, 1.5, (num_experts, inner)).astype(np.float32)
        self.num_experts, self.width, self.inner = num_experts, width, inner
        empty = quantize_activations(np.ones((most_pairs, width), dtype=np.float32))
        between = quantize_activations(np.ones((most_pairs, inner), dtype=np.float32))
        self.tokens = [empty.codes, empty.scales, empty.neg_sums]
        self.between = [between.codes, between.scales, between.neg_sums]
        padded = -(-max(width, inner) // 64) * 64
        self.rows = {
            name: np.full((most_pairs, padded), np.nan, dtype=np.float32)
            for name in ("gate", "up", "values", "down")
        }
        self.blocks = np.zeros((num_experts, at.BLOCK_BYTES // 8), dtype=np.int64)
        for block, packed, gain in zip(self.blocks, self.packed, self.gains, strict=True):
            self._set(block, at.GATE, packed["gate"], self.tokens, self.rows["gate"])
            self._set(block, at.UP, packed["up"], self.tokens, self.rows["up"])
            self._set(block, at.DOWN, packed["down"], self.between, self.rows["down"])
            inner_table = block[at.INNER // 8 :]
            stride = self.rows["gate"].strides[0]
            inner_table[vector.X_STRIDE] = inner_table[vector.UP_STRIDE] = stride
            inner_table[vector.NUM_INPUTS], inner_table[vector.GAIN] = inner, gain.ctypes.data
            inner_table[vector.EPSILON], inner_table[product.Y_STRIDE] = EPS.view(np.int32), stride
            self._set_strides(inner_table, self.between)

    def _set(
        self, block: NDArray[np.int64], offset: int, packed: PackedTernary, acts: list, y: NDArray[np.float32]
    ) -> None:
        table = block[offset // 8 :]
        table[product.CODES], table[product.SCALES] = packed.codes.ctypes.data, packed.scales.ctypes.data
        table[product.NUM_BLOCKS], table[product.Y_STRIDE] = -(-packed.num_inputs // 64), y.strides[0]
        self._set_strides(table, acts)

    def _set_strides(self, table: NDArray[np.int64], acts: list) -> None:
        table[product.Q_STRIDE], table[product.D_STRIDE] = acts[0].strides[0], acts[1].strides[0]

    def visit(self, acts: QuantizedActivations, chosen: NDArray[np.int64], *, parts: int) -> "Visited":
        """Everything from dispatch to the last product, each operation in parts."""
        num_tokens, num_chosen = chosen.shape
        pairs = chosen.size
        found = Visited(
            places=np.full(chosen.shape, -1),
            tokens=np.full(pairs, -1),
            counted=np.zeros(self.num_experts, int),
        )
        cells, visited = np.full(2, -1), np.full(self.num_experts, -1)
        bases = np.zeros(at.NUM_BASES, dtype=np.int64)
        for first, arrays in (
            (at.TOKEN_Q, (acts.codes, acts.scales, acts.neg_sums)),
            (at.PAIR_Q, self.tokens),
            (at.INNER_Q, self.between),
        ):
            bases[first : first + 3] = [array.ctypes.data for array in arrays]
        for place, name in (
            (at.GATE_ROWS, "gate"),
            (at.UP_ROWS, "up"),
            (at.INNER_ROWS, "values"),
            (at.DOWN_ROWS, "down"),
        ):
            self.rows[name][...] = np.nan
            bases[place] = self.rows[name].ctypes.data
        table = np.zeros(at.NUM_PLACES, dtype=np.int64)
        table[at.NUM_EXPERTS], table[at.NUM_CHOSEN], table[at.NUM_TOKENS] = (
            self.num_experts,
            num_chosen,
            num_tokens,
        )
        for place, array in (
            (at.CHOSEN, chosen),
            (at.PAIR_PLACES, found.places),
            (at.PAIR_TOKENS, found.tokens),
            (at.TABLES, self.blocks),
            (at.VISITED, visited),
            (at.COUNTED, found.counted),
            (at.BASES, bases),
            (at.Q, acts.codes),
            (at.D, acts.scales),
            (at.STARTS, acts.neg_sums),
            (at.SORTED_Q, self.tokens[0]),
            (at.SORTED_D, self.tokens[1]),
            (at.SORTED_STARTS, self.tokens[2]),
        ):
            table[place] = array.ctypes.data
        table[at.NUM_VISITED], table[at.NUM_GATHERED] = cells.ctypes.data, cells[1:].ctypes.data
        table[at.Q_STRIDE], table[at.D_STRIDE] = acts.codes.strides[0], acts.scales.strides[0]
        visits.dispatch(table.ctypes.data, 0, 1)
        found.num_gathered = int(cells[1])
        assert visited[: cells[0]].tolist() == sorted(set(chosen.reshape(-1).tolist()))
        in_parts(visits.gather, table, found.num_gathered, parts)
        for kernel, call, offset, units in (
            (visits.visit, plain.matmul, at.GATE, -(-self.inner // 32)),
            (visits.visit, plain.matmul, at.UP, -(-self.inner // 32)),
            (visits.visit_rows, gated.swiglu_norm_quantize, at.INNER, pairs),
            (visits.visit, plain.matmul, at.DOWN, -(-self.width // 32)),
        ):
            table[at.FUNCTION], table[at.TABLE] = address_of(call), offset
            in_parts(kernel, table, units, parts)
        return found

    def alone(self, acts: QuantizedActivations, token: int, expert: int) -> NDArray[np.float32]:
        """What an expert makes of one token, by the references."""
        one = QuantizedActivations(
            codes=acts.codes[token, None],
            scales=acts.scales[token, None],
            neg_sums=acts.neg_sums[token, None],
            num_inputs=self.width,
        )
        gate, up = (ternary_matmul(self.weights[expert][name], one) for name in ("gate", "up"))
        _, codes, scales, sums = swiglu_norm_quantize(gate, up, self.gains[expert], EPS)
        inner = QuantizedActivations(codes=codes, scales=scales, neg_sums=sums, num_inputs=self.inner)
        return ternary_matmul(self.weights[expert]["down"], inner)[0]


class Visited:
    """What dispatch tells."""

    def __init__(
        self, *, places: NDArray[np.int64], tokens: NDArray[np.int64], counted: NDArray[np.int64]
    ) -> None:
        self.places, self.tokens, self.counted = places, tokens, counted
        self.num_gathered = -1


def in_parts(kernel, table: NDArray[np.int64], units: int, parts: int) -> None:
    bounds = [units * part // parts for part in range(parts + 1)]
    for first, last in pairwise(bounds):
        kernel(table.ctypes.data, first, last)


@pytest.fixture(scope="module")
def layer() -> Layer:
    return Layer(num_experts=5, width=80, inner=40, most_pairs=60)


@settings(max_examples=25)
@given(
    num_tokens=st.integers(1, 20),
    num_chosen=st.integers(1, 3),
    parts=st.integers(1, 4),
    seed=st.integers(0, 2**32),
)
def test_visits_give_the_bits_of_lone_tokens(
    layer: Layer, num_tokens: int, num_chosen: int, parts: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    acts = quantize_activations(rng.standard_normal((num_tokens, layer.width), dtype=np.float32))
    chosen = np.stack([rng.permutation(layer.num_experts)[:num_chosen] for _ in range(num_tokens)])
    found = layer.visit(acts, chosen, parts=parts)
    places, tokens = sort_pairs(chosen)
    assert np.array_equal(found.places, places)
    assert np.array_equal(found.tokens, tokens)
    assert np.array_equal(found.counted, np.bincount(chosen.reshape(-1), minlength=layer.num_experts))
    assert found.num_gathered == (0 if num_tokens == 1 else chosen.size)
    for token in range(num_tokens):
        for pick in range(num_chosen):
            row = layer.rows["down"][found.places[token, pick], : layer.width]
            assert row.tobytes() == layer.alone(acts, token, int(chosen[token, pick])).tobytes()
