"""Parameters, bytes and states against figures that were worked out by hand."""

import dataclasses
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from configs import accounting
from configs.inventory import layers, tensors
from configs.load import PRESETS, build_config, preset
from configs.schema.model import ModelConfig
from quant.container_format import TensorSpec, stored_parts
from runtime.packed_inspection import expected_tensors

MB, MIB = 10**6, 2**20
PUBLISHED, SUMMED = preset("chimera-5.1"), preset("chimera-5.1-sum")


def config(**keys: Any) -> ModelConfig:
    return build_config(keys, source="test")


def with_embedding(bits: int) -> ModelConfig:
    return dataclasses.replace(
        PUBLISHED, quantization=dataclasses.replace(PUBLISHED.quantization, embedding_bits=bits)
    )


def matrices(*parts: str, of: ModelConfig = PUBLISHED) -> int:
    """Weights of the ternary matrices and the embedding in some parts."""
    return sum(t.size for t in tensors(of) if t.storage != "float32" and t.part in parts)


def test_the_published_plan():
    plan = layers(PUBLISHED)
    assert [layer.index for layer in plan if layer.alias == "GD"] == list(range(0, 27, 2))
    assert [layer.index for layer in plan if layer.alias == "XM"] == [1, 5, 9, 13, 17, 21, 25]
    assert [layer.index for layer in plan if layer.alias == "TM"] == [3, 11, 19, 27]
    assert [layer.index for layer in plan if layer.alias == "SK"] == [7, 15, 23]
    assert all((layer.kind in ("titans_mac", "tsp_span_knot")) == layer.experts for layer in plan)
    assert [layer.index for layer in plan if layer.looped] == list(range(4, 24))


def test_the_dense_matrices():
    assert matrices("embedding") == 200_073 * 2560
    assert matrices("feed_forward") == 21 * 3 * 2560 * 6912
    assert matrices("mixer") == 28 * 4 * 2560**2
    assert accounting.projection_parameters(PUBLISHED) == 2_360_957_440


def test_output_gates_are_counted():
    # On GD, SK and XM; the published sum has room for none.
    gated = config(
        preset="chimera-5.1", gated_deltanet={"use_output_gate": True}, xlstm={"use_output_gate": True}
    )
    assert matrices("mixer", of=gated) - matrices("mixer") == 24 * 2560**2
    looser = config(preset="chimera-5.1", backbone={"moe": {"enabled": False}})
    assert accounting.projection_parameters(looser) == pytest.approx(2_732.5e6, abs=0.1e6)


@pytest.mark.parametrize(
    ("model", "experts", "stored", "met"),
    [(PUBLISHED, 1579.3e6, 3_940.2e6, 278.7e6), (SUMMED, 350.9e6, 2_711.9e6, 61.9e6)],
    ids=["published", "summed"],
)
def test_experts(model: ModelConfig, experts: float, stored: float, met: float):
    assert accounting.expert_matrix_parameters(model) == pytest.approx(experts, abs=0.1e6)
    assert matrices("embedding", "mixer", "feed_forward", "experts", of=model) == pytest.approx(
        stored, abs=0.1e6
    )
    assert accounting.active_expert_parameters(model) == pytest.approx(met, abs=0.1e6)
    # Routers, norms, convolutions, gates and slots come on top.
    assert 0 < accounting.parameters(model) - stored < 0.005 * stored


def test_parameters_that_a_token_meets():
    met = accounting.projection_parameters(PUBLISHED) + accounting.active_expert_parameters(PUBLISHED)
    assert met == pytest.approx(2_639.6e6, abs=0.1e6)
    assert accounting.active_parameters(PUBLISHED) == pytest.approx(met, rel=0.005)


@pytest.mark.parametrize(("rounds", "dense", "real"), [(2, 4.194e9, 4.67e9), (6, 9.476e9, 10.75e9)])
def test_applied_parameters(rounds: int, dense: float, real: float):
    without = accounting.applied_parameters(PUBLISHED, rounds=rounds, experts=False, matrices=True)
    assert without == pytest.approx(dense, abs=0.001e9)
    with_experts = accounting.applied_parameters(PUBLISHED, rounds=rounds, matrices=True)
    assert with_experts == pytest.approx(real, abs=0.005e9)
    assert accounting.applied_parameters(PUBLISHED, rounds=rounds) == pytest.approx(with_experts, rel=0.005)


def test_a_round_repeats_what_is_looped():
    one, two = (
        accounting.applied_parameters(PUBLISHED, rounds=rounds, experts=False, matrices=True)
        for rounds in (1, 2)
    )
    assert two - one == 20 * 4 * 2560**2 + 15 * 3 * 2560 * 6912
    assert two - one == pytest.approx(1_320.55e6, abs=0.01e6)


def test_bits_of_the_weights():
    # Two bits and a float16 scale for 128 inputs; the embedding has one float32 scale a row.
    two = with_embedding(2)
    assert matrices("embedding", "mixer", "feed_forward") * 2 / 8 / MB == pytest.approx(590.2, abs=0.1)
    dense = accounting.part_bytes(two, "mixer") + accounting.part_bytes(two, "feed_forward")
    floats = sum(
        accounting.tensor_bytes(two, t)
        for t in tensors(two)
        if t.storage == "float32" and t.part in ("mixer", "feed_forward")
    )
    assert dense - floats == matrices("mixer", "feed_forward") * 2.125 / 8
    assert accounting.part_bytes(two, "embedding") == 200_096 * (2560 // 4 + 4)
    at_scale = (dense - floats + matrices("embedding") * 2.125 / 8) / MB
    assert at_scale == pytest.approx(627.1, abs=0.1)


def test_bits_of_the_experts():
    assert accounting.expert_matrix_parameters(PUBLISHED) * 2 / 8 / MB == pytest.approx(394.8, abs=0.1)
    assert accounting.part_bytes(PUBLISHED, "experts") / MB == pytest.approx(394.8 * 2.125 / 2, rel=0.01)


def test_the_whole_file():
    stored = matrices("embedding", "mixer", "feed_forward", "experts")
    assert stored * 2 / 8 / MB == pytest.approx(985, abs=0.5)
    two = accounting.file_bytes(with_embedding(2))
    floats = sum(accounting.tensor_bytes(PUBLISHED, t) for t in tensors(PUBLISHED) if t.storage == "float32")
    assert two - floats == pytest.approx(stored * 2.125 / 8, rel=0.01)
    more = accounting.file_bytes(with_embedding(8)) - two
    assert more == 200_096 * 2560 * 6 // 8


@pytest.mark.parametrize("name", PRESETS)
def test_forms_order_and_parts_add_up(name: str):
    model = preset(name)
    forms = [accounting.file_bytes(model, form=form) for form in accounting.TERNARY_BITS]
    assert forms == sorted(forms, reverse=True)
    for form in accounting.TERNARY_BITS:
        whole = accounting.file_bytes(model, form=form)
        assert whole == sum(accounting.file_bytes(model, form=form, experts=own) for own in (True, False))
        assert whole == sum(accounting.part_bytes(model, part, form=form) for part in accounting.PARTS)


@pytest.mark.parametrize("name", PRESETS)
def test_bytes_are_those_of_the_container(name: str):
    model = preset(name)
    stored = sum(
        part.num_bytes
        for tensor, (kind, shape) in expected_tensors(model).items()
        for part in stored_parts(TensorSpec(name=tensor, kind=kind, shape=shape))
    )
    assert accounting.file_bytes(model) == stored


def test_short_groups_and_odd_rows_are_padded_as_the_file_pads_them():
    down = next(t for t in tensors(PUBLISHED) if t.name.endswith("shared.down_proj.weight"))
    assert down.shape == (2560, 1728)
    # 1728 inputs are 27 blocks of 64 and 14 groups of 128, the last half as long.
    assert accounting.tensor_bytes(PUBLISHED, down) == 2560 * (1728 // 4 + 14 * 2)
    odd = config(preset="micro", vocab_size=500)
    assert accounting.tensor_bytes(odd, tensors(odd)[0]) == 512 * 128 + 512 * 4


def test_states_of_one_stream():
    state = accounting.stream_state(PUBLISHED, rounds=1)
    by_kind = {layer.kind: accounting.layer_state(PUBLISHED, layer) for layer in layers(PUBLISHED)}
    assert by_kind["gated_deltanet"].recurrent / MIB == 0.625
    assert by_kind["xlstm_m"].recurrent / MIB == pytest.approx(0.635, abs=1e-3)
    assert by_kind["titans_mac"].recurrent / MIB == 2.5
    assert by_kind["gated_deltanet"].convolution / MIB == pytest.approx(0.088, abs=1e-3)
    # 26.6 MiB, of which 17 convolutions of GD and SK; ours has small ones in XM and TM too.
    conv = 17 * by_kind["gated_deltanet"].convolution
    assert (state.recurrent + conv) / MIB == pytest.approx(26.6, abs=0.05)
    border = 4 * PUBLISHED.num_heads * 2 * 64 * 64 * 4
    assert (state.recurrent + conv + border) / MIB == pytest.approx(31.6, abs=0.05)
    # What was read from the memory is kept for the chunk: 64 vectors a layer, with a norm a head.
    assert state.chunk - border == 4 * 64 * (2560 + 40) * 4
    # int8 keys and values of 1024 tokens in four layers, and a float32 scale for each head of each.
    assert state.window == 4 * 1024 * 2 * (2560 + 40 * 4)
    wide = config(preset="chimera-5.1", titans={"window_bits": 32})
    assert accounting.stream_state(wide, rounds=1).window == 4 * 1024 * 2 * 2560 * 4
    assert state.window / MIB == pytest.approx(20 + 1.25, abs=1e-9)
    assert state.total == state.recurrent + state.convolution + state.chunk + state.window


@pytest.mark.parametrize(("rounds", "mib"), [(1, 26.6), (2, 44.0), (4, 78.9), (6, 113.8)])
def test_each_round_has_a_state_of_its_own(rounds: int, mib: float):
    conv = sum(
        accounting.layer_state(PUBLISHED, layer).convolution * (rounds if layer.looped else 1)
        for layer in layers(PUBLISHED)
        if layer.kind in ("gated_deltanet", "tsp_span_knot")
    )
    total = accounting.stream_state(PUBLISHED, rounds=rounds).recurrent + conv
    assert total / MIB == pytest.approx(mib, abs=0.05)


def test_attention_keeps_a_window_or_grows():
    keys: Any = {
        "hidden_size": 256, "vocab_size": 300,
        "backbone": {
            "layer_pattern": "GQ SW ML", "layer_aliases": {"GQ": "gqa", "SW": "swa", "ML": "mla"},
        },
        "attention": {"num_key_value_heads": 2, "window_size": 100, "latent_size": 96, "rope_size": 32},
    }  # fmt: skip
    model = config(**keys)
    assert accounting.stream_state(model, rounds=1).total == 100 * 2 * 2 * 64 * 4
    assert accounting.cache_growth(model, rounds=1) == (2 * 2 * 64 + 96 + 32) * 4
    assert accounting.cache_growth(PUBLISHED, rounds=6) == 0


@pytest.mark.parametrize(("rounds", "gigabytes"), [(1, 0.70), (2, 1.05), (4, 1.75)])
def test_bytes_read_for_a_token_with_everything_at_two_bits(rounds: int, gigabytes: float):
    # The figures are of matrices, and leave out experts beyond the first round.
    two = with_embedding(2)
    floats = [t for t in tensors(two) if t.storage == "float32"]
    looped = {layer.index for layer in layers(two) if layer.looped}
    visits = [(t, rounds if t.layer in looped else 1) for t in floats]
    read = accounting.bytes_per_token(two, rounds=rounds)
    read -= sum(
        accounting.tensor_bytes(two, t) // (t.experts or 1) * (2 if t.experts else 1) * n for t, n in visits
    )
    again = accounting.active_expert_parameters(two, rounds=rounds)
    again -= accounting.active_expert_parameters(two, rounds=1)
    assert (read - again * 2.125 / 8) / 1e9 == pytest.approx(gigabytes, abs=0.01)


def test_columns_of_rounds():
    assert accounting.round_counts(PUBLISHED) == (1, 2, 3, 4, 6)
    assert accounting.round_counts(config(preset="micro", looping={"loop_range": [5, 64]})) == (
        5,
        6,
        7,
        8,
        64,
    )
    deep = config(preset="micro", looping={"loop_range": [1, 9], "loop_default": 6})
    assert accounting.round_counts(deep) == (1, 2, 3, 4, 6, 9)
    assert accounting.round_counts(config(preset="micro", looping={"enabled": False})) == (1,)


@pytest.mark.parametrize(
    ("name", "least", "most"),
    [("small", 145e6, 155e6), ("tiny", 33e6, 36e6), ("demo", 18e6, 24e6), ("micro", 0, 1e6)],
)
def test_presets_have_the_size_that_they_are_for(name: str, least: float, most: float):
    assert least < accounting.parameters(preset(name)) < most


def test_the_tiny_preset_has_a_vocabulary_of_32k():
    assert preset("tiny").vocab_size == 32_768


def test_the_demo_preset_shows_every_part():
    demo = preset("demo")
    plan = layers(demo)
    kinds = [layer.alias for layer in plan]
    assert kinds.count("XM") >= 2
    assert kinds.count("TM") == 1
    assert kinds.count("SK") == 1
    assert sum(layer.experts for layer in plan) == 2
    assert 8 <= demo.backbone.moe.n_routed_experts <= 16
    assert (demo.rounds_default, demo.rounds_most) == (2, 4)
    assert demo.vocab_size == 8192
    assert accounting.file_bytes(demo) < 12e6


def test_the_micro_preset_has_every_kind_of_layer():
    assert [layer.alias for layer in layers(preset("micro"))] == ["GD", "XM", "TM", "SK"]


@pytest.mark.parametrize("name", PRESETS)
def test_parts_and_layers_add_up(name: str):
    model = preset(name)
    total = accounting.parameters(model)
    by_layer = accounting.parameters_by_layer(model)
    assert sum(by_layer) + sum(t.size for t in tensors(model) if t.layer is None) == total
    assert by_layer[0] == accounting.parameters(model, layer=0)
    names = [tensor.name for tensor in tensors(model)]
    assert len(set(names)) == len(names)
    assert accounting.active_parameters(model) < total


@pytest.mark.parametrize("name", PRESETS)
def test_shares_add_up(name: str):
    model = preset(name)
    found = accounting.shares(model)
    parts = [share for share in found if not share.alias]
    mixers = [share for share in found if share.alias]
    assert sum(share.stored for share in parts) == accounting.parameters(model)
    for rounds in accounting.round_counts(model):
        applied = accounting.applied_parameters(model, rounds=rounds)
        assert sum(share.applied[rounds] for share in parts) == applied
        own = next(share for share in parts if share.part == "mixer").applied[rounds]
        assert sum(share.applied[rounds] for share in mixers) == own


def test_stacked_experts_are_apart_in_a_file():
    stacked = next(t for t in tensors(preset("micro")) if t.experts)
    apart = stacked.apart()
    assert [t.name for t in apart][:2] == [
        "layers.2.ffn.experts.0.gate_proj.weight",
        "layers.2.ffn.experts.1.gate_proj.weight",
    ]
    assert sum(t.size for t in apart) == stacked.size


@given(
    width=st.integers(1, 20).map(lambda n: n * 64),
    depth=st.integers(3, 12),
    experts=st.integers(2, 6),
    rounds=st.integers(1, 6),
)
def test_more_rounds_cost_more_and_nothing_else_changes(width: int, depth: int, experts: int, rounds: int):
    model = config(
        preset="micro",
        hidden_size=width,
        num_hidden_layers=depth,
        backbone={"moe": {"n_routed_experts": experts}},
    )
    once = accounting.stream_state(model, rounds=1)
    looped = sum(accounting.layer_state(model, layer).total for layer in layers(model) if layer.looped)
    assert accounting.stream_state(model, rounds=rounds).total == once.total + looped * (rounds - 1)
    steps = [accounting.bytes_per_token(model, rounds=n + 1) for n in range(rounds + 1)]
    assert len({after - before for before, after in pairwise(steps)}) <= 1
