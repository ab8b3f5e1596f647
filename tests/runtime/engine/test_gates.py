"""Means of gates are those of the gates that the NumPy engine computes, token by token."""

from pathlib import Path

import numpy as np
import pytest

from configs.load import build_config
from quant.kernels.delta import reference as delta
from runtime.engine import Engine
from runtime.gates import gate_means
from runtime.model_folder import open_model
from runtime.random_model import random_b158
from runtime.reference import mixers
from runtime.reference.engine import ReferenceEngine
from tests.runtime.engine.models import mixing_threshold, tokens_of

ROUNDS = 4
CHANGES = {
    "a loop": {"backbone": {"layer_pattern": "GD SK GD TM"}},
    "no loop, exact flow": {
        "looping": {"enabled": False},
        "efla": {"enabled": True, "target_layers": "GD SK"},
        "backbone": {"layer_pattern": "GD XM TM SK"},
    },
}


class Recorder:
    """Gates of each layer as the NumPy engine meets them: the last round's, for each token."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.found: dict[bytes, dict[int, tuple[float, float]]] = {}
        self.token = 0
        for rule in ("gated_delta", "exact_flow"):
            monkeypatch.setattr(mixers, rule, self._recording(rule, getattr(mixers, rule)))

    def _recording(self, name, compute):
        def recorded(tokens, weights, memory):
            no_keys = np.zeros_like(tokens.alpha)
            rule = "delta" if name == "gated_delta" else name
            alpha, _, _ = delta._gates(tokens, weights, no_keys, rule=rule)
            means = float(alpha.mean()), float(delta.sigmoid(tokens.beta).mean())
            self.found.setdefault(weights.dt_bias.tobytes(), {})[self.token] = means
            return compute(tokens, weights, memory)

        return recorded


@pytest.mark.parametrize("changes", CHANGES.values(), ids=CHANGES)
@pytest.mark.parametrize("call", ["step", "prompt", "tokens that leave the loop sooner"])
def test_means_are_of_the_last_call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, object], call: str
):
    path = tmp_path / "model.b158"
    random_b158(build_config({"preset": "micro", **changes}, source="test"), path)
    with Engine.open(path, num_threads=1) as engine:
        assert gate_means(engine) is None
        is_looped = engine.config.looping.enabled
        rounds = min(ROUNDS, engine.config.rounds_most)
        ids = tokens_of(engine.config, 1 if call == "step" else 8)
        threshold = mixing_threshold(engine, ids) if call.startswith("tokens") and is_looped else 0.0
        engine.prefill(engine.new_state(rounds), ids, exit_threshold=threshold)
        means = gate_means(engine)
    recorder, reference = Recorder(monkeypatch), ReferenceEngine(open_model(path))
    state, taken = reference.new_state(rounds), []
    for recorder.token, token in enumerate(ids):
        reference.step(state, int(token), exit_threshold=threshold)
        taken.append(reference.rounds_taken)
    deepest = [number for number in range(len(ids)) if taken[number] == max(taken)]
    assert (len(deepest) < len(ids)) == (threshold > 0)
    looped = {
        reference._weights.floats(f"layers.{layer.index}.mixer.dt_bias").tobytes()
        for layer in reference._layers
        if layer.looped and layer.kind in ("gated_deltanet", "tsp_span_knot")
    }
    assert bool(looped) == is_looped
    expected = np.array(
        [
            np.mean([by_token[number] for number in (deepest if key in looped else by_token)], axis=0)
            for key, by_token in recorder.found.items()
        ]
    ).mean(axis=0)
    assert means is not None
    assert (means.alpha, means.beta) == pytest.approx(tuple(expected), rel=1e-5)
