"""A written graph in onnxruntime: its contract checked, its states in buffers that take turns."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from configs.errors import ModelError, StateError, UsageError
from exports.onnx.contract import CONTRACT_NAME, VERSION
from exports.onnx.genai import GRAPH_NAME
from exports.onnx.model import IDS, LOGITS
from exports.onnx.versions import needed, numbers

Arrays: TypeAlias = dict[str, NDArray[Any]]
HINT = "Export the model again."


def read_contract(folder: Path) -> dict[str, Any]:
    """The contract of an export's folder."""
    path = folder / CONTRACT_NAME
    try:
        root = json.loads(path.read_bytes())
    except OSError as error:
        raise ModelError(
            f"{path}: cannot be read: {error.strerror or error}",
            hint="Name a folder that `chimera export onnx` wrote.",
        ) from None
    except ValueError as error:
        raise ModelError(f"{path}: not JSON: {error}", hint=HINT) from None
    if not isinstance(root, dict) or root.get("contract") != VERSION:
        raise ModelError(f"{path}: not a contract of version {VERSION}", hint=HINT)
    return root


class GraphSession:
    """A graph that runs one call after another."""

    def __init__(self, folder: Path, *, num_threads: int = 1, profile: Path | None = None) -> None:
        self.contract = read_contract(folder)
        runtime = needed("onnxruntime", purpose="running an ONNX model")
        least = str(self.contract["onnxruntime"]).removeprefix(">=")
        if numbers(runtime.__version__) < numbers(least):
            raise ModelError(
                f"{folder} needs onnxruntime {least} or newer, found {runtime.__version__}",
                hint="Update it with: pip install --upgrade onnxruntime",
            )
        options = runtime.SessionOptions()
        options.intra_op_num_threads = num_threads
        options.log_severity_level = 3
        if profile is not None:
            options.enable_profiling = True
            options.profile_file_prefix = str(profile)
        try:
            self._session = runtime.InferenceSession(
                str(folder / GRAPH_NAME), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:
            # onnxruntime has an exception class for every status, all directly under Exception.
            raise ModelError(
                f"{folder / GRAPH_NAME}: onnxruntime cannot load it: {error}", hint=HINT
            ) from error
        self.states: list[dict[str, Any]] = self.contract["states"]
        self._runtime = runtime
        self._outputs = [output.name for output in self._session.get_outputs()]

    def begin(self, batch: int = 1) -> Arrays:
        """The states before a text."""
        return {
            state["past"]: np.zeros((batch, *state["shape"][1:]), dtype=state["dtype"])
            for state in self.states
        }

    def run(
        self, ids_BT: NDArray[np.int64], states: Mapping[str, NDArray[Any]]
    ) -> tuple[NDArray[np.float32], Arrays]:
        """Logits of the last token [batch, vocabulary], and the new states."""
        self.check_ids(ids_BT)
        self.check_states(states, batch=len(ids_BT))
        found = dict(zip(self._outputs, self._session.run(None, {IDS: ids_BT, **states}), strict=True))
        return found[LOGITS][:, 0], {state["past"]: found[state["present"]] for state in self.states}

    def bound(self, states: Mapping[str, NDArray[Any]]) -> "BoundStream":
        """A stream whose states stay inside onnxruntime, for speed."""
        self.check_states(states, batch=1)
        return BoundStream(self, states)

    def check_ids(self, ids_BT: NDArray[np.int64]) -> None:
        """Refuse what is no batch of tokens."""
        most = int(self.contract["inputs"][IDS]["most"])
        if ids_BT.ndim != 2 or not ids_BT.size or ids_BT.min() < 0 or ids_BT.max() > most:
            raise UsageError(
                f"tokens must be [batch, tokens] from 0 to {most:,}, at least one; got the shape "
                f"{ids_BT.shape}"
            )

    def check_states(self, states: Mapping[str, NDArray[Any]], *, batch: int) -> None:
        """Refuse states of another graph or another batch."""
        for state in self.states:
            array, shape = states.get(state["past"]), (batch, *state["shape"][1:])
            if array is None:
                raise StateError(
                    f"the state {state['past']} is missing", hint="Begin with zeros for every state."
                )
            if array.shape != shape or array.dtype != state["dtype"]:
                raise StateError(
                    f"the state {state['past']} must be {state['dtype']} {shape}, got {array.dtype} "
                    f"{array.shape}",
                    hint="It is of another export, or of another batch.",
                )
        unknown = set(states) - {state["past"] for state in self.states}
        if unknown:
            raise StateError(f"{min(unknown)} is no state of this graph", hint="It is of another export.")

    def end_profile(self) -> Path:
        """Where the profile of the session was written."""
        return Path(self._session.end_profiling())


class BoundStream:
    """Single steps of one stream. Its states lie in two sets of buffers, read and written in turns."""

    def __init__(self, session: GraphSession, states: Mapping[str, NDArray[Any]]) -> None:
        value = session._runtime.OrtValue.ortvalue_from_numpy
        self._ids = np.zeros((1, 1), dtype=np.int64)
        self._logits = np.zeros((1, 1, session.contract["outputs"][LOGITS]["shape"][2]), dtype=np.float32)
        sets = [{name: np.array(array) for name, array in states.items()} for _ in range(2)]
        self._kept = sets, [{name: value(array) for name, array in each.items()} for each in sets]
        ids, logits = value(self._ids), value(self._logits)
        self._ids_value, self._logits_value, self._turn = ids, logits, 0
        self._session, self._bindings = session._session, []
        for turn in range(2):
            binding = session._session.io_binding()
            binding.bind_ortvalue_input(IDS, ids)
            binding.bind_ortvalue_output(LOGITS, logits)
            for state in session.states:
                binding.bind_ortvalue_input(state["past"], self._kept[1][turn][state["past"]])
                binding.bind_ortvalue_output(state["present"], self._kept[1][1 - turn][state["past"]])
            self._bindings.append(binding)

    def step(self, token: int) -> NDArray[np.float32]:
        """Read a token; scores of every word after it [vocabulary], which the next step overwrites."""
        self._ids[0, 0] = token
        self._session.run_with_iobinding(self._bindings[self._turn])
        self._turn = 1 - self._turn
        return self._logits[0, 0]
