"""What a config states of itself, beside what is computed from it."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from configs import accounting
from configs.inventory import layers
from configs.schema.backbone import ATTENTION_KINDS
from configs.schema.keys import parse_quantity
from configs.schema.model import ModelConfig

Verdict = Literal["holds", "differs", "not computed"]
Sort = Literal["figure", "budget", "sum"]

TOLERANCE = 0.05
"""Figures are stated to two digits and leave small parts out; within this share of the truth they hold."""
MB, MIB = 10**6, 2**20
MEMORY_OF_8GB_MB = 8000
SKETCH_BYTES = 1024


@dataclass(frozen=True, kw_only=True, slots=True)
class Claim:
    """One stated figure and its truth. `computed` is None where only a measurement can tell."""

    path: str
    stated: float
    computed: float | None
    unit: str
    sort: Sort = "figure"
    note: str = ""

    @property
    def verdict(self) -> Verdict:
        """A figure holds when it is near, a budget when it suffices, a sum when it is exact."""
        if self.computed is None:
            return "not computed"
        gap = self.computed - self.stated
        allowed = {"figure": TOLERANCE * abs(self.computed), "budget": 0.0, "sum": 1e-6}[self.sort]
        return "holds" if (gap if self.sort == "budget" else abs(gap)) <= allowed else "differs"


def claims(config: ModelConfig) -> list[Claim]:
    """Every figure that the config states of itself."""
    return [
        *_parameters(config),
        *_experts(config),
        *_budget(config),
        *_streams(config),
        *_tiers(config),
        *_modes(config),
    ]


def _parameters(config: ModelConfig) -> Iterator[Claim]:
    stated = config.params
    if stated is None:
        return
    experts = accounting.parameters(config, part="experts")
    total = accounting.parameters(config)
    truths = {
        "base": (total - experts, ""),
        "moe_total": (experts, ""),
        "physical": (total, ""),
        "effective_2loops": _applied(config, 2),
        "effective_6loops": _applied(config, 6),
        "active_per_token": (accounting.active_parameters(config), ""),
    }
    for name, (truth, note) in truths.items():
        text = getattr(stated, name)
        if text is not None:
            yield Claim(
                path=f"params.{name}",
                stated=parse_quantity(text),
                computed=truth,
                unit="parameters",
                note=note,
            )
    if stated.weight_mb is not None:
        yield Claim(
            path="params.weight_mb",
            stated=stated.weight_mb,
            computed=accounting.file_bytes(config) / MB,
            unit="MB",
        )
    if stated.total_mb is not None and config.memory_budget_mb is not None:
        sum_mb = sum(config.memory_budget_mb.vals)
        yield Claim(
            path="params.total_mb",
            stated=stated.total_mb,
            computed=sum_mb,
            unit="MB",
            sort="sum",
            note="sum of memory_budget_mb",
        )


def _applied(config: ModelConfig, rounds: int) -> tuple[int, str]:
    truth = accounting.applied_parameters(config, rounds=rounds)
    without = accounting.applied_parameters(config, rounds=rounds, experts=False)
    return truth, f"{without / 1e9:.2f}B without experts"


def _experts(config: ModelConfig) -> Iterator[Claim]:
    moe = config.backbone.moe
    truths = {
        "total_params": accounting.expert_matrix_parameters(config),
        "active_params_per_tok": accounting.active_expert_parameters(config),
    }
    for name, truth in truths.items():
        text = getattr(moe, name)
        if text is not None:
            yield Claim(
                path=f"backbone.moe.{name}", stated=parse_quantity(text), computed=truth, unit="parameters"
            )


def _budget(config: ModelConfig) -> Iterator[Claim]:
    budget = config.memory_budget_mb
    if budget is None:
        return
    evolution = config.self_evolution
    known = {
        "ternary_weights": accounting.file_bytes(config, experts=False) / MB,
        "moe_experts": accounting.file_bytes(config, experts=True) / MB,
        "span_bank": float(config.span_inference.bank_memory_mb),
        "grammar": float(config.grammar.storage_mb),
        "semantic_mem": float(config.semantic_memory.memory_mb),
        "episodic": _cases_bytes(config) / MIB,
        "guidelines": float(evolution.safety.max_growth_mb.guidelines),
        "braid": accounting.stream_state(config, rounds=config.rounds_default).total / MB,
    }
    for name, value in zip(budget.keys, budget.vals, strict=True):
        yield Claim(
            path=f"memory_budget_mb.{name}", stated=value, computed=known.get(name), unit="MB", sort="budget"
        )
    sum_mb, growth = sum(budget.vals), evolution.safety.max_growth_mb
    growth_mb = growth.memory + growth.span_bank + growth.episodic + growth.guidelines
    sums = {
        "total": (budget.total, sum_mb, "sum of the parts as stated"),
        "growth_ceiling": (budget.growth_ceiling, float(growth_mb), "sum of self_evolution's caps"),
        "max_with_growth": (budget.max_with_growth, sum_mb + growth_mb, "both together"),
        "headroom_8gb": (
            budget.headroom_8gb,
            MEMORY_OF_8GB_MB - sum_mb - growth_mb,
            "8000 MB less max_with_growth",
        ),
    }
    for name, (value, truth, note) in sums.items():
        if value is not None:
            yield Claim(
                path=f"memory_budget_mb.{name}",
                stated=value,
                computed=truth,
                unit="MB",
                sort="sum",
                note=note,
            )


def _streams(config: ModelConfig) -> Iterator[Claim]:
    rounds = config.rounds_default
    state_mb = accounting.stream_state(config, rounds=rounds).total / MB
    note = f"{rounds} rounds, Titans' window and chunk with it"
    for path, stated in (
        ("braid_state.per_stream_mb", config.braid_state.per_stream_mb),
        ("deployment.per_stream_mb", config.deployment.per_stream_mb),
    ):
        if stated is not None:
            yield Claim(path=path, stated=stated, computed=state_mb, unit="MB", sort="budget", note=note)
    growth = config.braid_state.kv_growth_per_token
    recurrent = all(layer.kind not in ATTENTION_KINDS for layer in layers(config))
    yield Claim(
        path="braid_state.kv_growth_per_token",
        stated=growth,
        computed=0.0 if recurrent else None,
        unit="bytes",
        sort="sum",
        note="no layer keeps more than its state" if recurrent else "",
    )
    if config.deployment.cold_start_s is not None:
        yield Claim(
            path="deployment.cold_start_s", stated=config.deployment.cold_start_s, computed=None, unit="s"
        )


def _tiers(config: ModelConfig) -> Iterator[Claim]:
    state = accounting.stream_state(config, rounds=config.rounds_default)
    cases = config.self_evolution.tier2.episodic_cases.max_cases
    for tier in config.context_tiers:
        if tier.name == "episodic_cases" and tier.entries is not None:
            yield Claim(
                path=f"context_tiers.{tier.name}.entries",
                stated=tier.entries,
                computed=cases,
                unit="cases",
                sort="sum",
            )
        if tier.mb is None:
            continue
        truth: dict[str, float] = {
            "recent_ring": state.window / MIB,
            "braid_state": (state.total - state.window) / MB,
            "semantic_memory": float(config.semantic_memory.memory_mb),
            "ttt_compressed": _fast_weight_bytes(config) / MB,
            "span_trace": (tier.entries or 0) * SKETCH_BYTES / MIB,
            "episodic_cases": _cases_bytes(config) / MIB,
        }
        yield Claim(
            path=f"context_tiers.{tier.name}",
            stated=tier.mb,
            computed=truth.get(tier.name),
            unit="MB",
            sort="budget",
        )


def _modes(config: ModelConfig) -> Iterator[Claim]:
    for name, mode in config.modes.items():
        if mode.tps:
            product = mode.neural_hz * mode.span_avg
            yield Claim(
                path=f"modes.{name}.tps",
                stated=mode.tps,
                computed=product,
                unit="tokens/s",
                sort="sum",
                note="neural_hz × span_avg",
            )


def _cases_bytes(config: ModelConfig) -> int:
    cases = config.self_evolution.tier2.episodic_cases
    return cases.max_cases * cases.case_bytes


def _fast_weight_bytes(config: ModelConfig) -> int:
    """The learnt change of the matrices that test-time training touches, one byte a weight."""
    moe, total = config.backbone.moe, 0
    for layer in config.self_evolution.tier1.ttt.target_layers:
        routed = moe.enabled and layer in moe.layers
        inner = moe.n_shared_experts * moe.moe_intermediate_size if routed else config.intermediate_size
        total += config.hidden_size * inner
    return total
