"""`chimera adapter`: put what was learnt into a model's folder, take it out, look at it, or merge it."""

import argparse
from pathlib import Path

ACTIONS = ("apply", "undo", "info", "merge")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What to do, with which files."""
    parser.add_argument(
        "action",
        metavar="ACTION",
        choices=ACTIONS,
        help="apply MODEL FILE…: have a model's folder use adapters from here on; undo MODEL: take the last "
        "one out again; info FILE…: what adapters are; merge MODEL FILE… --out FOLDER: new weights",
    )
    parser.add_argument("paths", metavar="PATH", nargs="+", type=Path, help="a model's folder, adapters")
    parser.add_argument("--out", metavar="FOLDER", type=Path, help="for merge: where the new model goes")


def run(args: argparse.Namespace) -> int:
    """Do it."""
    from runtime.cli.adapter_view import DOINGS

    return DOINGS[args.action](args)
