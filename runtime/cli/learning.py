"""What `chimera finetune` does: arguments are judged first, then the model is opened, then it learns."""

import argparse
import hashlib
import json
import os
import sys
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import fields
from math import isfinite
from pathlib import Path
from typing import Any

from configs.errors import EXIT_DONE, AdapterError, DataError, UsageError
from configs.text.records import OnError
from quant.adapter import SUFFIX, Adapter, read_adapter
from quant.adapter_log import check_free
from quant.pool import check_threads
from runtime.adapting.learnt import told_by
from runtime.cli.compiling import compiling_told
from runtime.cli.finetune import DEFAULT_METHOD
from runtime.cli.opening import model_path
from runtime.cli.tables import of, plain, say, size
from runtime.finetune.items import Words, parted, read_data
from runtime.finetune.method import (
    Exchange,
    Item,
    Method,
    MethodOptions,
    OwnOptions,
    load_exchange,
    load_method,
)
from runtime.finetune.run import Run, Task, Tick, settings_of
from runtime.finetune.scorer import Scorer
from runtime.finetune.settings import RunSettings
from runtime.finetune.workers import TORCHRUN, check_place, worker_path
from runtime.randomness import SEED_LIMIT
from runtime.system import peak_bytes

TOLD_BY_LOG = ("method", "seed", "epsilon", "rounds", *(field.name for field in fields(RunSettings)))
"""What a log that is gone on with says itself; only more steps may be asked for."""


def learn(args: argparse.Namespace) -> int:
    """Begin a run, or go on with one."""
    path = _checked_path(args)
    scorer = None if args.scorer is None else Scorer(args.scorer)
    before = None if args.resume is None else read_adapter(path)
    settings = _settings(args, before)
    options = _options(args, before)
    name = _method_name(args, before)
    on_error: OnError = "skip" if args.skip_bad else "stop"
    with compiling_told():
        method = _prepared(name, options, before)
    try:
        task = _task(args, method, seed=options.seed, scorer=scorer, on_error=on_error)
        exchange = None
        if args.workers is not None:
            exchange = load_exchange(run=f"{name} {method.base} {options.seed}", where=args.workers)
        adapter = _run(args, method, task, settings, name=name, path=path, exchange=exchange)
    except KeyboardInterrupt:
        if path.exists():
            print(f"chimera: go on with: --resume {plain(str(path))}", file=sys.stderr)
        raise
    finally:
        method.close()
    _tell(args, adapter)
    return EXIT_DONE


def _checked_path(args: argparse.Namespace) -> Path:
    """Where the log is; what cannot work with any model is refused."""
    logs: list[Path] = [one for one in (args.out, args.resume) if one is not None]
    if len(logs) != 1:
        raise UsageError(
            f"{'both' if logs else 'neither'} of --out, for a new adapter, and --resume, for one to go on "
            "with; one of them is needed",
            hint=f"As in: chimera finetune --data answers.jsonl --out answers{SUFFIX}",
        )
    if args.data is None:
        raise UsageError("there is no data", hint="Add --data FILE.")
    path = logs[0]
    if args.workers is not None:
        check_place(args.workers, os.environ)
    if args.workers == TORCHRUN:
        path = worker_path(path, os.environ)
    if path.suffix != SUFFIX:
        raise UsageError(f"{path} is no name of an adapter; they end in {SUFFIX}")
    if not path.parent.is_dir():
        raise UsageError(f"there is no folder {path.parent}", hint="Make it first.")
    if args.resume is None:
        check_free(path)
    if args.resume is not None:
        given = [name for name in TOLD_BY_LOG if name != "steps" and getattr(args, name, None) is not None]
        if given or args.set:
            raise UsageError(
                f"a run that goes on has the {', '.join([*given, *args.set])} that it began with",
                hint="Leave that out; --steps may be given.",
            )
    if args.threads is not None:
        check_threads(args.threads)
    if args.rounds is not None and args.rounds < 1:
        raise UsageError(f"{args.rounds} rounds; a model takes 1 at least")
    if args.seed is not None and not 0 <= args.seed < SEED_LIMIT:
        raise UsageError(f"seed {args.seed}; allowed are whole numbers from 0 to 2^64 - 1")
    if args.longest < 2:
        raise UsageError(f"records of {args.longest} tokens; 2 at least are needed")
    if args.val and args.val_share:
        raise UsageError("--val and --val-share both say what is looked at", hint="Give one of them.")
    return path


def _settings(args: argparse.Namespace, before: Adapter | None) -> RunSettings:
    if before is not None:
        return settings_of(before, steps=args.steps)
    given = {field.name: getattr(args, field.name, None) for field in fields(RunSettings)}
    return RunSettings(**{name: value for name, value in given.items() if value is not None})


def _method_name(args: argparse.Namespace, before: Adapter | None) -> str:
    return (args.method or DEFAULT_METHOD) if before is None else before.header.method


def _options(args: argparse.Namespace, before: Adapter | None) -> MethodOptions:
    """What the method is prepared with; on going on, by what its log says of it."""
    told: dict[str, str] = {}
    for words in args.set:
        name, equals, value = words.partition("=")
        if not equals:
            raise UsageError(f"--set {words!r}; expected NAME=VALUE")
        told[name] = value
    seed, epsilon, rounds = args.seed or 0, args.epsilon, args.rounds
    if before is not None:
        seed = before.header.seed
        own = _own_options(before)
        epsilon, told, rounds = own.epsilon, dict(own.settings), own.rounds
    return MethodOptions(
        model=model_path(args),
        seed=seed,
        adapters=tuple(args.adapter),
        epsilon=epsilon,
        rounds=rounds,
        num_threads=args.threads,
        settings=told,
    )


def _own_options(before: Adapter) -> OwnOptions:
    """The part that is the method's own, as a log says it."""
    with told_by(before):
        return load_method(before.header.method).options_of(before.header.settings)


def _prepared(name: str, options: MethodOptions, before: Adapter | None) -> Method:
    """The method with its model. What is wrong with options that a log says is wrong with the log."""
    try:
        return load_method(name).prepare(options)
    except UsageError as error:
        if before is None:
            raise
        raise AdapterError(
            f"{before.path} cannot be gone on with: {error.message}", hint=error.hint
        ) from error


def _task(
    args: argparse.Namespace, method: Method, *, seed: int, scorer: Scorer | None, on_error: OnError
) -> Task:
    words = Words(tokenizer=method.tokenizer, template=method.template, longest=args.longest)
    data = read_data(args.data, words, on_error=on_error)
    skipped = data.report.skipped
    items: list[Item] = list(data.items)
    validation: list[Item] = []
    if args.val:
        looked_at = read_data(args.val, words, on_error=on_error)
        validation, skipped = list(looked_at.items), skipped + looked_at.report.skipped
    elif args.val_share:
        items, validation = parted(items, share=args.val_share, seed=seed)
    if args.patience and not validation:
        raise DataError("--patience looks at validation data, and there is none", hint="Add --val FILE.")
    if skipped:
        were = "was" if skipped == 1 else "were"
        print(f"chimera: {of(skipped, 'bad record')} {were} left out", file=sys.stderr)
    # Which part of the data is learnt from is a part of what it is.
    words_of_data = f"{data.digest} {len(items)}".encode()
    return Task(
        items=items,
        validation=validation,
        digest=hashlib.sha256(words_of_data).hexdigest(),
        seed=seed,
        scorer=scorer,
    )


def _run(
    args: argparse.Namespace,
    method: Method,
    task: Task,
    settings: RunSettings,
    *,
    name: str,
    path: Path,
    exchange: Exchange | None,
) -> Adapter:
    with _bar() as progress:
        run = Run(method, task, settings, name=name, exchange=exchange, progress=progress)
        return run.begin(path) if args.resume is None else run.go_on(path)


def _bar() -> AbstractContextManager[Callable[[Tick], None] | None]:
    """What a person sees; a pipe gets nothing."""
    return _ticks() if sys.stderr.isatty() else nullcontext()


@contextmanager
def _ticks() -> Generator[Callable[[Tick], None]]:
    from runtime.cli.progress import steps_done

    with steps_done("learning") as advance:
        yield lambda tick: advance(tick.step, tick.steps, _words(tick))


def _words(tick: Tick) -> str:
    look = ""
    if tick.look is not None:
        look = f", validation {tick.look.loss:.3f}"
        look += "" if tick.look.score is None else f", score {tick.look.score:.3f}"
    return f"loss {tick.loss:.3f}{look}, {size(peak_bytes())}"


def _tell(args: argparse.Namespace, adapter: Adapter) -> None:
    report = told(adapter)
    if args.json:
        json.dump(report | {"peak_bytes": peak_bytes()}, sys.stdout, indent=2, allow_nan=False)
        print()
        return
    lines = [f"{plain(str(adapter.path))}: {of(report['steps'], 'step')}, {size(report['file_bytes'])}"]
    if report["steps"]:
        lines.append(f"loss        {shown(report['first_loss'])} > {shown(report['last_loss'])}")
    looks = report["looks"]
    if looks:
        lines.append(f"validation  {shown(looks[0]['loss'])} > {shown(looks[-1]['loss'])}")
    if looks and looks[-1]["score"] is not None:
        lines.append(f"score       {shown(looks[0]['score'])} > {shown(looks[-1]['score'])}")
    lines.append(f"memory      {size(peak_bytes())}")
    say(lines)


def told(adapter: Adapter) -> dict[str, Any]:
    """What there is to tell of an adapter, ready for JSON."""
    header = adapter.header
    losses = [record.loss for record in adapter.steps]
    some = max(1, min(50, len(losses) // 4))
    return {
        "file": str(adapter.path),
        "file_bytes": adapter.whole_bytes,
        "torn_bytes": adapter.torn_bytes,
        "digest": adapter.digest,
        "method": header.method,
        "base": header.base,
        "beneath": list(header.beneath),
        "seed": header.seed,
        "data": header.data,
        "settings": dict(header.settings),
        "version": header.version,
        "steps": len(losses),
        "first_loss": _number(sum(losses[:some]) / some) if losses else None,
        "last_loss": _number(sum(losses[-some:]) / some) if losses else None,
        "looks": [
            {"step": look.step, "loss": _number(look.loss), "score": _number(look.score)}
            for look in adapter.looks
        ],
    }


def shown(number: float | None) -> str:
    """A loss or a score for people."""
    return "no number" if number is None else f"{number:.4f}"


def _number(found: float | None) -> float | None:
    """A number as JSON can hold it: a log may have others."""
    return found if found is not None and isfinite(found) else None
