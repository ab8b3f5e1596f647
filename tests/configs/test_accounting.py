"""Parameters, bytes and states against figures that were worked out by hand."""

import dataclasses

import pytest

from configs import accounting
from configs.claims import claims
from configs.inventory import layers, tensors
from configs.load import PRESETS, build_config, preset
from configs.schema.model import ModelConfig

MIB = 2**20
PUBLISHED, SUMMED = preset("chimera-5.1"), preset("chimera-5.1-sum")


def verdicts(config: ModelConfig) -> dict[str, str]:
    return {claim.path: claim.verdict for claim in claims(config)}


def with_embedding(bits: int) -> ModelConfig:
    return dataclasses.replace(
        PUBLISHED, quantization=dataclasses.replace(PUBLISHED.quantization, embedding_bits=bits)
    )


def test_the_published_plan():
    plan = layers(PUBLISHED)
    assert [layer.index for layer in plan if layer.alias == "GD"] == list(range(0, 27, 2))
    assert [layer.index for layer in plan if layer.alias == "XM"] == [1, 5, 9, 13, 17, 21, 25]
    assert [layer.index for layer in plan if layer.alias == "TM"] == [3, 11, 19, 27]
    assert [layer.index for layer in plan if layer.alias == "SK"] == [7, 15, 23]
    assert all(layer.kind in ("titans_mac", "tsp_span_knot") for layer in plan if layer.experts)
    assert [layer.index for layer in plan if layer.looped] == list(range(4, 24))


def test_the_dense_part_is_what_the_published_name_says():
    assert accounting.projection_parameters(PUBLISHED) == 2_360_957_440


@pytest.mark.parametrize(("config", "total"), [(PUBLISHED, 1579.25e6), (SUMMED, 350.9e6)])
def test_expert_matrices(config: ModelConfig, total: float):
    assert accounting.expert_matrix_parameters(config) == pytest.approx(total, rel=2e-4)


def test_experts_met_by_a_token():
    assert accounting.active_expert_parameters(PUBLISHED) == pytest.approx(278.7e6, rel=1e-3)
    assert accounting.active_expert_parameters(SUMMED) == pytest.approx(61.9e6, rel=1e-3)


def test_stored_parameters():
    # The figures of matrices alone; norms, gates, convolutions and slots add four parts in a thousand.
    assert accounting.parameters(PUBLISHED) == pytest.approx(3_940.2e6, rel=5e-3)
    assert accounting.parameters(SUMMED) == pytest.approx(2_711.9e6, rel=5e-3)


@pytest.mark.parametrize(("rounds", "dense", "real"), [(2, 4.194e9, 4.67e9), (6, 9.476e9, 10.75e9)])
def test_applied_parameters(rounds: int, dense: float, real: float):
    assert accounting.applied_parameters(PUBLISHED, rounds=rounds, experts=False) == pytest.approx(
        dense, rel=6e-3
    )
    assert accounting.applied_parameters(PUBLISHED, rounds=rounds) == pytest.approx(real, rel=6e-3)


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
    # int8 keys and values of 1024 tokens in four layers, and a float32 scale for each head of each.
    assert state.window / MIB == pytest.approx(20 + 1.25, abs=1e-9)


@pytest.mark.parametrize(("rounds", "mib"), [(2, 44.0), (4, 78.9), (6, 113.8)])
def test_each_round_has_a_state_of_its_own(rounds: int, mib: float):
    looped = [layer for layer in layers(PUBLISHED) if layer.looped]
    conv = sum(
        accounting.layer_state(PUBLISHED, layer).convolution * (rounds if layer.looped else 1)
        for layer in layers(PUBLISHED)
        if layer.kind in ("gated_deltanet", "tsp_span_knot")
    )
    assert len(looped) == 20
    total = accounting.stream_state(PUBLISHED, rounds=rounds).recurrent + conv
    assert total / MIB == pytest.approx(mib, abs=0.1)


def test_bytes_read_for_a_token_with_everything_at_two_bits():
    config = with_embedding(2)
    floats = sum(accounting.tensor_bytes(config, t) for t in tensors(config) if t.storage == "float32")
    # The figure is that of matrices; norms, gates, convolutions and slots are read besides.
    assert accounting.bytes_per_token(config, rounds=1) - floats == pytest.approx(0.70e9, rel=0.02)


def test_bytes_on_disk():
    two = accounting.file_bytes(with_embedding(2))
    assert two == pytest.approx(985e6 * (2.125 / 2) * 1.0, rel=0.06)
    assert accounting.file_bytes(with_embedding(8)) - two == pytest.approx(512.2e6 * 6 / 8, rel=1e-3)
    for config in (PUBLISHED, SUMMED):
        forms = [accounting.file_bytes(config, form=form) for form in accounting.TERNARY_BITS]
        assert forms == sorted(forms, reverse=True)
        assert accounting.file_bytes(config) == sum(
            accounting.file_bytes(config, experts=routed) for routed in (True, False)
        )


def test_short_groups_and_odd_rows_are_padded_as_the_file_pads_them():
    down = next(t for t in tensors(PUBLISHED) if t.name.endswith("shared.down_proj.weight"))
    assert down.shape == (2560, 1728)
    # 1728 inputs are 27 blocks of 64 and 14 groups of 128, the last half as long.
    assert accounting.tensor_bytes(PUBLISHED, down) == 2560 * (1728 // 4 + 14 * 2)
    odd = build_config({"preset": "micro", "vocab_size": 500}, source="test")
    assert accounting.tensor_bytes(odd, tensors(odd)[0]) == 512 * 128 + 512 * 4


@pytest.mark.parametrize(
    ("name", "least", "most"),
    [("small", 145e6, 155e6), ("tiny", 33e6, 36e6), ("demo", 18e6, 24e6), ("micro", 0, 1e6)],
)
def test_presets_have_the_size_that_they_are_for(name: str, least: float, most: float):
    assert least < accounting.parameters(preset(name)) < most


def test_the_demo_preset_shows_every_part():
    demo = preset("demo")
    plan = layers(demo)
    kinds = [layer.alias for layer in plan]
    assert kinds.count("XM") >= 2
    assert "TM" in kinds
    assert "SK" in kinds
    assert sum(layer.experts for layer in plan) == 2
    assert 8 <= demo.backbone.moe.n_routed_experts <= 16
    assert demo.rounds_default == 2
    assert demo.vocab_size == 8192
    assert accounting.file_bytes(demo) < 12e6


def test_the_micro_preset_has_every_kind_of_layer():
    assert {layer.alias for layer in layers(preset("micro"))} == {"GD", "XM", "TM", "SK"}


@pytest.mark.parametrize("name", PRESETS)
def test_parts_and_layers_add_up(name: str):
    config = preset(name)
    total = accounting.parameters(config)
    owned = sum(accounting.parameters(config, layer=layer.index) for layer in layers(config))
    rest = sum(t.size for t in tensors(config) if t.layer is None)
    assert owned + rest == total
    names = [tensor.name for tensor in tensors(config)]
    assert len(set(names)) == len(names)
    assert accounting.active_parameters(config) < total


def test_stacked_experts_are_apart_in_a_file():
    stacked = next(t for t in tensors(preset("micro")) if t.experts)
    apart = stacked.apart()
    assert [t.name for t in apart][:2] == [
        "layers.2.ffn.experts.0.gate_proj.weight",
        "layers.2.ffn.experts.1.gate_proj.weight",
    ]
    assert sum(t.size for t in apart) == stacked.size


def test_verdicts_on_the_published_claims():
    found = verdicts(PUBLISHED)
    holds = (
        "params.base", "params.total_mb", "memory_budget_mb.total", "memory_budget_mb.growth_ceiling",
        "memory_budget_mb.max_with_growth", "context_tiers.ttt_compressed", "context_tiers.span_trace",
        "context_tiers.episodic_cases", "modes.fast.tps", "modes.balanced.tps", "modes.reasoning.tps",
    )  # fmt: skip
    differs = (
        "params.moe_total", "params.physical", "params.active_per_token", "params.weight_mb",
        "backbone.moe.total_params", "backbone.moe.active_params_per_tok", "memory_budget_mb.headroom_8gb",
        "memory_budget_mb.ternary_weights", "memory_budget_mb.moe_experts", "deployment.per_stream_mb",
        "context_tiers.recent_ring", "context_tiers.braid_state",
    )  # fmt: skip
    assert {path: found[path] for path in holds} == dict.fromkeys(holds, "holds")
    assert {path: found[path] for path in differs} == dict.fromkeys(differs, "differs")
    assert found["deployment.cold_start_s"] == "not computed"


def test_the_summed_preset_meets_the_sums():
    found = verdicts(SUMMED_WITH_CLAIMS)
    assert (
        found["params.moe_total"] == found["params.physical"] == found["backbone.moe.total_params"] == "holds"
    )


SUMMED_WITH_CLAIMS = dataclasses.replace(
    SUMMED,
    params=PUBLISHED.params,
    backbone=dataclasses.replace(
        SUMMED.backbone, moe=dataclasses.replace(SUMMED.backbone.moe, total_params="350M")
    ),
)


def test_a_budget_holds_when_it_suffices_and_a_sum_when_it_is_exact():
    by_path = {claim.path: claim for claim in claims(PUBLISHED)}
    budget = by_path["context_tiers.ttt_compressed"]
    assert budget.computed is not None
    assert budget.computed < budget.stated
    headroom = by_path["memory_budget_mb.headroom_8gb"]
    assert (headroom.stated, headroom.computed) == (4876, 4826)
