"""The adapters of a model's folder, as `chimera inspect` lists them: what each is, and whether it fits."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from configs.errors import AdapterError, ModelError
from quant.adapter import Adapter, read_adapter
from quant.container import open_b158
from runtime.adapting.replay import check_adapter
from runtime.model_folder import find_weights, own_adapters

HOLDS, REFUSED, NOT_COMPARED = "holds", "refused", "not compared"


def adapters_of(folder: Path) -> list[dict[str, Any]]:
    """A row for each, in the order in which they are applied.

    One that the model would refuse is told as such: who looks into a folder wants to know of all of them.
    """
    paths = own_adapters(folder)
    base, why = _base_of(folder) if paths else (None, "")
    before: list[Adapter] = []
    return [_row(path, base=base, why=why, before=before) for path in paths]


def _base_of(folder: Path) -> tuple[str | None, str]:
    """The digest of the weights, or why there is none to compare with."""
    try:
        with open_b158(find_weights(folder)) as file:
            return file.digest, ""
    except ModelError as error:
        return None, error.message


def _row(path: Path, *, base: str | None, why: str, before: list[Adapter]) -> dict[str, Any]:
    """An adapter, which is behind those `before` it, and before the next one."""
    row: dict[str, Any] = {
        "file": path.name,
        "bytes": path.stat().st_size,
        **dict.fromkeys(("method", "steps", "base", "digest")),
    }
    try:
        adapter = read_adapter(path)
    except AdapterError as error:
        return {**row, "verdict": REFUSED, "note": error.message}
    header = adapter.header
    row |= {
        "method": header.method,
        "steps": adapter.num_steps,
        "base": header.base,
        "digest": adapter.digest,
    }
    verdict, note = (NOT_COMPARED, why) if base is None else _judged(adapter, base=base, before=before)
    before.append(adapter)
    return {**row, "verdict": verdict, "note": note}


def _judged(adapter: Adapter, *, base: str, before: Sequence[Adapter]) -> tuple[str, str]:
    try:
        check_adapter(adapter, base=base, before=before)
    except AdapterError as error:
        return REFUSED, error.message
    return HOLDS, ""
