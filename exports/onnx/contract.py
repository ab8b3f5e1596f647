"""`state_contract.json`: what a program that runs the graph has to know of its inputs, outputs and states."""

import json
from typing import Any

from configs.schema.model import ModelConfig
from exports.onnx.graph import CONTRIB, OPSET
from exports.onnx.model import IDS, LOGITS
from exports.onnx.states import StatePlan
from exports.onnx.versions import LEAST_RUNTIME
from exports.onnx.weights import Profile

CONTRACT_NAME = "state_contract.json"
VERSION = 1


def contract(
    config: ModelConfig, states: StatePlan, *, profile: Profile, rounds: int, digest: str, tokenizer: str
) -> dict[str, Any]:
    """The contract, ready for JSON."""
    return {
        "contract": VERSION,
        "model": config.name_or_path,
        "model_digest": digest,
        "tokenizer_digest": tokenizer,
        "profile": profile,
        "rounds": rounds,
        "opset": {"ai.onnx": OPSET, CONTRIB: 1},
        "onnxruntime": f">={LEAST_RUNTIME}",
        "inputs": {
            IDS: {"dtype": "int64", "shape": ["batch", "tokens"], "least": 0, "most": config.vocab_size - 1}
        },
        "outputs": {
            LOGITS: {"dtype": "float32", "shape": ["batch", 1, config.vocab_size], "of": "the last token"}
        },
        "end_of_text": config.token_ids[0],
        "padding": config.token_ids[1],
        "batch": "all streams of a call read as many tokens; padding is read like any other token",
        "initial": "every state begins as zeros",
        "next_call": "the output `present` of a state is its input `past` in the next call",
        "state_bytes": states.num_bytes,
        "states": [
            {
                "past": state.past,
                "present": state.present,
                "dtype": state.dtype,
                "shape": ["batch", *state.shape],
                "initial": 0,
                "layer": state.layer,
                "round": state.round,
                "holds": state.holds,
            }
            for state in states.tensors
        ],
        "onnxruntime_genai": states.genai_refusal or "genai_config.json",
    }


def to_bytes(root: dict[str, Any]) -> bytes:
    return (json.dumps(root, indent=1, ensure_ascii=False) + "\n").encode()
