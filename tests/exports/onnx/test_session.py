"""States of a written graph: as the contract tells them, in place, and refused where they do not fit."""

import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from configs.errors import ModelError, StateError, UsageError
from exports.onnx.contract import CONTRACT_NAME
from exports.onnx.export import export_onnx
from exports.onnx.session import GraphSession
from exports.onnx.verify import verify
from exports.onnx.versions import numbers
from tests.exports.onnx.conftest import MakeModel


@pytest.fixture(scope="module")
def folder(make_model: MakeModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with every kind of layer."""
    out = tmp_path_factory.mktemp("all kinds") / "graph"
    export_onnx(make_model(), out)
    return out


@pytest.fixture(scope="module")
def plain(recurrent: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model without Titans."""
    out = tmp_path_factory.mktemp("recurrent") / "graph"
    export_onnx(recurrent, out)
    return out


def test_the_contract_is_the_graph(folder: Path):
    contract = json.loads((folder / CONTRACT_NAME).read_text())
    graph = onnx.load(folder / "model.onnx", load_external_data=False).graph
    types = {1: "float32", 3: "int8", 7: "int64"}

    def declared(values: object) -> dict[str, tuple[str, list[object]]]:
        return {
            value.name: (
                types[value.type.tensor_type.elem_type],
                [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim],
            )
            for value in values
        }

    states = contract["states"]
    past = {state["past"]: (state["dtype"], state["shape"]) for state in states}
    present = {state["present"]: (state["dtype"], state["shape"]) for state in states}
    told = {
        name: (of["dtype"], of["shape"]) for name, of in (contract["inputs"] | contract["outputs"]).items()
    }
    assert declared(graph.input) == past | {"input_ids": told["input_ids"]}
    assert declared(graph.output) == present | {"logits": told["logits"]}
    assert contract["state_bytes"] == sum(array.nbytes for array in GraphSession(folder).begin().values())
    onnx.checker.check_model(folder / "model.onnx")


@pytest.mark.parametrize("of", ["folder", "plain"])
def test_one_node_reads_each_past_state_of_a_recurrent_layer(of: str, request: pytest.FixtureRequest):
    # onnxruntime-genai has past and present in one buffer: a second reader would find the new state.
    graph = onnx.load(request.getfixturevalue(of) / "model.onnx", load_external_data=False).graph
    for value in graph.input:
        if value.name.endswith(("conv_state", "recurrent_state")):
            assert sum(list(node.input).count(value.name) for node in graph.node) == 1


def test_past_and_present_may_be_one_buffer(plain: Path):
    apart = GraphSession(plain)
    session = onnxruntime.InferenceSession(plain / "model.onnx")
    states, random = apart.begin(), np.random.default_rng(0)
    held = {name: onnxruntime.OrtValue.ortvalue_from_numpy(array.copy()) for name, array in states.items()}
    for count in (5, 1, 1, 7):
        ids = random.integers(0, 500, (1, count))
        binding = session.io_binding()
        binding.bind_cpu_input("input_ids", ids)
        for state in apart.states:
            binding.bind_ortvalue_input(state["past"], held[state["past"]])
            binding.bind_ortvalue_output(state["present"], held[state["past"]])
        binding.bind_output("logits")
        session.run_with_iobinding(binding)
        right, states = apart.run(ids, states)
        assert np.array_equal(binding.copy_outputs_to_cpu()[-1][:, 0], right)
        assert all(np.array_equal(held[name].numpy(), array) for name, array in states.items())


def test_bound_steps_are_steps(folder: Path):
    session = GraphSession(folder)
    states = session.begin()
    stream = session.bound(states)
    for token in (3, 1, 4, 1, 5):
        right, states = session.run(np.array([[token]]), states)
        assert np.array_equal(stream.step(token), right[0])


def test_what_does_not_fit_is_refused(folder: Path):
    session = GraphSession(folder)
    states = session.begin()
    name = next(iter(states))
    ids = np.array([[1]])
    with pytest.raises(StateError, match=f"{name} must be float32 .*got float64"):
        session.run(ids, states | {name: states[name].astype(np.float64)})
    with pytest.raises(StateError, match="another batch"):
        session.run(np.array([[1], [2]]), states)
    with pytest.raises(StateError, match=f"{name} is missing"):
        session.run(ids, {key: array for key, array in states.items() if key != name})
    with pytest.raises(StateError, match="no state of this graph"):
        session.run(ids, states | {"past_key_values.99.conv_state": ids})
    for bad in (np.array([[500_000]]), np.array([[-1]]), np.empty((1, 0), np.int64), np.array([1])):
        with pytest.raises(UsageError, match="tokens must be"):
            session.run(bad, states)


def test_an_older_onnxruntime_is_refused(folder: Path, tmp_path: Path):
    contract = json.loads((folder / CONTRACT_NAME).read_text())
    newer = {**contract, "onnxruntime": ">=99.1"}
    (tmp_path / CONTRACT_NAME).write_text(json.dumps(newer))
    with pytest.raises(ModelError, match=r"needs onnxruntime 99\.1 or newer, found 1\."):
        GraphSession(tmp_path)


def test_versions_are_compared_as_numbers():
    assert numbers("1.9.2") < numbers("1.29") < numbers("1.29.1") < numbers("1.30.0rc1") < numbers("2")
    assert numbers("dev") == ()


def test_folders_that_are_no_exports(folder: Path, make_model: MakeModel, tmp_path: Path):
    with pytest.raises(ModelError, match="cannot be read"):
        GraphSession(tmp_path)
    (tmp_path / CONTRACT_NAME).write_text("[]")
    with pytest.raises(ModelError, match="not a contract"):
        GraphSession(tmp_path)
    (tmp_path / CONTRACT_NAME).write_bytes((folder / CONTRACT_NAME).read_bytes())
    (tmp_path / "model.onnx").write_bytes(b"\x08\x0b nothing")
    with pytest.raises(ModelError, match="cannot load it"):
        GraphSession(tmp_path)
    with pytest.raises(ModelError, match="another model"):
        verify(make_model(seed=5), folder, num_tokens=3)
