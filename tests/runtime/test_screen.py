"""No logit is farther from its coarse score than the screen says, whatever the head and the token."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from quant.activations import QuantizedActivations, quantize_activations
from quant.embedding import RowWeights, quantize_rows, rows_matmul
from quant.packing import pack_rows, unpack_rows
from runtime.screen import Screen, build_screen, bytes_to_make, norm_above

Floats = NDArray[np.float32]


def screened(rows: RowWeights) -> tuple[Screen, RowWeights]:
    screen = build_screen(pack_rows(rows))
    return screen, unpack_rows(screen.rows)


def check_bound(rows: RowWeights, acts: QuantizedActivations) -> Floats:
    """The bound holds; gives the share of it that is used up by each row."""
    screen, coarse = screened(rows)
    far = np.abs(rows_matmul(rows, acts).astype(np.float64) - rows_matmul(coarse, acts))[0]
    allowed = screen.slack[: len(far)].astype(np.float64) * norm_above(acts)
    assert (far <= allowed).all()
    return (far / np.maximum(allowed, 1e-300)).astype(np.float32)


def worst_token(rows: RowWeights) -> QuantizedActivations:
    """Activations along the error of the first row's copy: the direction in which the bound is tight."""
    _, coarse = screened(rows)
    error = rows.codes[0] * np.float64(rows.scales[0]) - coarse.codes[0] * np.float64(coarse.scales[0])
    return quantize_activations((error / np.abs(error).max()).astype(np.float32)[None])


def test_it_holds_for_usual_heads():
    rng = np.random.default_rng(0)
    for num_rows, num_inputs in ((4100, 65), (300, 384), (40, 2560)):
        rows = quantize_rows(rng.standard_normal((num_rows, num_inputs), dtype=np.float32))
        check_bound(rows, quantize_activations(rng.standard_normal((1, num_inputs), dtype=np.float32)))


def test_it_is_tight_where_a_token_is_all_error():
    rng = np.random.default_rng(1)
    rows = quantize_rows(rng.standard_normal((64, 384), dtype=np.float32))
    assert check_bound(rows, worst_token(rows))[0] > 0.99


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_it_holds_for_any_codes_scales_and_tokens(data: st.DataObject):
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    num_rows, num_inputs = data.draw(st.integers(1, 40)), data.draw(st.integers(1, 200))
    codes = rng.integers(-127, 128, (num_rows, num_inputs)).astype(np.int8)
    codes[rng.random(codes.shape) < data.draw(st.sampled_from([0.0, 0.5, 0.99, 1.0]))] = 0
    scales = np.exp2(rng.uniform(-30, 10, num_rows)).astype(np.float32)
    rows = RowWeights(codes=codes, scales=scales, bits=8)
    tokens = rng.standard_normal((1, num_inputs)) * np.exp2(data.draw(st.integers(-30, 30)))
    tokens[rng.random(tokens.shape) < data.draw(st.sampled_from([0.0, 0.9]))] = 0
    check_bound(rows, quantize_activations(tokens.astype(np.float32)))
    check_bound(rows, quantize_activations(np.sign(codes[:1]).astype(np.float32)))


def test_the_error_is_as_small_as_the_docstring_says():
    rng = np.random.default_rng(2)
    rows = quantize_rows(rng.standard_normal((512, 2560), dtype=np.float32))
    norms = rows.scales * np.sqrt((rows.codes.astype(np.float64) ** 2).sum(axis=1))
    screen, _ = screened(rows)
    assert float((screen.slack / norms).mean()) == pytest.approx(0.115, abs=0.003)


def test_the_norm_is_never_too_small():
    acts = quantize_activations(np.full((1, 100), 3.0, dtype=np.float32))
    exact = np.sqrt(
        sum(int(code) ** 2 * float(acts.scales[0, n // 64]) ** 2 for n, code in enumerate(acts.codes[0]))
    )
    assert exact <= norm_above(acts) < exact * 1.00001


def test_it_takes_half_the_heads_memory():
    rows = pack_rows(quantize_rows(np.ones((128, 640), dtype=np.float32)))
    assert build_screen(rows).num_bytes == rows.codes.nbytes // 2 + 2 * rows.scales.nbytes


def test_a_coarse_head_has_none():
    rows = pack_rows(quantize_rows(np.ones((4, 70), dtype=np.float32), bits=4))
    with pytest.raises(AssertionError, match="coarse head"):
        build_screen(rows)


def test_making_one_takes_no_more_memory_than_is_said():
    codes = np.random.default_rng(0).integers(-127, 128, (9000, 384), dtype=np.int8)
    head = pack_rows(RowWeights(codes=codes, scales=np.full(9000, 0.01, dtype=np.float32), bits=8))
    tracemalloc.start()
    try:
        screen = build_screen(head)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert screen.num_bytes < most <= bytes_to_make(head) < 3 * most
