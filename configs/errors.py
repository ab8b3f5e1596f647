"""The errors that a user may meet, each with the exit code that the command line gives for it.

A message says what is wrong, what was found, what is allowed and what to do next. `assert` is kept for the
house's own invariants; whatever a user, a file or a machine can cause is one of these.
"""

EXIT_DONE = 0
EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_MODEL = 3
EXIT_MEMORY = 4
EXIT_INTERRUPTED = 130


class ChimeraError(Exception):
    """Something failed. `hint` is the next step, printed on a line of its own."""

    exit_code: int = EXIT_FAILED

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\n{self.hint}" if self.hint else self.message


class UsageError(ChimeraError):
    """A command or a call was given arguments that cannot work."""

    exit_code = EXIT_USAGE


class ModelError(ChimeraError):
    """A model file or folder is missing, damaged, foreign or not valid."""

    exit_code = EXIT_MODEL


class ConfigError(ModelError):
    """A config.json is not valid; the message lists every problem found."""


class ContainerError(ModelError):
    """A `.b158` file is truncated, damaged, hostile or of an unknown version."""


class ClusterError(ModelError):
    """A file of experts or the manifest of such files is missing, damaged, foreign or of another version."""


class TokenizerError(ModelError):
    """A tokenizer file or chat template cannot be used, or text cannot be encoded with it."""


class StateError(ModelError):
    """A saved state is missing, damaged, hostile, or of another model, tokenizer, template or version."""


class AdapterError(ModelError):
    """A log of fine-tuning is missing, damaged, of another model or of another version."""


class DataError(ChimeraError):
    """A record of a data file is malformed; the message names the file and the line."""


class DiskError(ChimeraError):
    """An expert could not be read from the disk, and the stream that needed it has stopped."""


class NotEnoughMemory(ChimeraError):
    """What was asked for does not fit this machine, or the limit that the user set."""

    exit_code = EXIT_MEMORY


class MissingExtra(ChimeraError):
    """An optional dependency is not installed; the hint is the command that installs it."""

    def __init__(self, *, package: str, extra: str, purpose: str) -> None:
        super().__init__(
            f"{purpose} needs the package {package!r}, which is not installed",
            hint=f'Install it with: pip install "chimera-edge[{extra}]"',
        )


class ForeignPackage(ChimeraError):
    """A package of somebody else's hides one of ours on Python's path."""


class KernelError(ChimeraError):
    """A compiled kernel gave a wrong result on this machine, or none could be compiled."""
