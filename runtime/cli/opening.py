"""From the arguments of a command to a session with a model, with all that can be refused refused early."""

import argparse
import os
import re
import sys
from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from configs import accounting
from configs.errors import ModelError, NotEnoughMemory, UsageError
from configs.schema.model import ModelConfig
from configs.text.template import DEFAULT_TEMPLATE, ChatTemplate
from configs.text.tokenizer import Tokenizer
from runtime.building.tensors import Tensors
from runtime.cli.compiling import compiling_told
from runtime.cli.out import interrupted_late
from runtime.cli.prompt import argument_text
from runtime.engine import Engine
from runtime.head import Speaker
from runtime.model_folder import DEMO, PackedModel, open_model
from runtime.sampling import SamplingSettings, parsed_biases, settings_of
from runtime.session import Session
from runtime.stream import KEPT_BYTES
from runtime.telling import Limits
from runtime.verified import check_whole

DEFAULT_MARKERS = {"<|system|>", "<|user|>", "<|assistant|>", "<|im_end|>"}
LARGE_FILE_BYTES = 200 * 2**20
"""Reading this much takes long enough for a bar."""
_SIZE = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*([kmgt]?)i?b?", re.IGNORECASE)
_UNITS = {"": 0, "k": 10, "m": 20, "g": 30, "t": 40}


@dataclass(frozen=True, kw_only=True, slots=True)
class Opened:
    """A session and what it runs on."""

    session: Session
    engine: Engine
    speaker: Speaker
    name: str


@contextmanager
def opened(args: argparse.Namespace) -> Generator[Opened]:
    """The model that the arguments name, ready to answer as they say."""
    if args.raw and args.system:
        raise UsageError("--raw goes on with a text, which has no --system message", hint="Leave out one.")
    with ExitStack() as held:
        with interrupted_late() as look_out, compiling_told(look_out):
            here = _begun(args, held=held, look_out=look_out)
        yield here


def _begun(args: argparse.Namespace, *, held: ExitStack, look_out: Callable[[], None]) -> Opened:
    """Open all; `held` closes it, and `look_out` is called wherever an interrupt may come between."""
    model = open_model(_path(args))
    config = model.config
    settings, limits, rounds = (
        settings_from(args, config),
        limits_from(args, config),
        rounds_from(args, config),
    )
    tokenizer = model.tokenizer()
    settings.check_ids(tokenizer.vocab_size)
    template = _template(model, tokenizer)
    spare = _check_memory(args, model, rounds=rounds)
    _check_whole(args, model, look_out=look_out)
    engine = held.enter_context(Engine(model, num_threads=args.threads))
    speaker = Speaker(engine, num_ids=tokenizer.vocab_size, screen=args.screen)
    session = Session(
        speaker,
        head=speaker,
        tokenizer=tokenizer,
        template=None if args.raw else template,
        settings=settings,
        limits=limits,
        system=argument_text(args.system or "", what="the system message"),
        rounds=rounds,
        exit_threshold=config.looping.adaptive_exit_threshold if config.looping.enabled else 0.0,
        num_log_probs=args.log_probs,
        kept_bytes=min(KEPT_BYTES, spare),
    )
    return Opened(
        session=session, engine=engine, speaker=speaker, name=config.name_or_path or str(model.file.path)
    )


def settings_from(args: argparse.Namespace, config: ModelConfig) -> SamplingSettings:
    """How to draw: the config's way, but for what the arguments say."""
    asked = {
        "temperature": args.temp,
        "top_k": args.top_k,
        "top_p": args.top_p,
        "min_p": args.min_p,
        "repetition_penalty": args.repeat_penalty,
        "logit_bias": parsed_biases(args.logit_bias),
        "seed": int.from_bytes(os.urandom(4)) if args.seed is None else args.seed,
    }
    return replace(
        settings_of(config.generation), **{name: value for name, value in asked.items() if value is not None}
    )


def limits_from(args: argparse.Namespace, config: ModelConfig) -> Limits:
    """Where an answer ends."""
    longest = config.generation.max_new_tokens if args.max_tokens is None else args.max_tokens
    stops = tuple(argument_text(stop, what="a stop string") for stop in args.stop)
    return Limits(max_tokens=longest, stops=stops)


def rounds_from(args: argparse.Namespace, config: ModelConfig) -> int:
    """Rounds of the loop, by number, by mode, or by the config."""
    if args.loops is not None and args.mode is not None:
        raise UsageError("--loops and --mode both say how often the loop runs", hint="Give one of them.")
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
            f"the size {words!r}; expected a number and perhaps K, M, G or T", hint="As in: 800M"
        )
    return int(float(found[1]) * 2 ** _UNITS[found[2].lower()])


def _path(args: argparse.Namespace) -> Path:
    if args.model is not None:
        return Path(args.model)
    if not DEMO.is_dir():
        raise ModelError(
            f"this installation holds no model of its own: there is no folder {DEMO}",
            hint="Name a model: chimera-run -m MODEL",
        )
    return DEMO


def _template(model: PackedModel, tokenizer: Tokenizer) -> ChatTemplate | None:
    """The model's chat template; None where the usual one meets a tokenizer without its words."""
    template = model.template(tokenizer)
    fits = template.source != DEFAULT_TEMPLATE or tokenizer.specials.keys() >= DEFAULT_MARKERS
    return template if fits else None


def _check_memory(args: argparse.Namespace, model: PackedModel, *, rounds: int) -> int:
    """Refuse a model that does not fit under the limit; gives the bytes that are left for kept states."""
    if args.memory_limit is None:
        return KEPT_BYTES
    import psutil

    limit = parsed_size(args.memory_limit)
    own = psutil.Process().memory_info().rss
    files = accounting.file_bytes(model.config)
    state = accounting.stream_state(model.config, rounds=rounds).total
    needed = own + files + 2 * state
    if needed > limit:
        raise NotEnoughMemory(
            f"{_mib(needed)} are needed ({_mib(own)} for the program, {_mib(files)} for weights, "
            f"{_mib(2 * state)} for the state and a copy of it); the limit is {_mib(limit)}",
            hint="Raise the limit, take fewer rounds with --loops, or take a smaller model.",
        )
    return limit - needed


def _mib(num_bytes: float) -> str:
    return f"{num_bytes / 2**20:,.0f} MiB"


def _check_whole(args: argparse.Namespace, model: PackedModel, *, look_out: Callable[[], None]) -> None:
    """Read the model's files once, and tell a person where that takes a while."""
    files = Tensors(model).files
    if sum(file.path.stat().st_size for file in files) < LARGE_FILE_BYTES or not sys.stderr.isatty():
        check_whole(files, anew=args.verify, progress=lambda read, total: look_out())
        return
    from runtime.cli.progress import share_done

    with share_done(f"checking {model.file.path.name}, once on this machine") as progress:

        def advance(read: int, total: int) -> None:
            look_out()
            progress(read, total)

        check_whole(files, anew=args.verify, progress=advance)
