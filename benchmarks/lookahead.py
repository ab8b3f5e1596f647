"""How early experts can be known, and what it costs.

python -m benchmarks.lookahead --data PATH... --val PATH... [--steps N] [--arms NAME...] [--json FILE]
python -m benchmarks.lookahead --data PATH... --val PATH... --packed MODEL [--reroute N...]

The first trains small models, alike but for one thing each. The second takes a packed model, and the same
with its experts decided some layers earlier by routers fitted to --data. All are run by the engine on --val.
Two tables come out: what each costs in bits per byte; and, by layer and horizon, the share of the visited
experts that had been named (recall), and of those named the share that were visited (precision).
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from chimera.train.loop import train
from chimera.train.machine import set_threads
from chimera.train.settings import Wishes, settings_of
from configs.load import build_config
from configs.schema.model import ModelConfig
from exports.b158 import export_b158
from exports.rerouting import reroute
from runtime.engine import Engine
from runtime.measuring.engine_scorer import EngineScorer
from runtime.measuring.foreseeing import WAYS, Foreseeing, measure_foresight
from runtime.measuring.perplexity import ALL_SOURCES, Document, measure, read_documents
from runtime.model_folder import open_model

MODEL: Mapping[str, Any] = {
    "preset": "demo",
    "hidden_size": 128,
    "intermediate_size": 256,
    "vocab_size": 2048,
    "titans": {"local_window_size": 128, "persistent_memory_slots": 8},
}
EXPERTS: Mapping[str, Any] = {
    "enabled": True,
    "layers": [1, 3, 5, 7],
    "n_routed_experts": 8,
    "moe_intermediate_size": 64,
}
ARMS: dict[str, tuple[Mapping[str, Any], Mapping[str, Any]]] = {
    "plain": ({}, {"lambda_temporal": 0.0, "lambda_lookahead": 0.0}),
    "lookahead": ({}, {"lambda_temporal": 0.0}),
    "lookahead, local": ({}, {}),
    "lookahead, local ×10": ({}, {"lambda_temporal": 3e-2}),
    "decided 1 ahead": ({"route_ahead": 1}, {}),
    "decided 2 ahead": ({"route_ahead": 2}, {}),
    "decided 4 ahead": ({"route_ahead": 4}, {}),
}
"""What is laid over the experts of the config, and over the weights of its routing losses."""
USUAL_ARMS = ("plain", "lookahead", "lookahead, local", "decided 1 ahead", "decided 2 ahead")


@dataclass(frozen=True, kw_only=True, slots=True)
class Result:
    """One arm."""

    name: str
    bits_per_byte: float
    foreseeing: Foreseeing


def main(argv: Sequence[str] | None = None) -> int:
    """Train, run, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--data", type=Path, nargs="+", required=True, help="text to learn from")
    parser.add_argument("--val", type=Path, nargs="+", required=True, help="text to be judged by")
    parser.add_argument("--steps", type=int, default=120)
    parser.add_argument("--arms", nargs="+", choices=tuple(ARMS), default=USUAL_ARMS, metavar="NAME")
    parser.add_argument("--packed", type=Path, help="a packed model, in place of those that are trained")
    parser.add_argument("--reroute", type=int, nargs="*", default=(), help="layers earlier, for each arm one")
    parser.add_argument("--fit-tokens", type=int, default=40_000, help="tokens to fit routers by")
    parser.add_argument("--tokens", type=int, default=4000, help="tokens to foresee experts for")
    parser.add_argument("--documents", type=int, default=60, help="documents of each file to score")
    parser.add_argument("--rounds", type=int, help="rounds of the loop (default: the config's)")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args(argv)
    set_threads(args.threads)
    results = list[Result]()
    with tempfile.TemporaryDirectory() as folder:
        if args.packed is not None:
            results.append(_measured(args.packed.name, args.packed, args))
            for ahead in args.reroute:
                print(f"fitting routers {ahead} layers ahead", file=sys.stderr, flush=True)
                results.append(_rerouted(ahead, args, Path(folder)))
        for name in args.arms if args.packed is None else ():
            print(f"training: {name}", file=sys.stderr, flush=True)
            results.append(_arm(name, args, Path(folder)))
    print("\n".join([*_costs(results), "", *_foresight(results)]))
    if args.json is not None:
        args.json.write_text(json.dumps([_as_json(result) for result in results], indent=2) + "\n")
    return 0


def config_of(name: str) -> ModelConfig:
    """The model of an arm."""
    experts, losses = ARMS[name]
    raw = {**MODEL, "backbone": {"moe": {**EXPERTS, **experts}}, "chronos": losses}
    return build_config(raw, source=name)


def _arm(name: str, args: argparse.Namespace, folder: Path) -> Result:
    config, run = config_of(name), folder / str(len(list(folder.iterdir())))
    wishes = Wishes(
        seq_len=128,
        rows=16,
        accumulate=1,
        steps=args.steps,
        lr=4e-3,
        device=args.device,
        compile=False,
        seed=args.seed,
        save_every=10**6,
        validate_every=0,
        threads=args.threads,
    )
    words = next(folder.glob("*/model/tokenizer.model"), None)
    outcome = train(
        config,
        settings=settings_of(config, phase="pretrain", wishes=wishes),
        data=args.data,
        out=run,
        tokenizer=None if words is None else str(words),
        train_tokenizer=config.vocab_size if words is None else None,
    )
    export_b158(outcome.model, run / "packed")
    return _measured(name, run / "packed", args)


def _rerouted(ahead: int, args: argparse.Namespace, folder: Path) -> Result:
    """The packed model, its experts decided so many layers earlier."""
    texts = (document.ids_T for document in read_documents(args.data, open_model(args.packed).tokenizer()))
    out = reroute(
        args.packed, folder / f"ahead-{ahead}", ahead=ahead, texts=texts, most_tokens=args.fit_tokens
    ).folder
    return _measured(f"decided {ahead} ahead", out, args)


def _measured(name: str, path: Path, args: argparse.Namespace) -> Result:
    """What a packed model costs and foresees."""
    model = open_model(path)
    tokenizer = model.tokenizer()
    documents: list[Document] = list(read_documents(args.val, tokenizer, most=args.documents))
    with Engine(model, num_threads=args.threads, foresight=True) as engine:
        tallies = measure(EngineScorer(engine, rounds=args.rounds), documents, seq_len=512)
        texts = (document.ids_T for document in documents)
        foreseeing = measure_foresight(engine, texts, rounds=args.rounds, most_tokens=args.tokens)
    return Result(name=name, bits_per_byte=tallies[ALL_SOURCES].bits_per_byte, foreseeing=foreseeing)


def _costs(results: Sequence[Result]) -> list[str]:
    lines = ["| model | bits per byte | beside the first | as the token before | met of two a round |"]
    lines.append("| --- | --- | --- | --- | --- |")
    for result in results:
        more = result.bits_per_byte / results[0].bits_per_byte - 1
        found = result.foreseeing
        lines.append(
            f"| {result.name} | {result.bits_per_byte:.4f} | {more:+.2%} | {found.steady:.1%} "
            f"| {found.met:.1%} |"
        )
    return lines


def _foresight(results: Sequence[Result]) -> list[str]:
    layers, horizons = results[0].foreseeing.layers, (0, 1, 2)
    head = " | ".join(f"layer {layer}" for layer in layers)
    lines = [f"| model | way | token | {head} | all | precision |", "| --- " * (5 + len(layers)) + "|"]
    for result in results:
        for ahead in horizons:
            for way in WAYS:
                found = result.foreseeing
                recalls = [f"{found.ways[way, row, ahead].recall:.1%}" for row in range(len(layers))]
                whole = found.over_layers(way, ahead)
                lines.append(
                    f"| {result.name} | {way} | t{f'+{ahead}' if ahead else ''} | {' | '.join(recalls)} "
                    f"| {whole.recall:.1%} | {whole.precision:.1%} |"
                )
    return lines


def _as_json(result: Result) -> dict[str, Any]:
    found = result.foreseeing
    rows = [
        {"way": way, "layer": found.layers[row], "ahead": ahead, **asdict(told), "recall": told.recall}
        for (way, row, ahead), told in found.ways.items()
    ]
    return {
        "arm": result.name,
        "bits_per_byte": result.bits_per_byte,
        "tokens": found.num_tokens,
        "steady": found.steady,
        "met": found.met,
        "foresight": rows,
    }


if __name__ == "__main__":
    sys.exit(main())
