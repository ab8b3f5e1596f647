"""`genai_config.json`: what onnxruntime-genai has to know of a graph whose states it can carry."""

from typing import Any

from configs.schema.model import ModelConfig
from exports.onnx.data import DATA_NAME
from exports.onnx.model import IDS, LOGITS
from exports.onnx.states import CONV, RECURRENT, StatePlan

GENAI_NAME = "genai_config.json"
GRAPH_NAME = DATA_NAME.removesuffix(".data")
LONGEST = 1 << 20
"""Tokens that genai lets a talk have; the states themselves know no end."""


def genai_config(config: ModelConfig, states: StatePlan, *, stops: tuple[int, ...]) -> dict[str, Any]:
    """The config, ready for JSON."""
    conv, recurrent = f"%d.{CONV}", f"%d.{RECURRENT}"
    chosen = config.generation
    return {
        "model": {
            "type": "decoder",
            "bos_token_id": config.token_ids[0],
            "eos_token_id": list(stops),
            "pad_token_id": config.token_ids[1],
            "vocab_size": config.vocab_size,
            "context_length": LONGEST,
            "decoder": {
                "session_options": {"log_id": "onnxruntime-genai", "provider_options": []},
                "filename": GRAPH_NAME,
                "hidden_size": config.hidden_size,
                "head_size": config.head_dim,
                "num_attention_heads": config.num_heads,
                "num_key_value_heads": config.num_heads,
                "num_hidden_layers": len(states.visits),
                "inputs": {
                    "input_ids": IDS,
                    "past_conv_names": f"past_key_values.{conv}",
                    "past_recurrent_names": f"past_key_values.{recurrent}",
                },
                "outputs": {
                    "logits": LOGITS,
                    "present_conv_names": f"present.{conv}",
                    "present_recurrent_names": f"present.{recurrent}",
                },
            },
        },
        "search": {
            "do_sample": chosen.do_sample and chosen.temperature > 0,
            "temperature": chosen.temperature or 1.0,
            "top_k": 0,
            "top_p": chosen.top_p,
            "repetition_penalty": chosen.repetition_penalty,
            "max_length": LONGEST,
            "min_length": 0,
            "num_beams": 1,
            "num_return_sequences": 1,
            "past_present_share_buffer": True,
        },
    }
