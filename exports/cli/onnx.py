"""`chimera export onnx` and `verify`: a packed model as a graph, and that graph beside the engine."""

import argparse
import json
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from configs.errors import EXIT_DONE, EXIT_FAILED, UsageError

if TYPE_CHECKING:
    from exports.onnx.verify import Verdict

FORMS = ("onnx", "verify")
PROFILES = ("native", "reference")
OF_FORM = {
    "profile": "onnx",
    "loops": "onnx",
    "tokens": "verify",
    "text": "verify",
    "threads": "verify",
    "nodes": "verify",
}
"""Options that one form alone takes."""
DEFAULT_TOKENS = 128
SHOWN_NODES = 12


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What the two forms take beside the model and the folder."""
    parser.add_argument(
        "--profile",
        choices=PROFILES,
        help="onnx: native is fastest; reference rounds activations to the integers of the engine "
        "(default: native)",
    )
    parser.add_argument(
        "--loops", metavar="N", type=int, help="onnx: rounds of the loop, unrolled (default: the config's)"
    )
    parser.add_argument(
        "--tokens", metavar="N", type=int, help=f"verify: tokens to compare (default: {DEFAULT_TOKENS})"
    )
    parser.add_argument(
        "--text",
        metavar="FILE",
        type=Path,
        help="verify: compare on the first tokens of a text (default: what the engine writes itself)",
    )
    parser.add_argument(
        "--threads",
        metavar="N",
        type=int,
        help="verify: threads of both sides (default: the engine's choice)",
    )
    parser.add_argument(
        "--nodes", action="store_true", default=None, help="verify: tell which kinds of nodes take the time"
    )


def check_options(args: argparse.Namespace) -> None:
    """Refuse an option of another form, and numbers that cannot be."""
    for name, form in OF_FORM.items():
        if getattr(args, name) is not None and args.form != form:
            raise UsageError(
                f"--{name} has no meaning for `chimera export {args.form}`",
                hint=f"It goes with: chimera export {form}",
            )
    for name in ("loops", "tokens", "threads"):
        value = getattr(args, name)
        if value is not None and value < 1:
            raise UsageError(f"--{name} {value}: a whole number from 1 is needed")


def run(args: argparse.Namespace) -> int:
    """Write the graph, or compare it."""
    return _export(args) if args.form == "onnx" else _verify(args)


def _export(args: argparse.Namespace) -> int:
    from exports.onnx.versions import needed

    needed("onnx", purpose="an ONNX export")
    from exports.onnx.export import export_onnx

    with _bar() as progress:
        done = export_onnx(
            args.checkpoint, args.out, profile=args.profile or "native", rounds=args.loops, progress=progress
        )
    report = {
        "folder": str(done.folder),
        "files": list(done.files),
        "file_bytes": done.num_bytes,
        "packed_bytes": done.packed_bytes,
        "profile": args.profile or "native",
        "rounds": done.rounds,
        "nodes": done.num_nodes,
        "state_bytes": done.state_bytes,
        "onnxruntime_genai": done.genai_refusal or "genai_config.json",
        "tokenizer": done.words_refusal or "tokenizer.json",
    }
    if args.json:
        return _json(report)
    share = done.num_bytes / done.packed_bytes
    print(f"{done.folder}: {done.num_bytes:,} bytes, {share:.2f} of the packed model")
    print(f"  {done.num_nodes:,} nodes, {done.rounds} rounds, {done.state_bytes:,} bytes of states a stream")
    for name in done.files:
        print(f"  {name}")
    if done.genai_refusal:
        print(f"  no genai_config.json: {done.genai_refusal}")
    if done.words_refusal:
        print(f"  no tokenizer.json: {done.words_refusal}")
    return EXIT_DONE


def _verify(args: argparse.Namespace) -> int:
    from exports.onnx.versions import needed

    for package in ("onnx", "onnxruntime"):
        needed(package, purpose="comparing a graph with the engine")
    from exports.onnx.verify import verify

    verdict = verify(
        args.checkpoint,
        args.out,
        num_tokens=args.tokens or DEFAULT_TOKENS,
        text=args.text,
        num_threads=args.threads,
        nodes=bool(args.nodes),
    )
    if args.json:
        _json(verdict.report())
    else:
        _print(verdict)
    return EXIT_DONE if verdict.holds else EXIT_FAILED


def _print(verdict: "Verdict") -> None:
    rows: list[tuple[str, str]] = [
        ("tokens", f"{verdict.num_tokens:,} of {verdict.source}"),
        (
            "one step from the engine's state",
            f"{verdict.step_median:.1e} median, {verdict.step_most:.1e} most",
        ),
        ("  same best token", f"{verdict.step_agreement:.1%}"),
        ("  the state that differs most", f"{verdict.state_median:.1e} median"),
        ("on its own states", f"{verdict.own_median:.1e} median, {verdict.own_most:.1e} most"),
        ("  same best token", f"{verdict.own_agreement:.1%}"),
        ("time of a token", f"{verdict.graph_ms:.2f} ms, engine {verdict.engine_ms:.2f} ms"),
        (
            "speed beside the engine",
            f"{verdict.engine_ms / verdict.graph_ms:.0%}, {verdict.num_threads} threads",
        ),
        ("memory", f"{verdict.memory_bytes:,} bytes for files of {verdict.file_bytes:,}"),
    ]
    width = max(len(name) for name, _ in rows)
    for name, value in rows:
        print(f"{name:<{width}}  {value}")
    for kind, count, share in verdict.nodes[:SHOWN_NODES]:
        print(f"  {share:6.1%}  {count:5d}  {kind}")
    if not verdict.holds:
        print(verdict.complaint, file=sys.stderr)


def _json(report: dict[str, Any]) -> int:
    json.dump(report, sys.stdout, indent=2, allow_nan=False)
    print()
    return EXIT_DONE


def _bar() -> AbstractContextManager[Callable[[int, int], None] | None]:
    """A bar for a person; a pipe gets none."""
    if not sys.stderr.isatty():
        return nullcontext()
    from runtime.cli.progress import share_done

    return share_done("writing")
