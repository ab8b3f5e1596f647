"""Work a token against the modules themselves, and peaks by name and by measurement."""

import math
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from chimera.looping import draw_rounds
from chimera.model import build
from chimera.train.flops import (
    GPU_PEAKS,
    known_peak,
    measured_flops,
    peak_flops,
    rounds_shares,
    training_flops,
)
from configs.accounting import active_parameters
from configs.load import build_config, preset
from configs.schema.model import ModelConfig


def config(**looping: Any) -> ModelConfig:
    return build_config({"preset": "micro", "looping": looping}, source="test")


def test_the_shares_of_rounds_are_those_that_are_drawn():
    one = config(loop_range=[2, 5], loop_default=3)
    counts = dict.fromkeys(range(2, 6), 0)
    for step in range(50):
        drawn = draw_rounds(100, mean=3, least=2, most=5, generator=torch.Generator().manual_seed(step))
        for rounds in drawn:
            counts[rounds] += 1
    shares = rounds_shares(one)
    assert sum(shares.values()) == pytest.approx(1.0)
    for rounds, count in counts.items():
        # Draws are spread evenly: a batch of 100 misses a share by less than two rows.
        assert count / 5000 == pytest.approx(shares[rounds], abs=0.02)


def test_rounds_that_do_not_vary():
    assert rounds_shares(config(enabled=False)) == {1: 1.0}
    assert rounds_shares(config(depth_selection="fixed", loop_default=3)) == {3: 1.0}


@pytest.mark.oracle
@pytest.mark.parametrize("truncation", ["none", "half"])
def test_the_estimate_is_near_what_torch_counts(truncation: str):
    """PyTorch counts the products of a real step, those of the recurrences among them."""
    one = build_config(
        {
            "preset": "micro",
            "hidden_size": 256,
            "intermediate_size": 1024,
            "vocab_size": 4096,
            "backbone": {"layer_pattern": "GD", "moe": {"enabled": False}},
            "looping": {
                "depth_selection": "fixed",
                "loop_range": [1, 4],
                "loop_default": 4,
                "backward_truncation": truncation,
            },
        },
        source="test",
    )
    model = build(one).train()
    ids = torch.arange(64).view(1, 64)
    with FlopCounterMode(display=False) as counter:
        model.loss(model(ids, rounds=4).hidden_BTD, ids).backward()
    assert counter.get_total_flops() / 64 == pytest.approx(training_flops(one), rel=0.15)


def test_fewer_rounds_backward_cost_less():
    whole, half = (training_flops(config(backward_truncation=kind)) for kind in ("none", "half"))
    assert half < whole
    assert training_flops(config(enabled=False)) < half


def test_a_model_without_loops_costs_six_operations_a_parameter():
    one = config(enabled=False)
    assert training_flops(one) == 6 * active_parameters(one)


@pytest.mark.parametrize(
    ("name", "peak"),
    [("NVIDIA H200", 989e12), ("NVIDIA H100 80GB HBM3", 989e12), ("NVIDIA H100 PCIe", 756e12)],
)
def test_known_cards(name: str, peak: float):
    assert known_peak(name, bf16=True) == peak
    assert known_peak(name, bf16=False) == peak / 2
    assert known_peak("Some Card", bf16=True) is None


def test_a_longer_name_is_looked_up_before_a_shorter_one_in_it():
    names = list(GPU_PEAKS)
    for index, name in enumerate(names):
        assert not any(earlier in name for earlier in names[:index]), name


def test_a_peak_is_measured_where_no_table_knows_it():
    device = torch.device("cpu")
    assert math.isfinite(peak_flops(device, bf16=False))
    assert measured_flops(device, dtype=torch.float32, size=64) > 1e6


def test_the_published_model_costs_what_the_paper_figures_say():
    one = preset("chimera-5.1")
    # 2.8e22 operations for 2e12 tokens at one loop, of the stated 2.4e9 parameters.
    fixed = build_config(
        {"preset": "chimera-5.1", "looping": {"depth_selection": "fixed", "loop_default": 1}}, source="test"
    )
    assert training_flops(fixed) * 2e12 == pytest.approx(3e22, rel=0.25)
    assert training_flops(one) > training_flops(fixed)
