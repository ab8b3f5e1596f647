"""Contradictions between the sections of a config. Each check yields a path and a sentence."""

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from configs.schema.backbone import ATTENTION_KINDS, CACHE_OF_KIND
from configs.schema.model import SCHEMA_VERSION, ModelConfig

Complaints = Iterator[tuple[str, str]]

INPUTS_A_SCALE = 128
"""A packed file holds one scale for so many inputs of a ternary weight."""
SHOWN = 8


@dataclass(frozen=True, slots=True)
class Check:
    """A function that finds contradictions, and the keys that it reads."""

    find: Callable[[ModelConfig], Complaints]
    reads: tuple[str, ...]


def contradictions(config: ModelConfig, *, unread: Collection[str] = ()) -> list[tuple[str, str]]:
    """Every contradiction, in the order of the checks below.

    `unread` are keys whose value could not be read, so that another stands in its place: what reads them is
    left out, or it would complain of a value that nobody wrote.
    """
    return [
        complaint
        for check in CHECKS
        if not any(_overlap(read, path) for read in check.reads for path in unread)
        for complaint in check.find(config)
    ]


def check_version(config: ModelConfig) -> Complaints:
    if config.v != SCHEMA_VERSION:
        ours, theirs = _version(SCHEMA_VERSION), _version(config.v)
        remedy = "update chimera-edge" if theirs > ours else "it is older than any that can be migrated"
        yield (
            "_v",
            f'schema version "{config.v}" is not known here; this program reads "{SCHEMA_VERSION}": {remedy}',
        )


def check_heads(config: ModelConfig) -> Complaints:
    width = config.num_heads * config.head_dim
    if width != config.hidden_size:
        yield (
            "num_heads",
            f"{config.num_heads} heads of {config.head_dim} make {width}, but hidden_size is "
            f"{config.hidden_size}; change one of the three, or name fewer and let the others follow",
        )
    if config.hidden_size % 16:
        yield "hidden_size", f"{config.hidden_size} is not a multiple of 16; vectors must fill registers"
    if config.head_dim % 8:
        yield "head_dim", f"{config.head_dim} is not a multiple of 8; vectors must fill registers"


def check_states(config: ModelConfig) -> Complaints:
    size, memory = config.gated_deltanet.state_size, config.xlstm.memory_size_per_head
    if size not in (None, config.head_dim):
        yield "gated_deltanet.state_size", f"{size} differs from head_dim {config.head_dim}"
    if memory not in (None, (config.head_dim, config.head_dim)):
        yield "xlstm.memory_size_per_head", f"{list(memory or ())} differs from head_dim {config.head_dim}"


def check_pattern(config: ModelConfig) -> Complaints:
    backbone = config.backbone
    pattern = backbone.layer_pattern.split()
    unknown = sorted(set(pattern) - set(backbone.layer_aliases))
    if unknown:
        known = ", ".join(backbone.layer_aliases)
        yield "backbone.layer_pattern", f"{_some(unknown)} not among the aliases {known}"
        return
    repeat = backbone.layer_pattern_repeat
    if repeat is not None and round(len(pattern) * repeat, 6) != config.num_hidden_layers:
        yield (
            "backbone.layer_pattern_repeat",
            f"{len(pattern)} layers × {repeat:g} make {len(pattern) * repeat:g}, but num_hidden_layers is "
            f"{config.num_hidden_layers}",
        )
    counts = Counter(config.layer_aliases)
    if backbone.layer_counts is not None and {k: n for k, n in backbone.layer_counts.items() if n} != counts:
        stated, true = _counts(backbone.layer_counts), _counts(counts)
        yield "backbone.layer_counts", f"{stated} stated, but the pattern gives {true}"


def check_attention(config: ModelConfig) -> Complaints:
    backbone = config.backbone
    kinds = {backbone.layer_aliases.get(alias) for alias in config.layer_aliases}
    attention = [kind for kind in ATTENTION_KINDS if kind in kinds]
    if attention and backbone.type == "hybrid_recurrent_no_attention":
        yield (
            "backbone.type",
            f'is "{backbone.type}", but the pattern holds {", ".join(attention)}; write "hybrid", or '
            '"transformer" where there is nothing else',
        )
    if backbone.type == "transformer" and kinds - set(ATTENTION_KINDS):
        yield "backbone.type", 'is "transformer", but the pattern holds other layers too; write "hybrid"'
    if not attention and backbone.kv_cache != "none":
        yield (
            "backbone.kv_cache",
            f'is "{backbone.kv_cache}", but no layer of the pattern has one; write "none"',
        )
    wanted = [CACHE_OF_KIND[kind] for kind in attention]
    if attention and backbone.kv_cache not in wanted:
        remedy = " or ".join(f'"{cache}"' for cache in wanted)
        yield (
            "backbone.kv_cache",
            f'is "{backbone.kv_cache}", but the pattern holds {", ".join(attention)}; write {remedy}',
        )
    kv_heads = config.attention.num_key_value_heads
    if kv_heads is not None and config.num_heads % kv_heads:
        yield "attention.num_key_value_heads", f"{kv_heads} does not divide num_heads {config.num_heads}"
    if config.attention.rope_size % 2:
        yield "attention.rope_size", f"{config.attention.rope_size} is odd; channels are rotated in pairs"


def check_experts(config: ModelConfig) -> Complaints:
    moe = config.backbone.moe
    if not moe.enabled:
        return
    outside = [str(layer) for layer in moe.layers if layer >= config.num_hidden_layers]
    if outside:
        yield (
            "backbone.moe.layers",
            f"{_some(outside)} outside the {config.num_hidden_layers} layers, which count from 0",
        )
    if list(moe.layers) != sorted(set(moe.layers)):
        yield "backbone.moe.layers", "must rise, each layer once"
    if not moe.layers:
        yield "backbone.moe.layers", "is empty; name a layer, or set backbone.moe.enabled to false"
    if moe.num_experts_per_tok > moe.n_routed_experts:
        yield (
            "backbone.moe.num_experts_per_tok",
            f"{moe.num_experts_per_tok} of only {moe.n_routed_experts} routed experts",
        )


def check_loop(config: ModelConfig) -> Complaints:
    looping, last = config.looping, config.num_hidden_layers - 1
    if not looping.enabled:
        return
    spans = (looping.prelude, looping.loop, looping.coda)
    rising = all(first <= end for first, end in spans)
    joined = all(left[1] + 1 == right[0] for left, right in pairwise(spans))
    if not (rising and joined and spans[0][0] == 0 and spans[2][1] == last):
        remedy = "" if last >= 2 else "; a loop needs three layers, so set looping.enabled to false"
        yield (
            "looping",
            f"prelude {list(spans[0])}, loop {list(spans[1])} and coda {list(spans[2])} must follow each "
            f"other and cover layers 0 … {last}{remedy}",
        )


def check_rounds(config: ModelConfig) -> Complaints:
    looping, (least, most) = config.looping, config.looping.loop_range
    allowed = f"loop_range [{least}, {most}]"
    if looping.enabled and least > most:
        yield "looping.loop_range", f"[{least}, {most}] must rise"
        return
    if looping.enabled and not least <= looping.loop_default <= most:
        yield "looping.loop_default", f"{looping.loop_default} lies outside {allowed}"
    if not looping.enabled:
        most, allowed = 1, "1, since looping is not enabled"
    for name, mode in config.modes.items():
        if mode.loops > most:
            yield f"modes.{name}.loops", f"{mode.loops} exceeds {allowed}"
    for name, level in config.entropy_valve.levels.items():
        if level.loops > most:
            yield f"entropy_valve.levels.{name}.loops", f"{level.loops} exceeds {allowed}"


def check_quantization(config: ModelConfig) -> Complaints:
    quantization = config.quantization
    if quantization.weight_scale == "absmean_per_group" and quantization.group_size % INPUTS_A_SCALE:
        yield (
            "quantization.group_size",
            f"{quantization.group_size} is not a multiple of {INPUTS_A_SCALE}; a packed file holds a scale "
            f"for every {INPUTS_A_SCALE} inputs",
        )


def check_vocabulary(config: ModelConfig) -> Complaints:
    outside = [str(token) for token in config.token_ids if token >= config.vocab_size]
    if outside:
        yield "token_ids", f"{_some(outside)} outside the vocabulary of {config.vocab_size}, counted from 0"


def check_spans(config: ModelConfig) -> Complaints:
    spans = config.span_inference
    sources = spans.candidate_sources
    if len(sources) != len(spans.candidate_source_keys):
        yield (
            "span_inference.candidate_sources",
            f"{len(sources)} counts for {len(spans.candidate_source_keys)} candidate_source_keys",
        )
    if sum(sources) != spans.candidates_fast:
        yield (
            "span_inference.candidates_fast",
            f"is {spans.candidates_fast}, but candidate_sources sum to {sum(sources)}",
        )
    if len(spans.scoring_keys) != len(spans.scoring_weights_fast):
        yield (
            "span_inference.scoring_weights_fast",
            f"{len(spans.scoring_weights_fast)} weights for {len(spans.scoring_keys)} scoring_keys",
        )
    if spans.render_queue_target > spans.render_queue_max:
        yield (
            "span_inference.render_queue_target",
            f"{spans.render_queue_target} exceeds render_queue_max {spans.render_queue_max}",
        )
    if spans.bank_avg_tokens > spans.bank_max_tokens:
        yield (
            "span_inference.bank_avg_tokens",
            f"{spans.bank_avg_tokens} exceeds bank_max_tokens {spans.bank_max_tokens}",
        )


def check_widths_elsewhere(config: ModelConfig) -> Complaints:
    braid, multimodal = config.braid_state, config.multimodal
    for name, value in (("continuous_hidden", braid.continuous_hidden), ("fast_hidden", braid.fast_hidden)):
        if value is not None and value[0] != config.hidden_size:
            yield f"braid_state.{name}", f"is {value[0]} wide, but hidden_size is {config.hidden_size}"
    for name, out in (("vision", multimodal.vision.out), ("audio", multimodal.audio.out)):
        if out not in (None, config.hidden_size):
            yield f"multimodal.{name}.out", f"is {out} wide, but hidden_size is {config.hidden_size}"


def check_vectors(config: ModelConfig) -> Complaints:
    bits = config.semantic_memory.vector_bits
    sketch_bits, words = config.braid_state.semantic_sketch
    for path, text in (
        ("semantic_memory.vector_storage", config.semantic_memory.vector_storage),
        ("braid_state.semantic_sketch", words),
    ):
        held = 64 * int(text.removeprefix("uint64_x"))
        if held != bits:
            yield path, f'"{text}" holds {held} bits, but semantic_memory.vector_bits is {bits}'
    if sketch_bits != bits:
        yield (
            "braid_state.semantic_sketch",
            f"has {sketch_bits} bits, but semantic_memory.vector_bits is {bits}",
        )


def check_debts(config: ModelConfig) -> Complaints:
    most, slots = config.debt_ledger.max_outstanding, config.braid_state.debt_ledger_slots
    if most > slots:
        yield "debt_ledger.max_outstanding", f"{most} exceeds braid_state.debt_ledger_slots {slots}"


def check_learning_layers(config: ModelConfig) -> Complaints:
    targets = config.self_evolution.tier1.ttt.target_layers
    outside = [str(layer) for layer in targets if layer >= config.num_hidden_layers]
    if outside:
        yield (
            "self_evolution.tier1.ttt.target_layers",
            f"{_some(outside)} outside the {config.num_hidden_layers} layers, which count from 0",
        )


def check_exact_flow(config: ModelConfig) -> Complaints:
    unknown = sorted(set(config.efla.target_layers.split()) - set(config.backbone.layer_aliases))
    if config.efla.enabled and unknown:
        known = ", ".join(config.backbone.layer_aliases)
        yield "efla.target_layers", f"{_some(unknown)} not among the aliases {known}"


def check_budget(config: ModelConfig) -> Complaints:
    budget = config.memory_budget_mb
    if budget is None:
        return
    if len(budget.keys) != len(budget.vals):
        yield "memory_budget_mb._vals", f"{len(budget.vals)} values for {len(budget.keys)} names in _keys"
    if twice := _repeated(budget.keys):
        yield "memory_budget_mb._keys", f"{_some(twice)} named more than once"


def check_tiers(config: ModelConfig) -> Complaints:
    if twice := _repeated([tier.name for tier in config.context_tiers]):
        yield "context_tiers", f"{_some(twice)} named more than once"


def check_files(config: ModelConfig) -> Complaints:
    files, learnt = config.files, config.self_evolution.safety.state_file
    names = (
        files.weights, files.moe, files.spans, files.grammar, files.memory_seed, files.tokenizer,
        files.evolution,
    )  # fmt: skip
    if twice := _repeated(names):
        yield "files", f"{_some(twice)} named more than once; each file needs a name of its own"
    if learnt not in (None, files.evolution):
        yield (
            "self_evolution.safety.state_file",
            f'is "{learnt}", but files.evolution is "{files.evolution}"; name one of them',
        )


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split("."))


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {number}" for name, number in counts.items())


def _some(words: Sequence[str]) -> str:
    more = f" and {len(words) - SHOWN} more" if len(words) > SHOWN else ""
    verb = "is" if len(words) == 1 else "are"
    return f"{', '.join(words[:SHOWN])}{more} {verb}"


def _repeated(names: Sequence[str]) -> list[str]:
    return sorted(name for name, number in Counter(names).items() if number > 1)


def _overlap(left: str, right: str) -> bool:
    """Whether one path is the other, or holds it."""
    return left == right or left.startswith(f"{right}.") or right.startswith(f"{left}.")


WIDTH = ("hidden_size", "num_heads", "head_dim")
LAYERS = (
    "num_hidden_layers", "backbone.layer_pattern", "backbone.layer_pattern_repeat", "backbone.layer_aliases",
)  # fmt: skip
CHECKS = (
    Check(check_version, ("_v",)),
    Check(check_heads, WIDTH),
    Check(check_states, (*WIDTH, "gated_deltanet.state_size", "xlstm.memory_size_per_head")),
    Check(check_pattern, (*LAYERS, "backbone.layer_counts")),
    Check(check_attention, (*WIDTH, *LAYERS, "backbone.type", "backbone.kv_cache", "attention")),
    Check(check_experts, (*LAYERS, "backbone.moe")),
    Check(check_loop, (*LAYERS, "looping.enabled", "looping.prelude", "looping.loop", "looping.coda")),
    Check(
        check_rounds,
        ("looping.enabled", "looping.loop_range", "looping.loop_default", "modes", "entropy_valve.levels"),
    ),
    Check(check_quantization, ("quantization",)),
    Check(check_vocabulary, ("vocab_size", "token_ids")),
    Check(check_spans, ("span_inference",)),
    Check(check_widths_elsewhere, (*WIDTH, "braid_state", "multimodal")),
    Check(check_vectors, ("semantic_memory", "braid_state")),
    Check(check_debts, ("debt_ledger", "braid_state")),
    Check(check_learning_layers, (*LAYERS, "self_evolution.tier1.ttt")),
    Check(check_exact_flow, ("efla", "backbone.layer_aliases")),
    Check(check_budget, ("memory_budget_mb",)),
    Check(check_tiers, ("context_tiers",)),
    Check(check_files, ("files", "self_evolution.safety.state_file")),
)
