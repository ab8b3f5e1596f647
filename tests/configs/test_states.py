"""A key that is said to work changes something that can be observed; one that is not, changes nothing."""

import copy
import re
import types
from functools import cache
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

import pytest

from chimera.mixers.table import group_size
from configs import accounting, derive
from configs.claims import claims
from configs.codec import decode, encode
from configs.errors import ConfigError
from configs.inventory import layers, tensors
from configs.leaves import Leaf, inert_paths, leaves
from configs.load import build_config, preset_json
from configs.raw import as_object, drop, get, put
from configs.schema.keys import QUANTITY, fields_of, sections
from configs.schema.model import ModelConfig
from runtime.inspection import inspect_config
from runtime.sampling import settings_of
from runtime.streams.scheduler import watchdog_of
from tests.chimera.test_config_keys import KEYS as MODEL_KEYS
from tests.chimera.train.test_step import KEYS as STEP_KEYS
from tests.chimera.train.test_training_keys import OTHERS, PHASE_KEYS, SWITCHES

PUBLISHED = preset_json("chimera-5.1")
CLAIMS = ("params", "memory_budget_mb", "context_tiers", "modes", "deployment")
BASE: dict[str, Any] = {
    "preset": "chimera-5.1",
    "_name_or_path": "base",
    "backbone": {
        "layer_pattern": "GD XM TM GQ SW ML SK GD",
        "layer_pattern_repeat": 1,
        "layer_aliases": {"GQ": "gqa", "SW": "swa", "ML": "mla"},
        "moe": {"layers": [2, 6], "total_params": "350M", "active_params_per_tok": "44M"},
    },
    "looping": {"loop": [1, 6]},
    "quantization": {"hgf_correction": {"enabled": True}},
    "braid_state": {"per_stream_mb": 30},
    **{section: PUBLISHED[section] for section in CLAIMS},
}
"""A model with layers of every kind and every claim, so that every key has something to do."""

CHANGED: dict[str, Any] = {
    "backbone.layer_aliases": {"SK": "xlstm_m"},
    "backbone.layer_pattern": "GD XM TM GQ SW ML SK SK",
    "backbone.moe.layers": [2, 5],
    "looping.prelude": [0, 1],
    "looping.loop": [1, 5],
    "looping.coda": [6, 7],
    "looping.loop_default": 3,
    "looping.loop_range": [2, 6],
    "attention.num_key_value_heads": 8,
    "hidden_size": 1280,
    "num_heads": 20,
    "head_dim": 128,
    "num_hidden_layers": 12,
    "memory_budget_mb._keys": [f"part{number}" for number in range(12)],
    "grammar.modes": ["json"],
    "self_evolution.tier1.ttt.target_layers": [2],
    "braid_state.continuous_hidden": [2560, "bfloat16"],
    "braid_state.fast_hidden": [2560, "float16"],
    "deployment.platforms": ["x86_64_avx2"],
    "multimodal.modalities": ["text"],
    "quantization.weight_values": None,
    "braid_state.semantic_sketch": None,
    "semantic_memory.vector_bits": None,
    "semantic_memory.vector_storage": None,
}
"""Changes that a type does not suggest. None: the value is held by what it is compared with."""

FREED = {
    "num_hidden_layers": ("backbone.layer_pattern_repeat", "looping.loop"),
    "backbone.layer_pattern_repeat": ("looping.loop",),
    "looping.enabled": ("modes",),
    "looping.prelude": ("looping.loop",),
    "looping.coda": ("looping.loop",),
}
"""What the base names and would contradict the change."""

REFUSED: dict[str, Any] = {
    "_v": "9.0",
    "token_ids": [0, 300_000],
    "backbone.type": "transformer",
    "backbone.kv_cache": "none",
    "backbone.layer_counts": {"GD": 8},
    "gated_deltanet.state_size": 32,
    "xlstm.memory_size_per_head": [32, 32],
    "modes.fast.loops": 9,
    "modes.balanced.loops": 9,
    "modes.reasoning.loops": 9,
}
"""Keys that work by being compared with others: a value that is refused."""

LEARNT = {
    *MODEL_KEYS,
    *STEP_KEYS,
    *OTHERS,
    *(
        f"P3_ternary_compute.implemented_optimizations.{name}.status"
        for name in (*SWITCHES, "ternary_mezo_sparse")  # the last in tests/exports/test_mezo.py
    ),
}
"""Keys that act when a model is trained; the tests that hold these tables show each of them at work."""


def observed(config: ModelConfig) -> Any:
    """What programs of today make of a config, but for the verdicts on what it states of itself."""
    return (
        sizes(config),
        layers(config),
        group_size(config),
        accounting.round_counts(config),
        config.rounds_default,
        config.name_or_path,
        config.deployment.max_streams,
        watchdog_of(config),
        config.looping.adaptive_exit_threshold,
        settings_of(config.generation),
        config.generation.max_new_tokens,
        config.diagnostics.metrics,
    )


def sizes(config: ModelConfig) -> Any:
    """All that is stored, for the model and for a stream."""
    return (
        tensors(config),
        accounting.file_bytes(config),
        accounting.bytes_per_token(config, rounds=3),
        accounting.stream_state(config, rounds=3),
        accounting.cache_growth(config, rounds=3),
    )


def verdicts(config: ModelConfig) -> list[str]:
    return [f"{claim} {claim.verdict}" for claim in claims(config)]


@cache
def base() -> ModelConfig:
    return build_config(BASE, source="base")


@cache
def observed_base() -> Any:
    return observed(base())


@cache
def verdicts_of_base() -> list[str]:
    return verdicts(base())


FULL: dict[str, Any] = encode(base())
LEAVES = {leaf.path: leaf for leaf in leaves(FULL)}


def is_learnt(path: str) -> bool:
    """Whether a key acts in PyTorch alone, where a test of its own shows it."""
    phase_key = re.fullmatch(r"training\.phases\[[0-9]+\]\.(\w+)", path)
    return path in LEARNT or (phase_key is not None and phase_key[1] in PHASE_KEYS)


def other_value(leaf: Leaf) -> Any:
    """A different value of the same type, within the key's range; None where there is none."""
    if leaf.path in CHANGED:
        return CHANGED[leaf.path]
    return different(leaf.value, kind=leaf.field.kind, low=leaf.field.key.low, high=leaf.field.key.high)


def different(value: Any, *, kind: Any, low: float | None, high: float | None) -> Any:
    choices = literals(kind)
    if choices and not isinstance(value, list | dict):
        return next((choice for choice in choices if choice != value), None)
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        up = value * 2 if value else 1
        if high is None or up <= high:
            return up
        down = value / 2 if isinstance(value, float) else value // 2
        return down if low is None or down >= low else None
    if isinstance(value, str):
        return different_text(value)
    if isinstance(value, list):
        inner = [different(item, kind=None, low=low, high=high) for item in value]
        return [*value[:-1], inner[-1]] if inner and inner[-1] is not None else [*value, "x"]
    return {**value, "x": next(iter(value.values()))} if value else {"x": "y"}


def literals(kind: Any) -> tuple[Any, ...]:
    """The values that a type names, itself or as a member of a union."""
    members = [kind, *get_args(kind)] if get_origin(kind) in (Union, types.UnionType) else [kind]
    return tuple(choice for member in members if get_origin(member) is Literal for choice in get_args(member))


def different_text(value: str) -> str:
    if re.fullmatch(QUANTITY.pattern, value):
        return "7K"
    return "OFF" if value.startswith("IMPLEMENTED") else f"{value}x"


def mutated(path: str, value: Any) -> dict[str, Any]:
    """The base with another value at one place; an array is replaced whole."""
    raw = copy.deepcopy(BASE)
    for freed in FREED.get(path, ()):
        drop(raw, freed)
    array, _, rest = path.partition("[")
    if rest:
        whole = copy.deepcopy(get(FULL, array))
        index, _, inner = rest.partition("].")
        whole[int(index)][inner] = value
        path, value = array, whole
    if as_object(get(raw, path)) is not None and as_object(value) is not None:
        value = {**get(raw, path), **value}
    put(raw, path, value)
    return raw


def is_well_formed(raw: dict[str, Any]) -> bool:
    """Whether only a contradiction can speak against it."""
    full = derive.derived(derive.overlaid(encode(base()), {k: v for k, v in raw.items() if k != "preset"}))
    return decode(ModelConfig, full, problems=[]) is not None


WORKING = [path for path, leaf in LEAVES.items() if leaf.field.key.state == "works" and not is_learnt(path)]
FILES = [path for path in WORKING if path.startswith("files.")]
MUTABLE = [
    path
    for path in LEAVES
    if path not in REFUSED and not is_learnt(path) and other_value(LEAVES[path]) is not None
]
CLAIMED = ("params.", "memory_budget_mb.", "context_tiers[", "modes.", "self_evolution.safety.max_growth_mb.")
STATED = (
    "braid_state.per_stream_mb", "braid_state.kv_growth_per_token", "deployment.per_stream_mb",
    "backbone.moe.total_params", "backbone.moe.active_params_per_tok",
)  # fmt: skip


@pytest.mark.parametrize("path", [path for path in WORKING if path not in (*REFUSED, *FILES)])
def test_a_working_key_changes_something(path: str):
    config = build_config(mutated(path, other_value(LEAVES[path])), source="test")
    if path.startswith(CLAIMED) or path in STATED:
        assert verdicts(config) != verdicts_of_base()
    else:
        assert observed(config) != observed_base()
    if sizes(config) != sizes(base()):
        assert path in derive.SIZES


@pytest.mark.parametrize("path", REFUSED)
def test_a_key_that_is_compared_with_others_is_refused(path: str):
    assert path in WORKING
    raw = mutated(path, REFUSED[path])
    assert is_well_formed(raw)
    with pytest.raises(ConfigError, match=re.escape(path)):
        build_config(raw, source="test")


def test_a_file_is_looked_for_by_its_name(tmp_path: Path):
    (tmp_path / base().files.tokenizer).write_bytes(b"x")
    (tmp_path / base().files.weights).write_bytes(b"x")
    (tmp_path / base().files.moe).write_bytes(b"x")

    def found(raw: dict[str, Any]) -> dict[str, str]:
        config = build_config(raw, source="test")
        rows = inspect_config(config, raw=raw, source="test", folder=tmp_path)["files"]
        return {f"files.{row['key']}": row["verdict"] for row in rows}

    before = found(BASE)
    assert {path: before[path] for path in FILES} == {
        "files.weights": "differs",
        "files.moe": "differs",
        "files.tokenizer": "holds",
    }
    for path in FILES:
        assert found(mutated(path, "elsewhere"))[path] == "missing"


@pytest.mark.parametrize("path", [path for path in MUTABLE if path not in WORKING])
def test_an_inert_key_changes_nothing(path: str):
    raw = mutated(path, other_value(LEAVES[path]))
    assert is_well_formed(raw)
    try:
        after = observed(build_config(raw, source="test"))
    except ConfigError:
        # It contradicts another key; whether it acts can be seen on what is accepted alone.
        return
    assert after == observed_base()


def test_what_acts_in_learning_works():
    assert set(LEAVES) >= LEARNT
    acting = {path for path in LEAVES if is_learnt(path)}
    assert len(acting) > len(LEARNT)
    assert {path: LEAVES[path].field.key.state for path in acting} == dict.fromkeys(acting, "works")


def test_nearly_every_key_is_tried():
    # What is left has one value only, or is compared with its like.
    left = [path for path in LEAVES if path not in (*MUTABLE, *REFUSED) and not is_learnt(path)]
    single = [path for path in left if literals(LEAVES[path].field.kind)]
    assert sorted(set(left) - set(single)) == [
        "braid_state.semantic_sketch",
        "quantization.activation_block_size",
        "quantization.sherry_mode.bits",
        "quantization.weight_bits",
        "quantization.weight_values",
        "semantic_memory.vector_bits",
        "semantic_memory.vector_storage",
    ]
    assert all(len(literals(LEAVES[path].field.kind)) == 1 for path in single)
    assert all(LEAVES[path].field.key.state != "works" for path in single)


def test_sizes_and_claims_are_keys_of_the_schema():
    known = {
        f"{path}.{field.json}" for path, section in sections(ModelConfig) for field in fields_of(section)
    }
    known |= {field.json for field in fields_of(ModelConfig)}
    followers = {name for names in derive.FOLLOWERS.values() for name in names}
    for path in {*derive.SIZES, *derive.CLAIMS, *derive.FOLLOWERS, *followers}:
        assert path in known, path


def test_what_is_inert_is_what_the_file_names():
    assert inert_paths({"hidden_size": 64, "generation": {"stream": False, "_note": 1}}) == [
        "generation.stream"
    ]
    assert inert_paths({"auto_map": {}, "_x": 1, "modes": {"_": 1, "a": {"audit": 0.5, "loops": 1}}}) == [
        "modes.a.audit"
    ]


def test_every_key_has_a_meaning():
    for section in {ModelConfig, *(section for _, section in sections(ModelConfig))}:
        assert (section.__doc__ or "").strip()
        for field in fields_of(section):
            assert not field.key.meaning[0].islower(), field.name
            assert not field.key.meaning.endswith("."), field.name
