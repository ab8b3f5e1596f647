"""Sections `semantic_memory`, `self_evolution` and `braid_state`: what a stream remembers and learns."""

from dataclasses import field
from typing import Annotated, Literal

from configs.schema.keys import FILE_NAME, Form, Key
from configs.schema.section import section

WORDS = Form(r"uint64_x[1-9][0-9]{0,5}", "64-bit words and their number, as in uint64_x128")
VectorType = Literal["float32", "bfloat16", "float16", "int8"]


@section
class SemanticMemory:
    """A store of bit vectors found by likeness."""

    vector_bits: Annotated[int, Key("Bits of a vector", "planned", unit="bits", low=64)] = 8192
    vector_storage: Annotated[str, Key("Words of a vector", "planned", form=WORDS)] = "uint64_x128"
    capacity: Annotated[int, Key("Vectors held", "planned", unit="vectors", low=1)] = 200_000
    relations: Annotated[int, Key("Relations held", "planned", unit="triples", low=0)] = 500_000
    memory_mb: Annotated[int, Key("Memory of the store", "planned", unit="MiB", low=1)] = 320
    ops: Annotated[tuple[str, ...], Key("Operations on vectors", "planned")] = (
        "xor_bind", "xor_unbind", "majority_bundle", "popcnt_hamming", "rotate_permute",
    )  # fmt: skip
    lsh_tables: Annotated[int, Key("Hash tables", "planned", unit="tables", low=1, high=1024)] = 64
    lsh_bits_per_table: Annotated[
        int, Key("Bits hashed in a table", "planned", unit="bits", low=1, high=32)
    ] = 14
    hot_cache_entries: Annotated[int, Key("Vectors kept close", "planned", unit="vectors", low=0)] = 16_384
    read_at_every_knot: Annotated[bool, Key("Read at each span knot", "planned")] = True
    write_policy: Annotated[
        Literal["surprise_threshold_plus_contrastive_validation"], Key("When a vector is written", "planned")
    ] = "surprise_threshold_plus_contrastive_validation"
    forgetting_policy: Annotated[
        Literal["fixed_pool_exponential_decay"], Key("What is dropped", "planned")
    ] = "fixed_pool_exponential_decay"
    pool_size_fixed: Annotated[bool, Key("Never grow beyond the capacity", "planned")] = True


@section
class TestTimeTraining:
    """A matrix that keeps learning while it is used."""

    enabled: Annotated[bool, Key("Learn while reading", "planned")] = False
    target_layers: Annotated[tuple[int, ...], Key("Layers that learn", "planned", low=0)] = ()
    target_param: Annotated[Literal["mlp_w_down"], Key("The matrix that learns", "carried")] = "mlp_w_down"
    inner_lr: Annotated[float, Key("Learning rate", "planned", low=0.0)] = 3e-4
    inner_optimizer: Annotated[Literal["sgd_momentum"], Key("Update rule", "planned")] = "sgd_momentum"
    momentum: Annotated[float, Key("Momentum", "planned", low=0.0, high=1.0)] = 0.9
    objective: Annotated[Literal["next_token_prediction"], Key("What is learnt", "carried")] = (
        "next_token_prediction"
    )
    chunk_size: Annotated[int, Key("Tokens of one update", "planned", unit="tokens", low=1)] = 1024
    update_scope: Annotated[Literal["full_w_down"], Key("Part of the matrix", "carried")] = "full_w_down"
    reset_decay: Annotated[float, Key("Share kept from session to session", "planned", low=0.0, high=1.0)] = (
        0.95
    )
    persistence: Annotated[Literal["per_user_session_file"], Key("Where it is kept", "planned")] = (
        "per_user_session_file"
    )


@section
class MemoryGrowth:
    """When the semantic memory is written, and what goes."""

    enabled: Annotated[bool, Key("Write to the memory", "planned")] = False
    surprise_threshold: Annotated[
        Literal["titans_gradient_magnitude_above_2_sigma"], Key("What counts as surprising", "planned")
    ] = "titans_gradient_magnitude_above_2_sigma"
    contrastive_validation: Annotated[bool, Key("Keep only what helps", "planned")] = True
    user_explicit_store: Annotated[bool, Key("A user may store a fact", "planned")] = True
    max_per_session: Annotated[int, Key("Most writes in a session", "planned", low=0)] = 1000
    pool_fixed: Annotated[bool, Key("Never grow beyond the capacity", "planned")] = True
    forgetting: Annotated[Literal["random_drop_k_append_k"], Key("How old entries go", "planned")] = (
        "random_drop_k_append_k"
    )
    persistent: Annotated[bool, Key("Kept from session to session", "planned")] = True
    pruning: Annotated[Literal["low_retrieval_weight_eviction"], Key("What goes first", "planned")] = (
        "low_retrieval_weight_eviction"
    )


@section
class Tier1:
    """Learning within a session."""

    ttt: Annotated[TestTimeTraining, Key("Test-time training", "planned")] = field(
        default_factory=TestTimeTraining
    )
    memory_growth: Annotated[MemoryGrowth, Key("Writing to memory", "planned")] = field(
        default_factory=MemoryGrowth
    )


@section
class MetaGuidelines:
    """Advice to itself, kept while it helps."""

    enabled: Annotated[bool, Key("Keep guidelines", "planned")] = False
    max: Annotated[int, Key("Most guidelines", "planned", low=1)] = 256
    format: Annotated[Literal["8192bit_xor"], Key("Form of a guideline's key", "carried")] = "8192bit_xor"
    trigger: Annotated[Literal["contrastive_eval_negative"], Key("When one is written", "planned")] = (
        "contrastive_eval_negative"
    )


@section
class EpisodicCases:
    """Past cases, found again by their worth."""

    enabled: Annotated[bool, Key("Keep cases", "planned")] = False
    retrieval: Annotated[Literal["soft_q_learning"], Key("How a case is chosen", "planned")] = (
        "soft_q_learning"
    )
    max_cases: Annotated[int, Key("Most cases", "planned", unit="cases", low=1)] = 4096
    case_bytes: Annotated[int, Key("Size of a case", "planned", unit="bytes", low=64)] = 2048
    weight_update: Annotated[Literal["outcome_based_ema"], Key("How worth is learnt", "planned")] = (
        "outcome_based_ema"
    )


@section
class SelfFeedback:
    """A second look at an unsure answer."""

    enabled: Annotated[bool, Key("Revise unsure answers", "planned")] = False
    confidence_threshold: Annotated[
        float, Key("Mean probability below which to revise", "planned", low=0.0, high=1.0)
    ] = 0.6
    max_refinement_rounds: Annotated[int, Key("Most revisions", "planned", unit="rounds", low=0, high=16)] = 1


@section
class Tier2:
    """Learning from outcomes."""

    meta_guidelines: Annotated[MetaGuidelines, Key("Guidelines", "planned")] = field(
        default_factory=MetaGuidelines
    )
    episodic_cases: Annotated[EpisodicCases, Key("Cases", "planned")] = field(default_factory=EpisodicCases)
    self_feedback: Annotated[SelfFeedback, Key("Revision", "planned")] = field(default_factory=SelfFeedback)


@section
class SpanBankExpansion:
    """New spans from the text just written."""

    enabled: Annotated[bool, Key("Add spans", "planned")] = False
    min_span_len: Annotated[int, Key("Shortest new span", "planned", unit="tokens", low=1, high=64)] = 4
    max_new_per_session: Annotated[
        int, Key("Most new spans in a session", "planned", unit="spans", low=0)
    ] = 256
    acceptance: Annotated[str, Key("When a span is kept", "planned")] = (
        "cert_valid AND no_correction AND used_3plus"
    )
    persistent: Annotated[bool, Key("Kept from session to session", "planned")] = True
    compression: Annotated[Literal["merge_similar_periodic"], Key("How like spans are merged", "planned")] = (
        "merge_similar_periodic"
    )


@section
class DepthLearning:
    """Learning how many rounds a token needs."""

    enabled: Annotated[bool, Key("Learn the depth", "planned")] = False
    classifier: Annotated[Literal["int8_2layer_mlp"], Key("Form of the network", "carried")] = (
        "int8_2layer_mlp"
    )
    classifier_params: Annotated[int, Key("Its size", "planned", unit="parameters", low=1)] = 500_000
    signal: Annotated[Literal["parcae_convergence_speed"], Key("What it learns from", "planned")] = (
        "parcae_convergence_speed"
    )
    persistent: Annotated[bool, Key("Kept from session to session", "planned")] = True


@section
class Tier3:
    """Learning over sessions."""

    span_bank_expansion: Annotated[SpanBankExpansion, Key("New spans", "planned")] = field(
        default_factory=SpanBankExpansion
    )
    loop_depth_learning: Annotated[DepthLearning, Key("Depth", "planned")] = field(
        default_factory=DepthLearning
    )


@section
class GrowthCaps:
    """How far each store may grow."""

    memory: Annotated[int, Key("Semantic memory and its journal", "works", unit="MiB", low=0)] = 512
    span_bank: Annotated[int, Key("Span bank", "works", unit="MiB", low=0)] = 128
    episodic: Annotated[int, Key("Cases", "works", unit="MiB", low=0)] = 8
    guidelines: Annotated[int, Key("Guidelines", "works", unit="MiB", low=0)] = 2


@section
class EvolutionSafety:
    """Bounds of self-evolution."""

    max_growth_mb: Annotated[GrowthCaps, Key("Growth of each store", "works")] = field(
        default_factory=GrowthCaps
    )
    rollback_on_degradation: Annotated[bool, Key("Go back when quality falls", "planned")] = True
    monitor: Annotated[str, Key("What is watched", "planned")] = "certificate_failure_rate_and_rollback_rate"
    freeze_threshold: Annotated[
        float, Key("Rate at which all writing stops", "planned", low=0.0, high=1.0)
    ] = 0.05
    user_reset: Annotated[bool, Key("A user may forget everything", "planned")] = True
    state_file: Annotated[
        str | None,
        Key("File that holds what was learnt, that of `files` unless named", "planned", form=FILE_NAME),
    ] = None


@section
class SelfEvolution:
    """Seven ways in which a running model learns."""

    num_mechanisms: Annotated[Literal[7], Key("How many there are", "carried")] = 7
    tier1: Annotated[Tier1, Key("Within a session", "planned")] = field(default_factory=Tier1)
    tier2: Annotated[Tier2, Key("From outcomes", "planned")] = field(default_factory=Tier2)
    tier3: Annotated[Tier3, Key("Over sessions", "planned")] = field(default_factory=Tier3)
    safety: Annotated[EvolutionSafety, Key("Bounds", "planned")] = field(default_factory=EvolutionSafety)


@section
class EntityTable:
    """Who and what the text speaks of."""

    slots: Annotated[int, Key("Entities held", "planned", unit="slots", low=1)] = 256
    slot_bits: Annotated[int, Key("Bits of an entity", "planned", unit="bits", low=64)] = 512
    binding: Annotated[Literal["xor_role_filler"], Key("How roles are bound", "carried")] = "xor_role_filler"


@section
class GrammarStack:
    """Open brackets and blocks."""

    slots: Annotated[int, Key("Deepest nesting", "planned", unit="slots", low=1)] = 64
    width_bits: Annotated[int, Key("Bits of a frame", "planned", unit="bits", low=8)] = 128


@section
class BraidState:
    """All that a stream carries from token to token."""

    continuous_hidden: Annotated[
        tuple[int, VectorType] | None, Key("Width and type of the hidden vector", "planned", low=1)
    ] = None
    fast_hidden: Annotated[
        tuple[int, VectorType] | None, Key("Width and type of its fast copy", "planned", low=1)
    ] = None
    semantic_sketch: Annotated[
        tuple[int, str], Key("Bits and words of the sketch", "planned", low=64, form=WORDS)
    ] = (
        8192,
        "uint64_x128",
    )
    entity_table: Annotated[EntityTable, Key("Entities", "planned")] = field(default_factory=EntityTable)
    grammar_stack: Annotated[GrammarStack, Key("Nesting", "planned")] = field(default_factory=GrammarStack)
    debt_ledger_slots: Annotated[int, Key("Obligations held", "planned", unit="slots", low=1)] = 64
    per_stream_mb: Annotated[float | None, Key("Stated memory of a stream", "works", unit="MB", low=0.0)] = (
        None
    )
    kv_growth_per_token: Annotated[
        float | None, Key("Stated growth a token", "works", unit="bytes", low=0.0)
    ] = None
