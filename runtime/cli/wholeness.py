"""A model's files are read once on a machine, to see that they are as they were written; a person is told."""

import sys
from collections.abc import Callable

from runtime.building.tensors import Tensors
from runtime.model_folder import PackedModel
from runtime.verified import check_whole

LARGE_FILE_BYTES = 200 * 2**20
"""Reading this much takes long enough for a bar."""


def check_files(
    model: PackedModel, *, anew: bool = False, look_out: Callable[[], None] | None = None
) -> None:
    """Refuse damaged files; `look_out` is called wherever an interrupt may come between."""
    files = Tensors(model).whole_files
    if sum(file.path.stat().st_size for file in files) < LARGE_FILE_BYTES or not sys.stderr.isatty():
        check_whole(files, anew=anew, progress=lambda read, total: look_out() if look_out else None)
        return
    from runtime.cli.progress import share_done

    with share_done(f"checking {model.file.path.name}, once on this machine") as progress:

        def advance(read: int, total: int) -> None:
            if look_out is not None:
                look_out()
            progress(read, total)

        check_whole(files, anew=anew, progress=advance)
