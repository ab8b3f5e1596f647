"""What a config leaves unnamed, filled in by rules.

A file may name any subset. What it names always stands. What follows from it (head counts, inner widths,
counts of layers, ranges of the loop, initialisation) is computed: in proportion to the preset that it builds
on, or by the proportions of the published model where there is none.
"""

from collections import Counter
from collections.abc import Mapping
from typing import Any, TypeGuard, cast

from configs.schema.backbone import DEFAULT_ALIASES
from configs.schema.keys import is_note

Raw = dict[str, Any]

PUBLISHED_WIDTH = 2560
PUBLISHED_FEED_FORWARD = 2.7
PUBLISHED_EXPERT = 0.15
PUBLISHED_DEVIATION = 0.006
DEFAULT_HEAD_SIZE = 64
SHARE_OUTSIDE_LOOP = 1 / 7
"""Of the published model's layers, one in seven lies before its loop and one in seven after."""

FOLLOWERS: Mapping[str, tuple[str, ...]] = {
    "hidden_size": (
        "num_heads", "intermediate_size", "initializer_range", "backbone.moe.moe_intermediate_size",
    ),
    "head_dim": ("num_heads", "gated_deltanet.state_size", "xlstm.memory_size_per_head"),
    "num_heads": ("head_dim", "gated_deltanet.state_size", "xlstm.memory_size_per_head"),
    "num_hidden_layers": (
        "backbone.layer_pattern_repeat", "backbone.layer_counts", "backbone.moe.layers",
        "looping.prelude", "looping.loop", "looping.coda", "self_evolution.tier1.ttt.target_layers",
    ),
    "backbone.layer_pattern": (
        "backbone.layer_pattern_repeat", "backbone.layer_counts", "backbone.moe.layers",
    ),
}  # fmt: skip
"""Naming a key frees those that follow from it, unless they are named too."""

CLAIMS = (
    "params", "memory_budget_mb", "context_tiers",
    "braid_state.per_stream_mb", "braid_state.continuous_hidden",
    "braid_state.fast_hidden", "deployment.per_stream_mb", "multimodal.vision.out", "multimodal.audio.out",
    "backbone.moe.total_params", "backbone.moe.active_params_per_tok",
)  # fmt: skip
"""What a preset states of its own sizes; gone once a size is changed."""

CLAIMS_OF_MODES = ("tps", "neural_hz", "span_avg")

SIZES = (
    "hidden_size", "intermediate_size", "num_hidden_layers", "num_heads", "head_dim", "vocab_size",
    "backbone.layer_pattern", "backbone.moe", "quantization.embedding_bits", "titans",
)  # fmt: skip


def overlaid(preset: Mapping[str, Any], named: Mapping[str, Any]) -> Raw:
    """The preset with a user's keys on top, and without what no longer follows."""
    base = cast(Raw, _copied(preset))
    if _get(named, "backbone.layer_counts") is not None:
        _drop(base, "backbone.layer_counts")
    for key, followers in FOLLOWERS.items():
        if _get(named, key) is not None:
            for follower in followers:
                _scale_or_drop(base, named, follower)
    if any(_names_something(_get(named, size)) for size in SIZES):
        for claim in CLAIMS:
            _drop(base, claim)
        for mode in _section(base, "modes"):
            for claim in CLAIMS_OF_MODES:
                _drop(base, f"modes.{mode}.{claim}")
    return _merged(base, named)


def derived(raw: Mapping[str, Any]) -> Raw:
    """The config with every value that the rules can give. Values of a wrong type are left for the codec."""
    full = cast(Raw, _copied(raw))
    _derive_widths(full)
    _derive_layers(full)
    _derive_loop(full)
    return full


def _derive_widths(full: Raw) -> None:
    width = full.get("hidden_size")
    if not _positive(width):
        return
    heads, head_size = full.get("num_heads"), full.get("head_dim")
    if head_size is None and _positive(heads) and width % heads == 0:
        full["head_dim"] = width // heads
    full.setdefault("head_dim", min(DEFAULT_HEAD_SIZE, width))
    if _positive(full["head_dim"]):
        full.setdefault("num_heads", max(1, width // full["head_dim"]))
        if "moe" in _section(full, "backbone"):
            _section(full, "backbone", "moe").setdefault(
                "moe_intermediate_size", _rounded(width * PUBLISHED_EXPERT, 64)
            )
        _section(full, "gated_deltanet").setdefault("state_size", full["head_dim"])
        _section(full, "xlstm").setdefault("memory_size_per_head", [full["head_dim"], full["head_dim"]])
    full.setdefault("intermediate_size", _rounded(width * PUBLISHED_FEED_FORWARD, 128))
    full.setdefault("initializer_range", round(PUBLISHED_DEVIATION * (PUBLISHED_WIDTH / width) ** 0.5, 6))
    _section(full, "braid_state").setdefault("continuous_hidden", [width, "float32"])
    _section(full, "braid_state").setdefault("fast_hidden", [width, "int8"])
    _section(full, "multimodal", "vision").setdefault("out", width)
    _section(full, "multimodal", "audio").setdefault("out", width)


def _derive_layers(full: Raw) -> None:
    backbone = _section(full, "backbone")
    pattern_text = backbone.setdefault("layer_pattern", "GD XM GD TM GD XM GD SK")
    pattern = pattern_text.split() if isinstance(pattern_text, str) else []
    for alias, kind in DEFAULT_ALIASES.items():
        _section(full, "backbone", "layer_aliases").setdefault(alias, kind)
    repeat = backbone.get("layer_pattern_repeat")
    if "num_hidden_layers" not in full and pattern:
        times = repeat if isinstance(repeat, int | float) and 0 < repeat < 1024 else 1
        full["num_hidden_layers"] = round(len(pattern) * times)
    layers = full.get("num_hidden_layers")
    if not pattern or not _positive(layers) or layers > 1024:
        return
    backbone.setdefault("layer_pattern_repeat", layers / len(pattern))
    aliases = [pattern[index % len(pattern)] for index in range(layers)]
    backbone.setdefault("layer_counts", dict(Counter(aliases)))
    experts = _section(full, "backbone", "moe")
    if experts.get("enabled") is True:
        experts.setdefault("layers", [index for index, alias in enumerate(aliases) if alias in ("TM", "SK")])


def _derive_loop(full: Raw) -> None:
    looping, layers = _section(full, "looping"), full.get("num_hidden_layers")
    if looping.get("enabled") is not True or not _positive(layers) or layers < 3:
        return
    outside = max(1, round(layers * SHARE_OUTSIDE_LOOP))
    looping.setdefault("prelude", [0, outside - 1])
    looping.setdefault("loop", [outside, layers - outside - 1])
    looping.setdefault("coda", [layers - outside, layers - 1])


def _scale_or_drop(base: Raw, named: Mapping[str, Any], follower: str) -> None:
    """A width keeps its proportion to the residual stream; anything else is computed anew."""
    old, new, value = base.get("hidden_size"), named.get("hidden_size"), _get(base, follower)
    if not (_positive(old) and _positive(new) and isinstance(value, int | float)):
        _drop(base, follower)
    elif follower.endswith("intermediate_size"):
        _put(base, follower, _rounded(value * new / old, 64))
    elif follower == "initializer_range":
        _put(base, follower, round(value * (old / new) ** 0.5, 6))
    else:
        _drop(base, follower)


def _rounded(value: float, step: int) -> int:
    return max(step, round(value / step) * step)


def _names_something(value: Any) -> bool:
    """Whether a value of a file says anything: notes alone do not."""
    if isinstance(value, Mapping):
        return any(not is_note(name) for name in cast("Mapping[str, Any]", value))
    return value is not None


def _positive(value: Any) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _section(raw: Raw, *names: str) -> Raw:
    """The section at a path, made where it is missing; a stand-in where the file has something else there."""
    for name in names:
        inner = raw.setdefault(name, {})
        if not isinstance(inner, dict):
            return {}
        raw = cast(Raw, inner)
    return raw


def _get(raw: Mapping[str, Any], path: str) -> Any:
    value: Any = raw
    for name in path.split("."):
        value = cast("Mapping[str, Any]", value).get(name) if isinstance(value, Mapping) else None
    return value


def _put(raw: Raw, path: str, value: Any) -> None:
    *sections, name = path.split(".")
    _section(raw, *sections)[name] = value


def _drop(raw: Raw, path: str) -> None:
    *sections, name = path.split(".")
    if sections and _get(raw, ".".join(sections)) is None:
        return
    _section(raw, *sections).pop(name, None)


def _copied(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _copied(item) for name, item in cast("Mapping[str, Any]", value).items()}
    return [_copied(item) for item in cast("list[Any]", value)] if isinstance(value, list) else value


def _merged(base: Raw, named: Mapping[str, Any]) -> Raw:
    for name, value in named.items():
        inner = base.get(name)
        if isinstance(value, Mapping) and isinstance(inner, dict):
            _merged(cast(Raw, inner), cast("Mapping[str, Any]", value))
        else:
            base[name] = _copied(value)
    return base
