"""Hostile inputs, made by code: each with the words of its refusal, or none where it must be taken.

`tests/quant/test_container_hostile.py` holds the headers of `.b158` files that say something wrong. Here are
inputs that ask for time or memory, and those of every other loader.
"""

import json
import struct
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from configs.text.sentencepiece_file import read_sentencepiece_file
from runtime.streams.sections import read_sections
from tests.fuzz import experts, packed, states, training, vocabularies
from tests.fuzz.target import joined, put, separated
from tests.quant.b158_files import take_apart, with_header

Case: TypeAlias = tuple[Callable[[], bytes], str]


FLOAT, UINT64 = struct.Struct("<f"), struct.Struct("<Q")


def _json(value: Any) -> Callable[[], bytes]:
    return lambda: json.dumps(value).encode()


def _config(**keys: Any) -> Callable[[], bytes]:
    return _json({"preset": "micro", **keys})


def _raw(data: bytes) -> Callable[[], bytes]:
    return lambda: data


def _many_experts() -> bytes:
    """A folder whose config asks for four million tensors, though its file holds a few dozen."""
    files = separated(packed.FOLDER.seeds()[0], packed.FOLDER_FILES)
    header = json.loads(files["header"])
    header["__metadata__"]["config"] = json.dumps(
        {
            "preset": "micro",
            "num_hidden_layers": 1024,
            "backbone": {
                "layer_pattern": "GD",
                "moe": {"enabled": True, "n_routed_experts": 1024, "layers": list(range(1024))},
            },
            "looping": {"enabled": False},
        }
    )
    return joined({"header": json.dumps(header).encode()}, packed.FOLDER_FILES)


def _folder(**changed: bytes) -> Callable[[], bytes]:
    """A whole folder with some of its files replaced."""

    def data() -> bytes:
        files = separated(packed.FOLDER.seeds()[0], packed.FOLDER_FILES)
        named = {name: changed[key] for name in files for key in changed if name.startswith(key)}
        return joined({**files, **named}, packed.FOLDER_FILES)

    return data


def _scales(pattern: bytes) -> Callable[[], bytes]:
    """A file with this pattern in all scales of a ternary tensor and a digest that fits."""

    def data() -> bytes:
        parts = take_apart(packed.small_file())
        begin, end = parts.header["layers.0.up.scales"]["data_offsets"]
        whole = pattern * ((end - begin) // len(pattern))
        parts.data = parts.data[:begin] + whole + parts.data[end:]
        parts.digests["layers.0.up.scales"] = packed.digest(whole)
        return parts.together()

    return data


B158: Mapping[str, Case] = {
    "empty": (_raw(b""), "the file has 0 bytes"),
    "a header of lists": (lambda: with_header(b'{"a":[' + b"[]," * 2**19 + b"[]]}", b""), "no __metadata__"),
    "a header too long": (lambda: with_header(b"{" + b" " * (17 * 2**20) + b"}", b""), "the header's length"),
    "scales that are NaN": (_scales(b"\x00\x7e"), ""),
    "scales that are infinite": (_scales(b"\x00\xfc"), ""),
    "a thousand levels": (lambda: with_header(b'{"__metadata__":' * 1000, b""), "nested more than 100"),
}  # fmt: skip

MODEL: Mapping[str, Case] = {
    "whole": (lambda: packed.FOLDER.seeds()[0], ""),
    "a config of millions of tensors": (_many_experts, "are there, the config's model has 4"),
    "another config beside": (_folder(config=b'{"preset": "micro"}'), "is not the config"),
    "a tokenizer with more ids": (
        lambda: _folder(tokenizer=_pieces(1000))(), "has 1,000 ids, the model's vocabulary only 512"
    ),
    "a template that is no text": (_folder(chat=b"\xff\xfe"), "not UTF-8 at byte 0"),
    "a template that never ends": (
        _folder(chat=b"{% for a in range(9999) %}{% for b in range(9999) %}{% endfor %}{% endfor %}"), "steps"
    ),
}  # fmt: skip

CONFIG: Mapping[str, Case] = {
    "empty": (_raw(b""), "empty; expected a JSON object"),
    "two of a key": (_raw(b'{"preset": "micro", "preset": "demo"}'), "duplicate key 'preset'"),
    "NaN": (_raw(b'{"preset": "micro", "rms_norm_eps": NaN}'), "JSON has no NaN"),
    "beyond a double": (_raw(b'{"preset": "micro", "rms_norm_eps": 1e999}'), "too large for a 64-bit float"),
    "a number of a thousand digits": (_raw(b'{"hidden_size": ' + b"9" * 1000 + b"}"), "a number of 1000"),
    "half a surrogate": (_raw(b'{"preset": "micro", "_name_or_path": "\\ud800"}'), "half a surrogate pair"),
    "bytes of UTF-16": (_raw('{"preset": "micro"}'.encode("utf-16")), "is UTF-16 or UTF-32"),
    "a mark of UTF-8": (_raw(b'\xef\xbb\xbf{"preset": "micro"}'), ""),
    "a thousand levels": (_raw(b'{"a":' * 1000), "nested more than 100 levels"),
    "a preset that is a list": (_json({"preset": ["micro"]}), "is no preset"),
    "a preset that is a path": (_json({"preset": "../presets/micro"}), "is no preset"),
    "a width of 2**53": (_config(hidden_size=2**53), "hidden_size"),
    "a billion layers": (_config(num_hidden_layers=10**9), "num_hidden_layers"),
    "a billion experts": (_config(backbone={"moe": {"enabled": True, "n_routed_experts": 10**9}}), "experts"),
    "a billion ids": (_config(vocab_size=10**9), "vocab_size"),
    "a window of terabytes": (_config(titans={"local_window_size": 10**12}), "local_window_size"),
    "a pattern of a million layers": (_config(backbone={"layer_pattern": "GD " * 10**6}), "layer_pattern"),
    "50,000 keys a letter off": (
        _config(titans={f"local_windou_{n}": 1 for n in range(50_000)}),
        "and 49900",
    ),
    "a key of a megabyte": (_config(**{"a" * 10**6: 1}), "unknown key"),
    "a file under another's name": (_config(files={"weights": "../../etc/passwd"}), "files.weights"),
    "letters that steer a terminal": (_config(_name_or_path="\x1b[2J"), ""),
}

SENTENCEPIECE: Mapping[str, Case] = {
    "whole": (lambda: vocabularies.small_sentencepiece(), ""),
    "cut off": (lambda: vocabularies.small_sentencepiece()[:2000], "damaged SentencePiece model"),
    "no piece for a space": (lambda: vocabularies.small_sentencepiece(space=False), ""),
    "a rule that makes a megabyte of a letter": (
        lambda: vocabularies.small_sentencepiece(rules=vocabularies.small_rules(b"a" * 10**6)),
        "puts 1000000 bytes in the place",
    ),
    "a length beyond the file": (_raw(b"\n\xff\xff\xff\xff\xff\xff\xff\xff\x7f" + bytes(20)), "over the end"),
    "a score that is no number": (
        lambda: vocabularies.small_sentencepiece().replace(FLOAT.pack(-1.0), FLOAT.pack(float("nan"))),
        "no number for a score",
    ),
    "half a million pieces and one": (_raw(b"\n\x03\n\x01a" * 500_001), "more than 500000 pieces"),
}  # fmt: skip


def _pieces(count: int) -> bytes:
    """A SentencePiece file of so many ids."""
    held = vocabularies.small_sentencepiece()
    return vocabularies.more_pieces(count - len(read_sentencepiece_file(held).pieces)) + held


def _huggingface(change: Callable[[dict[str, Any]], object], *, side: bytes = b"") -> Callable[[], bytes]:
    """A byte-level tokenizer.json with a change of it."""

    def data() -> bytes:
        root = vocabularies.byte_level_json()
        change(root)
        return joined({"a": json.dumps(root).encode(), "b": side}, ("a", "b"))

    return data


def _pattern(expression: str) -> Callable[[dict[str, Any]], object]:
    return lambda root: root["pre_tokenizer"]["pretokenizers"][0].update(pattern={"Regex": expression})


DOUBLING = {"type": "Replace", "pattern": {"String": "a"}, "content": "aa"}
FORTY_TIMES = {"type": "Sequence", "normalizers": [DOUBLING] * 40}
THREE_TIMES = {
    "type": "TemplateProcessing",
    "single": [{"Sequence": {"id": "A", "type_id": 0}}] * 3,
    "pair": [],
    "special_tokens": {},
}
HUGGINGFACE: Mapping[str, Case] = {
    "whole": (_huggingface(lambda root: None), ""),
    "normalisers that double a letter forty times": (
        _huggingface(lambda root: root.update(normalizer=FORTY_TIMES)),
        "may make a text more than 256 times as long",
    ),
    "a thousand pre-tokenizers": (
        _huggingface(lambda root: root["pre_tokenizer"]["pretokenizers"].extend([{"type": "Digits"}] * 1000)),
        "1002 steps",
    ),
    "an end that gives the text three times": (
        _huggingface(lambda root: root.update(post_processor=THREE_TIMES)), ""
    ),
    "an expression that tries for ever": (_huggingface(_pattern("(l|ll)+$")), ""),
    "an expression for nothing": (
        _huggingface(lambda root: root.update(normalizer={**DOUBLING, "pattern": {"Regex": ""}})),
        "cannot encode a text",
    ),
    "an id of 2**62": (_huggingface(lambda root: root["model"]["vocab"].update(x=2**62)), "with ids up to"),
    "an id below zero": (_huggingface(lambda root: root["model"]["vocab"].update(x=-1)), "vocabulary entry"),
    "an id twice": (_huggingface(lambda root: root["model"]["vocab"].update(x=7)), "have the same id"),
    "ten million values": (_raw(b'{"model": [' + b"[]," * 10**7 + b"[]]}"), "more than 8000000 values"),
    "a thousand levels": (_raw(b'{"model":' * 1000), "nested too deep"),
    "names that are no text": (
        _huggingface(lambda root: None, side=b'{"bos_token": {"content": [1]}, "eos_token": 7}'), ""
    ),
    "names that are no JSON": (_huggingface(lambda root: None, side=b"{"), "damaged tokenizer_config.json"),
}  # fmt: skip


def _template(source: str) -> Callable[[], bytes]:
    return lambda: source.encode()


TEMPLATE: Mapping[str, Case] = {
    "empty": (_raw(b""), ""),
    "a hundred thousand brackets": (_template("{{" + "(" * 100_000), "maximum recursion depth"),
    "twenty thousand sums": (_template("{{" + "1+" * 20_000 + "1}}"), "more than 16384 parts"),
    "a chain of comparisons": (_template("{{ 1" + "<1" * 20_000 + "}}"), "more than 16384 parts"),
    "sixty loops in each other": (
        _template("{% for a in [1] %}" * 60 + "{% endfor %}" * 60), "too many statically nested blocks"
    ),
    "a macro that calls itself twice": (
        _template("{% macro f() %}{{ f() }}{{ f() }}{% endmacro %}{{ f() }}"), ""
    ),
    "a text doubled until it is gigabytes": (_template("{% set a = 'a' %}" + "{% set a = a ~ a %}" * 40), ""),
    "gigabytes of constants": (_template("{{ " + " ~ ".join(["'a' * 9000000"] * 100) + " }}"), ""),
    "a width of a billion": (_template("{{ '%1000000000d' % 1 }}"), ""),
    "a power of a power": (_template("{{ 9 ** 9 ** 9 ** 9 }}"), ""),
    "Python's insides": (_template("{{ messages.__class__.__mro__[1].__subclasses__() }}"), ""),
    "another template": (_template("{% include '/etc/passwd' %}"), "reads another template"),
    "letters that are no text": (_raw(b"\xff\xfe{{ 1 }}\x00"), ""),
}  # fmt: skip

RECORDS: Mapping[str, Case] = {
    "empty": (_raw(b""), ""),
    "a line without end": (_raw(b'{"text": "' + b"a" * 100_000), "a record of 100010 bytes or more"),
    "a thousand levels": (_raw(b'{"text":' * 400), "nested more than 100 levels"),
    "a message that is a list": (_raw(b'{"messages": [[]]}\n'), "messages[0] is a list"),
    "what is not zstd": (_raw(b"\x28\xb5\x2f\xfd" + bytes(40)), "damaged zstd data"),
    "zstd that ends too early": (_raw(b"\x28\xb5\x2f\xfd\x24"), "damaged zstd data"),
    "half a letter": (_raw(b'{"text": "\xc3"}\n'), "not UTF-8"),
}


def _shards(**changed: bytes) -> Callable[[], bytes]:
    """Shards with some files replaced, and the sizes and digests that fit."""

    def data() -> bytes:
        files = separated(training.shards_seed(), training.SHARD_FILES)
        named = {name: changed[key] for name in files for key in changed if name.startswith(key)}
        return joined(training.indexed({**files, **named}), training.SHARD_FILES)

    return data


def _header(shape: bytes, dtype: bytes = b"<i4") -> bytes:
    text = b"{'descr': '%s', 'fortran_order': False, 'shape': (%s), }" % (dtype, shape)
    return b"\x93NUMPY\x01\x00" + (len(text) + 1).to_bytes(2, "little") + text + b"\n"


SHARDS: Mapping[str, Case] = {
    "whole": (_shards(), ""),
    "a table of terabytes": (_shards(lengths=_header(b"%d," % 2**40)), "1099511627776 numbers in a file of"),
    "a table of a negative shape": (_shards(lengths=_header(b"-3,") + bytes(12)), "not a column of int32"),
    "a table of Python objects": (
        _shards(lengths=_header(b"1,", b"|O") + b"\x80\x04N."), "not a column of int32"
    ),
    "a table whose header is not closed": (_shards(lengths=_header(b"3,")[:-4]), "not a column of int32"),
    "an archive for a table": (_shards(lengths=b"PK\x05\x06" + bytes(18)), "not a column of int32"),
    "an empty table": (_shards(sources=b""), "not a column of uint16"),
    "a token beyond the vocabulary": (_shards(tokens=b"\x01\x00" * 8 + b"\xff\xff"), "is no id of the 10"),
    "half a token": (_shards(tokens=b"\x01\x00" * 9 + b"\x01"), "19 bytes are no column of uint16"),
    "no tokens": (_shards(tokens=b""), "0 bytes are no column of uint16"),
    "an answer that is seven": (_shards(answers=b"\x07" * 9), "neither 0 nor 1"),
    "lengths that wrap to the right sum": (
        _shards(lengths=_header(b"3,") + struct.pack("<3i", -4, 8, 5)), "the tables do not fit"
    ),
    "a path for a name": (
        _raw(training.shards_seed().replace(b'"tokens.bin"', b'"../tokens"')), "the index is damaged"
    ),
}  # fmt: skip


def _checkpoint(change: Callable[[dict[str, Any]], object]) -> Callable[[], bytes]:
    """A checkpoint with a change of its header, sealed again."""

    def data() -> bytes:
        whole = training.checkpoint_seed()
        length = int.from_bytes(whole[:8], "little")
        header = json.loads(whole[8 : 8 + length])
        change(header)
        head = json.dumps(header, separators=(",", ":")).encode()
        return training.sealed(len(head).to_bytes(8, "little") + head + whole[8 + length :])

    return data


def _tree(text: str) -> Callable[[], bytes]:
    return _checkpoint(lambda header: header["__metadata__"].update(tree=text))


CHECKPOINT: Mapping[str, Case] = {
    "whole": (lambda: training.checkpoint_seed(), ""),
    "empty": (_raw(b""), "a header of 0 bytes in a file of 0"),
    "a shape whose product wraps": (
        _checkpoint(lambda header: header["flags/5/none"].update(shape=[0, 2**62, 2**62])), ""
    ),
    "a tensor that is not there": (_tree('{"dict":[["a",{"tensor":"b"}]]}'), "a value of the kind 'tensor'"),
    "an unknown kind": (_tree('{"dict":[["a",{"pickle":"b"}]]}'), "a value of the kind 'pickle'"),
    "an array of what NumPy has not": (
        _tree('{"dict":[["a",{"array":"model/b"}]]}'), "a value of the kind 'array'"
    ),
    "a tree that is a list": (_tree("[1]"), "expected a JSON object"),
    "no tree": (_checkpoint(lambda header: header["__metadata__"].pop("tree")), "not a checkpoint"),
    "a step that is a word": (_checkpoint(lambda header: header["__metadata__"].update(step="one")), "step"),
}  # fmt: skip


def _state(
    about: dict[str, Any] | None = None, *, page: bytes = b"", **sections: bytes
) -> Callable[[], bytes]:
    """A saved state with some of what it says, or of its sections, replaced; its checksums agree."""

    def data() -> bytes:
        found = read_sections(put("hostile.state", states.state_seed()))
        held = {name: bytes(part) for name, part in found.items()}
        said = {**json.loads(held["about"]), **(about or {})}
        return states.put_together({**held, "about": page or json.dumps(said).encode(), **sections})

    return data


STATE: Mapping[str, Case] = {
    "whole": (_state(), ""),
    "empty": (_raw(b""), "is empty"),
    "a place beyond the file": (
        lambda: states.put_together({"about": b"{}"}).replace(UINT64.pack(128), UINT64.pack(2**63)),
        "is damaged",
    ),
    "four billion sections": (
        _raw(b"CHIMERA.STATE\0\0\0" + struct.pack("<4I", 1, 2**32 - 1, 0, 0)), "a table of"
    ),
    "a section more": (_state(more=b"x"), "expected about, ids, state, outlook"),
    "a heat that is no number": (_state({"sampling": {"temperature": "NaN"}}), "sampling.temperature"),
    "more read than there is": (_state({"num_read": 4}), "has read 4 tokens of 3"),
    "tokens that are not there": (_state({"position": 2**53, "num_read": 0}), "says 9007199254740992 tokens"),
    "a position below zero": (_state({"position": -1}), "position"),
    "half a token": (_state(ids=bytes(13)), "holds 13 bytes of them"),
    "a thousand levels": (_state(page=b'{"a":' * 1000), "nested more than 100 levels"),
}  # fmt: skip


def _visits(**about: str) -> Callable[[], bytes]:
    return lambda: experts.described(experts.visits_seed(), experts.VISITS_KIND, **about)


def _intent(**shape: float) -> Callable[[], bytes]:
    return lambda: experts.described(experts.intent_seed(), experts.INTENT_KIND, shape=experts.shaped(shape))


VISITS: Mapping[str, Case] = {
    "whole": (_visits(), ""),
    "empty": (_raw(b""), "is no log of expert visits"),
    "another kind": (lambda: experts.intent_seed(), "its format is 'chimera intent 1'"),
    "a layer without end": (_visits(passes="[[Infinity, 0], [3, 1], [5, 0]]"), "description cannot be read"),
    "a pass that is no pair": (_visits(passes="[[3], [3, 1], [5, 0]]"), "description cannot be read"),
    "a million levels": (_visits(passes="[" * 10**6), "description cannot be read"),
    "four thousand digits": (_visits(num_experts="9" * 5000), "description cannot be read"),
    "a pass twice": (_visits(passes="[[3, 0], [3, 0], [5, 0]]"), "3 passes through layers of 4 experts"),
    "experts that are not there": (_visits(num_experts="3"), "an expert that its model does not have"),
}
INTENT: Mapping[str, Case] = {
    "whole": (_intent(), ""),
    "empty": (_raw(b""), "is no intent classifier"),
    "a width without end": (_intent(width=float("inf")), "description cannot be read"),
    "a depth of millions": (_intent(depth=10**7), "description cannot be read"),
    "a word more": (_intent(words=1), "description cannot be read"),
    "a vocabulary of another size": (_intent(vocab_size=7), "arrays are not those of its shape"),
}

HOSTILE: Mapping[str, Mapping[str, Case]] = {
    "b158": B158,
    "model": MODEL,
    "config": CONFIG,
    "sentencepiece": SENTENCEPIECE,
    "huggingface": HUGGINGFACE,
    "template": TEMPLATE,
    "records": RECORDS,
    "state": STATE,
    "visits": VISITS,
    "intent": INTENT,
    "shards": SHARDS,
    "checkpoint": CHECKPOINT,
}
