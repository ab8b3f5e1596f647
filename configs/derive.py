"""What a config leaves unnamed, filled in by rules.

A file may name any subset. What it names always stands. What follows from it (head counts, inner widths,
counts of layers, ranges of the loop, initialisation) is computed: in proportion to the preset that it builds
on, or by the proportions of the published model where there is none. Values of a wrong type are left as they
are, for the codec to refuse.
"""

from collections import Counter
from collections.abc import Mapping
from typing import Any, TypeGuard, cast

from configs.raw import Raw, as_object, copied, drop, get, merged, put, section
from configs.schema.backbone import ATTENTION_KINDS, CACHE_OF_KIND, DEFAULT_ALIASES
from configs.schema.keys import is_note

PUBLISHED_WIDTH = 2560
PUBLISHED_FEED_FORWARD = 2.7
PUBLISHED_EXPERT = 0.15
PUBLISHED_DEVIATION = 0.006
PUBLISHED_PATTERN = "GD XM GD TM GD XM GD SK"
DEFAULT_ROUNDS = 2
DEFAULT_HEAD_SIZE = 64
HEAD_SIZE_STEP = 8
MOST_LAYERS = 1024
LARGEST = 2**53
SHARE_OUTSIDE_LOOP = 1 / 7
"""Of the published model's layers, one in seven lies before its loop and one in seven after."""
KINDS_WITH_EXPERTS = ("titans_mac", "tsp_span_knot")

FOLLOWERS_OF_HEADS = ("gated_deltanet.state_size", "xlstm.memory_size_per_head")
FOLLOWERS_OF_LAYERS = (
    "backbone.layer_counts", "backbone.moe.layers", "looping.prelude", "looping.loop", "looping.coda",
    "self_evolution.tier1.ttt.target_layers",
)  # fmt: skip
FOLLOWERS: Mapping[str, tuple[str, ...]] = {
    "hidden_size": (
        "head_dim", "num_heads", "intermediate_size", "initializer_range",
        "backbone.moe.moe_intermediate_size", *FOLLOWERS_OF_HEADS,
    ),
    "head_dim": ("num_heads", *FOLLOWERS_OF_HEADS),
    "num_heads": ("head_dim", *FOLLOWERS_OF_HEADS),
    "num_hidden_layers": ("backbone.layer_pattern_repeat", *FOLLOWERS_OF_LAYERS),
    "backbone.layer_pattern_repeat": ("num_hidden_layers", *FOLLOWERS_OF_LAYERS),
    "backbone.layer_counts": ("backbone.layer_counts",),
    "backbone.layer_pattern": (
        "backbone.layer_pattern_repeat", "backbone.layer_counts", "backbone.moe.layers", "backbone.type",
        "backbone.kv_cache",
    ),
    "backbone.layer_aliases": ("backbone.moe.layers", "backbone.type", "backbone.kv_cache"),
    "looping.prelude": ("looping.loop",),
    "looping.loop": ("looping.prelude", "looping.coda"),
    "looping.coda": ("looping.loop",),
    "files.evolution": ("self_evolution.safety.state_file",),
}  # fmt: skip
"""Naming a key frees those that follow from it, unless they are named too."""

CLAIMS = (
    "_name_or_path", "params", "memory_budget_mb", "context_tiers", "modes.*.tps", "modes.*.neural_hz",
    "modes.*.span_avg", "braid_state.per_stream_mb", "braid_state.continuous_hidden",
    "braid_state.fast_hidden", "deployment.per_stream_mb", "deployment.cold_start_s", "multimodal.vision.out",
    "multimodal.audio.out", "backbone.moe.total_params", "backbone.moe.active_params_per_tok",
)  # fmt: skip
"""What a preset states of its own sizes; gone once a size is changed."""

SIZES = (
    "hidden_size", "intermediate_size", "num_hidden_layers", "num_heads", "head_dim", "vocab_size",
    "quantization.embedding_bits", "quantization.sherry_mode.enabled", "quantization.hgf_correction.enabled",
    "quantization.hgf_correction.rank", "backbone.layer_pattern", "backbone.layer_pattern_repeat",
    "backbone.layer_aliases", "backbone.moe.enabled", "backbone.moe.layers", "backbone.moe.n_routed_experts",
    "backbone.moe.n_shared_experts", "backbone.moe.num_experts_per_tok", "backbone.moe.moe_intermediate_size",
    "backbone.moe.lookahead_steps", "gated_deltanet.conv_size", "gated_deltanet.use_output_gate",
    "xlstm.conv_size", "xlstm.use_output_gate", "titans.persistent_memory_slots", "titans.local_window_size",
    "titans.window_bits", "titans.memory_chunk", "titans.conv_size", "attention.num_key_value_heads",
    "attention.window_size", "attention.latent_size", "attention.rope_size", "looping.enabled",
    "looping.prelude", "looping.loop", "looping.coda", "looping.injection",
)  # fmt: skip
"""The keys that change the number or the size of what is stored."""


def overlaid(preset: Mapping[str, Any], named: Mapping[str, Any]) -> Raw:
    """The preset with a user's keys on top, and without what no longer follows."""
    base = cast(Raw, copied(preset))
    for key, followers in FOLLOWERS.items():
        if _says_something(get(named, key)):
            for follower in followers:
                _scale_or_drop(base, named, follower)
    if any(_says_something(get(named, size)) for size in SIZES):
        for claim in CLAIMS:
            drop(base, claim)
    _keep_rounds_in_range(base, named)
    return merged(base, named)


def derived(raw: Mapping[str, Any]) -> Raw:
    """The config with every value that the rules can give."""
    full = cast(Raw, copied(raw))
    _derive_widths(full)
    _derive_layers(full)
    _derive_loop(full)
    return full


def _derive_widths(full: Raw) -> None:
    width = full.get("hidden_size")
    if not _positive(width):
        return
    heads = full.get("num_heads")
    if _positive(heads) and width % heads == 0:
        full.setdefault("head_dim", width // heads)
    full.setdefault("head_dim", _head_size(width))
    head_size = full["head_dim"]
    if _positive(head_size):
        full.setdefault("num_heads", max(1, width // head_size))
        section(full, "gated_deltanet").setdefault("state_size", head_size)
        section(full, "xlstm").setdefault("memory_size_per_head", [head_size, head_size])
    if "moe" in section(full, "backbone"):
        expert_width = _rounded(width * PUBLISHED_EXPERT, 64)
        section(full, "backbone", "moe").setdefault("moe_intermediate_size", expert_width)
    full.setdefault("intermediate_size", _rounded(width * PUBLISHED_FEED_FORWARD, 128))
    full.setdefault("initializer_range", round(PUBLISHED_DEVIATION * (PUBLISHED_WIDTH / width) ** 0.5, 6))
    section(full, "braid_state").setdefault("continuous_hidden", [width, "float32"])
    section(full, "braid_state").setdefault("fast_hidden", [width, "int8"])
    section(full, "multimodal", "vision").setdefault("out", width)
    section(full, "multimodal", "audio").setdefault("out", width)


def _derive_layers(full: Raw) -> None:
    backbone = section(full, "backbone")
    pattern_text = backbone.setdefault("layer_pattern", PUBLISHED_PATTERN)
    pattern = pattern_text.split() if isinstance(pattern_text, str) else []
    for alias, kind in DEFAULT_ALIASES.items():
        section(full, "backbone", "layer_aliases").setdefault(alias, kind)
    kind_of = as_object(backbone.get("layer_aliases")) or {}
    _derive_cache(backbone, [kind_of.get(alias) for alias in pattern])
    repeat = backbone.get("layer_pattern_repeat")
    if "num_hidden_layers" not in full and pattern:
        times = repeat if isinstance(repeat, int | float) and 0 < repeat <= MOST_LAYERS else 1
        full["num_hidden_layers"] = round(len(pattern) * times)
    layers = full.get("num_hidden_layers")
    if not pattern or not _positive(layers) or layers > MOST_LAYERS:
        return
    backbone.setdefault("layer_pattern_repeat", layers / len(pattern))
    aliases = [pattern[index % len(pattern)] for index in range(layers)]
    backbone.setdefault("layer_counts", dict(Counter(aliases)))
    experts = section(full, "backbone", "moe")
    if experts.get("enabled") is True:
        chosen = [index for index, alias in enumerate(aliases) if kind_of.get(alias) in KINDS_WITH_EXPERTS]
        experts.setdefault("layers", chosen or list(range(layers)))


def _derive_cache(backbone: Raw, kinds: list[Any]) -> None:
    attention = [kind for kind in ATTENTION_KINDS if kind in kinds]
    if attention:
        backbone.setdefault(
            "type", "transformer" if all(kind in ATTENTION_KINDS for kind in kinds) else "hybrid"
        )
        backbone.setdefault("kv_cache", CACHE_OF_KIND[attention[0]])


def _derive_loop(full: Raw) -> None:
    looping, layers = section(full, "looping"), full.get("num_hidden_layers")
    if looping.get("enabled") is not True or not _positive(layers) or layers < 3:
        return
    limits = _pair(looping.get("loop_range"))
    if limits is not None:
        looping.setdefault("loop_default", max(limits[0], min(DEFAULT_ROUNDS, limits[1])))
    outside = max(1, round(layers * SHARE_OUTSIDE_LOOP))
    loop, prelude, coda = (_pair(looping.get(name)) for name in ("loop", "prelude", "coda"))
    first = loop[0] if loop else prelude[1] + 1 if prelude else outside
    last = loop[1] if loop else coda[0] - 1 if coda else layers - outside - 1
    if 0 < first <= last < layers - 1:
        looping.setdefault("prelude", [0, first - 1])
        looping.setdefault("loop", [first, last])
        looping.setdefault("coda", [last + 1, layers - 1])


def _scale_or_drop(base: Raw, named: Mapping[str, Any], follower: str) -> None:
    """A width keeps its proportion to the residual stream; anything else is computed anew."""
    old, new, value = base.get("hidden_size"), named.get("hidden_size"), get(base, follower)
    if not (_positive(old) and _positive(new) and isinstance(value, int | float)):
        drop(base, follower)
    elif follower.endswith("intermediate_size"):
        put(base, follower, _rounded(value * new / old, 64))
    elif follower == "initializer_range":
        put(base, follower, round(value * (old / new) ** 0.5, 6))
    elif follower != "head_dim" or "num_heads" in named or new % value:
        drop(base, follower)


def _keep_rounds_in_range(base: Raw, named: Mapping[str, Any]) -> None:
    """Rounds that only the preset names give way to the range that the file names."""
    limits = (1, 1) if get(named, "looping.enabled") is False else _pair(get(named, "looping.loop_range"))
    if limits is None:
        return
    least, most = limits
    rounds = get(base, "looping.loop_default")
    if _positive(rounds):
        put(base, "looping.loop_default", max(least, min(rounds, most)))
    for group in (section(base, "modes"), section(base, "entropy_valve", "levels")):
        for inner in group.values():
            if isinstance(inner, dict) and _positive(cast(Raw, inner).get("loops")):
                inner["loops"] = min(cast(int, inner["loops"]), most)


def _head_size(width: int) -> int:
    """The largest head of a sound size that divides the width."""
    sizes = range(DEFAULT_HEAD_SIZE, 0, -HEAD_SIZE_STEP)
    return next((size for size in sizes if width % size == 0), min(DEFAULT_HEAD_SIZE, width))


def _rounded(value: float, step: int) -> int:
    return max(step, round(value / step) * step)


def _says_something(value: Any) -> bool:
    """Whether a value of a file says anything: notes alone do not."""
    inner = as_object(value)
    return value is not None if inner is None else any(not is_note(name) for name in inner)


def _positive(value: Any) -> TypeGuard[int]:
    """A whole number above zero, and small enough to calculate with."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value <= LARGEST


def _pair(value: Any) -> tuple[int, int] | None:
    """Two whole numbers that rise, if that is what the value is."""
    items = cast("list[Any]", value) if isinstance(value, list) else []
    if len(items) != 2 or not all(isinstance(item, int) and not isinstance(item, bool) for item in items):
        return None
    return (items[0], items[1]) if 0 <= items[0] <= items[1] else None
