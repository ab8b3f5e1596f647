"""Ternary codes in other layouts than the file's: every code comes back, whatever the size."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quant import cpu
from quant.columns import pack_columns, unpack_columns
from quant.kernels.table import OPERATIONS
from quant.kernels.trits.calls import packing_call
from quant.layout_names import LAYOUTS
from quant.layouts import PRODUCTS, laid_out, laid_shape
from quant.packing import PackedTernary, pack_ternary
from quant.selfcheck import chosen
from quant.ternary import TernaryWeights, num_groups
from quant.trits import FIVE_BYTES, pack_trits, pair_bytes, unpack_trits


def drawn(rows: int, inputs: int, *, seed: int = 0) -> PackedTernary:
    codes = np.random.default_rng(seed).integers(-1, 2, (rows, inputs), dtype=np.int8)
    scales = np.ones((rows, num_groups(inputs, group_size=128)), dtype=np.float16)
    return pack_ternary(TernaryWeights(codes=codes, scales=scales, group_size=128))


@given(st.integers(1, 70), st.integers(1, 1000), st.integers(0, 2**32))
@settings(max_examples=40)
def test_every_code_comes_back(rows: int, inputs: int, seed: int) -> None:
    packed = drawn(rows, inputs, seed=seed)
    num_blocks = -(-inputs // 64)
    assert np.array_equal(unpack_trits(pack_trits(packed), num_blocks=num_blocks), packed.codes)
    assert np.array_equal(unpack_columns(pack_columns(packed)), packed.codes)
    for layout in LAYOUTS:
        laid = laid_out(packed, layout=layout)
        assert laid.codes.shape == laid_shape(rows, inputs, layout=layout)
        assert laid.scales is packed.scales


def test_the_kernel_packs_what_the_reference_packs() -> None:
    kernel = chosen("trits_packing").kernel
    for rows, inputs in ((1, 1), (40, 320), (70, 1000), (33, 1728)):
        packed = drawn(rows, inputs)
        call = packing_call(packed)
        call.run(kernel, 0, call.units)
        assert np.array_equal(call.outputs[0], pack_trits(packed))


def test_five_weights_take_a_byte() -> None:
    assert pair_bytes(5) == FIVE_BYTES == 32 * 5 * 64 // 5
    packed = drawn(32, 5 * 64 * 7)
    assert pack_trits(packed).nbytes * 10 == packed.codes.nbytes * 8


def test_every_byte_of_five_digits_gives_them_back() -> None:
    """The definition by whole numbers: digits are what a division by 3 gives, in the order of blocks."""
    x = np.arange(243)
    byte = -(-256 * x // 243)
    for place in range(5):
        assert np.array_equal(3 * byte // 256, x // 3 ** (4 - place) % 3)
        byte = 3 * byte % 256


def test_a_layout_has_a_product_with_the_same_reference() -> None:
    assert tuple(PRODUCTS) == LAYOUTS
    references = {OPERATIONS[name].reference for name in PRODUCTS.values()}
    assert len(references) == 1


@pytest.mark.parametrize("layout", LAYOUTS)
def test_chimera_cpu_names_a_layout(monkeypatch: pytest.MonkeyPatch, layout: str) -> None:
    best = cpu.allowed_forms()[0]
    monkeypatch.setenv("CHIMERA_CPU", f"{best}+{layout}")
    assert cpu.forced_layout() == layout
    assert cpu.cap() == best
