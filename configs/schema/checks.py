"""Contradictions between the sections of a config. Each check yields a path and a sentence."""

from collections import Counter
from collections.abc import Callable, Iterator

from configs.schema.backbone import ATTENTION_KINDS
from configs.schema.model import SCHEMA_VERSION, ModelConfig

Complaints = Iterator[tuple[str, str]]

CACHE_OF_KIND = {"mla": "latent", "swa": "window", "gqa": "full"}


def contradictions(config: ModelConfig) -> list[tuple[str, str]]:
    """Every contradiction, in the order of the checks below."""
    return [complaint for check in CHECKS for complaint in check(config)]


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
            (
                f"{config.num_heads} heads of {config.head_dim} make {width}, but hidden_size is "
                f"{config.hidden_size}; change one of the three, or name fewer and let the others follow"
            ),
        )
    if config.gated_deltanet.state_size not in (None, config.head_dim):
        yield (
            "gated_deltanet.state_size",
            f"{config.gated_deltanet.state_size} differs from head_dim {config.head_dim}",
        )
    if config.xlstm.memory_size_per_head not in (None, (config.head_dim, config.head_dim)):
        stated = list(config.xlstm.memory_size_per_head or ())
        yield "xlstm.memory_size_per_head", f"{stated} differs from head_dim {config.head_dim}"
    if config.hidden_size % 16 or config.head_dim % 8:
        yield (
            "hidden_size",
            "widths are multiples of 16, head sizes multiples of 8, so that vectors fill registers",
        )


def check_pattern(config: ModelConfig) -> Complaints:
    backbone = config.backbone
    pattern = backbone.layer_pattern.split()
    unknown = sorted(set(pattern) - set(backbone.layer_aliases))
    if unknown:
        known = ", ".join(backbone.layer_aliases)
        yield "backbone.layer_pattern", f"{', '.join(unknown)} not among the aliases {known}"
        return
    repeat = backbone.layer_pattern_repeat
    if repeat is not None and round(len(pattern) * repeat, 6) != config.num_hidden_layers:
        yield (
            "backbone.layer_pattern_repeat",
            (
                f"{len(pattern)} layers × {repeat:g} make {len(pattern) * repeat:g}, but "
                f"num_hidden_layers is {config.num_hidden_layers}"
            ),
        )
    counts = dict(Counter(config.layer_aliases))
    if backbone.layer_counts is not None and {k: n for k, n in backbone.layer_counts.items() if n} != counts:
        yield "backbone.layer_counts", f"{dict(backbone.layer_counts)} stated, but the pattern gives {counts}"


def check_attention(config: ModelConfig) -> Complaints:
    backbone = config.backbone
    kinds = {backbone.layer_aliases.get(alias, "gated_deltanet") for alias in config.layer_aliases}
    attention = [kind for kind in ATTENTION_KINDS if kind in kinds]
    if attention and backbone.type == "hybrid_recurrent_no_attention":
        yield (
            "backbone.type",
            f"is {backbone.type}, but the pattern holds {', '.join(attention)}; name it hybrid",
        )
    if not attention and backbone.kv_cache != "none":
        yield (
            "backbone.kv_cache",
            f'is "{backbone.kv_cache}", but no layer of the pattern has one; write "none"',
        )
    if attention and backbone.kv_cache == "none":
        wanted = CACHE_OF_KIND[attention[0]]
        yield "backbone.kv_cache", f'is "none", but {", ".join(attention)} needs one; write "{wanted}"'
    kv_heads = config.attention.num_key_value_heads
    if kv_heads is not None and config.num_heads % kv_heads:
        yield "attention.num_key_value_heads", f"{kv_heads} does not divide num_heads {config.num_heads}"


def check_experts(config: ModelConfig) -> Complaints:
    moe = config.backbone.moe
    if not moe.enabled:
        return
    outside = [layer for layer in moe.layers if layer >= config.num_hidden_layers]
    if outside:
        yield (
            "backbone.moe.layers",
            f"{outside} lie outside the {config.num_hidden_layers} layers, counted from 0",
        )
    if list(moe.layers) != sorted(set(moe.layers)):
        yield "backbone.moe.layers", "must rise, each layer once"
    if moe.num_experts_per_tok > moe.n_routed_experts:
        yield (
            "backbone.moe.num_experts_per_tok",
            (f"{moe.num_experts_per_tok} of only {moe.n_routed_experts} routed experts"),
        )


def check_loop(config: ModelConfig) -> Complaints:
    looping = config.looping
    least, most = looping.loop_range
    if not looping.enabled:
        return
    if not least <= looping.loop_default <= most:
        yield "looping.loop_default", f"{looping.loop_default} lies outside loop_range [{least}, {most}]"
    spans = (looping.prelude, looping.loop, looping.coda)
    joined = [
        *range(spans[0][0], spans[0][1] + 1),
        *range(spans[1][0], spans[1][1] + 1),
        *range(spans[2][0], spans[2][1] + 1),
    ]
    if joined != list(range(config.num_hidden_layers)) or any(first > last for first, last in spans):
        yield (
            "looping",
            (
                f"prelude {list(spans[0])}, loop {list(spans[1])} and coda {list(spans[2])} must follow each "
                f"other and cover layers 0 … {config.num_hidden_layers - 1}"
            ),
        )
    for name, mode in config.modes.items():
        if mode.loops > most:
            yield f"modes.{name}.loops", f"{mode.loops} exceeds loop_range [{least}, {most}]"
    for name, level in config.entropy_valve.levels.items():
        if level.loops > most:
            yield f"entropy_valve.levels.{name}.loops", f"{level.loops} exceeds loop_range [{least}, {most}]"


def check_quantization(config: ModelConfig) -> Complaints:
    quantization = config.quantization
    group, block = quantization.group_size, quantization.activation_block_size
    if quantization.weight_scale == "absmean_per_group" and (group % 64 or group % block):
        yield (
            "quantization.group_size",
            (
                f"{group} is not a multiple of 64 and of activation_block_size {block}: one weight scale "
                "must cover whole blocks"
            ),
        )


def check_vocabulary(config: ModelConfig) -> Complaints:
    outside = [token for token in config.token_ids if token >= config.vocab_size]
    if outside:
        yield "token_ids", f"{outside} lie outside the vocabulary of {config.vocab_size}"


def check_spans(config: ModelConfig) -> Complaints:
    spans = config.span_inference
    if len(spans.candidate_sources) != len(spans.candidate_source_keys):
        yield (
            "span_inference.candidate_sources",
            (
                f"{len(spans.candidate_sources)} counts for {len(spans.candidate_source_keys)} "
                "candidate_source_keys"
            ),
        )
    if sum(spans.candidate_sources) != spans.candidates_fast:
        yield (
            "span_inference.candidates_fast",
            (f"is {spans.candidates_fast}, but candidate_sources sum to {sum(spans.candidate_sources)}"),
        )
    if len(spans.scoring_keys) != len(spans.scoring_weights_fast):
        yield (
            "span_inference.scoring_weights_fast",
            (f"{len(spans.scoring_weights_fast)} weights for {len(spans.scoring_keys)} scoring_keys"),
        )
    if spans.render_queue_target > spans.render_queue_max:
        yield "span_inference.render_queue_target", f"exceeds render_queue_max {spans.render_queue_max}"


def check_widths_elsewhere(config: ModelConfig) -> Complaints:
    braid, multimodal = config.braid_state, config.multimodal
    for name, value in (("continuous_hidden", braid.continuous_hidden), ("fast_hidden", braid.fast_hidden)):
        if value is not None and value[0] != config.hidden_size:
            yield f"braid_state.{name}", f"is {value[0]} wide, but hidden_size is {config.hidden_size}"
    for name, out in (("vision", multimodal.vision.out), ("audio", multimodal.audio.out)):
        if out not in (None, config.hidden_size):
            yield f"multimodal.{name}.out", f"is {out} wide, but hidden_size is {config.hidden_size}"


def check_targets(config: ModelConfig) -> Complaints:
    targets = config.self_evolution.tier1.ttt.target_layers
    outside = [layer for layer in targets if layer >= config.num_hidden_layers]
    if outside:
        yield (
            "self_evolution.tier1.ttt.target_layers",
            f"{outside} lie outside the {config.num_hidden_layers} layers",
        )
    unknown = sorted(set(config.efla.target_layers.split()) - set(config.backbone.layer_aliases))
    if config.efla.enabled and unknown:
        yield "efla.target_layers", f"{', '.join(unknown)} not among the aliases of the layers"


def check_budget(config: ModelConfig) -> Complaints:
    budget = config.memory_budget_mb
    if budget is not None and len(budget.keys) != len(budget.vals):
        yield "memory_budget_mb._vals", f"{len(budget.vals)} values for {len(budget.keys)} names in _keys"


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split("."))


CHECKS: tuple[Callable[[ModelConfig], Complaints], ...] = (
    check_version,
    check_heads,
    check_pattern,
    check_attention,
    check_experts,
    check_loop,
    check_quantization,
    check_vocabulary,
    check_spans,
    check_widths_elsewhere,
    check_targets,
    check_budget,
)
