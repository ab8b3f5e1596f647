"""What configs state of themselves, and the verdict on it."""

from typing import Any

import pytest

from configs.claims import Claim, Sort, Verdict, claims
from configs.load import PRESETS, build_config, preset
from configs.schema.claims import StatedParams
from configs.schema.keys import fields_of, parse_quantity
from configs.schema.model import ModelConfig

PUBLISHED = {claim.path: claim for claim in claims(preset("chimera-5.1"))}
SUMMED = {claim.path: claim for claim in claims(preset("chimera-5.1-sum"))}

VERDICTS: dict[Verdict, tuple[str, ...]] = {
    "holds": (
        "params.base", "params.total_mb", "memory_budget_mb.span_bank", "memory_budget_mb.grammar",
        "memory_budget_mb.semantic_mem", "memory_budget_mb.episodic", "memory_budget_mb.guidelines",
        "memory_budget_mb.total", "memory_budget_mb.growth_ceiling", "memory_budget_mb.max_with_growth",
        "deployment.max_streams", "braid_state.kv_growth_per_token", "context_tiers.semantic_memory.mb",
        "context_tiers.ttt_compressed.mb", "context_tiers.span_trace.mb", "context_tiers.episodic_cases.mb",
        "context_tiers.episodic_cases.entries", "modes.fast.tps", "modes.balanced.tps", "modes.reasoning.tps",
    ),
    "differs": (
        "params.moe_total", "params.physical", "params.effective_2loops", "params.effective_6loops",
        "params.active_per_token", "params.weight_mb", "backbone.moe.total_params",
        "backbone.moe.active_params_per_tok", "memory_budget_mb.ternary_weights",
        "memory_budget_mb.moe_experts", "memory_budget_mb.braid", "memory_budget_mb.headroom_8gb",
        "braid_state.per_stream_mb", "deployment.per_stream_mb", "context_tiers.recent_ring.tokens",
        "context_tiers.recent_ring.mb", "context_tiers.braid_state.mb",
    ),
    "not computed": (
        "memory_budget_mb.activations", "memory_budget_mb.render_queue", "memory_budget_mb.evolution",
        "memory_budget_mb.runtime_os", "deployment.cold_start_s", "context_tiers.span_trace.entries",
    ),
}  # fmt: skip


def test_every_published_claim_has_its_verdict():
    expected = {path: verdict for verdict, paths in VERDICTS.items() for path in paths}
    assert {path: claim.verdict for path, claim in PUBLISHED.items()} == expected


def test_every_stated_figure_is_among_the_claims():
    params = {f"params.{field.json}" for field in fields_of(StatedParams)}
    assert params <= PUBLISHED.keys()
    config = preset("chimera-5.1")
    assert config.memory_budget_mb is not None
    assert {f"memory_budget_mb.{name}" for name in config.memory_budget_mb.keys} <= PUBLISHED.keys()
    for tier in config.context_tiers:
        for name in ("tokens", "entries", "mb"):
            assert (f"context_tiers.{tier.name}.{name}" in PUBLISHED) == (getattr(tier, name) is not None)


@pytest.mark.parametrize(
    ("path", "stated", "computed"),
    [
        ("params.base", 2.3e9, 2.361e9),
        ("params.moe_total", 350e6, 1_579.3e6),
        ("params.physical", 2.65e9, 3_940.2e6),
        ("params.effective_2loops", 4.2e9, 4.67e9),
        ("params.effective_6loops", 9.5e9, 10.75e9),
        ("params.active_per_token", 2.39e9, 2_639.6e6),
        ("backbone.moe.active_params_per_tok", 44e6, 278.7e6),
        ("memory_budget_mb.headroom_8gb", 4876, 4826),
        ("context_tiers.ttt_compressed.mb", 24, 22.1),
        ("context_tiers.recent_ring.mb", 16, 20 * 1.5 + 1.875),
    ],
)
def test_claims_and_truths(path: str, stated: float, computed: float):
    claim = PUBLISHED[path]
    assert claim.stated == stated
    assert claim.computed == pytest.approx(computed, rel=0.006)


def test_a_note_says_how_the_published_sum_was_meant():
    assert PUBLISHED["params.effective_2loops"].note == "4.19B without experts"
    assert PUBLISHED["params.effective_6loops"].note == "9.48B without experts"


def test_the_total_is_also_given_as_computed():
    # Weights, experts and a stream as large as they are; the stores' sizes are binary.
    mib = (384 + 64 + 320 + 8 + 2) * (2**20 / 10**6)
    weights = PUBLISHED["params.weight_mb"].computed
    stream = PUBLISHED["memory_budget_mb.braid"].computed
    assert weights is not None
    assert stream is not None
    total = weights + mib + stream + 80 + 32 + 128 + 1000
    note = f"parts as stated; as computed {total:,.0f} MB, with 16 streams {total + 15 * stream:,.0f} MB"
    assert PUBLISHED["memory_budget_mb.total"].note == note


def test_all_that_the_summed_preset_states_is_true():
    assert set(SUMMED) >= set(VERDICTS["differs"])
    assert {claim.verdict for claim in SUMMED.values()} == {"holds", "not computed"}
    published = {path: claim.stated for path, claim in PUBLISHED.items() if claim.unit == "parameters"}
    changed = {path for path, stated in published.items() if SUMMED[path].stated != stated}
    # No width satisfies both sums of the experts; 384 is right for the larger one.
    assert changed == {"backbone.moe.active_params_per_tok"}


@pytest.mark.parametrize("name", [name for name in PRESETS if not name.startswith("chimera-5.1")])
def test_our_own_presets_claim_nothing(name: str):
    assert claims(preset(name)) == []


def changed(**keys: Any) -> ModelConfig:
    return build_config({"preset": "micro", **keys}, source="test")


def test_growth_of_a_cache_is_a_claim():
    attention = {"layer_pattern": "GD AT", "layer_aliases": {"AT": "gqa"}}
    grows, stands = (
        changed(backbone=backbone, braid_state={"kv_growth_per_token": 0}) for backbone in (attention, {})
    )
    assert [claim.verdict for claim in claims(grows)] == ["differs"]
    assert [claim.verdict for claim in claims(stands)] == ["holds"]


def test_a_total_without_parts_cannot_be_computed():
    (claim,) = claims(changed(params={"total_mb": 5}))
    assert (claim.verdict, claim.note) == ("not computed", "no memory_budget_mb to sum")


@pytest.mark.parametrize(
    ("sort", "computed", "verdict"),
    [
        ("figure", 105.0, "holds"),
        ("figure", 95.3, "holds"),
        ("figure", 106.0, "differs"),
        ("figure", 94.0, "differs"),
        ("figure", 0.0, "differs"),
        ("budget", 100.0, "holds"),
        ("budget", 1.0, "holds"),
        ("budget", 100.1, "differs"),
        ("capacity", 100.0, "holds"),
        ("capacity", 99.0, "differs"),
        ("sum", 100.0 + 1e-9, "holds"),
        ("sum", 100.1, "differs"),
        ("sum", 99.9, "differs"),
        ("sum", None, "not computed"),
    ],
)
def test_verdicts(sort: Sort, computed: float | None, verdict: str):
    assert Claim(path="a", stated=100, computed=computed, unit="", sort=sort).verdict == verdict


@pytest.mark.parametrize(
    ("text", "number"), [("350M", 350e6), ("2.65B", 2.65e9), ("2T", 2e12), ("7K", 7000), ("12", 12)]
)
def test_quantities(text: str, number: float):
    assert parse_quantity(text) == number
