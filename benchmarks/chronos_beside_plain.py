"""A model that knows its experts in advance beside a plain one, stage by stage, with experts on disk.

python -m benchmarks.chronos_beside_plain --data PATH... --chats PATH... --val PATH... [--steps N] [--share X]

Both are of the demo preset's size and learn the same text in the same order. `plain` has no routing loss but
that of balance, and reads an expert when it is asked for. `chronos` has all of them, and reads what its
lookahead router names. After each stage both are packed with their experts on disk, given room for the same
share of them, and take turns at the same text. What they say is what they say with all experts in memory, or
the run fails. Slack is what a token computes for longer than its experts are read.
"""

import argparse
import math
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chimera.train.initial import Initial
from chimera.train.loop import train
from chimera.train.machine import set_threads
from chimera.train.settings import Wishes, settings_of
from chronos_moe.store.form import expert_form
from chronos_moe.store.predictors import PredictorName
from configs.errors import ModelError
from configs.load import build_config
from configs.schema.training import PhaseName
from exports.b158 import export_b158
from exports.pack_experts import pack_experts
from runtime.engine import Engine
from runtime.experts.asked import ExpertsAsked
from runtime.measuring.engine_scorer import EngineScorer
from runtime.measuring.perplexity import ALL_SOURCES, measure, read_documents
from runtime.measuring.visiting import record_visits
from runtime.model_folder import DEMO, open_model

STAGES: tuple[PhaseName, ...] = ("pretrain", "sft")
"""Those that there is training for."""
NO_LOSSES = {"lambda_temporal": 0.0, "lambda_lookahead": 0.0}
SIDES: dict[str, tuple[Mapping[str, Any], PredictorName]] = {
    "plain": (NO_LOSSES, "none"),
    "chronos": ({}, "foresight"),
}
"""What is laid over the weights of the routing losses, and who says what to read ahead."""


COLUMNS = (
    "stage",
    "model",
    "bits per byte",
    "tokens/s",
    "active experts",
    "resident",
    "hits",
    "stall, ms",
    "slack, ms",
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Turn:
    """A text read once, by the token."""

    token_ms: float
    stall_ms: float
    """Waiting for experts."""
    read_ms: float
    """Reading them, by all readers."""
    hit_rate: float


@dataclass(kw_only=True, slots=True, eq=False)
class Side:
    """One model after one stage."""

    name: str
    engine: Engine
    ids_T: NDArray[np.int64]
    bits_per_byte: float
    active: float
    """Experts that a token visits in all of its rounds, of all."""
    turns: list[Turn] = field(default_factory=list[Turn])


def main(argv: Sequence[str] | None = None) -> int:
    """Train, run, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--data", type=Path, nargs="+", required=True, help="text for the first stage")
    parser.add_argument(
        "--chats", type=Path, nargs="+", required=True, help="prompts and answers for the second"
    )
    parser.add_argument("--val", type=Path, nargs="+", required=True, help="text to be judged by")
    parser.add_argument("--steps", type=int, default=40, help="of the first stage; the second takes a third")
    parser.add_argument("--share", type=float, default=0.25, help="of the experts that there is room for")
    parser.add_argument("--tokens", type=int, default=200, help="tokens of a turn")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--documents", type=int, default=10, help="documents of each file to score")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args(argv)
    set_threads(args.threads)
    rows = list[str]()
    with tempfile.TemporaryDirectory() as name:
        folder, models = Path(name), dict[str, Path]()
        for stage in STAGES:
            for side in SIDES:
                print(f"{stage}: {side}", file=sys.stderr, flush=True)
                models[side] = _trained(side, stage, args, folder, before=models.get(side))
            rows += _stage(stage, models, args)
    print(f"| {' | '.join(COLUMNS)} |")
    print("| --- " * len(COLUMNS) + "|")
    print("\n".join(rows))
    return 0


def _trained(
    side: str, stage: PhaseName, args: argparse.Namespace, folder: Path, *, before: Path | None
) -> Path:
    """A side's model behind a stage, begun with the one behind the stage before."""
    config = build_config({"preset": "demo", "chronos": SIDES[side][0]}, source=side)
    wishes = Wishes(
        seq_len=128,
        rows=4,
        accumulate=1,
        steps=args.steps if before is None else max(1, args.steps // 3),
        lr=2e-3 if before is None else 5e-4,
        device=args.device,
        compile=False,
        seed=0,
        save_every=10**6,
        validate_every=0,
        threads=args.threads,
    )
    return train(
        config,
        settings=settings_of(config, phase=stage, wishes=wishes),
        data=args.data if before is None else args.chats,
        out=folder / f"{stage}-{side}",
        tokenizer=str(DEMO / "tokenizer.model"),
        beside=None if before is None else before,
        initial=None if before is None else Initial.of(before),
    ).model


def _stage(stage: str, models: Mapping[str, Path], args: argparse.Namespace) -> list[str]:
    """Both sides behind a stage, in turns."""
    with ExitStack() as held:
        sides = [_side(name, model, args, held) for name, model in models.items()]
        for turn in range(args.turns):
            for side in sides if turn % 2 else sides[::-1]:
                _turn(side)
        return [_row(stage, side) for side in sides]


def _side(name: str, model: Path, args: argparse.Namespace, held: ExitStack) -> Side:
    """Pack a model, score it, see that it says on disk what it says in memory, and leave it open."""
    packed, on_disk = model.parent / "packed", model.parent / "experts"
    export_b158(model, packed)
    pack_experts(packed, on_disk)
    opened = open_model(packed)
    documents = list(read_documents(args.val, opened.tokenizer(), most=args.documents))
    ids_T = np.concatenate([document.ids_T for document in documents])[: args.tokens]
    moe = opened.config.backbone.moe
    with Engine(opened, num_threads=args.threads) as whole:
        tallies = measure(EngineScorer(whole), documents, seq_len=512)
        log = record_visits(whole, [ids_T])
        logits = _logits(whole, ids_T)
    room = math.ceil(args.share * len(moe.layers) * moe.n_routed_experts)
    asked = ExpertsAsked(
        memory_bytes=room * _expert_bytes(on_disk),
        predictor=SIDES[name][1],
        keeps_spans=True,
        reader="direct",
    )
    engine = held.enter_context(Engine.open(on_disk, num_threads=args.threads, experts=asked))
    if not np.array_equal(logits, _logits(engine, ids_T)):
        raise ModelError(f"{name}: from disk the model says something else than in memory")
    return Side(
        name=name,
        engine=engine,
        ids_T=ids_T,
        bits_per_byte=tallies[ALL_SOURCES].bits_per_byte,
        active=float(log.sets_TLE().mean()),
    )


def _expert_bytes(folder: Path) -> int:
    return expert_form(open_model(folder).config).block_bytes


def _logits(engine: Engine, ids_T: NDArray[np.int64]) -> NDArray[np.float32]:
    state, found = engine.new_state(), list[NDArray[np.float32]]()
    for token in ids_T:
        engine.step(state, int(token))
        found.append(engine.logits().copy())
    return np.stack(found)


def _turn(side: Side) -> None:
    """The text once more, token by token."""
    experts = side.engine.experts
    assert experts is not None, "they lie on disk"
    meter, state = experts.meter, side.engine.new_state()
    assert meter.spans is not None, "it was asked to remember them"
    experts.report()  # brings the meter up to date
    before = (meter.hits, meter.visits, meter.stall_s, len(meter.spans))
    begin = time.perf_counter()
    for token in side.ids_T:
        side.engine.step(state, int(token))
    took_s = time.perf_counter() - begin
    experts.report()
    reads = [end - first for kind, first, end in meter.spans[before[3] :] if kind == "read"]
    count = len(side.ids_T)
    side.turns.append(
        Turn(
            token_ms=took_s / count * 1e3,
            stall_ms=(meter.stall_s - before[2]) / count * 1e3,
            read_ms=sum(reads) / count * 1e3,
            hit_rate=(meter.hits - before[0]) / max(1, meter.visits - before[1]),
        )
    )


def _row(stage: str, side: Side) -> str:
    def median(name: str) -> float:
        return statistics.median(getattr(turn, name) for turn in side.turns)

    token_ms, stall_ms, read_ms = median("token_ms"), median("stall_ms"), median("read_ms")
    cells = (
        stage,
        side.name,
        f"{side.bits_per_byte:.4f}",
        f"{1e3 / token_ms:.1f}",
        f"{side.active:.1%}",
        f"{side.engine.num_bytes / 1e6:.1f} MB",
        f"{median('hit_rate'):.1%}",
        f"{stall_ms:.2f}",
        f"{token_ms - stall_ms - read_ms:+.2f}",
    )
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    sys.exit(main())
