"""Where a prompt comes from: the command line, a file, or what is piped in."""

import argparse
import os
import sys
from pathlib import Path

from configs.errors import UsageError

MAX_PROMPT_BYTES = 64 * 2**20
NO_TEXT_HINT = "Give a prompt, or talk: chimera-run"


def words_of(args: argparse.Namespace) -> str | None:
    """The prompt of the command line, if one stands there."""
    if args.prompt is not None and args.prompt_option is not None:
        raise UsageError("two prompts, one of them after -p", hint="Give one.")
    words = args.prompt if args.prompt_option is None else args.prompt_option
    if words is None:
        return None
    words = argument_text(words, what="the prompt")
    if args.file is None and not args.raw and not words.strip():
        raise UsageError("the prompt holds no text to answer", hint=NO_TEXT_HINT)
    return words


def read_prompt(args: argparse.Namespace, words: str | None) -> str | None:
    """The whole prompt, files and pipes read; None where there is none and a person sits at the terminal."""
    if args.file is None:
        if words is not None or sys.stdin.isatty():
            return words
        return _read_stdin()
    text = _read_stdin() if args.file == "-" else _read_file(Path(args.file))
    return text if words is None else f"{words}\n\n{text}"


def _read_stdin() -> str:
    return _decoded(sys.stdin.buffer.read(MAX_PROMPT_BYTES + 1), what="stdin")


def _read_file(path: Path) -> str:
    with path.open("rb") as file:
        return _decoded(file.read(MAX_PROMPT_BYTES + 1), what=str(path))


def _decoded(data: bytes, *, what: str) -> str:
    if len(data) > MAX_PROMPT_BYTES:
        raise UsageError(
            f"{what} holds more than {MAX_PROMPT_BYTES:,} bytes, the most that a prompt may have",
            hint="Give it in parts, in one talk.",
        )
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise UsageError(
            f"{what} is not UTF-8: byte {error.start} is 0x{data[error.start]:02x}",
            hint="Convert it, as in: iconv -f latin1 -t utf-8",
        ) from None
    if not text.strip():
        raise UsageError(f"{what} holds no text to answer", hint=NO_TEXT_HINT)
    # A file's last newline ends its last line and says nothing.
    return text.removesuffix("\n").removesuffix("\r")


def argument_text(words: str, *, what: str) -> str:
    """Words of the command line. Where the locale could not read them, their bytes are read as UTF-8."""
    try:
        return os.fsencode(words).decode("utf-8")
    except UnicodeDecodeError as error:
        raise UsageError(
            f"{what} is not UTF-8: byte {error.start} is 0x{error.object[error.start]:02x}",
            hint="Convert it, as in: iconv -f latin1 -t utf-8",
        ) from None
