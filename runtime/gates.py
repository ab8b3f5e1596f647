"""How strongly the delta rule's layers remember and write: means of their gates in an engine's last call.

The gates lie where the kernels have read them, each layer's in a buffer of its own, so nothing is done for
them until somebody asks. Layers of the loop hold those of its last round, and a call of a prompt those of its
last slice.
"""

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from quant.kernels.delta.reference import mean_decay
from quant.kernels.elementary.reference import exp, sigmoid, softplus
from runtime.building.plan import DeltaGates
from runtime.engine import Engine

Floats: TypeAlias = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True, slots=True)
class GateMeans:
    """Over layers, heads and tokens."""

    alpha: float
    """The share of a memory that is kept for the next token."""
    beta: float
    """The share of a new value that is written."""


def gate_means(engine: Engine) -> GateMeans | None:
    """Nothing before the first call, or without such a layer."""
    taken = engine.rounds_taken(engine.slice_tokens)
    if not taken.size or not engine.delta_gates:
        return None
    # Tokens that left the loop before have no row in its last round.
    in_last_round = int(np.count_nonzero(taken == taken.max()))
    alphas: list[Floats] = []
    betas: list[Floats] = []
    for gates in engine.delta_gates:
        num_rows = in_last_round if gates.is_looped else taken.size
        alphas.append(_decays(gates, num_rows))
        betas.append(sigmoid(gates.betas.array[:num_rows, : gates.betas.width]))
    return GateMeans(alpha=_mean(alphas), beta=_mean(betas))


def _decays(gates: DeltaGates, num_rows: int) -> Floats:
    """α of each token and head, as `quant.kernels.delta.reference` defines it."""
    preact = gates.alphas.array[:num_rows, : gates.alphas.width]
    u = gates.rates * softplus(preact + gates.biases)
    # The exact flow decays by less: what is lost is 1 − e^{−u}.
    return exp(-(u * mean_decay(u) if gates.is_exact else u))


def _mean(parts: list[Floats]) -> float:
    """Every layer counts as much as another."""
    return sum(float(part.mean(dtype=np.float64)) for part in parts) / len(parts)
