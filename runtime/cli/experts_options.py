"""What verbs take for models whose experts lie on disk."""

import argparse
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from runtime.experts.asked import ExpertsAsked

MISSES = ("strict", "soft", "deadline")
POLICIES = ("lru", "lfu", "least-stale")
PREDICTORS = ("none", "same", "frequency", "neighbours", "foresight", "decided")


def add_experts_arguments(parser: argparse.ArgumentParser) -> None:
    """How much memory experts get, and what happens where one is not there."""
    experts = parser.add_argument_group("experts on disk (see chimera pack-experts)")
    experts.add_argument(
        "--experts-memory",
        metavar="SIZE",
        help="memory for them, as in 800M (default: what --memory-limit and free memory leave)",
    )
    experts.add_argument(
        "--on-miss",
        choices=MISSES,
        default=MISSES[0],
        help="wait for an expert that is not there, and the text is as ever; let the shared one stand in; or "
        "wait as long as --deadline-ms says (default: strict)",
    )
    experts.add_argument(
        "--deadline-ms", type=float, metavar="X", help="with --on-miss deadline: how long a token may wait"
    )
    experts.add_argument(
        "--experts-policy",
        choices=POLICIES,
        default=POLICIES[0],
        help="which expert leaves memory for another (default: lru)",
    )
    experts.add_argument(
        "--experts-predictor",
        choices=PREDICTORS,
        help="by what experts are read ahead (default: decided, what the model decides ahead and no guess)",
    )


def experts_from(args: argparse.Namespace) -> "ExpertsAsked | None":
    """What the arguments ask for, if it is anything; they are checked here."""
    is_checked = bool(getattr(args, "verify", False))
    asked = (args.experts_memory, args.on_miss, args.deadline_ms, args.experts_policy, args.experts_predictor)
    if asked == (None, MISSES[0], None, POLICIES[0], None) and not is_checked:
        return None
    from runtime.cli.choices import parsed_size
    from runtime.experts.asked import ExpertsAsked

    memory: str | None = args.experts_memory
    # The parser has held these to the names above, which are those of the tables.
    on_miss: Any = args.on_miss
    policy: Any = args.experts_policy
    predictor: Any = args.experts_predictor
    return ExpertsAsked(
        memory_bytes=None if memory is None else parsed_size(memory),
        on_miss=on_miss,
        deadline_ms=args.deadline_ms,
        policy=policy,
        predictor=predictor,
        is_checked=is_checked,
    )
