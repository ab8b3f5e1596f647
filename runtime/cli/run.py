"""`chimera run`, and `chimera-run` by itself: answer a prompt and leave, or talk where there is none."""

import argparse
import sys
from collections.abc import Callable, Sequence

from runtime.cli.experts_options import add_experts_arguments
from runtime.cli.main import verb_main

SHIPPED = "the shipped model"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The prompt, and what `chimera chat` takes as well."""
    parser.add_argument(
        "prompt", nargs="?", metavar="PROMPT", help="what to answer; left out: talk, or read stdin"
    )
    given = parser.add_argument_group("the prompt, otherwise")
    given.add_argument("-p", "--prompt", dest="prompt_option", metavar="TEXT", help="the same as PROMPT")
    given.add_argument("-f", "--file", metavar="FILE", help="read it from a file, or from stdin with -")
    given.add_argument(
        "--raw", action="store_true", help="let the model go on with the prompt, without the form of a chat"
    )
    given.add_argument(
        "--log-probs",
        type=int,
        metavar="N",
        help="with --json: log-probabilities of each token and of the N best",
    )
    add_shared_arguments(parser)


def add_shared_arguments(parser: argparse.ArgumentParser) -> None:
    """The model, how it draws, how long and how deep."""
    model = parser.add_argument_group("the model")
    model.add_argument(
        "-m", "--model", metavar="MODEL", help=f"a .b158 file or its folder (default: {SHIPPED})"
    )
    add_adapter_argument(model.add_argument)
    model.add_argument("-t", "--threads", type=int, metavar="N", help="threads (default: one a core)")
    model.add_argument("--system", metavar="TEXT", help="the message that comes before a chat")
    model.add_argument(
        "--mode", metavar="NAME", help="fast, balanced or reasoning, as the model's config says"
    )
    model.add_argument("--loops", type=int, metavar="N", help="rounds of the loop, in place of a mode")
    model.add_argument(
        "--screen",
        choices=("auto", "on", "off"),
        default="auto",
        help="prove that most words cannot win and multiply with the others alone; the text is the same",
    )
    model.add_argument(
        "--memory-limit", metavar="SIZE", help="refuse to begin where more is needed, as in 800M or 2G"
    )
    model.add_argument(
        "--verify", action="store_true", help="read the model's files whole again, and refuse damaged ones"
    )
    add_experts_arguments(parser)
    talk = parser.add_argument_group("the talk")
    talk.add_argument("--load", metavar="FILE", help="go on with a saved talk, as it would have gone on")
    talk.add_argument("--fork", metavar="FILE", help="go on with a saved talk, and draw otherwise")
    talk.add_argument("--save", metavar="FILE", help="write the talk to a file when it is over")
    add_answer_arguments(parser)
    parser.add_argument("--stats", action="store_true", help="tell times, memory and seed on stderr")


def add_adapter_argument(add_argument: Callable[..., object]) -> None:
    """What the model has learnt since it was packed."""
    add_argument(
        "--adapter",
        metavar="FILE",
        action="append",
        default=[],
        help="what was learnt by fine-tuning, a .cza file; several are applied in their order",
    )


def add_answer_arguments(parser: argparse.ArgumentParser) -> None:
    """How tokens are drawn, and where an answer ends."""
    answer = parser.add_argument_group("the answer (defaults: those of the model's config)")
    answer.add_argument("-n", "--max-tokens", type=int, metavar="N", help="its longest length in tokens")
    answer.add_argument("--max-seconds", type=float, metavar="X", help="end it after so many seconds")
    answer.add_argument(
        "--stop", action="append", default=[], metavar="TEXT", help="end before this text; may come often"
    )
    answer.add_argument("--temp", type=float, metavar="X", help="temperature; 0 takes the best token")
    answer.add_argument("--top-k", type=int, metavar="N", help="keep the N best tokens; 0 keeps all")
    answer.add_argument(
        "--top-p", type=float, metavar="X", help="keep the best up to this share; 1 keeps all"
    )
    answer.add_argument(
        "--min-p", type=float, metavar="X", help="keep what is this much as likely as the best; 0 keeps all"
    )
    answer.add_argument(
        "--repeat-penalty", type=float, metavar="X", help="divide the logits of recent tokens; 1 is none"
    )
    answer.add_argument(
        "--logit-bias",
        action="append",
        default=[],
        metavar="ID=X",
        help="add to a token's logit, or ID=off; may come often",
    )
    answer.add_argument(
        "--seed", type=int, metavar="N", help="the same seed gives the same text (default: any)"
    )


def run(args: argparse.Namespace) -> int:
    """Answer, or talk."""
    from runtime.cli.out import interrupted_late
    from runtime.cli.prompt import read_prompt, words_of
    from runtime.cli.starting import nothing_collected

    words = words_of(args)
    with interrupted_late(), nothing_collected():
        from runtime.cli.choices import check_arguments
        from runtime.cli.once import answer
    check_arguments(args)
    prompt = read_prompt(args, words)
    if prompt is not None:
        return answer(args, prompt)
    with interrupted_late(), nothing_collected():
        from runtime.cli.repl import talk
    return talk(args)


def main(argv: Sequence[str] | None = None) -> int:
    """The command `chimera-run`."""
    return verb_main("run", prog="chimera-run", argv=argv)


if __name__ == "__main__":
    sys.exit(main())
