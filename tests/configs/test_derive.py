"""What follows from what is named."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from configs.errors import ConfigError
from configs.load import PRESETS, build_config, preset
from configs.schema.model import ModelConfig


def config(**keys: Any) -> ModelConfig:
    return build_config(keys, source="test")


def test_a_width_brings_its_heads_and_widths_along():
    wide = config(preset="tiny", hidden_size=512)
    assert (wide.num_heads, wide.head_dim) == (8, 64)
    assert (wide.intermediate_size, wide.backbone.moe.moe_intermediate_size) == (1344, 192)
    assert wide.initializer_range == pytest.approx(
        preset("tiny").initializer_range * (384 / 512) ** 0.5, rel=1e-3
    )
    assert wide.gated_deltanet.state_size == 64


def test_what_is_named_stands():
    wide = config(preset="tiny", hidden_size=512, intermediate_size=1000, num_heads=4)
    assert (wide.num_heads, wide.head_dim, wide.intermediate_size) == (4, 128, 1000)
    assert wide.xlstm.memory_size_per_head == (128, 128)


def test_layers_bring_pattern_experts_and_loop_along():
    deep = config(preset="demo", num_hidden_layers=16)
    assert deep.backbone.layer_pattern_repeat == 2
    assert deep.backbone.layer_counts == {"GD": 8, "XM": 4, "TM": 2, "SK": 2}
    assert deep.backbone.moe.layers == (3, 7, 11, 15)
    assert (deep.looping.prelude, deep.looping.loop, deep.looping.coda) == ((0, 1), (2, 13), (14, 15))


def test_a_pattern_alone_gives_the_layers():
    small = config(
        hidden_size=128, vocab_size=300, backbone={"layer_pattern": "GD XM", "layer_pattern_repeat": 3}
    )
    assert small.layer_aliases == ("GD", "XM", "GD", "XM", "GD", "XM")
    assert small.intermediate_size == 384


def test_the_published_proportions_hold_where_there_is_no_preset():
    published = preset("chimera-5.1")
    moe = {"enabled": True, "moe_intermediate_size": 1728}
    rules = config(
        hidden_size=2560,
        vocab_size=200_073,
        num_hidden_layers=28,
        backbone={"moe": moe},
        looping={"enabled": True},
    )
    for name in (
        "num_heads",
        "head_dim",
        "intermediate_size",
        "initializer_range",
        "layer_aliases",
        "looping",
    ):
        ours, theirs = getattr(rules, name), getattr(published, name)
        if name == "looping":
            ours, theirs = (ours.prelude, ours.loop, ours.coda), (theirs.prelude, theirs.loop, theirs.coda)
        assert ours == theirs, name
    assert rules.backbone.moe.layers == published.backbone.moe.layers


def test_a_changed_size_drops_what_the_preset_states_of_itself():
    changed = config(preset="chimera-5.1", hidden_size=512)
    assert changed.params is None
    assert changed.memory_budget_mb is None
    assert changed.context_tiers == ()
    assert config(preset="chimera-5.1", generation={"top_p": 0.5}).params is not None


def test_modes_outlive_a_changed_size():
    assert set(config(preset="tiny", hidden_size=512).modes) == set(preset("tiny").modes)


def test_presets_may_stand_on_presets():
    summed = preset("chimera-5.1-sum")
    assert summed.backbone.moe.moe_intermediate_size == 384
    assert summed.intermediate_size == 6912


OVERRIDES: dict[str, st.SearchStrategy[Any]] = {
    "hidden_size": st.integers(-5, 600),
    "num_heads": st.integers(0, 12),
    "head_dim": st.sampled_from([8, 16, 64, 100]),
    "num_hidden_layers": st.integers(0, 20),
    "vocab_size": st.integers(0, 1000),
    "intermediate_size": st.integers(0, 1000),
    "backbone": st.fixed_dictionaries(
        {},
        optional={
            "layer_pattern": st.sampled_from(["GD", "GD XM", "TM SK XM", "", "GD  XM", "??"]),
            "layer_pattern_repeat": st.floats(allow_nan=False, allow_infinity=False),
            "moe": st.fixed_dictionaries(
                {"enabled": st.booleans()}, optional={"layers": st.lists(st.integers(-2, 12))}
            ),
        },
    ),
    "looping": st.fixed_dictionaries(
        {}, optional={"enabled": st.booleans(), "loop": st.lists(st.integers(0, 9), max_size=3)}
    ),
    "titans": st.one_of(
        st.none(), st.integers(), st.dictionaries(st.text(max_size=3), st.none(), max_size=2)
    ),
}


@settings(max_examples=300, deadline=None)
@given(name=st.sampled_from([*PRESETS, None]), overrides=st.fixed_dictionaries({}, optional=OVERRIDES))
def test_any_override_gives_a_config_or_a_list_of_problems(name: str | None, overrides: dict[str, Any]):
    raw = overrides if name is None else {"preset": name, **overrides}
    try:
        found = build_config(raw, source="test")
    except ConfigError as error:
        message = error.message
    else:
        assert found.num_heads * found.head_dim == found.hidden_size
        assert len(found.layer_aliases) == found.num_hidden_layers
        return
    assert message.startswith("test: ")
