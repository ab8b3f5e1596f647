"""Experts on disk beside plain mapped files, and which policy keeps the right ones.

    python -m benchmarks.experts                 four models with random weights, and the shipped one
    python -m benchmarks.experts --scale 4       experts for four times the memory

The first table is of a model with random weights, whose choices nobody can foresee: every miss is waited for.
The next three are of the same model with experts decided two layers ahead, and with all of a token's experts
decided behind its first layer, so that reads run beside compute; the last of them has smaller experts and
goes through the loop more often, so that there is more compute for each byte. They are what `chimera bench
--experts` prints. The table behind them is of the shipped model on text, a quarter of its experts in memory:
hits by policy and predictor. Run it on a machine that does nothing else.
"""

import argparse
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from chronos_moe.clusters import cluster
from chronos_moe.store.policy import POLICIES
from chronos_moe.store.predictors import PREDICTORS, PredictorName
from chronos_moe.visit_log import co_occurrence
from configs.load import build_config
from exports.pack_experts import most_in_a_file, pack_experts
from runtime.cli.bench_experts import lines
from runtime.cli.tables import table
from runtime.engine import Engine
from runtime.experts.asked import ExpertsAsked
from runtime.measuring.experts_bench import BUDGET_SHARE, ExpertsBench, bench_experts
from runtime.measuring.visiting import record_visits
from runtime.model_folder import DEMO, open_model
from runtime.random_model import random_b158

NUM_EXPERTS = 96
SHAPE: dict[str, Any] = {
    "preset": "demo",
    "hidden_size": 768,
    "num_heads": 12,
    "head_dim": 64,
    "intermediate_size": 1536,
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Side:
    """A model with random weights and how it is run."""

    name: str
    ahead: int
    """How many layers ahead experts are decided."""
    predictor: PredictorName
    width: int = 1024
    """Of an expert, inside."""
    rounds: int | None = None
    """How often a token goes through the loop; None is as the model has it."""


SIDES = (
    Side(name="nothing is foreseen", ahead=0, predictor="none"),
    Side(name="decided two layers ahead", ahead=2, predictor="decided"),
    Side(name="decided behind the first layer", ahead=7, predictor="decided"),
    Side(
        name="the same, experts half as wide, four rounds of the loop",
        ahead=7,
        predictor="decided",
        width=512,
        rounds=4,
    ),
)
TEXT = Path(__file__).resolve().parents[1] / "docs" / "running.md"
TEXT_TOKENS = 1000
CALIBRATION = [TEXT.with_name(name) for name in ("states.md", "plan.md", "weights.md")]
"""Texts by which the shipped model's experts are brought together: others than the one that is counted."""
CALIBRATION_TOKENS = 5000


def main(argv: Sequence[str] | None = None) -> None:
    """Make the models and print the tables."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.experts", description=__doc__)
    parser.add_argument("--scale", type=int, default=1, metavar="N", help="times as many experts")
    parser.add_argument("--tokens", type=int, default=64, metavar="N")
    parser.add_argument("--repetitions", type=int, default=3, metavar="N")
    parser.add_argument(
        "--folder", type=Path, metavar="FOLDER", help="on which disk (default: a temporary one)"
    )
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory(prefix="experts-", dir=args.folder) as folder:
        for number, side in enumerate(SIDES):
            whole, path = made(
                Path(folder) / str(number), scale=args.scale, ahead=side.ahead, width=side.width
            )
            whole.unlink()
            asked = ExpertsBench(
                model=path,
                tokens=args.tokens,
                repeats=args.repetitions,
                predictor=side.predictor,
                rounds=side.rounds,
            )
            print(f"\n{side.name}\n", *lines(bench_experts(asked), form="md"), sep="\n")
        print("\nthe shipped model, hits of visits\n", *_policies(Path(folder) / "shipped"), sep="\n")


def made(folder: Path, *, scale: int, ahead: int, width: int = 1024) -> tuple[Path, Path]:
    """A model with random weights, in one file and with its experts in clusters."""
    moe = {
        "enabled": True,
        "layers": list(range(1, 8)),
        "n_routed_experts": NUM_EXPERTS * scale,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": width,
        "route_ahead": ahead,
    }
    config = build_config({**SHAPE, "backbone": {"moe": moe}}, source="the benchmark")
    whole = folder / "whole" / "model.b158"
    whole.parent.mkdir(parents=True)
    random_b158(config, whole)
    return whole, pack_experts(whole, folder / "packed").folder


def _policies(folder: Path) -> list[str]:
    """Hits and wasted reads of the shipped model on a text, by policy and predictor."""
    model = open_model(DEMO)
    tokenizer = model.tokenizer()
    with Engine(model) as engine:
        others = (tokenizer.encode(path.read_text(encoding="utf-8")) for path in CALIBRATION)
        log = record_visits(engine, map(np.array, others), most_tokens=CALIBRATION_TOKENS)
    clusters = cluster(co_occurrence(log), experts=log.experts, most=most_in_a_file(model.config))
    packed = pack_experts(DEMO, folder, clusters=clusters)
    ids = np.array(tokenizer.encode(TEXT.read_text(encoding="utf-8"))[:TEXT_TOKENS])
    budget = int(len(packed.manifest.places()) * packed.manifest.form.block_bytes * BUDGET_SHARE)
    names: tuple[PredictorName, ...] = tuple(PREDICTORS)
    rows: list[tuple[str, ...]] = []
    for policy in POLICIES:
        cells = [policy]
        for predictor in names:
            asked = ExpertsAsked(memory_bytes=budget, policy=policy, predictor=predictor)
            with Engine.open(folder, experts=asked) as engine:
                assert engine.experts is not None, "its experts are on disk"
                state = engine.new_state()
                for token in ids:
                    engine.step(state, int(token))
                report = engine.experts.report()
            cells.append(f"{report['hit_rate']:.1%} ({report['wasted_a_useful']:.2f})")
        rows.append(tuple(cells))
    found = table(("<policy", *names), rows, indent=0)
    return [*found, "", "in brackets: wasted reads for each useful one"]


if __name__ == "__main__":
    main()
