"""What a GGUF file says of a Chimera beside its tensors: what it is, its whole config, its words.

The keys under `general` and `tokenizer` are those of the format, those under `chimera51` are ours.
"""

from collections.abc import Mapping

import numpy as np

from configs.load import to_json
from configs.schema.model import ModelConfig
from configs.text.sentencepiece_file import is_unigram, read_sentencepiece_file
from configs.text.template import DEFAULT_TEMPLATE, ChatTemplate
from configs.text.tokenizer import Tokenizer
from configs.text.tokenizer_json import sentencepiece_scores
from exports.handover.gguf_file import GgufType, Value
from exports.handover.o200k_json import o200k_json
from exports.words import Words
from quant.ternary import GROUP
from runtime.model_folder import TEMPLATE_NAME

ARCHITECTURE = "chimera51"
_FILE_TYPES: Mapping[GgufType, int] = {"TQ1_0": 36, "TQ2_0": 37}
_QUANTIZATION_VERSION = 2


def metadata(
    config: ModelConfig,
    words: Words,
    *,
    ternary: GgufType,
    scales: str,
    padded: Mapping[str, int],
) -> dict[str, Value]:
    """All keys. `padded` are the tensors with longer rows in the file, and their true lengths."""
    moe = config.backbone.moe
    of_model: dict[str, Value] = {
        "vocab_size": config.vocab_size,
        "context_length": config.max_position_embeddings,
        "embedding_length": config.hidden_size,
        "feed_forward_length": config.intermediate_size,
        "block_count": config.num_hidden_layers,
        "attention.head_count": config.num_heads,
        "attention.layer_norm_rms_epsilon": config.rms_norm_eps,
        "config": to_json(config),
        "ternary.scales": scales,
        "ternary.group_size": GROUP,
        "padded.names": tuple(padded),
        "padded.columns": np.array(tuple(padded.values()), dtype=np.uint32),
    }
    if moe.enabled:
        of_model["expert_count"] = moe.n_routed_experts
        of_model["expert_used_count"] = moe.num_experts_per_tok
    return {
        "general.architecture": ARCHITECTURE,
        "general.type": "model",
        "general.name": config.name_or_path or ARCHITECTURE,
        "general.file_type": _FILE_TYPES[ternary],
        "general.quantization_version": _QUANTIZATION_VERSION,
        **{f"{ARCHITECTURE}.{key}": value for key, value in of_model.items()},
        **_words(words),
    }


def _words(words: Words) -> dict[str, Value]:
    tokenizer = words.tokenizer
    if tokenizer is None:
        return {}
    made: dict[str, Value]
    if tokenizer.kind == "sentencepiece":
        made = _sentencepiece(words.files[words.tokenizer_name])
    elif tokenizer.kind == "huggingface":
        made = {"tokenizer.huggingface.json": words.files[words.tokenizer_name].decode()}
    else:
        made = {"tokenizer.huggingface.json": o200k_json(tokenizer).decode()}
    ids = {"bos": tokenizer.bos, "eos": tokenizer.eos, "padding": tokenizer.pad, "unknown": tokenizer.unk}
    made |= {f"tokenizer.ggml.{part}_token_id": token for part, token in ids.items() if token is not None}
    template = _template(words, tokenizer)
    return made if template is None else made | {"tokenizer.chat_template": template}


def _sentencepiece(data: bytes) -> dict[str, Value]:
    """The pieces as they stand in the file; the types of pieces have the same numbers in both formats."""
    file = read_sentencepiece_file(data)
    return {
        # The format calls the two kinds of models by who had them first.
        "tokenizer.ggml.model": "t5" if is_unigram(data) else "llama",
        "tokenizer.ggml.tokens": tuple(piece.text for piece in file.pieces),
        "tokenizer.ggml.scores": np.array(sentencepiece_scores(data), dtype=np.float32),
        "tokenizer.ggml.token_type": np.array([int(piece.kind) for piece in file.pieces], dtype=np.int32),
        "tokenizer.ggml.add_space_prefix": file.adds_dummy_prefix,
        "tokenizer.ggml.remove_extra_whitespaces": file.removes_extra_spaces,
        "tokenizer.ggml.add_bos_token": False,
        "tokenizer.ggml.add_eos_token": False,
    }


def _template(words: Words, tokenizer: Tokenizer) -> str | None:
    own = words.files.get(TEMPLATE_NAME)
    if own is not None:
        return own.decode()
    return DEFAULT_TEMPLATE if ChatTemplate.of_tokenizer(tokenizer).end_of_reply() else None
