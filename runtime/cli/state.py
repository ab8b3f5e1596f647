"""`chimera state`: look at saved talks, compare two, remove some."""

import argparse

ACTIONS = ("ls", "show", "rm", "diff")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What to do, with which files."""
    parser.add_argument(
        "action",
        metavar="ACTION",
        choices=ACTIONS,
        help="ls: those of a folder; show: one of them; rm: remove; diff: where two talks part",
    )
    parser.add_argument("paths", metavar="PATH", nargs="*", help="files; for ls, folders (default: this one)")
    parser.add_argument(
        "-m", "--model", metavar="MODEL", help="for diff: whose tokenizer spells the texts (default: shipped)"
    )


def run(args: argparse.Namespace) -> int:
    """Do it."""
    from runtime.cli.state_view import DOINGS

    return DOINGS[args.action](args)
