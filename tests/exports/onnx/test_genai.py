"""onnxruntime-genai runs a graph without Titans, and is told why where it cannot."""

import json
from pathlib import Path

import numpy as np
import pytest

from configs.load import build_config, preset
from exports.onnx.export import export_onnx
from exports.onnx.genai import GENAI_NAME
from exports.onnx.session import GraphSession
from exports.onnx.states import state_plan
from tests.exports.onnx.conftest import MakeModel

PROMPT = [5, 9, 77, 3]


def greedy(folder: Path, count: int) -> list[int]:
    session = GraphSession(folder)
    states, ids = session.begin(), [PROMPT]
    found: list[int] = []
    while len(found) < count:
        logits, states = session.run(np.array(ids), states)
        found.append(int(logits[0].argmax()))
        ids = [found[-1:]]
    return found


@pytest.mark.oracle
def test_genai_writes_the_same_and_begins_anew(recurrent: Path, tmp_path: Path):
    import onnxruntime_genai as genai

    done = export_onnx(recurrent, tmp_path / "graph")
    assert not done.genai_refusal
    model = genai.Model(str(tmp_path / "graph"))
    params = genai.GeneratorParams(model)
    params.set_search_options(do_sample=False, repetition_penalty=1.0, max_length=64)
    generator = genai.Generator(model, params)

    def written(count: int) -> list[int]:
        generator.append_tokens(np.array([PROMPT], dtype=np.int32))
        found: list[int] = []
        while len(found) < count and not generator.is_done():
            generator.generate_next_token()
            found.append(int(generator.get_next_tokens()[0]))
        return found

    right = greedy(tmp_path / "graph", 40)
    first = written(40)
    assert len(set(right)) > 3
    assert first == right[: len(first)]
    assert len(first) > 5
    generator.rewind_to(0)
    assert written(40) == first


def test_titans_and_unlike_shapes_are_refused_with_the_reason(make_model: MakeModel, tmp_path: Path):
    done = export_onnx(make_model(), tmp_path / "graph")
    assert "layer 2 is of the kind titans_mac" in done.genai_refusal
    assert not (tmp_path / "graph" / GENAI_NAME).exists()
    contract = json.loads((tmp_path / "graph" / "state_contract.json").read_text())
    assert contract["onnxruntime_genai"] == done.genai_refusal
    unlike = build_config(
        {
            "preset": "micro",
            "num_heads": 8,
            "head_dim": 16,
            "backbone": {"layer_pattern": "GD XM XM XM"},
            "gated_deltanet": {"conv_size": 16},
            "xlstm": {"conv_size": 2},
        },
        source="test",
    )
    plan = state_plan(unlike, rounds=2)
    assert "2." in plan.genai_refusal
    assert plan.num_bytes == plan.plain_bytes


def test_padding_is_small_where_genai_runs(recurrent: Path, tmp_path: Path):
    export_onnx(recurrent, tmp_path / "graph")
    config = json.loads((tmp_path / "graph" / GENAI_NAME).read_text())
    states = GraphSession(tmp_path / "graph").begin()
    shapes = {name.split(".")[-1]: array.shape for name, array in states.items()}
    assert {array.shape for array in states.values()} == set(shapes.values())
    assert config["model"]["decoder"]["num_hidden_layers"] == len(states) // 2
    assert preset("micro").token_ids[0] in config["model"]["eos_token_id"]
