"""`chimera inspect`: what a model is, what it costs, and what its file states beside what is true."""

import argparse
import json
import sys

from configs.errors import EXIT_DONE


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The model, and whether to read every byte of it."""
    parser.add_argument(
        "model",
        metavar="CONFIG|FILE",
        help="a preset, a config.json, a packed .b158 file, or a model's folder, whose adapters are listed "
        "too; a preset's name wins over a file of that name, which is then written ./NAME",
    )
    parser.add_argument(
        "--verify",
        action="store_true",
        help="read a .b158 file whole: compare every digest, and look for values that no tensor may hold",
    )


def run(args: argparse.Namespace) -> int:
    """Print the report, as JSON or for a reader."""
    from runtime.inspection import inspect_model

    if args.verify and sys.stderr.isatty():
        from runtime.cli.progress import bytes_read

        with bytes_read(args.model, what="verifying") as progress:
            report = inspect_model(args.model, verify=True, progress=progress)
    else:
        report = inspect_model(args.model, verify=args.verify)
    if args.json:
        # ASCII, so that any stream can carry it, whatever a file is called.
        json.dump(report, sys.stdout, indent=2, allow_nan=False)
        print()
    else:
        from runtime.cli.inspect_view import print_report

        print_report(report)
    return EXIT_DONE
