"""The quantisers beside those of transformers and torchao.

Neither rounds its scale to float16, so on Gaussian weights codes may differ where a ratio lies within that
rounding of a border. On weights whose mean magnitude is a float16 value, all must agree to the last code.
"""

import warnings
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from quant.activations import dequantize_activations, quantize_activations
from quant.packing import pack_ternary
from quant.ternary import dequantize_ternary, quantize_ternary

pytestmark = pytest.mark.oracle


@pytest.fixture(scope="module")
def bitnet() -> Iterator:
    """transformers' functions, uncompiled: compiling them takes most of a minute."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from transformers.integrations import bitnet
    with torch.compiler.set_stance("force_eager"):
        yield bitnet


@pytest.fixture(scope="module")
def torchao_bitnet():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from torchao.prototype.quantized_training import bitnet
    return bitnet


def gaussian(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def with_round_mean(num_rows: int, num_inputs: int, *, size: int) -> np.ndarray:
    """Multiples of 1/64 with a mean magnitude of 1 in every group of `size`, and with borders of codes."""
    rng = np.random.default_rng(0)
    magnitude = rng.integers(0, 128, (num_rows * num_inputs // size, size // 2))
    # Pairs that sum to 2: 128/64.
    groups = np.concatenate([magnitude, 128 - magnitude], axis=1)
    sign = rng.choice([-1, 1], groups.shape)
    return (groups * sign / 64).astype(np.float32).reshape(num_rows, num_inputs)


def test_a_scale_per_tensor_against_transformers(bitnet):
    weight = with_round_mean(64, 256, size=64 * 256)
    ours = quantize_ternary(weight, group_size="tensor")
    theirs = bitnet.WeightQuant.apply(torch.from_numpy(weight))
    assert ours.scales.tolist() == [[1.0]] * 64
    assert 0.4 < np.abs(ours.codes).mean() < 0.9
    assert np.array_equal(dequantize_ternary(ours), theirs.numpy())


def test_gaussian_weights_against_transformers(bitnet):
    weight = gaussian(256, 512)
    ours = quantize_ternary(weight, group_size="tensor")
    theirs = bitnet.WeightQuant.apply(torch.from_numpy(weight)).numpy()
    scale = float(np.abs(weight).mean())
    near_border = np.abs(np.abs(weight) / scale - 0.5) < 2**-11
    assert np.array_equal(ours.codes[~near_border], np.sign(theirs)[~near_border])
    assert near_border.mean() < 0.001
    np.testing.assert_allclose(np.abs(theirs[theirs != 0]), float(ours.scales[0, 0]), rtol=2**-11)


def test_a_scale_per_token_against_transformers(bitnet):
    x_TI = gaussian(64, 640) * 3
    acts = quantize_activations(x_TI, block="token")
    theirs = bitnet.ActQuant.apply(torch.from_numpy(x_TI)).numpy()
    codes = np.rint(theirs * (np.float32(127) / np.abs(x_TI).max(axis=1, keepdims=True)))
    assert np.array_equal(acts.codes, codes)
    # They divide by the inverse where we multiply by the scale.
    np.testing.assert_allclose(dequantize_activations(acts), theirs, rtol=2**-22)


def test_codes_against_the_packed_form_of_transformers(bitnet):
    weight = with_round_mean(32, 128, size=128)
    ours = quantize_ternary(weight)
    packed = bitnet.pack_weights(torch.from_numpy(ours.codes.astype(np.float32)))
    theirs = bitnet.unpack_weights(packed, dtype=torch.float32).numpy()
    assert np.array_equal(ours.codes, theirs)
    # Both spend two bits a weight; the tiles here have no padding.
    assert packed.numel() == pack_ternary(ours).codes.size


def test_a_scale_per_group_against_torchao(torchao_bitnet):
    for weight, size in [(with_round_mean(64, 256, size=128), 128), (with_round_mean(64, 256, size=64), 64)]:
        ours = quantize_ternary(weight, group_size=size)
        groups = torch.from_numpy(weight).view(-1, size)
        scales = torch.stack([torchao_bitnet.get_bitnet_scale(group) for group in groups]).unsqueeze(1)
        theirs = torchao_bitnet.quantize_bitnet_weight(groups, scales).view(64, 256)
        assert np.array_equal(ours.codes, theirs.numpy())
        assert np.array_equal(ours.scales.reshape(-1, 1), scales.numpy())


def test_gaussian_groups_against_torchao(torchao_bitnet):
    weight = gaussian(256, 512)
    ours = quantize_ternary(weight)
    groups = torch.from_numpy(weight).view(-1, 128)
    scales = groups.abs().mean(dim=1, keepdim=True)
    theirs = torchao_bitnet.quantize_bitnet_weight(groups, scales).view(256, 512).numpy()
    ratio = np.abs(weight.reshape(-1, 128)) / scales.numpy()
    near_border = (np.abs(ratio - 0.5) < 2**-11).reshape(256, 512)
    assert np.array_equal(ours.codes[~near_border], theirs[~near_border])
    assert near_border.mean() < 0.001
    np.testing.assert_allclose(ours.scales.reshape(-1, 1), scales.numpy(), rtol=2**-11)
