"""What `--stats` and `/stats` tell of the last answer, the stream and the machine.

The names that a config's diagnostics ask for are used where there is such a part; if it names any, the others
of these are left out. Loop and experts are counted from the moment that the model was opened, gates are those
of the last call.
"""

import numpy as np

from runtime.cli.alarms import Alarm, alarms, busiest_over_mean
from runtime.cli.experts_numbers import ahead_ended, experts_numbers
from runtime.cli.opening import Opened
from runtime.gates import gate_means
from runtime.state import State
from runtime.system import peak_bytes

MEMORY = "memory"
"""The field of a layer's state that holds what each head remembers, whatever the kind of layer."""
METRICS = frozenset(
    {
        "surface_tps",
        "loop_count_mean",
        "memory_mb",
        "moe_expert_load_balance",
        "gd_alpha_mean",
        "gd_beta_mean",
    }
)
"""Names that `diagnostics.metrics` of a config can choose from; whatever else is told always is."""


def numbers(talk: Opened) -> dict[str, float | int | None]:
    """The numbers by name."""
    asked = talk.engine.config.diagnostics.metrics
    left_out = METRICS.difference(asked) if asked else frozenset[str]()
    return {name: value for name, value in _all_numbers(talk, left_out).items() if name not in left_out}


def raised(talk: Opened) -> list[Alarm]:
    """What lies beyond the config's thresholds."""
    return alarms(
        talk.engine.config.diagnostics.thresholds, expert_visits=talk.engine.expert_visits().values()
    )


def _all_numbers(talk: Opened, left_out: frozenset[str]) -> dict[str, float | int | None]:
    found: dict[str, float | int | None] = {}
    last = talk.session.last
    if last is not None:
        timings = last.timings
        found |= {
            "prompt_tokens": timings.prompt_tokens,
            "prompt_ms": _ms(timings.prompt_s),
            "prompt_tps": round(timings.prompt_rate, 1),
            "answer_tokens": timings.answer_tokens,
            "answer_ms": _ms(timings.answer_s),
            "surface_tps": round(timings.answer_rate, 1),
            "first_token_ms": _ms(timings.first_token_s),
        }
    if not {"gd_alpha_mean", "gd_beta_mean"} <= left_out:
        means = gate_means(talk.engine)
        found |= {
            "gd_alpha_mean": None if means is None else round(means.alpha, 4),
            "gd_beta_mean": None if means is None else round(means.beta, 4),
        }
    return found | {
        "position": talk.session.position,
        "state_mb": round(talk.session.state_bytes / 1e6, 2),
        "state_norm_max": _largest_norm(talk),
        "memory_mb": round(peak_bytes() / 1e6, 1),
        "threads": talk.engine.num_threads,
        "loop_count_mean": _mean_rounds(talk),
        "moe_expert_load_balance": _load_balance(talk),
        "moe_experts_met": _experts_met(talk),
        "screened": talk.speaker.num_screened,
        **experts_numbers(talk.engine),
        "seed": talk.session.settings.seed,
    }


def spoken(talk: Opened) -> str:
    """Numbers and alarms in lines for a reader."""
    found = numbers(talk)
    width = max(len(name) for name in found)
    lines = [
        f"{name:<{width}}  {value:,}" if name != "seed" else f"{name:<{width}}  {value}"
        for name, value in found.items()
        if value is not None
    ]
    return "\n".join([*lines, *map(str, raised(talk)), *ahead_ended(talk.engine)])


def _ms(seconds: float) -> float:
    return round(seconds * 1e3, 2)


def _mean_rounds(talk: Opened) -> float | None:
    """Rounds of the loop that a token took on average; None without a loop."""
    visits = talk.engine.round_visits()
    if not talk.engine.config.looping.enabled or not visits.size or not visits[0]:
        return None
    return round(int(visits.sum()) / int(visits[0]), 3)


def _largest_norm(talk: Opened) -> float | None:
    """The largest Frobenius norm of any head's memory: it shows where a state grows without end."""
    state = talk.session.state
    assert isinstance(state, State), "a stream of an engine"
    norms = [
        float(np.linalg.norm(placed.view(state.arena).reshape(placed.field.shape[0], -1), axis=1).max())
        for (_, number, name), placed in talk.engine.layout.places.items()
        if name == MEMORY and number < state.rounds
    ]
    return round(max(norms), 3) if norms else None


def _experts_met(talk: Opened) -> float | None:
    """The share of experts that any token visited, in the layer with the fewest."""
    shares = [
        float(np.count_nonzero(visits)) / visits.size for visits in talk.engine.expert_visits().values()
    ]
    return round(min(shares), 3) if shares else None


def _load_balance(talk: Opened) -> float | None:
    """Tokens of the busiest expert over those of the mean one, in the layer where it is worst; 1 is even."""
    shares = [busiest_over_mean(visits) for visits in talk.engine.expert_visits().values() if visits.sum()]
    return round(max(shares), 3) if shares else None
