"""Columns of plain text, and numbers as people read them."""

import sys
from collections.abc import Sequence

ASCII_FORMS = str.maketrans({"×": "x", "–": "-", "→": ">", "µ": "u", "…": "~"})
"""For a stream that cannot carry such signs."""


def table(header: Sequence[str], rows: Sequence[Sequence[str]], *, indent: int = 2) -> list[str]:
    """Lines with columns at the right, or at the left where the header says `<`; no empty columns."""
    titles = [title.removeprefix("<") for title in header]
    kept = [place for place in range(len(header)) if any(row[place] for row in rows)]
    lines: list[str] = []
    for row in [titles, *rows] if any(titles) else rows:
        cells: list[str] = []
        for place in kept:
            width = max(len(titles[place]), *(len(other[place]) for other in rows))
            at_left = header[place].startswith("<")
            cells.append(row[place].ljust(width) if at_left else row[place].rjust(width))
        lines.append((" " * indent + "  ".join(cells)).rstrip())
    return lines


def say(lines: Sequence[str]) -> None:
    """Print lines, as far as stdout can show them."""
    text = "\n".join(lines)
    encoding = sys.stdout.encoding or "utf-8"
    if text.encode(encoding, "replace").decode(encoding) != text:
        text = text.translate(ASCII_FORMS).encode(encoding, "backslashreplace").decode(encoding)
    print(text)


def plain(text: str) -> str:
    """A text of somebody's on one line, without characters that a terminal would obey."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def size(num_bytes: float) -> str:
    """Bytes, with three digits or so."""
    for name, unit in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if num_bytes >= unit:
            return f"{num_bytes / unit:,.{1 if num_bytes < 100 * unit else 0}f} {name}"
    return f"{num_bytes:.0f} B"


def of(number: int, word: str) -> str:
    """So many of something."""
    return f"{number:,} {word}" if number == 1 else f"{number:,} {word}s"


def rate(per_second: float | None) -> str:
    """Something a second; nothing where it is not known."""
    if per_second is None:
        return ""
    return f"{per_second:,.{0 if per_second >= 100 else 1}f}"


def count(number: float) -> str:
    """A number of parameters."""
    for name, unit in (("B", 1e9), ("M", 1e6), ("K", 1e3)):
        if number >= unit:
            return f"{number / unit:.3g}{name}" if number < 100 * unit else f"{number / unit:.0f}{name}"
    return f"{number:.0f}"
