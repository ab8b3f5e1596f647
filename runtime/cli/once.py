"""One answer to one prompt: text on stdout as it comes, or one JSON object."""

import argparse
import json
import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import asdict

from configs.errors import EXIT_DONE, EXIT_INTERRUPTED, UsageError
from configs.text.template import MAX_INPUT_CHARACTERS
from runtime.answer import Answer
from runtime.cli.numbers import numbers, raised, spoken
from runtime.cli.opening import Opened, opened
from runtime.cli.out import interruptible, write, write_answer
from runtime.cli.streams import settle_stdout

LONG_PROMPT_CHARACTERS = 20_000
"""Reading this much takes long enough for a bar."""


def answer(args: argparse.Namespace, prompt: str) -> int:
    """Answer and leave."""
    with opened(args, prompt_characters=len(prompt)) as talk:
        session = talk.session
        is_chat = not args.raw and session.is_chat
        if is_chat and len(prompt) > MAX_INPUT_CHARACTERS // 2:
            raise UsageError(
                f"a message of {len(prompt):,} characters; at most {MAX_INPUT_CHARACTERS // 2:,} are allowed",
                hint="With --raw, the model reads a text of any length.",
            )
        with interruptible(session.cancel) as interrupts, reading_shown(prompt) as progress:
            begin = session.say if is_chat else session.complete
            pieces = begin(prompt, progress=progress)
            try:
                if args.json:
                    text = "".join(pieces)
                    assert session.last is not None, "the answer is over"
                    write(json.dumps(report(talk, session.last, text)) + "\n")
                else:
                    write_answer(pieces)
            except BrokenPipeError:
                # Whoever read the answer has had enough of it.
                settle_stdout()
                session.cancel()
                list(pieces)
                finish(talk, args)
                return EXIT_DONE
        finish(talk, args)
        if args.stats:
            print(spoken(talk), file=sys.stderr)
        return EXIT_INTERRUPTED if interrupts else EXIT_DONE


def finish(talk: Opened, args: argparse.Namespace) -> None:
    """Write the talk where the arguments say so."""
    if args.save is not None:
        from runtime.cli.saving import save_as

        save_as(talk, args.save)


def report(talk: Opened, last: Answer, text: str) -> dict[str, object]:
    """The answer for a program."""
    found: dict[str, object] = {
        "model": talk.name,
        "text": text,
        "finish": last.finish,
        "stop": last.stop,
        "ids": list(last.ids),
        "stats": numbers(talk),
        "alarms": [asdict(alarm) for alarm in raised(talk)],
    }
    if talk.engine.experts is not None:
        found["experts"] = talk.engine.experts.report()
    if last.choices:
        found["log_probs"] = [
            {"id": choice.token, "log_prob": choice.log_prob, "best": [list(pair) for pair in choice.best]}
            for choice in last.choices
        ]
    return found


@contextmanager
def reading_shown(prompt: str) -> Generator[Callable[[int, int], None] | None]:
    """A bar while a long prompt is read, for people."""
    if len(prompt) < LONG_PROMPT_CHARACTERS or not sys.stderr.isatty():
        yield None
        return
    from runtime.cli.progress import share_done

    with share_done("reading the prompt") as progress:
        yield progress
