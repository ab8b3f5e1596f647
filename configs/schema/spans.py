"""Sections `span_inference`, `tsp_knot`, `grammar`, `debt_ledger`, `entropy_valve`: spans of tokens."""

from collections.abc import Mapping
from dataclasses import field
from typing import Annotated, Literal

from configs.schema.keys import Key
from configs.schema.section import section

GrammarMode = Literal[
    "plain_text", "dialogue", "markdown", "json", "python", "javascript", "sql", "math_latex", "shell"
]
GRAMMAR_MODES: tuple[GrammarMode, ...] = (
    "plain_text", "dialogue", "markdown", "json", "python", "javascript", "sql", "math_latex", "shell",
)  # fmt: skip


@section
class TreeVerify:
    """Several continuations checked in one pass."""

    enabled: Annotated[bool, Key("Check a tree of candidates, not one chain", "planned")] = False
    method: Annotated[Literal["STree"], Key("How the tree is scanned", "carried")] = "STree"
    tree_width: Annotated[
        int, Key("Branches kept at each depth", "planned", unit="nodes", low=1, high=64)
    ] = 4
    tree_depth: Annotated[
        int, Key("Tokens of the longest branch", "planned", unit="tokens", low=1, high=64)
    ] = 5
    hardware_aware: Annotated[bool, Key("Choose the tree by this machine's timing", "planned")] = True


@section
class SpanInference:
    """A bank of spans, proposed and verified."""

    enabled: Annotated[bool, Key("Propose spans", "planned")] = False
    bank_entries: Annotated[int, Key("Spans that the bank can hold", "planned", unit="spans", low=1)] = (
        524_288
    )
    bank_avg_tokens: Annotated[
        int, Key("Mean length of a span", "planned", unit="tokens", low=1, high=64)
    ] = 5
    bank_max_tokens: Annotated[int, Key("Longest span", "planned", unit="tokens", low=1, high=64)] = 64
    bank_memory_mb: Annotated[int, Key("Memory of the bank", "planned", unit="MiB", low=1)] = 384
    candidate_sources: Annotated[
        tuple[int, ...],
        Key("Candidates from each source, in the order of their names", "planned", unit="spans", low=0),
    ] = (64, 48, 48, 32)
    candidate_source_keys: Annotated[tuple[str, ...], Key("Names of the sources", "planned")] = (
        "semantic_lsh", "grammar_allowed", "cache_hits", "neural_novel",
    )  # fmt: skip
    candidates_fast: Annotated[int, Key("Candidates in mode fast", "planned", unit="spans", low=1)] = 192
    candidates_reason: Annotated[int, Key("Candidates in mode reasoning", "planned", unit="spans", low=1)] = (
        512
    )
    tree_verify: Annotated[TreeVerify, Key("Checking of candidates", "planned")] = field(
        default_factory=TreeVerify
    )
    certificate_fields: Annotated[tuple[str, ...], Key("Parts of a span's certificate", "planned")] = (
        "span_id_u32", "semantic_delta_8192b", "grammar_delta_128b", "entity_delta_512b", "debt_delta_64b",
        "boundary_logprob_i16", "interior_risk_u8",
    )  # fmt: skip
    certificate_verify_max_us: Annotated[
        int, Key("Time to check a certificate", "planned", unit="µs", low=1)
    ] = 100
    adaptive_mask_cache: Annotated[bool, Key("Keep grammar masks of candidates", "planned")] = True
    render_queue_target: Annotated[
        int, Key("Tokens kept ahead of the reader", "planned", unit="tokens", low=1)
    ] = 256
    render_queue_max: Annotated[
        int, Key("Most tokens ahead of the reader", "planned", unit="tokens", low=1)
    ] = 2048
    fallback_below_acceptance: Annotated[
        float, Key("Acceptance below which spans are given up for a while", "planned", low=0.0, high=1.0)
    ] = 0.5
    scoring_keys: Annotated[tuple[str, ...], Key("Terms of a candidate's score", "planned")] = (
        "semantic", "grammar", "memory", "debt", "boundary",
    )  # fmt: skip
    scoring_weights_fast: Annotated[tuple[float, ...], Key("Weights of those terms", "planned")] = (
        1.0, 0.8, 0.5, 0.7, 0.35,
    )  # fmt: skip


@section
class SpanKnot:
    """The energy that a span knot lowers."""

    energy_terms: Annotated[
        Mapping[str, tuple[float, str]], Key("Weight and measure of each term", "planned")
    ] = field(default_factory=lambda: {"autoregressive": (1.0, "embedding_inner_product")})
    relaxation_phase1: Annotated[
        Literal["gated_deltanet_update"], Key("First phase of a knot", "carried")
    ] = "gated_deltanet_update"
    relaxation_phase2_max_iters: Annotated[
        int, Key("Most rounds of the second phase", "planned", unit="rounds", low=0, high=64)
    ] = 3
    relaxation_phase2_flip_fraction: Annotated[
        float, Key("Share of sketch bits that a round may flip", "planned", low=0.0, high=1.0)
    ] = 0.02
    early_exit_delta_e: Annotated[float, Key("Gain of energy below which rounds end", "planned", low=0.0)] = (
        1e-4
    )


@section
class Grammar:
    """Automata that keep the text well formed."""

    enabled: Annotated[bool, Key("Mask tokens that break the form", "planned")] = False
    modes: Annotated[tuple[GrammarMode, ...], Key("Forms that can be asked for", "planned")] = GRAMMAR_MODES
    representation: Annotated[
        Literal["deterministic_fst_plus_weighted"], Key("Kind of automaton", "carried")
    ] = "deterministic_fst_plus_weighted"
    storage_mb: Annotated[int, Key("Memory of automata and masks", "planned", unit="MiB", low=1)] = 64
    hard_constraints: Annotated[tuple[str, ...], Key("Rules that are never broken", "planned")] = ()
    soft_constraints: Annotated[tuple[str, ...], Key("Habits that cost a little to break", "planned")] = ()
    adaptive_mask_cache: Annotated[bool, Key("Store each mask in its smallest form", "planned")] = True
    jit_compilation: Annotated[bool, Key("Build automata when first used", "planned")] = True


@section
class DebtLedger:
    """Things begun that the text still owes."""

    enabled: Annotated[bool, Key("Count obligations", "planned")] = False
    obligations: Annotated[tuple[str, ...], Key("Kinds of obligation", "planned")] = ()
    max_outstanding: Annotated[int, Key("Most open obligations", "planned", low=1, high=4096)] = 64
    pressure_weight: Annotated[float, Key("Weight of open obligations on the choice", "planned", low=0.0)] = (
        0.3
    )


@section
class DepthRouter:
    """A small network that foresees how many rounds a token needs."""

    method: Annotated[Literal["mod_causal_predictor"], Key("How it is trained", "carried")] = (
        "mod_causal_predictor"
    )
    accuracy_target: Annotated[
        float, Key("Agreement with the true depth to reach", "planned", low=0.0, high=1.0)
    ] = 0.97


@section
class ValveLevel:
    """What is spent at one level of uncertainty."""

    loops: Annotated[int, Key("Rounds of the loop", "planned", unit="rounds", low=1, high=64)] = 1
    min_span: Annotated[
        int, Key("Preferred least length of a span", "planned", unit="tokens", low=1, high=64)
    ] = 1
    audit: Annotated[float, Key("Share of spans checked in full", "planned", low=0.0, high=1.0)] = 1.0


@section
class EntropyValve:
    """Compute spent where the model is unsure."""

    enabled: Annotated[bool, Key("Choose the depth by uncertainty", "planned")] = False
    metrics: Annotated[tuple[str, ...], Key("Measures of uncertainty", "planned")] = ()
    threshold_bits: Annotated[
        float, Key("Uncertainty at which a level ends", "planned", unit="bits", low=0.0)
    ] = 2.0
    type: Annotated[
        Literal["inference_time_compute_allocation"], Key("What the valve governs", "carried")
    ] = "inference_time_compute_allocation"
    loop_depth_router: Annotated[DepthRouter, Key("Foresight of the depth", "planned")] = field(
        default_factory=DepthRouter
    )
    levels: Annotated[Mapping[str, ValveLevel], Key("Levels from calm to unsure", "planned")] = field(
        default_factory=lambda: dict[str, ValveLevel]()
    )
