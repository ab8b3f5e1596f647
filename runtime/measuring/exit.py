"""When tokens leave the loop while a model is measured: as its config says, or as it was asked."""

from configs.errors import UsageError
from configs.schema.model import ModelConfig


def check_exit_threshold(asked: float | None) -> None:
    """Refuse what is no share."""
    if asked is not None and not 0 <= asked <= 1:
        raise UsageError(
            f"an exit threshold of {asked}; allowed are 0 to 1",
            hint="0 is never; leave it out, and it is the config's.",
        )


def exit_threshold_of(config: ModelConfig, asked: float | None) -> float:
    """The change below which a token leaves the loop; a model without a loop has none."""
    check_exit_threshold(asked)
    return config.exit_threshold_default if asked is None else asked
