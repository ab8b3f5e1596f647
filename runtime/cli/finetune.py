"""`chimera finetune`, and `chimera-mezo` by itself: teach a model by forward passes alone."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from runtime.cli.main import verb_main
from runtime.cli.run import SHIPPED

METHODS = ("scales", "codes", "state", "mezo")
DEFAULT_METHOD = "scales"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What is learnt, by what method, how long, and what it is measured by."""
    parser.add_argument(
        "-m", "--model", metavar="MODEL", help=f"a .b158 file or its folder (default: {SHIPPED})"
    )
    parser.add_argument(
        "--data", metavar="PATH", type=Path, nargs="+", help=".jsonl or .txt files, or folders of them"
    )
    parser.add_argument("--out", metavar="FILE", type=Path, help="the adapter, a .cza file")
    parser.add_argument(
        "--resume", metavar="FILE", type=Path, help="go on with an adapter, with all that it was told"
    )
    parser.add_argument(
        "--method",
        choices=METHODS,
        help="scales or codes of a packed model, the state it begins with, or mezo: latent weights, PyTorch "
        f"(default: {DEFAULT_METHOD})",
    )
    parser.add_argument(
        "--adapter",
        metavar="FILE",
        type=Path,
        action="append",
        default=[],
        help="an adapter that the model has while it learns; may come often",
    )
    _add_run_arguments(parser)
    data = parser.add_argument_group("the data, and what is good")
    data.add_argument("--val", metavar="PATH", type=Path, nargs="+", help="files that are only looked at")
    data.add_argument("--val-share", metavar="X", type=float, help="or this share of the data (default: 0)")
    data.add_argument(
        "--scorer",
        metavar="FILE",
        type=Path,
        help="a Python file with score(prompt, answer, completion): a number, more is better",
    )
    data.add_argument("--objective", choices=("loss", "score"), help="what is learnt (default: loss)")
    data.add_argument("--max-tokens", metavar="N", type=int, help="of an answer that is scored (default: 32)")
    data.add_argument(
        "--longest", metavar="N", type=int, default=1024, help="tokens of a record at most (default: 1024)"
    )
    data.add_argument("--skip-bad", action="store_true", help="leave malformed records out, and count them")


def _add_run_arguments(parser: argparse.ArgumentParser) -> None:
    run = parser.add_argument_group("the run")
    run.add_argument("--steps", metavar="N", type=int, help="(default: 1000)")
    run.add_argument("--batch", metavar="N", type=int, help="sequences of a step (default: 16)")
    run.add_argument("--pairs", metavar="N", type=int, help="directions of a step (default: 1)")
    run.add_argument(
        "--move",
        metavar="X",
        type=float,
        help="how far a usual step goes, as a share (default: by the steps)",
    )
    run.add_argument("--rate", metavar="X", type=float, help="or how far for a slope of 1")
    run.add_argument("--schedule", choices=("linear", "constant"), help="of the rate (default: linear)")
    run.add_argument("--epsilon", metavar="X", type=float, help="how far a look goes (default: the method's)")
    run.add_argument("--decay", metavar="X", type=float, help="share given up in a step (default: 0)")
    run.add_argument(
        "--clip", metavar="X", type=float, help="slopes count as so many usual ones at most (default: 3)"
    )
    run.add_argument("--look-every", metavar="N", type=int, help="steps between two looks (default: 50)")
    run.add_argument(
        "--patience",
        metavar="N",
        type=int,
        help="end after so many looks without a better one (default: never)",
    )
    run.add_argument("--seed", metavar="N", type=int, help="of directions and order (default: 0)")
    run.add_argument("--rounds", metavar="N", type=int, help="rounds of the loop (default: the config's)")
    run.add_argument("-t", "--threads", metavar="N", type=int, help="threads (default: one a core)")
    run.add_argument(
        "--set",
        metavar="NAME=VALUE",
        action="append",
        default=[],
        help="a setting of the method alone; may come often",
    )
    run.add_argument(
        "--workers",
        metavar="WHERE",
        nargs="?",
        const="torchrun",
        help="share the work with the other processes of torchrun; or WHERE being :PORT, with those who come "
        "there; or HOST:PORT, with those who are there",
    )


def run(args: argparse.Namespace) -> int:
    """Learn, and say what was learnt."""
    from runtime.cli.learning import learn

    return learn(args)


def main(argv: Sequence[str] | None = None) -> int:
    """The command `chimera-mezo`."""
    return verb_main("finetune", prog="chimera-mezo", argv=argv)


if __name__ == "__main__":
    sys.exit(main())
