"""From the arguments of a command to a session with a model, with all that can be refused refused early."""

import argparse
from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from configs.errors import ModelError
from configs.text.template import ChatTemplate
from configs.text.tokenizer import Tokenizer
from runtime.cli.branches import MOST_BYTES, Branches
from runtime.cli.choices import limits_from, rounds_from, settings_from, system_from
from runtime.cli.compiling import compiling_told
from runtime.cli.experts_numbers import tell_ahead_ended
from runtime.cli.experts_options import experts_from
from runtime.cli.out import interrupted_late
from runtime.cli.room import kept_bytes, limit_of, screen_use
from runtime.cli.starting import nothing_collected
from runtime.cli.tables import plain
from runtime.cli.wholeness import check_files
from runtime.engine import Engine
from runtime.head import Speaker
from runtime.model_folder import DEMO, open_model
from runtime.session import Session


@dataclass(frozen=True, kw_only=True, slots=True)
class Opened:
    """A session and what it runs on."""

    session: Session
    engine: Engine
    speaker: Speaker
    name: str
    """The model's, as a terminal may show it."""
    screen_bytes: int
    """Memory under a limit that is left for the screen."""
    base_digest: str
    """Of the model's file alone."""
    adapter_digests: tuple[str, ...]
    """Of what was learnt since, in order."""
    tokenizer: Tokenizer
    template: ChatTemplate | None
    """The model's, also where a text is gone on with."""
    branches: Branches


@contextmanager
def opened(args: argparse.Namespace, *, prompt_characters: int = 0) -> Generator[Opened]:
    """The model that the arguments name, ready to answer as they say, with room for a prompt."""
    with ExitStack() as held:
        with interrupted_late() as look_out, compiling_told(look_out), nothing_collected():
            here = _begun(args, held=held, look_out=look_out, prompt_characters=prompt_characters)
            if args.load is not None or args.fork is not None:
                from runtime.cli.saving import begin_saved

                begin_saved(here, args)
        yield here
        tell_ahead_ended(here.engine)


def _begun(
    args: argparse.Namespace, *, held: ExitStack, look_out: Callable[[], None], prompt_characters: int
) -> Opened:
    """Open all; `held` closes it, and `look_out` is called wherever an interrupt may come between."""
    model = open_model(model_path(args), adapters=args.adapter)
    config = model.config
    settings, limits, rounds = (
        settings_from(args, config),
        limits_from(args, config),
        rounds_from(args, config),
    )
    experts = experts_from(args)
    tokenizer = model.tokenizer()
    settings.check_ids(tokenizer.vocab_size)
    template = model.fitting_template(tokenizer)
    limit = limit_of(args, model, rounds=rounds, prompt_characters=prompt_characters)
    check_files(model, anew=args.verify, look_out=look_out)
    engine = held.enter_context(
        Engine(model, num_threads=args.threads, memory_limit_bytes=limit, experts=experts)
    )
    use, screen_bytes = screen_use(args.screen, engine, rounds=rounds, prompt_characters=prompt_characters)
    speaker = Speaker(engine, num_ids=tokenizer.vocab_size, screen=use)
    room = kept_bytes(engine, rounds, screen_bytes=screen_bytes, prompt_characters=prompt_characters)
    # Under a limit, branches that wait share it with the states that a talk keeps.
    room = room if limit is None else room // 2
    session = Session(
        speaker,
        head=speaker,
        tokenizer=tokenizer,
        template=None if args.raw else template,
        settings=settings,
        limits=limits,
        system=system_from(args),
        rounds=rounds,
        exit_threshold=config.exit_threshold_default,
        num_log_probs=args.log_probs,
        kept_bytes=room,
    )
    name = plain(config.name_or_path or str(model.file.path))
    return Opened(
        session=session,
        engine=engine,
        speaker=speaker,
        name=name,
        screen_bytes=screen_bytes,
        base_digest=model.file.digest,
        adapter_digests=tuple(adapter.digest for adapter in model.adapters),
        tokenizer=tokenizer,
        template=template,
        branches=Branches(session, most_bytes=MOST_BYTES if limit is None else room),
    )


def model_path(args: argparse.Namespace) -> Path:
    """The model that the arguments name, or the shipped one."""
    if args.model is not None:
        return Path(args.model)
    if not DEMO.is_dir():
        raise ModelError(
            f"this installation holds no model of its own: there is no folder {DEMO}",
            hint="Name a model: chimera-run -m MODEL",
        )
    return DEMO
