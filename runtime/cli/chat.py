"""`chimera chat`: talk with a model, line by line."""

import argparse

from runtime.cli.run import add_shared_arguments


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What `chimera run` takes beside a prompt."""
    add_shared_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Talk."""
    from runtime.cli.out import interrupted_late

    with interrupted_late():
        from runtime.cli.choices import check_arguments
        from runtime.cli.repl import talk
    args.raw, args.log_probs = False, None
    check_arguments(args)
    return talk(args)
