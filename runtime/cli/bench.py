"""`chimera bench`: how fast a model runs here, how soon it answers, and whether that lasts in a long text."""

import argparse
import json
import sys
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from configs.errors import EXIT_DONE, ModelError, UsageError
from configs.load import PRESETS
from runtime.cli.experts_options import add_experts_arguments, experts_from
from runtime.cli.run import add_adapter_argument

if TYPE_CHECKING:
    from runtime.measuring.benching import Asked

Report: TypeAlias = dict[str, Any]
Bar: TypeAlias = AbstractContextManager[Callable[[int, int], None] | None]

FORMS = ("md", "csv", "json")
LONG_POSITIONS = "1000,10000,100000,1000000"
PLOT_NAME = "longctx.png"
NO_PLOT = "none"
TURNS = 300


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The model, the tests in the habit of llama-bench, and the long ones."""
    parser.add_argument(
        "model",
        nargs="?",
        metavar="MODEL|PRESET",
        help="a .b158 file, a folder of one, or a preset or config.json, which gets random weights: "
        f"{', '.join(PRESETS)} (default: the shipped model)",
    )
    add_adapter_argument(parser.add_argument)
    tests = parser.add_argument_group("tests (several numbers with commas; 0 leaves one out)")
    tests.add_argument(
        "-p", "--n-prompt", default="512", metavar="N", help="read a prompt of N tokens (default: 512)"
    )
    tests.add_argument("-n", "--n-gen", default="128", metavar="N", help="give N tokens (default: 128)")
    tests.add_argument("-t", "--threads", metavar="N", help="threads (default: one a core)")
    tests.add_argument("--loops", metavar="N", help="rounds of the loop (default: the config's)")
    tests.add_argument(
        "--exit-threshold",
        type=float,
        metavar="X",
        help="the change below which a token leaves the loop; 0 is never (default: the config's)",
    )
    tests.add_argument(
        "-r", "--repetitions", type=int, default=5, metavar="N", help="times that all is done (default: 5)"
    )
    tests.add_argument(
        "--embedding-bits",
        type=int,
        choices=(8, 4, 2),
        help="bits of embedding and head, of a preset or a config (default: the config's)",
    )
    tests.add_argument(
        "--no-start",
        action="store_true",
        help="leave out fresh processes, by which the time to a first token and memory are told",
    )
    tests.add_argument(
        "-o", "--output", choices=FORMS, help="how to print it (default: md; json is the same as --json)"
    )
    far = parser.add_argument_group("far into a text, in place of the tests")
    far.add_argument(
        "--longctx",
        action="store_true",
        help="plot milliseconds a token and memory over positions; streams at all of them take turns",
    )
    far.add_argument("--positions", metavar="N", help=f"where, with commas (default: {LONG_POSITIONS})")
    far.add_argument(
        "--turns", type=int, metavar="N", help=f"tokens that each stream reads (default: {TURNS})"
    )
    far.add_argument(
        "--moving",
        action="store_true",
        help="fill windows and say they are there, in place of reading so many tokens: the same work a token",
    )
    far.add_argument(
        "--plot",
        metavar="FILE",
        help=f"where the plot goes; its ending says the form; {NO_PLOT} for none (default: {PLOT_NAME})",
    )
    parser.add_argument(
        "--experts",
        action="store_true",
        help="in place of the tests: experts on disk beside plain mapped files, under one limit of memory",
    )
    add_experts_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Measure, and print it."""
    form = _form(args)
    _refuse_idle(args)
    report = _experts(args) if args.experts else _long(args) if args.longctx else _tests(args)
    if form == "json":
        json.dump(report, sys.stdout, indent=2, allow_nan=False)
        print()
        return EXIT_DONE
    from runtime.cli import bench_experts, bench_view
    from runtime.cli.tables import say

    say((bench_experts if args.experts else bench_view).lines(report, form=form))
    return EXIT_DONE


def _experts(args: argparse.Namespace) -> Report:
    from runtime.cli.bench_experts import measure_experts
    from runtime.cli.wholeness import check_files
    from runtime.model_folder import open_model

    asked = _asked(args)
    plot = None if args.plot is None else _plot(args)
    if args.adapter:
        raise UsageError("--adapter is for the tests, and --experts takes their place", hint="Leave it out.")
    if any(len(given) > 1 for given in (asked.answer_tokens, asked.threads, asked.rounds)):
        raise UsageError("--experts goes with one number of tokens, threads and loops")
    source = Path(_source(args))
    check_files(open_model(source))
    return measure_experts(
        args,
        model=source,
        tokens=next(iter(asked.answer_tokens)),
        threads=next(iter(asked.threads)),
        rounds=next(iter(asked.rounds), None),
        plot=plot,
        bar=_bar,
    )


def _tests(args: argparse.Namespace) -> Report:
    from runtime.cli.compiling import compiling_told
    from runtime.measuring.benching import bench_model, bench_process

    asked = _asked(args)
    rounds = next(iter(asked.rounds), None)
    with _weights(args) as path, compiling_told():
        with _bar("measuring") as progress:
            report = bench_model(path, asked, progress=progress)
        if not args.no_start:
            report["process"] = bench_process(
                path, rounds=rounds, num_threads=next(iter(asked.threads)), adapters=asked.adapters
            )
    return report


def _long(args: argparse.Namespace) -> Report:
    from runtime.cli.compiling import compiling_told
    from runtime.engine import Engine
    from runtime.measuring.benching import check_rounds
    from runtime.measuring.far import far_report
    from runtime.model_folder import open_model

    asked, plot = _asked(args), _plot(args)
    positions = _numbers(args.positions or LONG_POSITIONS, what="--positions")
    if len(asked.threads) > 1 or len(asked.rounds) > 1:
        raise UsageError("--longctx goes with one number of threads and of loops", hint="Give one of each.")
    with (
        _weights(args) as path,
        compiling_told(),
        Engine(
            open_model(path, adapters=asked.adapters),
            num_threads=next(iter(asked.threads)),
            experts=asked.experts,
        ) as engine,
        _bar("reading as far as asked") as progress,
    ):
        check_rounds(engine.config, asked.rounds)
        report: Report = {
            "model": {"name": engine.config.name_or_path},
            "longctx": far_report(
                engine,
                positions=positions,
                turns=TURNS if args.turns is None else args.turns,
                way="moving" if args.moving else "reading",
                rounds=next(iter(asked.rounds), None),
                exit_threshold=asked.exit_threshold,
                progress=progress,
            ),
        }
    if plot is not None:
        from runtime.measuring.plotting import plot_far

        plot_far(report["longctx"], plot, title=report["model"]["name"] or _source(args))
        report["plot"] = str(plot)
    return report


def _asked(args: argparse.Namespace) -> "Asked":
    from runtime.measuring.benching import Asked

    return Asked(
        prompt_tokens=_numbers(args.n_prompt, what="--n-prompt"),
        answer_tokens=_numbers(args.n_gen, what="--n-gen"),
        repeats=args.repetitions,
        threads=(None,) if args.threads is None else _numbers(args.threads, what="--threads"),
        rounds=() if args.loops is None else _numbers(args.loops, what="--loops"),
        exit_threshold=args.exit_threshold,
        adapters=tuple(args.adapter),
        experts=experts_from(args),
    )


@contextmanager
def _weights(args: argparse.Namespace) -> Generator[Path]:
    """The packed model, its files read once; with random weights, where a preset or a config is named."""
    from runtime.cli.wholeness import check_files
    from runtime.measuring.benching import is_to_be_made, weights_of
    from runtime.model_folder import open_model

    source = _source(args)

    with ExitStack() as stack:
        with _bar("making random weights") as progress:
            path = stack.enter_context(
                weights_of(source, embedding_bits=args.embedding_bits, progress=progress)
            )
        if not is_to_be_made(source):
            check_files(open_model(path))
        yield path


def _source(args: argparse.Namespace) -> str:
    """What to measure; the shipped model, where nothing is named."""
    if args.model is not None:
        return args.model
    from runtime.model_folder import DEMO

    if not DEMO.is_dir():
        raise ModelError(
            f"this installation holds no model of its own: there is no folder {DEMO}",
            hint="Name a model or a preset: chimera bench tiny",
        )
    return str(DEMO)


def _form(args: argparse.Namespace) -> str:
    if args.json and args.output not in (None, "json"):
        raise UsageError(f"--json and -o {args.output} are two forms of output", hint="Give one of them.")
    return "json" if args.json else args.output or "md"


def _refuse_idle(args: argparse.Namespace) -> None:
    """Refuse options that would do nothing."""
    if args.experts and args.longctx:
        raise UsageError("--experts and --longctx are two benchmarks", hint="Give one of them.")
    for name in ("positions", "turns", "plot", "moving"):
        if not (args.longctx or (args.experts and name == "plot")) and getattr(args, name):
            raise UsageError(
                f"--{name} is of use with --longctx alone", hint="Add --longctx, or leave it out."
            )


def _plot(args: argparse.Namespace) -> Path | None:
    """The file of the plot; whether it can be made is known before all is measured."""
    if args.plot == NO_PLOT:
        return None
    from runtime.measuring.plotting import check_plot

    path = Path(args.plot or PLOT_NAME)
    check_plot(path)
    return path


def _numbers(words: str, *, what: str) -> tuple[int, ...]:
    """Whole numbers with commas between them."""
    parts = [part.strip() for part in words.split(",")]
    if not all(part.isascii() and part.isdecimal() for part in parts):
        raise UsageError(
            f"{what} {words!r}; expected whole numbers with commas between", hint="As in: 64,256"
        )
    return tuple(dict.fromkeys(int(part) for part in parts))


def _bar(what: str) -> Bar:
    """Progress, for a person."""
    if not sys.stderr.isatty():
        return nullcontext()
    from runtime.cli.progress import share_done

    return share_done(what)
