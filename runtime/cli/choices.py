"""What the arguments of a talk ask for: draws, limits, rounds, memory. What they say wrong is refused here.

`check_arguments` looks at all that can be judged without a model, before anything is read or loaded for them.
"""

import argparse
import os
import re
from dataclasses import replace
from decimal import Decimal

from configs.errors import UsageError
from configs.schema.model import ModelConfig
from quant.pool import check_threads
from runtime.cli.prompt import argument_text
from runtime.sampling import SamplingSettings, check_log_probs, parsed_biases, settings_of
from runtime.telling import Limits

MOST_BYTES = 2**60
_SIZE = re.compile(r"([0-9]{1,30}(?:\.[0-9]{1,30})?)\s*([kmgt]?)i?b?", re.IGNORECASE)
_UNITS = {"": 0, "k": 10, "m": 20, "g": 30, "t": 40}


def check_arguments(args: argparse.Namespace) -> None:
    """Refuse what cannot work with any model."""
    if args.raw and args.system:
        raise UsageError("--raw goes on with a text, which has no --system message", hint="Leave out one.")
    if args.log_probs is not None:
        check_log_probs(args.log_probs)
        if not args.json:
            raise UsageError("--log-probs are told in JSON alone", hint="Add --json.")
    for option in ("model", "file", "load", "fork", "save"):
        if getattr(args, option, None) == "":
            raise UsageError(
                f"the path after --{option} is empty", hint=f"Name a file, or leave out --{option}."
            )
    if args.threads is not None:
        check_threads(args.threads)
    if args.memory_limit is not None:
        parsed_size(args.memory_limit)
    if args.loops is not None and args.mode is not None:
        raise UsageError("--loops and --mode both say how often the loop runs", hint="Give one of them.")
    if args.loops is not None and args.loops < 1:
        raise UsageError(f"{args.loops} rounds of the loop; a model takes 1 at least")
    replace(SamplingSettings(), **draws(args))
    _limits(args, longest=1)
    system_from(args)
    if args.load is not None or args.fork is not None or args.save is not None:
        from runtime.cli.saving import check_saving

        check_saving(args)


def settings_from(args: argparse.Namespace, config: ModelConfig) -> SamplingSettings:
    """How to draw: the config's way, but for what the arguments say."""
    drawn = draws(args)
    return replace(settings_of(config.generation), **({"seed": int.from_bytes(os.urandom(4))} | drawn))


def limits_from(args: argparse.Namespace, config: ModelConfig) -> Limits:
    """Where an answer ends."""
    return _limits(args, longest=config.generation.max_new_tokens)


def system_from(args: argparse.Namespace) -> str:
    """The message before a talk."""
    return argument_text(args.system or "", what="the system message")


def rounds_from(args: argparse.Namespace, config: ModelConfig) -> int:
    """Rounds of the loop, by number, by mode, or by the config."""
    if args.mode is not None:
        return rounds_of_mode(args.mode, config)
    return config.rounds_default if args.loops is None else checked_rounds(args.loops, config)


def rounds_of_mode(name: str, config: ModelConfig) -> int:
    """Rounds of a mode of the config."""
    if name not in config.modes:
        raise UsageError(
            f"this model has no mode {name!r}; it has {', '.join(config.modes) or 'none'}",
            hint="--loops takes a number of rounds.",
        )
    return checked_rounds(config.modes[name].loops, config)


def checked_rounds(rounds: int, config: ModelConfig) -> int:
    """A number of rounds that this model takes."""
    least = config.looping.loop_range[0] if config.looping.enabled else 1
    if not least <= rounds <= config.rounds_most:
        raise UsageError(f"{rounds} rounds of the loop; this model takes {least} to {config.rounds_most}")
    return rounds


def parsed_size(words: str) -> int:
    """Bytes of a size such as 800M or 1.5G; units are powers of 1024."""
    found = _SIZE.fullmatch(words.strip())
    if found is None:
        raise UsageError(
            f"the size {words[:60]!r}; expected a number and perhaps K, M, G or T", hint="As in: 800M"
        )
    num_bytes = int(Decimal(found[1]) * 2 ** _UNITS[found[2].lower()])
    if num_bytes > MOST_BYTES:
        raise UsageError(f"the size {words!r}; no machine has so much memory", hint="As in: 800M")
    return num_bytes


def draws(args: argparse.Namespace) -> dict[str, object]:
    """What the arguments say of draws."""
    asked = {
        "temperature": args.temp,
        "top_k": args.top_k,
        "top_p": args.top_p,
        "min_p": args.min_p,
        "repetition_penalty": args.repeat_penalty,
        "logit_bias": parsed_biases(args.logit_bias),
        "seed": args.seed,
    }
    return {name: value for name, value in asked.items() if value is not None}


def _limits(args: argparse.Namespace, *, longest: int) -> Limits:
    stops = tuple(argument_text(stop, what="a stop string") for stop in args.stop)
    longest = longest if args.max_tokens is None else args.max_tokens
    return Limits(max_tokens=longest, stops=stops, max_seconds=args.max_seconds)
