"""What a run tells its progress to, and the words for it; nothing here needs a terminal."""

from types import TracebackType
from typing import Protocol, Self

from chimera.train.meter import Reading


class Display(Protocol):
    """What a run tells its progress to. It is a context: leaving it gives the terminal back."""

    def update(self, reading: Reading) -> None:
        """Show a step."""
        ...

    def say(self, text: str) -> None:
        """Show a line that stays."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class Silent:
    """Says nothing, for programs that read the log."""

    def update(self, reading: Reading) -> None:
        """Show nothing."""

    def say(self, text: str) -> None:
        """Show nothing."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


def line_of(reading: Reading) -> str:
    """One step in one line."""
    parts = [
        f"step {reading.step:,}/{reading.num_steps:,}",
        f"loss {reading.smooth_loss:.4f}",
        *bits(reading),
        f"{reading.tokens_per_s:,.0f} tokens/s",
        f"MFU {reading.model_flops_used:.1%}",
        f"{bytes_of(reading.memory_bytes)}",
        f"gradient {reading.grad_norm:.3g}",
        f"rate {reading.rate:.2e}",
    ]
    if reading.expert_violation is not None:
        parts.append(f"busiest expert +{reading.expert_violation:.0%}")
    parts.append(f"{duration(reading.seconds_left)} left")
    return "  ".join(parts)


def duration(seconds: float) -> str:
    """A time as a clock shows it: 1:02:03, or 3d 4:05:06."""
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    days, hour = divmod(hours, 24)
    return f"{days}d {hour}:{minute:02}:{second:02}" if days else f"{hour}:{minute:02}:{second:02}"


def bytes_of(number: int) -> str:
    """A number of bytes in MB or GB."""
    return f"{number / 1e9:.1f} GB" if number >= 1e9 else f"{number / 1e6:.0f} MB"


def bits(reading: Reading) -> list[str]:
    if reading.smooth_bits_per_byte is None:
        return []
    return [f"{reading.smooth_bits_per_byte:.3f} bits/byte"]
