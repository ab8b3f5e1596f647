"""What `chimera batch` does with its arguments: it opens the model, answers, and tells how it went."""

import argparse
import hashlib
import json
import sys
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from time import perf_counter

from configs.errors import EXIT_DONE, EXIT_FAILED, EXIT_INTERRUPTED, UsageError
from configs.schema.model import ModelConfig
from runtime.cli.choices import (
    check_arguments,
    limits_from,
    parsed_size,
    rounds_from,
    settings_from,
    system_from,
)
from runtime.cli.compiling import compiling_told
from runtime.cli.experts_numbers import tell_ahead_ended
from runtime.cli.experts_options import experts_from
from runtime.cli.opening import model_path
from runtime.cli.out import interrupted_late, interruptible
from runtime.cli.tables import of
from runtime.cli.wholeness import check_files
from runtime.engine import SLICE_TOKENS, Engine
from runtime.model_folder import PackedModel, open_model, template_digest
from runtime.sizing import check_fits
from runtime.streams.about import SavedSampling
from runtime.streams.batch import Progress, Tally, answer_all
from runtime.streams.jobs import Defaults
from runtime.streams.scheduler import Scheduler, watchdog_of
from runtime.turns import end_ids

SEED = 0
"""Every run draws the same unless told otherwise: a run that goes on must not draw anew."""


def answer_file(args: argparse.Namespace) -> int:
    """Answer every line of the file that the arguments name."""
    for name, value in {"raw": False, "log_probs": None, "load": None, "fork": None, "save": None}.items():
        setattr(args, name, value)
    check_arguments(args)
    answers = _checked_files(args)
    args.seed = SEED if args.seed is None else args.seed
    with interrupted_late() as look_out, compiling_told(look_out):
        model = open_model(model_path(args), adapters=args.adapter)
        defaults = _defaults(args, model)
        streams = _streams(args, model.config)
        limit = None if args.memory_limit is None else parsed_size(args.memory_limit)
        check_files(model, anew=args.verify, look_out=look_out)
        engine = Engine(
            model,
            num_threads=args.threads,
            memory_limit_bytes=limit,
            num_streams=streams,
            slice_tokens=max(SLICE_TOKENS, streams),
            experts=experts_from(args),
        )
    with engine:
        if limit is not None:
            check_fits(replace(engine.need(defaults.rounds), streams=streams), limit_bytes=limit)
        started = perf_counter()
        ends = end_ids(defaults.tokenizer, defaults.template)
        cancelled = False

        def cancel() -> None:
            nonlocal cancelled
            cancelled = True

        with interruptible(cancel) as met, _bar(args) as progress:
            tally = answer_all(
                Scheduler(
                    engine,
                    tokenizer=defaults.tokenizer,
                    ends=ends,
                    watchdog=watchdog_of(model.config) if args.watchdog else None,
                ),
                args.prompts,
                answers,
                defaults=defaults,
                run=_run_name(engine, defaults),
                is_cancelled=lambda: cancelled,
                progress=progress,
            )
        _tell(args, tally, answers, seconds=perf_counter() - started)
        tell_ahead_ended(engine)
    if met:
        return EXIT_INTERRUPTED
    return EXIT_FAILED if tally.num_failed else EXIT_DONE


def _checked_files(args: argparse.Namespace) -> Path:
    """Where the answers go, once it is known that both files can be what they are said to be."""
    prompts: Path = args.prompts
    if not prompts.is_file():
        raise UsageError(f"{prompts} is no file of prompts", hint='A line is, as in: {"prompt": "Hello"}')
    answers: Path = prompts.with_suffix(".answers.jsonl") if args.out is None else args.out
    if answers.resolve() == prompts.resolve():
        raise UsageError(f"{answers} holds the prompts", hint="Name another file for the answers.")
    if answers.is_dir() or not answers.parent.is_dir():
        raise UsageError(f"answers cannot be written to {answers}", hint="Name a file in a folder that is.")
    return answers


def _defaults(args: argparse.Namespace, model: PackedModel) -> Defaults:
    config, tokenizer = model.config, model.tokenizer()
    settings = settings_from(args, config)
    settings.check_ids(tokenizer.vocab_size)
    return Defaults(
        tokenizer=tokenizer,
        template=model.fitting_template(tokenizer),
        settings=settings,
        limits=limits_from(args, config),
        rounds=rounds_from(args, config),
        exit_threshold=config.looping.adaptive_exit_threshold if config.looping.enabled else 0.0,
        system=system_from(args),
    )


def _streams(args: argparse.Namespace, config: ModelConfig) -> int:
    if args.streams is None:
        return config.deployment.max_streams
    if not 1 <= args.streams <= 1024:
        raise UsageError(f"{args.streams} answers at a time; 1 to 1024 are allowed")
    return args.streams


def _run_name(engine: Engine, defaults: Defaults) -> str:
    """What the answers depend on beside the prompts, and on nothing else."""
    template = "" if defaults.template is None else template_digest(defaults.template.source)
    words = (
        engine.digest,
        defaults.tokenizer.digest,
        template,
        SavedSampling.of(defaults.settings),
        defaults.limits,
        defaults.rounds,
        defaults.exit_threshold,
        defaults.system,
    )
    return hashlib.sha256("\n".join(map(repr, words)).encode()).hexdigest()


def _bar(args: argparse.Namespace) -> AbstractContextManager[Progress | None]:
    """A bar for people."""
    if args.json or not sys.stderr.isatty():
        return nullcontext(None)
    from runtime.cli.progress import share_done

    return share_done("answering")


def _tell(args: argparse.Namespace, tally: Tally, answers: Path, *, seconds: float) -> None:
    rate = tally.answer_tokens / seconds if seconds > 0 else 0.0
    found = {
        "answers": str(answers),
        "found": tally.num_found,
        "answered": tally.num_answered,
        "failed": tally.num_failed,
        "prompt_tokens": tally.prompt_tokens,
        "answer_tokens": tally.answer_tokens,
        "seconds": round(seconds, 3),
        "answer_tps": round(rate, 1),
    }
    if args.json:
        print(json.dumps(found))
        return
    before = f" ({tally.num_found:,} were there)" if tally.num_found else ""
    failed = f", {tally.num_failed:,} failed" if tally.num_failed else ""
    print(
        f"{of(tally.num_answered, 'answer')}{before}{failed}: "
        f"{of(tally.answer_tokens, 'token')}, {rate:,.0f} a second",
        file=sys.stderr,
    )
