"""`chimera batch`: answer the prompts of a file, many at a time, in order, and go on where a run was left."""

import argparse
from pathlib import Path

from runtime.cli.experts_options import add_experts_arguments
from runtime.cli.run import SHIPPED, add_adapter_argument, add_answer_arguments


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The prompts, where the answers go, and by what model."""
    parser.add_argument("prompts", metavar="FILE", type=Path, help="JSONL: a prompt, text or messages a line")
    parser.add_argument(
        "--out", metavar="FILE", type=Path, help="where the answers go (default: FILE with .answers.jsonl)"
    )
    model = parser.add_argument_group("the model")
    model.add_argument(
        "-m", "--model", metavar="MODEL", help=f"a .b158 file or its folder (default: {SHIPPED})"
    )
    add_adapter_argument(model.add_argument)
    model.add_argument("-t", "--threads", type=int, metavar="N", help="threads (default: one a core)")
    model.add_argument("--streams", type=int, metavar="N", help="answers at a time (default: the config's)")
    model.add_argument("--system", metavar="TEXT", help="the message that comes before each chat")
    model.add_argument("--mode", metavar="NAME", help="fast, balanced or reasoning, as the config says")
    model.add_argument("--loops", type=int, metavar="N", help="rounds of the loop, in place of a mode")
    model.add_argument(
        "--memory-limit", metavar="SIZE", help="refuse to begin where more is needed, as in 800M or 2G"
    )
    model.add_argument(
        "--verify", action="store_true", help="read the model's files whole again, and refuse damaged ones"
    )
    model.add_argument(
        "--watchdog",
        action="store_true",
        help="end answers whose steps keep taking longer than the config says",
    )
    add_experts_arguments(parser)
    add_answer_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Answer all of them."""
    from runtime.cli.out import interrupted_late

    with interrupted_late():
        from runtime.cli.answering import answer_file
    return answer_file(args)
