"""Alarms: raised beyond the config's bounds, and not by chance."""

import numpy as np
import pytest

from configs.schema.serving import Thresholds
from runtime.cli.alarms import alarms

BOUND = Thresholds(max_moe_imbalance=0.5)


@pytest.mark.parametrize(
    ("visits", "value"),
    [
        ((0, 0, 0, 0), None),
        ((1000, 1000, 1000, 1000), None),
        ((1400, 900, 900, 800), None),
        ((1700, 800, 700, 800), 1.7),
        ((4000, 0, 0, 0), 4.0),
        ((3, 0, 1, 0), None),  # so few tokens say nothing
    ],
)
def test_the_busiest_expert(visits: tuple[int, ...], value: float | None):
    found = alarms(BOUND, expert_visits=[np.array(visits), np.array([500, 500, 500, 500])])
    assert [alarm.value for alarm in found] == ([] if value is None else [value])


def test_the_worst_layer_is_told_with_its_bound():
    (alarm,) = alarms(BOUND, expert_visits=[np.array([900, 100]), np.array([999, 1])])
    assert str(alarm) == (
        "alarm: moe_expert_load_balance is 1.998; at most 1.5 is allowed (max_moe_imbalance)"
    )
