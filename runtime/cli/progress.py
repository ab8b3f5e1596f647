"""Progress bars for people, on stderr, so that stdout holds the answer alone."""

from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)


@contextmanager
def bytes_read(path: str, *, what: str) -> Generator[Callable[[int], None]]:
    """A bar over the bytes of a file; the function given takes the number of bytes read since last time."""
    columns = (_what(), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with _bar(*columns) as bar:
        file = Path(path)
        task = bar.add_task(what, total=file.stat().st_size if file.is_file() else None)
        yield lambda number: bar.advance(task, number)


@contextmanager
def bytes_done(what: str) -> Generator[Callable[[int], None]]:
    """The bytes done of a number that nobody knows; the function given takes those since last time."""
    columns = (SpinnerColumn(), _what(), DownloadColumn(), TimeElapsedColumn())
    with _bar(*columns) as bar:
        task = bar.add_task(what, total=None)
        yield lambda number: bar.advance(task, number)


@contextmanager
def share_done(what: str) -> Generator[Callable[[int, int], None]]:
    """A bar over any count; the function given takes how many are done, and all that there are."""
    columns = (_what(), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    with _bar(*columns) as bar:
        task = bar.add_task(what, total=None)

        def advance(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total)
            if done >= total:
                # What comes now has the terminal for itself.
                bar.stop()

        yield advance


@contextmanager
def steps_done(what: str) -> Generator[Callable[[int, int, str], None]]:
    """A bar over steps; the function given takes how many are done, all that there are, and words for now."""
    columns = (_what(), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), _words())
    with _bar(*columns) as bar:
        task = bar.add_task(what, total=None, words="")
        yield lambda done, total, words: bar.update(task, completed=done, total=total, words=words)


def _words() -> TextColumn:
    return TextColumn("{task.fields[words]}", markup=False)


def _what() -> TextColumn:
    """What is done; a file's name in it is no markup."""
    return TextColumn("{task.description}", markup=False)


def _bar(*columns: ProgressColumn, console: Console | None = None) -> Progress:
    """A bar that goes away when it is done. Left to itself, rich sends stdout to its console as well."""
    return Progress(
        *columns,
        console=console or Console(stderr=True),
        transient=True,
        redirect_stdout=False,
        redirect_stderr=False,
    )
