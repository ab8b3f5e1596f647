"""What memory an engine takes, and what a limit leaves of it."""

from pathlib import Path
from typing import TYPE_CHECKING

from runtime.building.tensors import Tensors
from runtime.building.workspace import Workspace
from runtime.sizing import Need, check_fits
from runtime.system import bytes_beside

if TYPE_CHECKING:
    from runtime.experts.opened import OpenExperts


class Footprint:
    """The parts of an engine that take memory, and the limit."""

    def __init__(self, tensors: Tensors, workspace: Workspace, *, limit_bytes: int | None) -> None:
        self._tensors, self._workspace = tensors, workspace
        self.limit_bytes = limit_bytes
        """What this process may take, with all that it runs beside the engine; None is no limit."""
        self.experts: OpenExperts | None = None
        """Those that lie on disk, once they are open."""
        self._program_bytes = 0
        self.measure_program()

    @property
    def num_bytes(self) -> int:
        """Memory of the mapped files and of all buffers, without states."""
        return self._files_bytes + self.buffer_bytes

    @property
    def buffer_bytes(self) -> int:
        """Memory of all buffers, which streams share, of copied weights, and of experts from disk."""
        experts = 0 if self.experts is None else self.experts.num_bytes
        return self._workspace.num_bytes + self._tensors.laid_bytes + experts

    def measure_program(self) -> None:
        """See what the process has now without the model's files; it is read where there is a limit."""
        if self.limit_bytes is not None:
            self._program_bytes = bytes_beside(self._files)

    def need(self, state_bytes: int) -> Need:
        """Memory that this process takes with one stream of such a state, once all of the files was read."""
        return Need(
            files_bytes=self._files_bytes,
            state_bytes=state_bytes,
            streams=1,
            buffer_bytes=self.buffer_bytes,
            program_bytes=self._program_bytes,
        )

    def check(self, state_bytes: int) -> int | None:
        """Refuse a stream of such a state under the limit; gives the bytes that are left under it."""
        limit = self.limit_bytes
        return None if limit is None else check_fits(self.need(state_bytes), limit_bytes=limit)

    def left_bytes(self, state_bytes: int) -> int | None:
        """What the limit leaves beside all that was counted so far."""
        limit = self.limit_bytes
        return None if limit is None else limit - self.need(state_bytes).total_bytes

    @property
    def _files(self) -> list[Path]:
        return [file.path for file in self._tensors.files]

    @property
    def _files_bytes(self) -> int:
        return sum(path.stat().st_size for path in self._files)
