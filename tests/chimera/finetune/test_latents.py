"""Latent weights drawn behind ternary ones: quantised, they are what they were drawn for."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from chimera.finetune.latents import draw_latents
from chimera.finetune.trained import columns_of_group
from configs.errors import UsageError
from quant.ternary import GroupSize, dequantize_ternary, quantize_ternary


@settings(max_examples=60, deadline=None)
@given(
    rows=st.integers(1, 4),
    columns=st.integers(1, 400),
    size=st.sampled_from((128, 64, "row")),
    zeros=st.sampled_from((0.0, 0.3, 0.95)),
    spread=st.sampled_from((1e-4, 0.02, 5.0)),
    seed=st.integers(0, 2**16),
)
def test_quantising_gives_codes_and_scales_back(
    rows: int, columns: int, size: GroupSize, zeros: float, spread: float, seed: int
):
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(rows, columns, generator=generator) * spread
    weight *= torch.rand(rows, columns, generator=generator) >= zeros
    ternary = quantize_ternary(weight.numpy(), group_size=size)
    group = columns_of_group(size, columns=columns)
    assert group is not None
    latent = draw_latents(
        torch.from_numpy(dequantize_ternary(ternary)),
        scale_RG=torch.from_numpy(ternary.scales).float(),
        group=group,
        stream=3,
    )
    again = quantize_ternary(latent.numpy(), group_size=size)
    assert (again.codes == ternary.codes).all()
    assert (again.scales == ternary.scales).all()


def test_some_latent_weights_are_near_a_border_and_none_is_on_it():
    weight = torch.randn(64, 512, generator=torch.Generator().manual_seed(0))
    ternary = quantize_ternary(weight.numpy())
    scales = torch.from_numpy(ternary.scales).float()
    latent = draw_latents(torch.from_numpy(dequantize_ternary(ternary)), scale_RG=scales, group=128, stream=0)
    distance = (latent.abs() / scales.repeat_interleave(128, dim=1) - 0.5).abs()
    assert 0.02 < float((distance < 0.05).float().mean()) < 0.1
    assert float(distance.min()) > 1e-3


def test_a_piece_is_drawn_as_the_whole_is():
    weight = torch.randn(5000, 96, generator=torch.Generator().manual_seed(0))
    ternary = quantize_ternary(weight.numpy())
    values, scales = torch.from_numpy(dequantize_ternary(ternary)), torch.from_numpy(ternary.scales).float()
    whole = draw_latents(values, scale_RG=scales, group=128, stream=9)
    again = quantize_ternary(whole.numpy())
    assert (again.codes == ternary.codes).all()
    assert torch.equal(draw_latents(values[:7], scale_RG=scales[:7], group=128, stream=9), whole[:7])


def test_scales_of_another_matrix_are_refused():
    with pytest.raises(UsageError, match="in groups of 128"):
        draw_latents(torch.zeros(2, 256), scale_RG=torch.ones(2, 1), group=128, stream=0)
