"""How an error looks: one message for people, or one JSON object for programs, always on stderr.

Stdout holds the answer or nothing, with `--json` as well as without, so that what reads it never has to tell
an answer from an apology. Only the standard library is imported: a refusal must be printable when all else is
broken.
"""

import json
import sys
from contextlib import suppress

LONGEST_LINE = 2000
"""Characters of a line that are shown; a value of megabytes is no news to whoever gave it."""


def print_error(*, kind: str, message: str, hint: str, exit_code: int, as_json: bool) -> int:
    """Print one error and return its exit code. `kind` is the name of the error's class."""
    if as_json:
        error = {"kind": kind, "message": message, "hint": hint, "exit_code": exit_code}
        text = json.dumps({"error": error})
    else:
        text = f"chimera: error: {_shown(message)}"
        if hint:
            text += f"\nhint: {_shown(hint)}"
    # A stream that cannot show a character of a user's file name must not turn one error into two.
    encoding = sys.stderr.encoding or "utf-8"
    # Nor must one that takes nothing: the exit code still tells.
    with suppress(OSError):
        print(text.encode(encoding, "backslashreplace").decode(encoding), file=sys.stderr)
    return exit_code


def _shown(text: str) -> str:
    """Lines of a message without what a terminal would obey: names and values in it are somebody's."""
    return "\n".join(_plain(line) for line in text.split("\n"))


def _plain(line: str) -> str:
    if len(line) > LONGEST_LINE:
        line = f"{line[: LONGEST_LINE // 2]} … {line[-LONGEST_LINE // 2 :]}"
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in line)
