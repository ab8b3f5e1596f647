"""What a person sees of a run: a live line and a bar on a terminal, plain lines now and then when piped.

It goes to stderr; stdout is for the answer. An alarm gets a line of its own, once, and stays visible in the
running line for as long as it lasts.
"""

import math
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from chimera.train.meter import Reading
from chimera.train.telling import Display, Silent, bits, bytes_of, duration, line_of

LIVE_SECONDS = 0.1
LINE_SECONDS = 10.0


def display_for(console: Console, *, quiet: bool = False) -> Display:
    """The display that suits a stream: live on a terminal, lines elsewhere, or none."""
    if quiet:
        return Silent()
    return LiveDisplay(console) if console.is_terminal else LineDisplay(console)


class _Alarms:
    """Which alarm is new, so that one that lasts is told once."""

    def __init__(self) -> None:
        self._standing: tuple[str, ...] = ()

    def news(self, reading: Reading) -> list[str]:
        """The alarms of a step that the step before did not have."""
        now = alarms_of(reading)
        new = [text for text in now if text not in self._standing]
        self._standing = now
        return [f"step {reading.step}: {text}" for text in new]


def alarms_of(reading: Reading) -> tuple[str, ...]:
    """What a person has to know of a step."""
    uneven = "the experts are out of balance over the whole window" if reading.unbalanced else ""
    return tuple(text for text in (reading.alarm, uneven) if text)


class LineDisplay:
    """Plain lines for a file or a pipe: the first step, the last, one every few seconds, and every alarm."""

    def __init__(self, console: Console, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._console, self._clock = console, clock
        self._shown_at: float | None = None
        self._alarms = _Alarms()

    def update(self, reading: Reading) -> None:
        """Print the step if it is time."""
        for alarm in self._alarms.news(reading):
            self.say(f"ALARM {alarm}")
        now = self._clock()
        last = reading.step >= reading.num_steps
        if self._shown_at is None or last or now - self._shown_at >= LINE_SECONDS:
            self.say(line_of(reading))
            self._shown_at = now

    def say(self, text: str) -> None:
        """Print a line as it is, however long."""
        self._console.print(text, soft_wrap=True, markup=False, highlight=False, emoji=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class LiveDisplay:
    """A bar and a line that change in place, under the lines that stay."""

    def __init__(self, console: Console, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._console, self._clock = console, clock
        self._live = Live(console=console, auto_refresh=False, redirect_stdout=False, redirect_stderr=False)
        self._shown_at = -LIVE_SECONDS
        self._alarms = _Alarms()

    def update(self, reading: Reading) -> None:
        """Draw the step, unless the last one was drawn a moment ago."""
        news = self._alarms.news(reading)
        for alarm in news:
            self._live.console.print(Text(alarm, style="bold red"))
        now = self._clock()
        if news or now - self._shown_at >= LIVE_SECONDS or reading.step >= reading.num_steps:
            self._live.update(_picture(reading, width=self._live.console.width), refresh=True)
            self._shown_at = now

    def say(self, text: str) -> None:
        """Print a line above the bar."""
        self._live.console.print(Text(text))

    def __enter__(self) -> Self:
        self._live.start(refresh=False)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.stop()


def _picture(reading: Reading, *, width: int) -> Group:
    """The bar with how far it is, and below it the figures, one that alarms in red."""
    done = reading.step / reading.num_steps
    row = Table.grid(padding=(0, 1), expand=True)
    row.add_column(ratio=1)
    row.add_column(justify="right", no_wrap=True)
    left = f"{done:.1%}  {reading.step:,}/{reading.num_steps:,}  {duration(reading.seconds_left)} left"
    row.add_row(ProgressBar(total=reading.num_steps, completed=reading.step), left)
    cells = [
        Text(f"loss {reading.smooth_loss:.4f}", style="bold" if math.isfinite(reading.loss) else "bold red"),
        *(Text(text, style="bold") for text in bits(reading)),
        Text(f"{reading.tokens_per_s:,.0f} tokens/s"),
        Text(f"MFU {reading.model_flops_used:.1%}"),
        Text(bytes_of(reading.memory_bytes)),
        Text(f"gradient {reading.grad_norm:.3g}", style="bold red" if reading.alarm else ""),
        Text(f"rate {reading.rate:.2e}", style="dim"),
    ]
    if reading.expert_violation is not None:
        style = "bold red" if reading.unbalanced else "dim"
        cells.append(Text(f"busiest expert +{reading.expert_violation:.0%}", style=style))
    return Group(row, Text("  ").join(_fitting(cells, width)))


def _fitting(cells: list[Text], width: int) -> list[Text]:
    """The cells that a line holds; what a person misses least goes first, and an alarm never."""
    for word in ("rate", "MFU", "busiest", "GB", "MB", "gradient"):
        if sum(len(cell) + 2 for cell in cells) - 2 <= width:
            break
        cells = [cell for cell in cells if word not in cell.plain or "red" in str(cell.style)]
    return cells
