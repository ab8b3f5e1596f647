"""How a run ended, for programs and for people."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chimera.train.telling import duration
from chimera.train.validation import Score


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """How a run ended."""

    model: Path
    """The folder of the trained model."""
    step: int
    num_steps: int
    tokens: int
    loss: float | None
    """Of the last step; None where no step was left to take."""
    validation: Score | None
    seconds: float
    interrupted: bool = False
    """Whether somebody asked for an end."""
    plots: tuple[Path, ...] = ()

    @property
    def complete(self) -> bool:
        """Whether the run has had all its steps."""
        return self.step >= self.num_steps

    def as_json(self) -> dict[str, Any]:
        """For programs."""
        return {
            "model": str(self.model),
            "step": self.step,
            "num_steps": self.num_steps,
            "complete": self.complete,
            "interrupted": self.interrupted,
            "tokens": self.tokens,
            "loss": self.loss,
            "validation": None if self.validation is None else self.validation.as_json(),
            "seconds": round(self.seconds, 1),
            "plots": [str(path) for path in self.plots],
        }

    def words(self) -> str:
        """For people."""
        how_far = "done" if self.complete else f"stopped at step {self.step:,} of {self.num_steps:,}"
        loss = "" if self.loss is None else f", loss {self.loss:.4f}"
        lines = [f"{how_far}: {self.tokens:,} tokens in {duration(self.seconds)}{loss}"]
        if self.validation is not None:
            lines.append(f"validation: {self.validation.bits_per_byte:.4f} bits per byte")
            if len(self.validation.by_source) > 1:
                lines += [f"  {name}: {bits:.4f}" for name, bits in self.validation.by_source.items()]
        lines.append(f"model: {self.model}")
        lines += [f"curve: {path}" for path in self.plots]
        if not self.complete:
            lines.append("The same command with --resume goes on.")
        return "\n".join(lines)
