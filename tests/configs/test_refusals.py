"""What a config is refused for: each message names its place, what it got, and what to do."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from configs.codec import MANY_PROBLEMS
from configs.errors import ConfigError
from configs.load import LARGEST_FILE_BYTES, PRESETS, build_config, load_config, parse_config, preset
from configs.schema.checks import CHECKS


def refusal(raw: dict[str, Any]) -> str:
    with pytest.raises(ConfigError) as caught:
        build_config(raw, source="test")
    assert caught.value.exit_code == 3
    return caught.value.message


def micro(**keys: Any) -> dict[str, Any]:
    return {"preset": "micro", **keys}


def named(section: str, **keys: Any) -> dict[str, Any]:
    """The preset micro with some keys of one section."""
    raw: Any = keys
    for name in reversed(section.split(".")):
        raw = {name: raw}
    return micro(**raw)


# What is changed, the place that the message names, what it says.
MALFORMED: list[tuple[dict[str, Any], str, str]] = [
    (micro(hiden_size=8), "hiden_size", 'unknown key; did you mean "hidden_size"?'),
    (named("backbone.moe", routng=1), "backbone.moe.routng", 'unknown key; did you mean "routing"?'),
    (micro(presett="tiny"), "presett", 'unknown key; did you mean "preset"?'),
    (micro(top_p=0.5), "top_p", "unknown key here; it belongs to `generation`"),
    (micro(n_routed_experts=8), "n_routed_experts", "unknown key here; it belongs to `backbone.moe`"),
    (named("backbone", hidden_size=8), "backbone.hidden_size", "it belongs to the top level"),
    (micro(tree_widht=8), "tree_widht", 'did you mean "tree_width" of `span_inference.tree_verify`?'),
    (named("efla", zzz=1), "efla.zzz", "unknown key; allowed here are enabled, target_layers; keys that"),
    (micro(**{"a\x1b[31m.b": 1}), '["a\\u001b[31m.b"]', "unknown key; keys that begin with `_` are notes"),
    (micro(**{"x" * 1000: 1}), f'["{"x" * 60}…"]', "unknown key; keys that begin with `_` are notes"),
    (micro(vocab_size="8k"), "vocab_size", 'expected an integer, got "8k"'),
    (micro(vocab_size="8\nk\x1b"), "vocab_size", 'expected an integer, got "8\\nk\\u001b"'),
    (micro(vocab_size=True), "vocab_size", "expected an integer, got true"),
    (micro(vocab_size=8.0), "vocab_size", "expected an integer, got 8.0"),
    (micro(vocab_size=None), "vocab_size", "expected an integer, got null"),
    (micro(rms_norm_eps=True), "rms_norm_eps", "expected a number, got true"),
    (micro(use_cache=0), "use_cache", "expected true or false, got 0"),
    (micro(titans=3), "titans", "expected an object, got 3"),
    (micro(titans=[]), "titans", "expected an object, got an array of 0"),
    (micro(auto_map=[]), "auto_map", "expected an object, got an array of 0"),
    (named("grammar", modes="json"), "grammar.modes", 'expected an array, got "json"'),
    (micro(token_ids=[1]), "token_ids", "expected an array of 2, got an array of 1"),
    (named("backbone.moe", layers=[2, "3"]), "backbone.moe.layers[1]", 'expected an integer, got "3"'),
    (
        named("training", phases=[{"name": "sft", "data": 5}]),
        "training.phases[0].data",
        "expected a string or an array, got 5",
    ),
    (
        named("training", phases=[{"name": "ctx_extend", "stages": [[4096, "min"]]}]),
        "training.phases[0].stages[0][1]",
        '"min" is not allowed; allowed is "main"',
    ),
    (
        named("training", phases=[{"name": "ctx_extend", "stages": [[1, 2, 3, 4]]}]),
        "training.phases[0].stages[0]",
        "expected an array of 2 or an array of 3, got an array of 4",
    ),
    (named("training", phases=[{}]), "training.phases[0].name", "missing (Which stage it is)"),
    (named("generation", top_p=1.5), "generation.top_p", "1.5 is out of range; allowed is 0 … 1"),
    (micro(num_hidden_layers=0), "num_hidden_layers", "0 is out of range; allowed is 1 … 1024"),
    (micro(max_position_embeddings=0), "max_position_embeddings", "out of range; allowed is at least 1"),
    (micro(vocab_size=2**70), "vocab_size", "1180591620717411303424 is out of range; allowed is 2 …"),
    (micro(max_position_embeddings=2**60), "max_position_embeddings", "no number may go beyond 2^53"),
    (micro(vocab_size=10**399), "vocab_size", "an integer of 1326 bits is out of range"),
    (named("params", weight_mb=10**399), "params.weight_mb", "no number may go beyond 2^53"),
    (named("params", weight_mb=1e300), "params.weight_mb", "1e+300 is out of range; no number may go beyond"),
    (named("params", weight_mb=float("nan")), "params.weight_mb", "expected a number, got nan"),
    (named("params", weight_mb=-1), "params.weight_mb", "-1 is out of range; allowed is at least 0"),
    (
        micro(torch_dtype="bf16"),
        "torch_dtype",
        '"bf16" is not allowed; allowed is "bfloat16", "float32", "float16"; did you mean "bfloat16"?',
    ),
    (
        named("quantization", embedding_bits=3),
        "quantization.embedding_bits",
        "3 is not allowed; allowed is 8, 4, 2",
    ),
    (micro(tie_word_embeddings=False), "tie_word_embeddings", "false is not allowed; allowed is true"),
    (micro(tie_word_embeddings=1), "tie_word_embeddings", "1 is not allowed; allowed is true"),
    (named("params", base="2,3B"), "params.base", '"2,3B" is not allowed; allowed is a number with K, M'),
    (named("params", base="٣B"), "params.base", "is not allowed; allowed is a number with K, M, B or T"),
    (micro(_v="five"), "_v", '"five" is not allowed; allowed is two or three numbers with dots, as in 5.1.2'),
    (micro(_v="5." + "1" * 5000), "_v", "allowed is two or three numbers with dots"),
    (named("files", weights="../x.b158"), "files.weights", "allowed is the name of a file, without folders"),
    (named("files", weights=".."), "files.weights", "allowed is the name of a file, without folders"),
    (named("backbone", layer_pattern="GD  XM"), "backbone.layer_pattern", "allowed is names, with one space"),
    (
        named("P3_ternary_compute.implemented_optimizations.torch_compile", status="done"),
        "P3_ternary_compute.implemented_optimizations.torch_compile.status",
        '"done" is not allowed; allowed is IMPLEMENTED, PLANNED or OFF',
    ),
    (micro(modes={"[red]": {"loops": 1}}), 'modes["[red]"]', "is no name; allowed are up to 64 letters"),
    (
        {"preset": "tny"},
        "preset",
        '"tny" is no preset; they are chimera-5.1, chimera-5.1-sum, small, tiny, demo, micro; did you '
        'mean "tiny"?',
    ),
    ({"preset": ["tiny"]}, "preset", "an array of 1 is no preset"),
]  # fmt: skip


@pytest.mark.parametrize(("raw", "place", "phrase"), MALFORMED, ids=[place for _, place, _ in MALFORMED])
def test_a_malformed_value_is_named(raw: dict[str, Any], place: str, phrase: str):
    message = refusal(raw)
    assert message.startswith(f"test: {place}: ")
    assert phrase in message
    assert message.isprintable()
    assert len(message) < 400


GQA = {"layer_pattern": "GD AT", "layer_aliases": {"AT": "gqa"}}
TIER = {"name": "a"}
# What is changed, the place that the message names, what it says.
CONTRADICTIONS: dict[str, list[tuple[dict[str, Any], str, str]]] = {
    "check_version": [
        (micro(_v="9.0"), "_v", '"9.0" is not known here; this program reads "5.1.2": update chimera-edge'),
        (micro(_v="4.0"), "_v", "it is older than any that can be migrated"),
    ],
    "check_heads": [
        (micro(num_heads=3, head_dim=64), "num_heads", "3 heads of 64 make 192, but hidden_size is 128"),
        (micro(num_heads=3), "num_heads", "3 heads of 64 make 192, but hidden_size is 128"),
        (micro(hidden_size=120, head_dim=120, num_heads=1), "hidden_size", "120 is not a multiple of 16"),
        (micro(hidden_size=144, head_dim=12, num_heads=12), "head_dim", "12 is not a multiple of 8"),
    ],
    "check_states": [
        (named("gated_deltanet", state_size=32), "gated_deltanet.state_size", "32 differs from head_dim 64"),
        (
            named("xlstm", memory_size_per_head=[64, 32]),
            "xlstm.memory_size_per_head",
            "[64, 32] differs from head_dim 64",
        ),
    ],
    "check_pattern": [
        (
            named("backbone", layer_pattern="GD XX"),
            "backbone.layer_pattern",
            "XX is not among the aliases GD, XM, TM, SK",
        ),
        (
            micro(num_hidden_layers=4, backbone={"layer_pattern_repeat": 2}),
            "backbone.layer_pattern_repeat",
            "4 layers × 2 make 8, but num_hidden_layers is 4",
        ),
        (
            named("backbone", layer_counts={"GD": 4}),
            "backbone.layer_counts",
            "GD 4 stated, but the pattern gives GD 1, XM 1, TM 1, SK 1",
        ),
    ],
    "check_attention": [
        (
            named("backbone", **GQA, type="hybrid_recurrent_no_attention"),
            "backbone.type",
            'is "hybrid_recurrent_no_attention", but the pattern holds gqa; write "hybrid"',
        ),
        (named("backbone", type="transformer"), "backbone.type", "but the pattern holds other layers too"),
        (
            named("backbone", **GQA, kv_cache="none"),
            "backbone.kv_cache",
            'is "none", but the pattern holds gqa; write "full"',
        ),
        (
            named("backbone", **GQA, kv_cache="latent"),
            "backbone.kv_cache",
            'is "latent", but the pattern holds gqa; write "full"',
        ),
        (
            named("backbone", kv_cache="full"),
            "backbone.kv_cache",
            'is "full", but no layer of the pattern has one; write "none"',
        ),
        (
            named("attention", num_key_value_heads=3),
            "attention.num_key_value_heads",
            "3 does not divide num_heads 2",
        ),
        (named("attention", rope_size=3), "attention.rope_size", "3 is odd"),
    ],
    "check_experts": [
        (named("backbone.moe", layers=[3, 4]), "backbone.moe.layers", "4 is outside the 4 layers"),
        (named("backbone.moe", layers=[3, 3]), "backbone.moe.layers", "must rise, each layer once"),
        (named("backbone.moe", layers=[]), "backbone.moe.layers", "is empty; name a layer, or set"),
        (
            named("backbone.moe", num_experts_per_tok=5),
            "backbone.moe.num_experts_per_tok",
            "5 of only 4 routed experts",
        ),
    ],
    "check_loop": [
        (
            named("looping", prelude=[0, 0], loop=[1, 2], coda=[2, 3]),
            "looping",
            "prelude [0, 0], loop [1, 2] and coda [2, 3] must follow each other and cover layers 0 … 3",
        ),
        (named("looping", loop=[0, 3]), "looping", "must follow each other and cover layers 0 … 3"),
        (micro(num_hidden_layers=2), "looping", "a loop needs three layers, so set looping.enabled to false"),
    ],
    "check_rounds": [
        (named("looping", loop_range=[4, 1]), "looping.loop_range", "[4, 1] must rise"),
        (named("looping", loop_default=5), "looping.loop_default", "5 lies outside loop_range [1, 4]"),
        (named("modes.deep", loops=9), "modes.deep.loops", "9 exceeds loop_range [1, 4]"),
        (
            micro(looping={"enabled": False}, modes={"deep": {"loops": 2}}),
            "modes.deep.loops",
            "2 exceeds 1, since looping is not enabled",
        ),
        (
            named("entropy_valve.levels.high", loops=9),
            "entropy_valve.levels.high.loops",
            "9 exceeds loop_range [1, 4]",
        ),
    ],
    "check_quantization": [
        (named("quantization", group_size=192), "quantization.group_size", "192 is not a multiple of 128"),
    ],
    "check_vocabulary": [
        (micro(token_ids=[0, 512]), "token_ids", "512 is outside the vocabulary of 512, counted from 0"),
    ],
    "check_spans": [
        (
            named("span_inference", candidate_sources=[192]),
            "span_inference.candidate_sources",
            "1 counts for 4 candidate_source_keys",
        ),
        (
            named("span_inference", candidates_fast=100),
            "span_inference.candidates_fast",
            "is 100, but candidate_sources sum to 192",
        ),
        (
            named("span_inference", scoring_keys=["a"]),
            "span_inference.scoring_weights_fast",
            "5 weights for 1 scoring_keys",
        ),
        (
            named("span_inference", render_queue_target=4096),
            "span_inference.render_queue_target",
            "4096 exceeds render_queue_max 2048",
        ),
        (
            named("span_inference", bank_max_tokens=4),
            "span_inference.bank_avg_tokens",
            "5 exceeds bank_max_tokens 4",
        ),
    ],
    "check_widths_elsewhere": [
        (
            named("braid_state", continuous_hidden=[64, "float32"]),
            "braid_state.continuous_hidden",
            "is 64 wide, but hidden_size is 128",
        ),
        (
            named("braid_state", fast_hidden=[64, "int8"]),
            "braid_state.fast_hidden",
            "is 64 wide, but hidden_size is 128",
        ),
        (
            named("multimodal.vision", out=64),
            "multimodal.vision.out",
            "is 64 wide, but hidden_size is 128",
        ),
        (named("multimodal.audio", out=64), "multimodal.audio.out", "is 64 wide, but hidden_size is 128"),
    ],
    "check_vectors": [
        (
            named("semantic_memory", vector_storage="uint64_x64"),
            "semantic_memory.vector_storage",
            '"uint64_x64" holds 4096 bits, but semantic_memory.vector_bits is 8192',
        ),
        (
            named("braid_state", semantic_sketch=[4096, "uint64_x128"]),
            "braid_state.semantic_sketch",
            "has 4096 bits, but semantic_memory.vector_bits is 8192",
        ),
    ],
    "check_debts": [
        (
            named("debt_ledger", max_outstanding=65),
            "debt_ledger.max_outstanding",
            "65 exceeds braid_state.debt_ledger_slots 64",
        ),
    ],
    "check_learning_layers": [
        (
            named("self_evolution.tier1.ttt", target_layers=[4, 9]),
            "self_evolution.tier1.ttt.target_layers",
            "4, 9 are outside the 4 layers",
        ),
    ],
    "check_exact_flow": [
        (
            named("efla", enabled=True, target_layers="QQ"),
            "efla.target_layers",
            "QQ is not among the aliases GD, XM, TM, SK",
        ),
    ],
    "check_budget": [
        (
            named("memory_budget_mb", _keys=["a"], _vals=[]),
            "memory_budget_mb._vals",
            "0 values for 1 names in _keys",
        ),
        (
            named("memory_budget_mb", _keys=["a", "a"], _vals=[1, 2]),
            "memory_budget_mb._keys",
            "a is named more than once",
        ),
    ],
    "check_tiers": [(micro(context_tiers=[TIER, TIER]), "context_tiers", "a is named more than once")],
    "check_files": [
        (
            named("files", weights="a", moe="a"),
            "files",
            "a is named more than once; each file needs a name of its own",
        ),
        (
            named("self_evolution.safety", state_file="b"),
            "self_evolution.safety.state_file",
            'is "b", but files.evolution is "evolution.state"; name one of them',
        ),
    ],
}
EACH_CONTRADICTION = [case for cases in CONTRADICTIONS.values() for case in cases]


@pytest.mark.parametrize(
    ("raw", "place", "phrase"), EACH_CONTRADICTION, ids=[place for _, place, _ in EACH_CONTRADICTION]
)
def test_a_contradiction_is_named(raw: dict[str, Any], place: str, phrase: str):
    message = refusal(raw)
    assert message.startswith(f"test: {place}: ")
    assert phrase in message


def test_every_check_has_a_contradiction_that_it_finds():
    assert list(CONTRADICTIONS) == [check.find.__name__ for check in CHECKS]


def test_checks_say_what_they_read():
    full = json.loads(json.dumps({"preset": "chimera-5.1"}))
    config = build_config(full, source="test")
    for check in CHECKS:
        for path in check.reads:
            value: Any = config
            for name in path.removeprefix("_").split("."):
                value = value[name] if isinstance(value, dict) else getattr(value, name)


def test_everything_wrong_is_said_at_once():
    message = refusal(
        {
            "preset": "chimera-5.1", "_v": "9.9", "backbone": {"moe": {"layers": [3, 28], "routng": 1}},
            "vocab_size": "x", "modes": {"fast": {"loops": 9}}, "num_heads": 39, "head_dim": 64,
        }
    )  # fmt: skip
    head, *lines = message.splitlines()
    assert head == "test: 6 problems"
    assert [line.split(":")[0].strip() for line in lines] == [
        # What makes the rest hard to judge stands first.
        "_v",
        "vocab_size",
        "backbone.moe.routng",
        "num_heads",
        "backbone.moe.layers",
        "modes.fast.loops",
    ]


def test_what_could_not_be_read_starts_no_further_complaints():
    # As a text, 12 says nothing of how many layers there are, so layer 30 may well be one of them.
    raw = {"preset": "chimera-5.1", "num_hidden_layers": "12", "backbone": {"moe": {"layers": [30]}}}
    assert refusal(raw) == 'test: num_hidden_layers: expected an integer, got "12"'
    assert refusal({"preset": "nothing"}).startswith('test: preset: "nothing" is no preset')


def test_an_empty_config_says_what_is_needed_and_no_more():
    lines = refusal({}).splitlines()
    assert lines == [
        "test: 2 problems",
        "  hidden_size: missing (Width of the residual stream); name it, or a preset to build on",
        "  vocab_size: missing (Tokens of the vocabulary); name it, or a preset to build on",
    ]


def test_a_list_of_problems_ends():
    message = refusal(micro(**{f"key{number}": number for number in range(5000)}))
    lines = message.splitlines()
    assert lines[0] == "test: 5000 problems"
    assert len(lines) == MANY_PROBLEMS + 2
    assert lines[-1] == f"  and {5000 - MANY_PROBLEMS} more"


BROKEN: dict[str, tuple[bytes, str]] = {
    "empty": (b"", ":1:1: empty"),
    "only space": (b"\n \n", ":3:1: empty"),
    "truncated": (b'{"preset": "mic', ":1:12: the text ends inside the string"),
    "truncated object": (b'{"preset": "micro"', ":1:19: expected ',' or '}'"),
    "brackets": (b"[" * 200_000, ":1:1: expected a JSON object"),
    "deep lists": (b'{"a":' + b"[" * 200_000, ":1:105: nested more than 100 levels"),
    "deep objects": (b'{"a":' * 200_000, ":1:501: nested more than 100 levels"),
    "not UTF-8": (b'{"a": "\xff"}', ":1:8: not UTF-8"),
    "UTF-16": ('{"a": 1}'.encode("utf-16"), ":1:1: the text is UTF-16"),
    "duplicate": (b'{"a": 1,\n "a": 2}', ":2:2: duplicate key 'a'"),
    "a list": (b"[1]", ":1:1: expected a JSON object"),
    "a text": (b'"micro"', ":1:1: expected a JSON object"),
    "not a number": (b'{"rms_norm_eps": NaN}', ":1:18: NaN is not a JSON value"),
    "too large a number": (b'{"rms_norm_eps": 1e400}', ":1:18: "),
    "comma at the end": (b'{"preset": "micro",}', ":1:19: comma before '}'"),
    "comment": (b'{\n  // small\n  "preset": "micro"}', ":2:3: expected a key"),
    "two objects": (b"{} {}", ":1:4: text after the end"),
    "binary": (bytes(range(256)), ":"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_json_gives_one_line_with_its_place(case: str, tmp_path: Path):
    data, phrase = BROKEN[case]
    path = tmp_path / "config.json"
    path.write_bytes(data)
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    assert caught.value.message.startswith(f"{path}{phrase}")
    assert caught.value.message.isprintable()
    assert len(caught.value.message) < len(str(path)) + 200


def test_a_missing_file_suggests_a_preset():
    with pytest.raises(ConfigError, match=r"chimera5\.1: there is no such file, and no preset") as caught:
        load_config("chimera5.1")
    assert caught.value.hint == "Did you mean the preset chimera-5.1?"
    with pytest.raises(ConfigError) as caught:
        load_config("zzz/nowhere.json")
    assert caught.value.hint == "Presets: " + ", ".join(PRESETS)


def test_a_folder_without_a_config_is_named(tmp_path: Path):
    with pytest.raises(ConfigError) as caught:
        load_config(str(tmp_path))
    assert caught.value.message == f"the folder {tmp_path} holds no config.json"


def link_to_itself(folder: Path) -> Path:
    (folder / "loop.json").symlink_to(folder / "loop.json")
    return folder / "loop.json"


def folder_named_as_a_config(folder: Path) -> Path:
    (folder / "config.json").mkdir()
    return folder


def file_below_a_file(folder: Path) -> Path:
    (folder / "a").write_text("{}")
    return folder / "a" / "config.json"


UNREADABLE: list[tuple[Callable[[Path], Path], str]] = [
    (link_to_itself, "Too many levels of symbolic links"),
    (folder_named_as_a_config, "Is a directory"),
    (file_below_a_file, "Not a directory"),
    (lambda folder: folder / ("x" * 300), "File name too long"),
]


@pytest.mark.parametrize(("make", "reason"), UNREADABLE, ids=[reason for _, reason in UNREADABLE])
def test_a_file_that_cannot_be_read_is_named(make: Callable[[Path], Path], reason: str, tmp_path: Path):
    with pytest.raises(ConfigError, match=f"cannot be read: {reason}"):
        load_config(str(make(tmp_path)))


def test_what_cannot_be_a_path_is_named():
    with pytest.raises(ConfigError, match='"a\\\\u0000b" is no path: embedded null'):
        load_config("a\0b")


def test_an_oversized_file_is_refused(tmp_path: Path):
    path = tmp_path / "config.json"
    with path.open("wb") as file:
        os.truncate(file.fileno(), LARGEST_FILE_BYTES + 1)
    with pytest.raises(ConfigError, match="which no config is"):
        load_config(path)


def test_a_preset_wins_over_a_file_of_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "demo").write_text('{"preset": "micro"}')
    assert load_config("demo") == preset("demo")
    assert load_config("./demo") == load_config(Path("demo")) == preset("micro")


def test_notes_are_skipped_everywhere():
    noted = micro(
        _note="x", titans={"§": "r2", "_why": {"deep": [1]}}, modes={"_": 3}, _name_or_path="micro",
        P3_ternary_compute={"thesis": 1, "implemented_optimizations": {"_": 1, "torch_compile": {"note": 2}}},
    )  # fmt: skip
    assert build_config(noted, source="a") == parse_config(json.dumps({"preset": "micro"}), source="b")


def test_prose_is_skipped_where_it_belongs_and_nowhere_else():
    assert refusal(micro(thesis="…")).startswith("test: thesis: unknown key")
    assert refusal(named("titans", benefit="…")).startswith("test: titans.benefit: unknown key")


def test_null_leaves_an_optional_key_out():
    nothing = micro(
        params=None, attention={"num_key_value_heads": None}, braid_state={"per_stream_mb": None},
        backbone={"layer_counts": None, "layer_pattern_repeat": None}, xlstm={"memory_size_per_head": None},
    )  # fmt: skip
    assert build_config(nothing, source="a") == preset("micro")
    assert build_config({"preset": "chimera-5.1", "params": None}, source="b").params is None
