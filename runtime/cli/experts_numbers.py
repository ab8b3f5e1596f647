"""What `--stats` tells of experts on disk."""

import sys
from collections.abc import Mapping
from typing import Any

from runtime.cli.tables import plain
from runtime.engine import Engine


def experts_numbers(engine: Engine) -> dict[str, float | int | None]:
    """Counts since the model was opened; nothing where no experts lie on disk."""
    if engine.experts is None:
        return {}
    report = engine.experts.report()
    return {
        "experts_in_memory": report["in_memory"],
        "experts_memory_mb": round(report["slots"] * report["expert_bytes"] / 1e6, 1),
        "experts_hits": report["hits"],
        "experts_late_hits": report["late_hits"],
        "experts_misses": report["misses"],
        "experts_stand_ins": report["stand_ins"],
        "experts_hit_rate": round(report["hit_rate"], 3),
        "experts_reads": report["reads"],
        "experts_wasted_reads": report["wasted_reads"],
        "experts_failed_reads": report["failed_reads"],
        "experts_read_mb": round(report["read_bytes"] / 1e6, 1),
        "experts_disk_share": None if report["disk_share"] is None else round(report["disk_share"], 3),
        "experts_stall_ms_a_token": round(report["stall_ms_a_token"], 2),
        **_recalls(report),
    }


def ahead_ended(engine: Engine) -> list[str]:
    """A line for a reader, where nothing is read ahead any more because a predictor failed."""
    error = None if engine.experts is None else engine.experts.ahead_error
    if error is None:
        return []
    told = f"{type(error).__name__}: {error}"
    return [f"experts are no longer read ahead, which changes no text but takes longer: {told}"]


def tell_ahead_ended(engine: Engine) -> None:
    """Say so on stderr, when a command is over."""
    for line in ahead_ended(engine):
        print(f"chimera: {plain(line)}", file=sys.stderr)


def _recalls(report: Mapping[str, Any]) -> dict[str, float]:
    """Of what was visited, the share that was foreseen so many tokens before, over all layers."""
    horizons = sorted({one["horizon"] for one in report["foreseen"]})
    found: dict[str, float] = {}
    for horizon in horizons:
        layers = [one for one in report["foreseen"] if one["horizon"] == horizon]
        visited = sum(one["visited"] for one in layers)
        both = sum(one["both"] for one in layers)
        wished = sum(one["wished"] for one in layers)
        found[f"experts_recall_{horizon}"] = round(both / visited, 3) if visited else 0.0
        found[f"experts_precision_{horizon}"] = round(both / wished, 3) if wished else 0.0
    return found
