"""A graph computes what the engine does: a step from the same state gives the same logits and states.

Both round activations to the same integers, so they differ by roundings of float32, until a value lies so
near the middle between two codes that the roundings decide. So half of all tokens agree as floats do,
whatever the others do.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from exports.onnx.export import export_onnx
from exports.onnx.session import GraphSession
from exports.onnx.verify import verify
from tests.exports.onnx.conftest import MakeModel

AS_FLOATS = 3e-6
AS_CODES = 0.1
VARIANTS: dict[str, dict[str, Any]] = {
    "as it is": {},
    "exact flow, no loop, no slots": {
        "looping": {"enabled": False},
        "efla": {"enabled": True, "target_layers": "GD SK"},
        "titans": {"persistent_memory_slots": 0},
    },
    "one zero in every four, corrections, embedding of 4 bits": {
        "quantization": {
            "sherry_mode": {"enabled": True},
            "hgf_correction": {"enabled": True, "rank": 12},
            "embedding_bits": 4,
        }
    },
    "dense loop, output gates, experts by softmax, embedding of 2 bits": {
        "looping": {"injection": "dense", "zoh_input": "euler"},
        "gated_deltanet": {"use_output_gate": True, "conv_size": 2},
        "xlstm": {"use_output_gate": True, "exponential_gating": False, "conv_size": 5},
        "backbone": {"moe": {"routing": "softmax", "num_experts_per_tok": 3, "n_shared_experts": 2}},
        "quantization": {"embedding_bits": 2},
    },
    "states padded for genai, the delta rule's taps fewer": {
        "backbone": {"layer_pattern": "GD XM GD SK"},
        "gated_deltanet": {"conv_size": 3},
        "xlstm": {"conv_size": 5},
    },
    "states padded for genai, the matrix LSTM's taps fewer": {
        "backbone": {"layer_pattern": "GD XM GD SK"},
        "xlstm": {"conv_size": 2},
    },
    "odd widths, experts decided ahead": {
        "hidden_size": 144,
        "num_heads": 3,
        "head_dim": 48,
        "intermediate_size": 208,
        "vocab_size": 333,
        "backbone": {"moe": {"moe_intermediate_size": 80, "route_ahead": 1}},
    },
}


@pytest.mark.parametrize("changes", VARIANTS.values(), ids=VARIANTS)
def test_a_step_of_the_reference_profile_is_the_engines(
    make_model: MakeModel, tmp_path: Path, changes: dict[str, Any]
):
    # Longer than two rings of the window, and over borders of the memory's chunks.
    model = make_model(changes)
    export_onnx(model, tmp_path / "graph", profile="reference")
    found = verify(model, tmp_path / "graph", num_tokens=80, num_threads=1)
    assert found.step_median < AS_FLOATS
    assert found.state_median < AS_FLOATS
    assert found.step_agreement >= 0.97
    assert found.own_most < 1
    assert found.holds


def test_another_number_of_rounds(make_model: MakeModel, tmp_path: Path):
    model = make_model()
    export_onnx(model, tmp_path / "graph", profile="reference", rounds=3)
    found = verify(model, tmp_path / "graph", num_tokens=20, num_threads=1)
    assert found.rounds == 3
    assert found.step_median < AS_FLOATS


def test_the_native_profile_differs_by_codes(make_model: MakeModel, tmp_path: Path):
    model = make_model()
    export_onnx(model, tmp_path / "graph")
    found = verify(model, tmp_path / "graph", num_tokens=40, num_threads=1, nodes=True)
    assert AS_FLOATS < found.step_median < AS_CODES
    assert found.holds
    assert sum(node.share for node in found.nodes) == pytest.approx(1)


def test_many_tokens_at_once_are_the_same_tokens_one_by_one(make_model: MakeModel, tmp_path: Path):
    export_onnx(make_model(), tmp_path / "graph", profile="reference")
    session = GraphSession(tmp_path / "graph")
    ids = np.random.default_rng(3).integers(0, 500, (1, 75))
    one_by_one = session.begin()
    for token in ids[0]:
        right, one_by_one = session.run(np.array([[token]]), one_by_one)
    # Cut anywhere: inside a chunk, and past the end of the window's ring.
    parts = session.begin()
    for first, after in ((0, 1), (1, 14), (14, 75)):
        logits, parts = session.run(ids[:, first:after], parts)
    assert np.linalg.norm(logits - right) < AS_CODES * np.linalg.norm(right)
    for name, array in parts.items():
        wanted = one_by_one[name].astype(np.float64)
        assert np.linalg.norm(array - wanted) <= AS_CODES * np.linalg.norm(wanted) + 1e-6, name


def test_streams_of_a_batch_do_not_meet(make_model: MakeModel, tmp_path: Path):
    export_onnx(make_model(), tmp_path / "graph", profile="reference")
    session = GraphSession(tmp_path / "graph")
    ids = np.random.default_rng(4).integers(0, 500, (3, 6))
    # Streams that stand at different places: the second has read more than the others.
    alone = [session.begin() for _ in ids]
    for token in range(20):
        _, alone[1] = session.run(np.array([[token]]), alone[1])
    together = {name: np.concatenate([state[name] for state in alone]) for name in alone[0]}
    logits, after = session.run(ids, together)
    for row, state in enumerate(alone):
        right, new = session.run(ids[row : row + 1], state)
        assert np.linalg.norm(logits[row] - right[0]) < AS_CODES * np.linalg.norm(right)
        changed = max(float(np.abs(after[name][row] - new[name][0].astype(np.float64)).max()) for name in new)
        assert changed < 1
