"""`chimera train-intent`: learn from a log of experts which of them the answer to a prompt will visit."""

import argparse
import importlib.util
import json
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from configs.errors import EXIT_DONE, MissingExtra, UsageError

if TYPE_CHECKING:
    from chronos_moe.intent import Progress

DEFAULTS = {"steps": 600, "rows": 32, "buckets": 32768, "width": 256, "heads": 4, "depth": 2}
MEANINGS = {
    "steps": "updates of its weights",
    "rows": "prompts of an update",
    "buckets": "rows of its table of words, into which a larger vocabulary is hashed",
    "width": "its width",
    "heads": "heads of its attention",
    "depth": "its layers",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The log, where the classifier goes, and its size."""
    parser.add_argument("log", metavar="LOG", type=Path, help="what `chimera log-experts` wrote")
    parser.add_argument(
        "--out",
        metavar="FILE",
        type=Path,
        required=True,
        help="where the classifier goes; a model's folder has it as intent.safetensors",
    )
    for name, default in DEFAULTS.items():
        parser.add_argument(
            f"--{name}",
            metavar="N",
            type=int,
            default=default,
            help=f"{MEANINGS[name]} (default {default:,})",
        )
    parser.add_argument("--lr", metavar="X", type=float, default=1e-3, help="highest learning rate (0.001)")
    parser.add_argument("--seed", metavar="N", type=int, default=0, help="of weights and examples (0)")
    parser.add_argument("--threads", metavar="N", type=int, help="threads of the CPU")


def run(args: argparse.Namespace) -> int:
    """Learn, write, and tell how well what was not learnt from is foretold."""
    for name in (*DEFAULTS, "threads"):
        value = getattr(args, name)
        if value is not None and value < 1:
            raise UsageError(f"--{name} {value}: a whole number from 1 is needed")
    if not args.lr > 0:
        raise UsageError(f"--lr {args.lr:g}: a number above 0 is needed")
    if args.out.is_dir() or not args.out.absolute().parent.is_dir():
        raise UsageError(f"--out {args.out}: name a file in a folder that is there")
    if importlib.util.find_spec("torch") is None:
        raise MissingExtra(package="torch", extra="train", purpose="training")
    import torch

    from chronos_moe.intent import train_intent
    from chronos_moe.intent_file import IntentShape, write_intent
    from chronos_moe.visit_log import read_visits

    log = read_visits(args.log)
    shape = IntentShape(
        num_layers=len(log.layers),
        num_experts=log.num_experts,
        vocab_size=log.vocab_size,
        num_buckets=args.buckets,
        width=args.width,
        inner_width=4 * args.width,
        num_heads=args.heads,
        depth=args.depth,
    )
    if args.threads is not None:
        torch.set_num_threads(args.threads)
    with _bar() as progress:
        model, judged = train_intent(
            log, shape, steps=args.steps, rows=args.rows, rate=args.lr, seed=args.seed, progress=progress
        )
    write_intent(args.out, model.exported(log))
    told = {
        "file": str(args.out),
        "bytes": args.out.stat().st_size,
        "parameters": sum(weight.numel() for weight in model.parameters()),
        **judged._asdict(),
    }
    if args.json:
        print(json.dumps(told, indent=2))
    else:
        print(
            f"{args.out}: {told['parameters']:,} parameters in {told['bytes']:,} bytes\n"
            "of what answers visit, the half of each layer's experts that was named beforehand had: "
            f"{judged.intent_recall:.1%} by the prompt, {judged.usage_recall:.1%} by habit, "
            f"{judged.best_recall:.1%} at best"
        )
    return EXIT_DONE


@contextmanager
def _bar() -> "Generator[Progress | None]":
    """What a person sees while it learns; a pipe gets nothing."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import Progress as Bar

    with Bar(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("learning", total=None)
        yield lambda done, total, loss: bar.update(
            task, completed=done, total=total, description=f"learning, loss {loss:.4f}"
        )
