"""`chimera train`: a model learns from text, from its first step or from where its run stopped."""

import argparse
import importlib.util
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from chimera.train.phases import DEFAULTS
from chimera.train.schedule import ScheduleKind
from configs.errors import EXIT_DONE, EXIT_INTERRUPTED, MissingExtra, UsageError

if TYPE_CHECKING:
    from chimera.train.outcome import Outcome
    from chimera.train.settings import Wishes


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What to train, from what, into what, and how."""
    parser.add_argument(
        "config", metavar="CONFIG", help="a preset, a config.json, or a folder that holds one"
    )
    _add_files(parser)
    _add_length(parser)
    _add_learning(parser)
    _add_machine(parser)


def _add_files(parser: argparse.ArgumentParser) -> None:
    files = parser.add_argument_group("files")
    files.add_argument(
        "--data",
        metavar="PATH",
        type=Path,
        nargs="+",
        required=True,
        help=".txt or .jsonl files, also as .zst, or folders of them, FILE*2 to count its records twice; or "
        "a folder of token shards",
    )
    files.add_argument(
        "--val",
        metavar="PATH",
        type=Path,
        nargs="+",
        help="text that is never learnt from, to see what is learnt",
    )
    files.add_argument("--out", metavar="RUN", type=Path, required=True, help="the folder of the run")
    files.add_argument(
        "--resume", action="store_true", help="go on with the run in that folder, if there is one"
    )
    begin = files.add_mutually_exclusive_group()
    begin.add_argument(
        "--init",
        metavar="MODEL",
        type=Path,
        help="begin with the weights of a trained model, as later phases do: its folder, or that of a run",
    )
    begin.add_argument(
        "--pack", metavar="FILE", type=Path, help="begin with the weights and the place of a resume pack"
    )
    words = files.add_mutually_exclusive_group()
    words.add_argument(
        "--tokenizer",
        metavar="FILE",
        help="a SentencePiece .model, a tokenizer.json or the name o200k (default: the one beside CONFIG)",
    )
    words.add_argument(
        "--train-tokenizer",
        metavar="VOCAB",
        type=int,
        help="learn a SentencePiece vocabulary of this size from the data first",
    )


def _add_length(parser: argparse.ArgumentParser) -> None:
    length = parser.add_argument_group("length and shape")
    length.add_argument(
        "--phase", choices=tuple(DEFAULTS), default="pretrain", help="which stage of learning (pretrain)"
    )
    how_long = length.add_mutually_exclusive_group()
    how_long.add_argument("--tokens", metavar="N", type=_quantity, help="tokens to learn from, as in 500M")
    how_long.add_argument("--steps", metavar="N", type=int, help="updates of the weights")
    how_long.add_argument("--epochs", metavar="X", type=float, help="passes over the data")
    length.add_argument("--batch-tokens", metavar="N", type=_quantity, help="tokens of an update, as in 64K")
    length.add_argument("--seq-len", metavar="N", type=int, help="tokens of a row")
    length.add_argument("--rows", metavar="N", type=int, help="rows of one batch")
    length.add_argument("--accumulate", metavar="N", type=int, help="batches of an update")


def _add_learning(parser: argparse.ArgumentParser) -> None:
    learning = parser.add_argument_group("learning")
    learning.add_argument("--lr", metavar="X", type=float, help="highest learning rate")
    learning.add_argument(
        "--schedule", choices=get_args(ScheduleKind), help="course of the learning rate after warm-up"
    )
    learning.add_argument("--warmup", metavar="N", type=int, help="steps up to the highest rate")
    learning.add_argument("--weight-decay", metavar="X", type=float, help="decay of the matrices")
    learning.add_argument(
        "--decay-embedding", action=argparse.BooleanOptionalAction, help="let the embedding decay too"
    )
    learning.add_argument("--clip", metavar="X", type=float, help="largest gradient norm; 0 clips nothing")
    learning.add_argument(
        "--ternary",
        action=argparse.BooleanOptionalAction,
        help="quantise weights and activations, as they will run (the default)",
    )
    learning.add_argument("--seed", metavar="N", type=int, help="of weights, order of data and rounds (0)")


def _add_machine(parser: argparse.ArgumentParser) -> None:
    machine = parser.add_argument_group("machine")
    machine.add_argument("--device", metavar="NAME", help="cpu or cuda (the GPU if there is one)")
    machine.add_argument("--bf16", action=argparse.BooleanOptionalAction, help="products in bfloat16")
    machine.add_argument("--compile", action=argparse.BooleanOptionalAction, help="compile each block")
    machine.add_argument(
        "--checkpointing",
        action=argparse.BooleanOptionalAction,
        help="compute blocks again instead of keeping what is inside them: less memory, more time",
    )
    machine.add_argument("--threads", metavar="N", type=int, help="threads of the CPU")
    machine.add_argument("--save-every", metavar="N", type=int, help="steps between checkpoints (500)")
    machine.add_argument("--keep", metavar="N", type=int, help="checkpoints that are kept (2)")
    machine.add_argument(
        "--validate-every",
        metavar="N",
        type=int,
        help="steps between looks at --val (500); 0 at the end alone",
    )
    machine.add_argument(
        "--time-limit", metavar="SECONDS", type=float, help="save and stop, well, when this time is over"
    )


def run(args: argparse.Namespace) -> int:
    """Train, and say where the model is."""
    _need_torch()
    _let_threads_sleep()
    _check(args)
    from rich.console import Console

    from chimera.model import build
    from chimera.train.display import display_for
    from chimera.train.initial import Initial
    from chimera.train.loop import train
    from chimera.train.machine import set_threads
    from chimera.train.settings import settings_of
    from chimera.train.workers import is_first_worker
    from configs.load import load_config

    config = load_config(args.config)
    settings = settings_of(config, phase=args.phase, wishes=wishes_of(args))
    initial = None if args.init is None else Initial.of(args.init)
    # What cannot be built is refused before hours go into its data.
    build(config, device="meta")
    if settings.threads is not None:
        set_threads(settings.threads)
    # Of several workers one speaks, so that stdout holds one answer.
    speaks = is_first_worker()
    with display_for(Console(stderr=True), quiet=args.json or not speaks) as display:
        outcome = train(
            config,
            settings=settings,
            data=args.data,
            validation=args.val or (),
            out=args.out,
            tokenizer=args.tokenizer,
            train_tokenizer=args.train_tokenizer,
            # A model that was trained before has learnt its own words.
            beside=Path(args.config) if initial is None else initial.folder,
            initial=initial,
            resume=args.resume,
            pack=args.pack,
            time_limit_s=args.time_limit,
            display=display,
        )
    if speaks:
        _print(outcome, as_json=args.json)
    return EXIT_INTERRUPTED if outcome.interrupted and not outcome.complete else EXIT_DONE


def wishes_of(args: argparse.Namespace) -> "Wishes":
    """What the command line asks of the settings: every argument that bears a setting's name."""
    import dataclasses

    from chimera.train.settings import Wishes

    return Wishes(**{field.name: getattr(args, field.name) for field in dataclasses.fields(Wishes)})


def _need_torch() -> None:
    if importlib.util.find_spec("torch") is None:
        raise MissingExtra(package="torch", extra="train", purpose="training")


def _let_threads_sleep() -> None:
    """Threads of PyTorch that wait for each other sleep. It is read once, when PyTorch is loaded.

    As PyTorch comes, they spin: on two cores that five programs share, a step then took ten times as long.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def _check(args: argparse.Namespace) -> None:
    """Refuse what is plainly wrong before PyTorch is loaded and text is read."""
    from chimera.data.shards import INDEX_NAME
    from chimera.data.sources import sources_of

    for paths in (args.data, args.val or []):
        texts = [path for path in paths if not (path / INDEX_NAME).is_file()]
        if texts:
            sources_of(texts)
    if args.pack is not None and not args.pack.exists():
        raise UsageError(f"--pack {args.pack}: there is no such file")
    if args.time_limit is not None and not args.time_limit > 0:
        raise UsageError(f"--time-limit {args.time_limit:g}: a number of seconds above 0 is needed")


def _quantity(text: str) -> int:
    """A whole number, plain or with K, M, B or T behind it."""
    import re

    from configs.schema.keys import QUANTITY, parse_quantity

    if not re.fullmatch(QUANTITY.pattern, text):
        raise argparse.ArgumentTypeError(f"{text!r} is not {QUANTITY.words}")
    return round(parse_quantity(text))


def _print(outcome: "Outcome", *, as_json: bool) -> None:
    # Made whole first, so that stdout never holds half an answer; ASCII, so that any stream can carry it.
    print(json.dumps(outcome.as_json(), indent=2, allow_nan=False) if as_json else outcome.words())
