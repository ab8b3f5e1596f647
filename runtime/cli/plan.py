"""`chimera plan`: whether a model fits this machine and how fast it will be, before it is made or loaded."""

import argparse
import json
import sys
from contextlib import nullcontext
from typing import Any

from configs.errors import EXIT_DONE, NotEnoughMemory
from configs.load import PRESETS
from runtime.cli.tables import count, plain, rate, say, size, table


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The model, and what of the plan is up to the user."""
    parser.add_argument(
        "model",
        metavar="PRESET|CONFIG|MODEL",
        help=f"a preset ({', '.join(PRESETS)}), a config.json, a .b158 file, or a folder of one",
    )
    parser.add_argument("--streams", type=int, default=1, metavar="N", help="talks at once (default: 1)")
    parser.add_argument("-t", "--threads", type=int, metavar="N", help="threads (default: one a core)")
    parser.add_argument(
        "--memory-limit",
        metavar="SIZE",
        help="take it that there is no more memory than this, as in 800M or 2G",
    )
    parser.add_argument(
        "--embedding-bits",
        type=int,
        choices=(8, 4, 2),
        help="bits of embedding and head (default: the config's)",
    )
    parser.add_argument(
        "--exit-threshold",
        type=float,
        metavar="X",
        help="the change below which a token leaves the loop; 0 is never (default: the config's)",
    )
    parser.add_argument(
        "--finetune", metavar="METHOD", help="the memory that teaching it takes: by scales, codes or state"
    )
    parser.add_argument(
        "--longest",
        type=int,
        default=128,
        metavar="N",
        help="with --finetune: tokens of the longest record (default: 128)",
    )


def run(args: argparse.Namespace) -> int:
    """Print the plan. A model that does not fit is an error, whose hint says what would."""
    if args.finetune is not None:
        return _plan_learning(args)
    from runtime.cli.choices import parsed_size
    from runtime.cli.compiling import compiling_told
    from runtime.cli.progress import share_done
    from runtime.measuring.planning import plan_model

    limit = None if args.memory_limit is None else parsed_size(args.memory_limit)
    bar = share_done("measuring") if sys.stderr.isatty() else nullcontext()
    with compiling_told(), bar as progress:
        report = plan_model(
            args.model,
            streams=args.streams,
            num_threads=args.threads,
            memory_limit_bytes=limit,
            embedding_bits=args.embedding_bits,
            exit_threshold=args.exit_threshold,
            progress=progress,
        )
    if args.json:
        json.dump(report, sys.stdout, indent=2, allow_nan=False)
        print()
    else:
        say([*_head(report), "", *_machine(report["machine"]), "", *_memory(report), "", *_modes(report)])
    if not report["fits"]:
        sys.stdout.flush()
        raise _refusal(report)
    return EXIT_DONE


def _plan_learning(args: argparse.Namespace) -> int:
    from runtime.cli.compiling import compiling_told
    from runtime.measuring.learning_plan import plan_learning

    with compiling_told():
        report = plan_learning(args.model, args.finetune, longest=args.longest, num_threads=args.threads)
    if args.json:
        json.dump(report, sys.stdout, indent=2, allow_nan=False)
        print()
    else:
        rows = [
            ("files", size(report["files_bytes"]), "mapped, as its own"),
            ("learnt", size(report["learnt_bytes"]), f"what {report['method']} keeps beside them"),
            ("process", size(report["process_bytes"]), f"with {report['streams']} streams that read a batch"),
            ("peak", size(report["needed_bytes"]), "all of it"),
            ("available", size(report["available_bytes"]), report["available_is"]),
        ]
        say([f"to teach {plain(args.model)} by {report['method']}", *table(("<", "", "<"), rows)])
    if not report["fits"]:
        sys.stdout.flush()
        raise NotEnoughMemory(
            f"to teach {plain(args.model)} takes {size(report['needed_bytes'])}; there are "
            f"{size(report['available_bytes'])}: {report['available_is']}",
            hint="Close other programs, or take a smaller model.",
        )
    return EXIT_DONE


def _refusal(report: dict[str, Any]) -> NotEnoughMemory:
    memory = report["memory"]
    found = [f"{change['change']} ({size(change['needed_bytes'])})" for change in report["suggestions"]]
    return NotEnoughMemory(
        f"{plain(report['source'])} needs {size(memory['needed_bytes'])}; there are "
        f"{size(memory['available_bytes'])}: {memory['available_is']}",
        hint=f"What fits: {'; '.join(found)}." if found else "No preset fits in so little.",
    )


def _head(report: dict[str, Any]) -> list[str]:
    name = plain(report["name"] or report["source"])
    verdict = "fits" if report["fits"] else "does not fit"
    bits = f"embedding of {report['embedding_bits']} bits"
    return [f"{name}: {count(report['parameters'])} parameters, {bits}; it {verdict}"]


def _machine(machine: dict[str, Any]) -> list[str]:
    threads = machine["threads"]
    lines = [
        f"machine: {plain(machine['cpu'])} ({machine['target']}), "
        f"{threads} {'thread' if threads == 1 else 'threads'} ({machine['threads_reason']})",
        f"  reads {size(machine['read_bytes_per_s'])} of memory a second",
    ]
    if machine["was_shared"]:
        lines.append("  another process took cores meanwhile: alone, this machine is faster than told here")
    return lines


def _memory(report: dict[str, Any]) -> list[str]:
    memory = report["memory"]
    streams = memory["streams"]
    states = (streams + 1) * memory["state_bytes"]
    kind = "as they are" if memory["files_exist"] else "as they would be"
    rows = [
        ("files", size(memory["files_bytes"]), f"mapped, {kind}"),
        ("states", size(states), f"{size(memory['state_bytes'])} a stream × {streams}, and one copy"),
        ("buffers", *_buffers(memory["buffer_bytes"])),
        ("program", size(memory["program_bytes"]), "Python, compiled kernels, tables"),
        ("peak", size(memory["needed_bytes"]), "all of it, once every byte of the files has been read"),
        ("available", size(memory["available_bytes"]), memory["available_is"]),
    ]
    return ["memory", *table(("<", "", "<"), rows)]


def _buffers(num_bytes: int | None) -> tuple[str, str]:
    return ("not counted", "") if num_bytes is None else (size(num_bytes), "shared by all streams")


def _modes(report: dict[str, Any]) -> list[str]:
    has_streams = report["memory"]["streams"] > 1
    rows = [
        (
            plain(mode["name"]),
            str(mode["rounds"]),
            size(mode["needed_bytes"]),
            _decoding(mode),
            rate(mode["far_decode_tokens_per_s"]),
            rate(mode["stream_tokens_per_s"]) if has_streams else "",
            rate(mode["prefill_tokens_per_s"]),
            rate(mode["bound_tokens_per_s"]),
            rate(mode["stated_tokens_per_s"]),
        )
        for mode in report["modes"]
    ]
    header = (
        "<mode", "rounds", "memory", "tokens/s", "far on", "a stream", "prompt", "bound", "stated"
    )  # fmt: skip
    lines = table(header, rows)
    if any(mode["decode_tokens_per_s"] for mode in report["modes"]):
        lines += [
            "",
            "  memory: the peak; tokens/s: written a second, at the beginning of a text, as the engine does",
            "  it with weights that stand in; far on: with every window full, at any length; prompt: tokens",
            "  read a second",
        ]
    if any(mode["bound_tokens_per_s"] for mode in report["modes"]):
        lines.append("  bound: what a token reads, at the speed of memory as measured")
    if any(mode["speed_is"] == "interpolated" for mode in report["modes"]):
        lines.append("  *: on the line from fewer rounds to more, since each round adds the same")
    return lines


def _decoding(mode: dict[str, Any]) -> str:
    if mode["decode_tokens_per_s"] is None:
        return "not measured" if mode["fits"] else "does not fit"
    return rate(mode["decode_tokens_per_s"]) + ("*" if mode["speed_is"] == "interpolated" else "")
