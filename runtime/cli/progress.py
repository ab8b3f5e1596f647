"""A progress bar for people, on stderr, so that stdout holds the answer alone."""

from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn


@contextmanager
def bytes_read(path: str, *, what: str) -> Generator[Callable[[int], None]]:
    """A bar over the bytes of a file; the function given takes the number of bytes read since last time."""
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        file = Path(path)
        task = bar.add_task(what, total=file.stat().st_size if file.is_file() else None)
        yield lambda number: bar.advance(task, number)
