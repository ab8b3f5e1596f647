"""A model as a Hugging Face folder: config, safetensors, tokenizer, chat template, how text is drawn.

config.json               every key of ours, and the few of theirs
model.safetensors         our tensors behind the prefix "model."
generation_config.json    the config's `generation`, and what ends a text
tokenizer.json            of a SentencePiece model too, whose own file lies beside it, and of o200k
tokenizer_config.json     what begins, ends and pads a text
chat_template.jinja       the model's own, or the usual one
cluster_manifest.json     which experts lie together, where the packed model says so
"""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chronos_moe.store.manifest import MANIFEST_NAME
from configs.errors import UsageError
from configs.inventory import Tensor, layers, tensors
from configs.schema.model import ModelConfig
from configs.text.template import ChatTemplate
from configs.text.tokenizer_json import tokenizer_config_json, tokenizer_json
from exports.handover.config_keys import file_keys
from exports.handover.names import GENERATION_NAME, PREFIX, WEIGHTS_NAME, Form
from exports.handover.o200k_json import o200k_json
from exports.handover.safetensors_file import Declared, FileDtype, write_safetensors
from exports.handover.source import Source, open_source
from exports.words import NAMES, SIDE_NAME, Words, collect_words
from quant.whole_folder import check_free, whole_folder
from runtime.model_folder import CONFIG_NAME, TEMPLATE_NAME

Progress = Callable[[int, int], None]
"""Given the number of weights written, and of all."""
ATTENTION = ("mla", "swa", "gqa")
"""Kinds of layers that a config may describe and no model here computes."""
MOST_SUPPRESSED = 4096
"""Ids that stand for nothing are named one by one, up to so many."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Folder:
    """What was written."""

    path: Path
    files: tuple[str, ...]
    config: ModelConfig
    words: Words
    form: Form
    dtype: FileDtype


def export_huggingface(
    model: Path | str,
    out: Path | str,
    *,
    dtype: FileDtype = "float32",
    tokenizer: Path | str | None = None,
    template: Path | None = None,
    progress: Progress | None = None,
) -> Folder:
    """Write the folder of a checkpoint, a training run, a resume pack or a packed model.

    `tokenizer` and `template` are files; unnamed, they are those of the model's folder, if it has any.
    """
    out = Path(out)
    check_free(out)
    with open_source(model) as source:
        check_layers(source.config)
        words = collect_words(
            source.config,
            folders=source.folders,
            tokenizer=tokenizer or source.built_in_tokenizer,
            template=template,
        )
        bos = None if words.tokenizer is None else words.tokenizer.bos
        beside = {
            CONFIG_NAME: _json(file_keys(source.config, form=source.form, dtype=dtype, bos=bos)),
            GENERATION_NAME: _json(_generation(source.config, words)),
            **word_files(words),
        }
        if source.manifest is not None:
            beside[MANIFEST_NAME] = source.manifest.read_bytes()
        with whole_folder(out) as folder:
            for name, data in beside.items():
                (folder / name).write_bytes(data)
            total = source.parameters
            write_safetensors(
                folder / WEIGHTS_NAME,
                map(_declared(source), tensors(source.config)),
                dtype=dtype,
                progress=None if progress is None else lambda done: progress(done, total),
            )
    return Folder(
        path=out,
        files=(WEIGHTS_NAME, *beside),
        config=source.config,
        words=words,
        form=source.form,
        dtype=dtype,
    )


def check_layers(config: ModelConfig) -> None:
    """Refuse a config with a layer that PyTorch has no module for here."""
    for layer in layers(config):
        if layer.kind in ATTENTION:
            raise UsageError(
                f"layer {layer.index} ({layer.alias}) is {layer.kind}, which is described by a config but "
                "computed by nothing here",
                hint="The kinds that work: gated_deltanet, xlstm_m, titans_mac, tsp_span_knot.",
            )


def _declared(source: Source) -> Callable[[Tensor], Declared]:
    def declared(tensor: Tensor) -> Declared:
        def values() -> Iterator[NDArray[np.float32]]:
            for expert in range(tensor.experts or 1):
                yield from source.floats(tensor, expert)

        return Declared(name=PREFIX + tensor.name, shape=tensor.shape, values=values)

    return declared


def _generation(config: ModelConfig, words: Words) -> dict[str, Any]:
    """How text is drawn, in their words. What they have and we have not is switched off."""
    drawn, tokenizer = config.generation, words.tokenizer
    end, padding = config.token_ids
    made: dict[str, Any] = {
        "do_sample": drawn.do_sample and drawn.temperature > 0,
        "repetition_penalty": drawn.repetition_penalty,
        "max_new_tokens": drawn.max_new_tokens,
        "eos_token_id": [end],
        "pad_token_id": padding,
        "use_cache": True,
    }
    if made["do_sample"]:
        made |= {"temperature": drawn.temperature, "top_p": drawn.top_p, "top_k": 0}
    if tokenizer is not None:
        template = _template(words)
        ends = () if template is None else template.end_of_reply()
        made["eos_token_id"] = sorted({end, *(tokenizer.specials[name] for name in ends)})
        masked = sorted(tokenizer.masked_ids | set(range(tokenizer.vocab_size, config.vocab_size)))
        if masked and len(masked) <= MOST_SUPPRESSED:
            made["suppress_tokens"] = masked
    return made


def word_files(words: Words) -> dict[str, bytes]:
    """The tokenizer in the form that they read, and the chat template."""
    tokenizer = words.tokenizer
    if tokenizer is None:
        return {}
    files = dict(words.files)
    if tokenizer.kind == "sentencepiece":
        data = files.pop(words.tokenizer_name)
        files[NAMES["sentencepiece"]] = data
        files[NAMES["huggingface"]] = tokenizer_json(data, source=tokenizer.source)
    elif tokenizer.kind == "huggingface":
        files[NAMES["huggingface"]] = files.pop(words.tokenizer_name)
    else:
        files[NAMES["huggingface"]] = o200k_json(tokenizer)
    files.setdefault(SIDE_NAME, tokenizer_config_json(tokenizer))
    template = _template(words)
    if template is not None:
        files[TEMPLATE_NAME] = template.source.encode()
    return files


def _template(words: Words) -> ChatTemplate | None:
    """The model's own template, or the usual one where the tokenizer has what it needs."""
    assert words.tokenizer is not None, "a template is asked for where there is a tokenizer"
    own = words.files.get(TEMPLATE_NAME)
    if own is not None:
        return ChatTemplate.of_tokenizer(words.tokenizer, own.decode(), name=TEMPLATE_NAME)
    usual = ChatTemplate.of_tokenizer(words.tokenizer)
    return usual if usual.end_of_reply() else None


def _json(value: Mapping[str, Any]) -> bytes:
    return (json.dumps(value, ensure_ascii=False, indent=2) + "\n").encode()
