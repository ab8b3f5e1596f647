"""What a config states of itself, beside what is computed from it."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from configs import accounting
from configs.inventory import layers
from configs.schema.claims import ContextTier, MemoryBudget
from configs.schema.keys import parse_quantity
from configs.schema.model import ModelConfig

Verdict = Literal["holds", "differs", "not computed"]
Sort = Literal["figure", "budget", "capacity", "sum"]

TOLERANCE = 0.05
"""Figures are stated to two digits and leave small parts out; within this share of the truth they hold."""
ROUNDING = 1e-6
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
        """A figure holds when near, a budget or capacity when it suffices, a sum when exact."""
        if self.computed is None:
            return "not computed"
        gap = self.computed - self.stated
        holds = {
            "figure": abs(gap) <= TOLERANCE * abs(self.computed),
            "budget": gap <= 0,
            "capacity": gap >= 0,
            "sum": abs(gap) <= ROUNDING,
        }
        return "holds" if holds[self.sort] else "differs"


def claims(config: ModelConfig) -> list[Claim]:
    """Every figure that the config states of itself."""
    return [
        *_parameters(config),
        *_weights(config),
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
    experts, total = accounting.parameters(config, part="experts"), accounting.parameters(config)
    truths = {
        "base": (total - experts, ""),
        "moe_total": (experts, ""),
        "physical": (total, ""),
        "effective_2loops": _applied(config, rounds=2),
        "effective_6loops": _applied(config, rounds=6),
        "active_per_token": (accounting.active_parameters(config), ""),
    }
    for name, (truth, note) in truths.items():
        text = getattr(stated, name)
        if text is not None:
            value = parse_quantity(text)
            yield Claim(path=f"params.{name}", stated=value, computed=truth, unit="parameters", note=note)


def _applied(config: ModelConfig, *, rounds: int) -> tuple[int, str]:
    """The truth, and what the same sum gives for matrices alone without experts."""
    matrices = accounting.applied_parameters(config, rounds=rounds, experts=False, matrices=True)
    return accounting.applied_parameters(config, rounds=rounds), f"{matrices / 1e9:.2f}B without experts"


def _weights(config: ModelConfig) -> Iterator[Claim]:
    stated, budget = config.params, config.memory_budget_mb
    if stated is None:
        return
    if stated.weight_mb is not None:
        yield Claim(
            path="params.weight_mb",
            stated=stated.weight_mb,
            computed=accounting.file_bytes(config) / MB,
            unit="MB",
            note=_form(config),
        )
    if stated.total_mb is not None:
        yield Claim(
            path="params.total_mb",
            stated=stated.total_mb,
            computed=None if budget is None else sum(budget.vals),
            unit="MB",
            sort="sum",
            note="no memory_budget_mb to sum" if budget is None else "sum of memory_budget_mb",
        )


def _form(config: ModelConfig) -> str:
    return f"{accounting.own_form(config)} weights, {config.quantization.embedding_bits}-bit embedding"


def _experts(config: ModelConfig) -> Iterator[Claim]:
    moe = config.backbone.moe
    truths = {
        "total_params": accounting.expert_matrix_parameters(config),
        "active_params_per_tok": accounting.active_expert_parameters(config),
    }
    for name, truth in truths.items():
        text = getattr(moe, name)
        if text is not None:
            value = parse_quantity(text)
            yield Claim(path=f"backbone.moe.{name}", stated=value, computed=truth, unit="parameters")


def _budget(config: ModelConfig) -> Iterator[Claim]:
    budget = config.memory_budget_mb
    if budget is None:
        return
    known = _parts(config)
    for name, value in zip(budget.keys, budget.vals, strict=True):
        truth, unit, note = known.get(name, (None, "MB", ""))
        path = f"memory_budget_mb.{name}"
        yield Claim(path=path, stated=value, computed=truth, unit=unit, sort="budget", note=note)
    growth = config.self_evolution.safety.max_growth_mb
    growth_mb = growth.memory + growth.span_bank + growth.episodic + growth.guidelines
    sum_mb = sum(budget.vals)
    sums = {
        "total": (budget.total, sum_mb, _total_in_truth(config, budget)),
        "growth_ceiling": (budget.growth_ceiling, growth_mb, "sum of self_evolution's caps"),
        "max_with_growth": (budget.max_with_growth, sum_mb + growth_mb, "both together"),
        "headroom_8gb": (
            budget.headroom_8gb,
            MEMORY_OF_8GB_MB - sum_mb - growth_mb,
            f"{MEMORY_OF_8GB_MB} MB less max_with_growth",
        ),
    }
    for name, (value, truth, note) in sums.items():
        if value is not None:
            path = f"memory_budget_mb.{name}"
            yield Claim(path=path, stated=value, computed=float(truth), unit="MB", sort="sum", note=note)


def _parts(config: ModelConfig) -> Mapping[str, tuple[float, str, str]]:
    """Size, unit and note of each part of a budget that can be computed."""
    experts = accounting.part_bytes(config, "experts")
    rounds = config.rounds_default
    return {
        "ternary_weights": ((accounting.file_bytes(config) - experts) / MB, "MB", _form(config)),
        "moe_experts": (experts / MB, "MB", f"{accounting.own_form(config)} weights"),
        "span_bank": (config.span_inference.bank_memory_mb, "MiB", ""),
        "grammar": (config.grammar.storage_mb, "MiB", ""),
        "semantic_mem": (config.semantic_memory.memory_mb, "MiB", ""),
        "episodic": (_cases_bytes(config) / MIB, "MiB", ""),
        "guidelines": (config.self_evolution.safety.max_growth_mb.guidelines, "MiB", ""),
        "braid": (_state_mb(config), "MB", f"one stream at {_rounds_text(rounds)}"),
    }


def _total_in_truth(config: ModelConfig, budget: MemoryBudget) -> str:
    """What the parts come to where each is as large as it is computed to be."""
    known, streams = _parts(config), config.deployment.max_streams
    total_mb = 0.0
    for name, value in zip(budget.keys, budget.vals, strict=True):
        truth, unit, _ = known.get(name, (value, "MB", ""))
        total_mb += truth * (MIB / MB if unit == "MiB" else 1)
    more_mb = _state_mb(config) * (streams - 1)
    all_mb = total_mb + more_mb
    return f"parts as stated; as computed {total_mb:,.0f} MB, with {streams} streams {all_mb:,.0f} MB"


def _streams(config: ModelConfig) -> Iterator[Claim]:
    rounds, state_mb = config.rounds_default, _state_mb(config)
    deployment, braid = config.deployment, config.braid_state
    note = f"{_rounds_text(rounds)}, with window and chunk"
    for path, stated in (
        ("braid_state.per_stream_mb", braid.per_stream_mb),
        ("deployment.per_stream_mb", deployment.per_stream_mb),
    ):
        if stated is not None:
            yield Claim(path=path, stated=stated, computed=state_mb, unit="MB", sort="budget", note=note)
    if deployment.per_stream_mb is not None and state_mb:
        room_mb = MEMORY_OF_8GB_MB - accounting.file_bytes(config) / MB
        yield Claim(
            path="deployment.max_streams",
            stated=deployment.max_streams,
            computed=max(0, room_mb // state_mb),
            unit="streams",
            sort="capacity",
            note=f"that fit into {MEMORY_OF_8GB_MB} MB beside the weights",
        )
    if braid.kv_growth_per_token is not None:
        yield Claim(
            path="braid_state.kv_growth_per_token",
            stated=braid.kv_growth_per_token,
            computed=accounting.cache_growth(config, rounds=rounds),
            unit="bytes",
            sort="sum",
            note=_rounds_text(rounds),
        )
    if deployment.cold_start_s is not None:
        yield Claim(path="deployment.cold_start_s", stated=deployment.cold_start_s, computed=None, unit="s")


def _rounds_text(rounds: int) -> str:
    return "1 round" if rounds == 1 else f"{rounds} rounds"


def _state_mb(config: ModelConfig) -> float:
    return accounting.stream_state(config, rounds=config.rounds_default).total / MB


def _tiers(config: ModelConfig) -> Iterator[Claim]:
    state = accounting.stream_state(config, rounds=config.rounds_default)
    held = any(layer.kind == "titans_mac" for layer in layers(config)) * config.titans.local_window_size
    cases = config.self_evolution.tier2.episodic_cases.max_cases
    for tier in config.context_tiers:
        sizes = {
            "recent_ring": (state.window / MIB, "MiB"),
            "braid_state": ((state.total - state.window) / MB, "MB"),
            "semantic_memory": (config.semantic_memory.memory_mb, "MiB"),
            "ttt_compressed": (_fast_weight_bytes(config) / MB, "MB"),
            "span_trace": ((tier.entries or 0) * SKETCH_BYTES / MIB, "MiB"),
            "episodic_cases": (_cases_bytes(config) / MIB, "MiB"),
        }
        yield from _tier(tier, sizes=sizes, held={"recent_ring": held, "episodic_cases": cases})


def _tier(
    tier: ContextTier, *, sizes: Mapping[str, tuple[float, str]], held: Mapping[str, int]
) -> Iterator[Claim]:
    path, truth = f"context_tiers.{tier.name}", held.get(tier.name)
    if tier.tokens is not None:
        yield Claim(path=f"{path}.tokens", stated=tier.tokens, computed=truth, unit="tokens", sort="sum")
    if tier.entries is not None:
        yield Claim(path=f"{path}.entries", stated=tier.entries, computed=truth, unit="entries", sort="sum")
    if tier.mb is not None:
        size, unit = sizes.get(tier.name, (None, "MB"))
        yield Claim(path=f"{path}.mb", stated=tier.mb, computed=size, unit=unit, sort="budget")


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
