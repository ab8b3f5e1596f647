"""`chimera export verify`: a written graph beside the engine, token by token.

Two things are compared. One step from the engine's own state shows what the graph computes otherwise. On its
own states the graph shows where that leads: an activation that lies between two int8 codes is rounded up here
and down there, from then on the two differ by codes and not by roundings, and so would any two programs whose
sums have another order.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from math import isfinite
from pathlib import Path
from time import perf_counter
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from configs.errors import ModelError, UsageError
from exports.onnx.engine_state import graph_states
from exports.onnx.profile import NodeTime, node_times
from exports.onnx.session import GraphSession, read_contract
from exports.onnx.states import state_plan
from runtime.building.states import state_layout
from runtime.building.tensors import Tensors
from runtime.engine import Engine
from runtime.model_folder import PackedModel, open_model
from runtime.system import own_bytes

Floats: TypeAlias = NDArray[np.float32]
MOST_DIFFERENCE = {"native": 0.1, "reference": 1e-4}
"""What a step from the engine's state may differ by, relative, for half of all tokens."""
LEAST_AGREEMENT = 0.9
OWN_TEXT = "what the engine writes"
STATES_EVERY = 4
"""Megabytes of states are compared every so many tokens."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """What was found. Differences are of logits, relative to their norm."""

    profile: str
    rounds: int
    num_tokens: int
    num_threads: int
    source: str
    step_median: float
    step_most: float
    step_agreement: float
    state_median: float
    """Of the state that differs most after such a step."""
    own_median: float
    own_most: float
    own_agreement: float
    engine_ms: float
    graph_ms: float
    memory_bytes: int
    """What the process grew by as the graph was loaded and ran."""
    file_bytes: int
    nodes: tuple[NodeTime, ...]

    @property
    def holds(self) -> bool:
        """Whether the graph is this model."""
        return not self.complaint

    @property
    def complaint(self) -> str:
        most = MOST_DIFFERENCE[self.profile]
        # What is no number is not within it either.
        if not (self.step_median <= most and self.step_agreement >= LEAST_AGREEMENT):
            return (
                f"the graph does not compute what the engine does: a step differs by {self.step_median:.1e}, "
                f"at most {most:g} is right; {self.step_agreement:.1%} of best tokens agree"
            )
        if not self.state_median <= most:
            return (
                f"the graph does not keep what the engine does: after a step a state differs by "
                f"{self.state_median:.1e}, at most {most:g} is right"
            )
        return ""

    def report(self) -> dict[str, Any]:
        """Ready for JSON, which has no word for what is no number."""
        told = {
            name: None if isinstance(value, float) and not isfinite(value) else value
            for name, value in asdict(self).items()
        }
        return {**told, "holds": self.holds}


def verify(
    model: Path | str,
    folder: Path,
    *,
    num_tokens: int,
    text: Path | None = None,
    num_threads: int | None = None,
    nodes: bool = False,
) -> Verdict:
    """Compare a graph with the model that it was made from."""
    told, opened = read_contract(folder), open_model(model)
    if told["model_digest"] != opened.digest:
        raise ModelError(
            f"{folder} was exported from another model than {opened.file.path}",
            hint="Name the model that it was made from, or export it again.",
        )
    with Engine(opened, num_threads=num_threads) as engine:
        ids, source = _ids(opened, engine, told["rounds"], num_tokens, text)
        before = own_bytes()
        session = GraphSession(folder, num_threads=engine.num_threads)
        session.bound(session.begin()).step(ids[0])
        memory = own_bytes() - before
        found = _compared(opened, engine, session, ids, rounds=told["rounds"])
        return Verdict(
            profile=told["profile"],
            rounds=told["rounds"],
            num_tokens=len(ids),
            num_threads=engine.num_threads,
            source=source,
            step_median=float(np.median(found.step)),
            step_most=float(np.max(found.step)),
            step_agreement=float(np.mean(found.step_agrees)),
            state_median=float(np.median(found.state)),
            own_median=float(np.median(found.own)),
            own_most=float(np.max(found.own)),
            own_agreement=float(np.mean(found.own_agrees)),
            engine_ms=1e3 * float(np.median(found.engine_s)),
            graph_ms=1e3 * float(np.median(found.graph_s)),
            memory_bytes=memory,
            file_bytes=sum(path.stat().st_size for path in folder.glob("model.onnx*")),
            nodes=node_times(folder, num_threads=engine.num_threads) if nodes else (),
        )


def _ids(
    model: PackedModel, engine: Engine, rounds: int, num_tokens: int, text: Path | None
) -> tuple[list[int], str]:
    """The tokens to compare on."""
    if text is None:
        return _written(engine, rounds, num_tokens), OWN_TEXT
    try:
        content = text.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise UsageError(f"{text}: cannot be read: {error.strerror or error}") from None
    ids = model.tokenizer().encode(content[: 64 * num_tokens])[:num_tokens]
    if not ids:
        raise UsageError(f"{text}: holds no text")
    return ids, str(text)


def _written(engine: Engine, rounds: int, num_tokens: int) -> list[int]:
    """What the engine writes after the end of a text, drawn as it foresees it."""
    state, random = engine.new_state(rounds), np.random.default_rng(0)
    ids = [engine.config.token_ids[0]]
    while len(ids) < num_tokens:
        engine.step(state, ids[-1], rounds=rounds)
        logits = engine.logits().astype(np.float64)
        shares = np.exp(logits - logits.max())
        ids.append(int(random.choice(len(shares), p=shares / shares.sum())))
    return ids


@dataclass(kw_only=True, slots=True)
class _Found:
    """Of every token."""

    step: list[float]
    step_agrees: list[bool]
    state: list[float]
    own: list[float]
    own_agrees: list[bool]
    engine_s: list[float]
    graph_s: list[float]


def _compared(
    model: PackedModel, engine: Engine, session: GraphSession, ids: Sequence[int], *, rounds: int
) -> _Found:
    config, tensors = model.config, Tensors(model)
    plan, layout = state_plan(config, rounds=rounds), state_layout(config, tensors)
    found = _Found(step=[], step_agrees=[], state=[], own=[], own_agrees=[], engine_s=[], graph_s=[])
    state, own = engine.new_state(rounds), session.bound(session.begin())
    carried = graph_states(config, plan, layout, state)
    for number, token in enumerate(ids):
        started = perf_counter()
        engine.step(state, token, rounds=rounds)
        right = engine.logits()
        between = perf_counter()
        mine = own.step(token)
        found.graph_s.append(perf_counter() - between)
        found.engine_s.append(between - started)
        stepped, after = session.run(np.array([[token]]), carried)
        best = int(right.argmax())
        found.step.append(_distance(stepped[0], right))
        found.step_agrees.append(int(stepped[0].argmax()) == best)
        found.own.append(_distance(mine, right))
        found.own_agrees.append(int(mine.argmax()) == best)
        carried = graph_states(config, plan, layout, state)
        if number % STATES_EVERY == 0:
            # By NumPy: Python's own may pass over what is no number.
            found.state.append(
                float(np.max([_distance(after[name], held) for name, held in carried.items()]))
            )
    tensors.close()
    return found


def _distance(found: NDArray[Any], right: NDArray[Any]) -> float:
    """‖found − right‖ / ‖right‖"""
    norm = float(np.linalg.norm(right.astype(np.float64)))
    return float(np.linalg.norm(found.astype(np.float64) - right)) / (norm or 1.0)
