"""Sections `modes`, `generation`, `deployment`, `diagnostics`, `safety` and `files`: how a model is used."""

from dataclasses import field
from typing import Annotated, Literal

from configs.schema.keys import FILE_NAME, Key
from configs.schema.section import section

Platform = Literal["x86_64_avx2", "aarch64_neon", "wasm_simd128", "apple_silicon_amx"]


@section
class Mode:
    """How fast and how carefully to answer."""

    tps: Annotated[
        float,
        Key("Stated tokens a second, neural steps times tokens a span", "works", unit="tokens/s", low=0.0),
    ] = 0
    neural_hz: Annotated[float, Key("Stated neural steps a second", "works", unit="steps/s", low=0.0)] = 0
    span_avg: Annotated[float, Key("Stated tokens of a span", "works", unit="tokens", low=0.0)] = 0
    loops: Annotated[int, Key("Rounds of the loop", "works", unit="rounds", low=1, high=64)] = 1
    audit: Annotated[float, Key("Share of spans checked in full", "planned", low=0.0, high=1.0)] = 1.0


@section
class Generation:
    """How the next token is drawn unless told otherwise."""

    temperature: Annotated[
        float, Key("Flattens the choice; 0 takes the best", "works", low=0.0, high=100.0)
    ] = 0.7
    top_p: Annotated[float, Key("Share of probability kept", "works", low=0.0, high=1.0)] = 0.92
    repetition_penalty: Annotated[
        float, Key("Divides the logits of tokens already seen", "works", low=0.01, high=100.0)
    ] = 1.08
    max_new_tokens: Annotated[int, Key("Longest answer", "works", unit="tokens", low=1)] = 4096
    do_sample: Annotated[bool, Key("Draw; false takes the best token", "works")] = True
    stream: Annotated[bool, Key("Show tokens as they come", "planned")] = True


@section
class Deployment:
    """How many streams share one set of weights, and what is promised of it."""

    batch_size: Annotated[int, Key("Streams stepped together", "planned", unit="streams", low=1)] = 1
    max_streams: Annotated[int, Key("Most streams at once", "works", unit="streams", low=1)] = 16
    per_stream_mb: Annotated[float | None, Key("Stated memory of a stream", "works", unit="MB", low=0.0)] = (
        None
    )
    shared: Annotated[tuple[str, ...], Key("What streams share", "planned")] = (
        "weights",
        "span_bank",
        "grammar",
    )
    mmap: Annotated[tuple[str, ...], Key("What is mapped, not read", "planned")] = ("weights", "span_bank")
    cold_start_s: Annotated[
        float | None, Key("Stated time to the first token", "planned", unit="s", low=0.0)
    ] = None
    watchdog_tick_ms: Annotated[
        int, Key("Longest step for each token of it, where watched", "works", unit="ms", low=1)
    ] = 20
    watchdog_max_overruns: Annotated[
        int, Key("Longer steps in succession before a stream ends", "works", unit="ticks", low=0)
    ] = 8
    deterministic: Annotated[bool, Key("Same text from the same seed", "planned")] = True
    seed_controls_all: Annotated[bool, Key("One seed for every draw", "planned")] = True
    platforms: Annotated[tuple[Platform, ...], Key("Machines that the model is meant for", "carried")] = (
        "x86_64_avx2", "aarch64_neon",
    )  # fmt: skip


@section
class Thresholds:
    """Values at which a diagnostic raises an alarm."""

    min_span_accept: Annotated[float, Key("Least share of spans accepted", "planned", low=0.0, high=1.0)] = (
        0.7
    )
    max_cert_fail: Annotated[float, Key("Most certificates that fail", "planned", low=0.0, high=1.0)] = 0.05
    max_rollback: Annotated[float, Key("Most rollbacks", "planned", low=0.0, high=1.0)] = 0.02
    min_contrastive_benefit: Annotated[float, Key("Least gain of a memory", "planned")] = 0.0
    max_moe_imbalance: Annotated[float, Key("Most load of an expert above the mean", "works", low=0.0)] = 0.15


@section
class Diagnostics:
    """What a running model reports."""

    telemetry: Annotated[bool, Key("Keep counters, on this machine alone", "planned")] = True
    report_interval_tokens: Annotated[int, Key("Tokens between reports", "planned", unit="tokens", low=1)] = (
        256
    )
    metrics: Annotated[
        tuple[str, ...], Key("Values that `--stats` tells, of those that there are; none named: all", "works")
    ] = ()
    thresholds: Annotated[Thresholds, Key("Alarms", "works")] = field(default_factory=Thresholds)


@section
class Safety:
    """Guards of form, memory and facts."""

    format_guards: Annotated[tuple[str, ...], Key("Forms that an answer is held to", "planned")] = ()
    memory_limit_enforced: Annotated[bool, Key("Refuse what does not fit", "planned")] = True
    crash_only_allocator: Annotated[bool, Key("All memory is taken at the start", "planned")] = True
    user_facts_override_weak_memory: Annotated[bool, Key("A user's word beats a weak memory", "planned")] = (
        True
    )
    state_uncertainty_when_unsure: Annotated[bool, Key("Say so when unsure", "planned")] = True


@section
class Files:
    """Names of a model's files, beside its config.json."""

    weights: Annotated[str, Key("Packed weights", "works", form=FILE_NAME)] = "model.b158"
    moe: Annotated[str, Key("Packed experts", "works", form=FILE_NAME)] = "experts.b158"
    spans: Annotated[str, Key("Span bank", "planned", form=FILE_NAME)] = "spans.sfpack"
    grammar: Annotated[str, Key("Grammar automata", "planned", form=FILE_NAME)] = "grammar.fstpack"
    memory_seed: Annotated[str, Key("First contents of the semantic memory", "planned", form=FILE_NAME)] = (
        "memory.seedpack"
    )
    tokenizer: Annotated[str, Key("Tokenizer", "works", form=FILE_NAME)] = "tokenizer.model"
    evolution: Annotated[str, Key("What a user's model has learnt", "planned", form=FILE_NAME)] = (
        "evolution.state"
    )
