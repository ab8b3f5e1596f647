"""A log of activations: which experts a real text visited, token by token and pass by pass, as a file.

It is what clusters are found in and the intent classifier learns from, so it holds the text's ids as well. A
file names its model, and is refused when it is damaged, of another model, or says what no model does.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from chronos_moe.checked_file import read_checked, whole, write_checked
from configs.errors import ModelError, UsageError

KIND, WHAT = "chimera expert visits 1", "log of expert visits"
NOT_TAKEN = np.iinfo(np.uint16).max
"""Stands for the experts of a pass that a token did not take, since it left the loop before."""
_HINT = "Record it again: chimera log-experts."


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class VisitLog:
    """What some texts visited. T counts the tokens of all documents, P the passes, A the experts of one."""

    model: str
    """The digest of the model's weights."""
    vocab_size: int
    num_experts: int
    passes: tuple[tuple[int, int], ...]
    """Layer and round of each pass through a layer with experts, in the order in which a token takes them."""
    ids_T: NDArray[np.uint32]
    begins: NDArray[np.int64]
    """Where each document begins, and at the end where the last one ends."""
    chosen: NDArray[np.uint16]
    """The experts, the best first."""

    @property
    def layers(self) -> tuple[int, ...]:
        """The layers with experts, rising."""
        return tuple(sorted({layer for layer, _ in self.passes}))

    @property
    def experts(self) -> tuple[tuple[int, int], ...]:
        """All experts, layer by layer: the nodes of `co_occurrence`."""
        return tuple((layer, expert) for layer in self.layers for expert in range(self.num_experts))

    @property
    def num_documents(self) -> int:
        return len(self.begins) - 1

    def sets_TLE(self) -> NDArray[np.bool_]:
        """The experts that each token visits in each layer, in any of its rounds."""
        num_tokens, layers = len(self.ids_T), self.layers
        sets = np.zeros((num_tokens, len(layers), self.num_experts + 1), dtype=np.bool_)
        tokens = np.arange(num_tokens)[:, None]
        for place, (layer, _) in enumerate(self.passes):
            chosen_TA = np.minimum(self.chosen[:, place], self.num_experts)
            sets[tokens, layers.index(layer), chosen_TA] = True
        return sets[:, :, :-1]


def co_occurrence(log: VisitLog, *, window: int = 4) -> NDArray[np.float64]:
    """How often two experts fire together, [experts, experts] in the order of `log.experts`, symmetric.

    An event is a token in a layer. Two experts meet where one fires in an event and the other in the same one
    or in one of the `window` that follow, in the same document. Rows are brought to a sum of one, so that an
    expert that is always there does not draw all others to it, and the two directions to their mean.
    """
    if window < 0:
        raise UsageError(f"a window of {window} events; allowed are whole numbers from 0")
    num_nodes, num_layers = len(log.experts), len(log.layers)
    sets_TLE, counts_EE = log.sets_TLE(), np.zeros((num_nodes, num_nodes))
    for first, after in zip(log.begins[:-1], log.begins[1:], strict=True):
        here = sets_TLE[first:after].reshape(-1, log.num_experts).astype(np.float32)
        for ahead in range(min(window + 1, len(here))):
            _add_pairs(counts_EE, here, ahead=ahead, num_layers=num_layers)
    np.fill_diagonal(counts_EE, 0.0)
    counts_EE += counts_EE.T
    sums = counts_EE.sum(axis=1, keepdims=True)
    shares_EE = np.divide(counts_EE, sums, out=np.zeros_like(counts_EE), where=sums > 0)
    return (shares_EE + shares_EE.T) / 2


def clusters_read(log: VisitLog, clusters: Sequence[Sequence[tuple[int, int]]]) -> tuple[float, float]:
    """Clusters that a token touches and experts that lie in those, as means: what it reads at one go each."""
    number = {expert: place for place, members in enumerate(clusters) for expert in members}
    missing = [expert for expert in log.experts if expert not in number]
    if missing:
        raise UsageError(f"no cluster holds the expert {missing[0][1]} of layer {missing[0][0]}")
    belongs_E = np.array([number[expert] for expert in log.experts])
    member = (belongs_E[:, None] == np.arange(len(clusters))).astype(np.float32)
    sets = log.sets_TLE().reshape(len(log.ids_T), -1)
    touched = (sets.astype(np.float32) @ member) > 0
    sizes = np.array([len(members) for members in clusters])
    return float(touched.sum(axis=1).mean()), float((touched * sizes).sum(axis=1).mean())


def write_visits(path: Path, log: VisitLog) -> None:
    """Write a log, whole or not at all."""
    about = {
        "model": log.model,
        "vocab_size": str(log.vocab_size),
        "num_experts": str(log.num_experts),
        "passes": json.dumps(log.passes),
    }
    arrays = {"begins": log.begins, "ids": log.ids_T, "chosen": log.chosen}
    write_checked(path, arrays, kind=KIND, about=about)


def read_visits(path: Path, *, model: str | None = None) -> VisitLog:
    """The log of a file that is whole and, if `model` is named, of that model."""
    about, arrays = read_checked(path, kind=KIND, what=WHAT, hint=_HINT)
    try:
        passes = tuple((whole(layer), whole(number)) for layer, number in json.loads(about["passes"]))
        log = VisitLog(
            model=about["model"],
            vocab_size=whole(json.loads(about["vocab_size"])),
            num_experts=whole(json.loads(about["num_experts"])),
            passes=passes,
            ids_T=arrays["ids"],
            begins=arrays["begins"],
            chosen=arrays["chosen"],
        )
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise ModelError(f"{path} is no {WHAT}: its description cannot be read", hint=_HINT) from error
    wrong = _fault(log)
    if wrong is not None:
        raise ModelError(f"{path} is no {WHAT}: {wrong}", hint=_HINT)
    if model is not None and log.model != model:
        raise ModelError(
            f"{path} was recorded with the model {log.model[:12]}…, and this is {model[:12]}…", hint=_HINT
        )
    return log


def _fault(log: VisitLog) -> str | None:
    """Why a log cannot be one."""
    arrays = log.begins, log.ids_T, log.chosen
    if tuple(array.dtype for array in arrays) != (np.int64, np.uint32, np.uint16):
        return "its arrays have other types"
    if tuple(array.ndim for array in arrays) != (1, 1, 3):
        return "its arrays have other shapes"
    if not log.passes or len(set(log.passes)) != len(log.passes) or not 0 < log.num_experts < NOT_TAKEN:
        return f"{len(log.passes)} passes through layers of {log.num_experts} experts"
    if log.chosen.shape[:2] != (len(log.ids_T), len(log.passes)):
        return f"choices of the shape {log.chosen.shape} for {len(log.ids_T)} tokens"
    begins = log.begins
    if len(begins) < 2 or begins[0] != 0 or begins[-1] != len(log.ids_T) or (np.diff(begins) <= 0).any():
        return "its documents do not follow each other"
    if log.ids_T.max() >= log.vocab_size:
        return f"a word {log.ids_T.max()} of {log.vocab_size}"
    if (log.chosen[log.chosen != NOT_TAKEN] >= log.num_experts).any():
        return "an expert that its model does not have"
    return None


def _add_pairs(
    counts_EE: NDArray[np.float64], events: NDArray[np.float32], *, ahead: int, num_layers: int
) -> None:
    """Add the pairs of events that lie `ahead` apart; each of a layer meets one layer alone."""
    num_experts = events.shape[1]
    for layer in range(min(num_layers, len(events) - ahead)):
        other = (layer + ahead) % num_layers
        one, two = events[layer : len(events) - ahead : num_layers], events[layer + ahead :: num_layers]
        block = counts_EE[
            layer * num_experts : (layer + 1) * num_experts, other * num_experts : (other + 1) * num_experts
        ]
        # Inside an event each pair is met from both sides.
        block += one.T @ two * (0.5 if ahead == 0 else 1.0)
