"""How an engine's ternary weights lie: as in the file, or copied into what was measured to be faster here."""

from quant.choice import LayoutChoice, best_layout
from quant.cpu import forced_layout
from quant.layout_names import LAYOUTS
from quant.pool import check_threads
from quant.pool_threads import default_threads
from runtime import system
from runtime.building.tensors import Tensors


def lay_out(
    tensors: Tensors, *, num_threads: int | None, memory_limit_bytes: int | None = None
) -> LayoutChoice:
    """Choose, and have `tensors` copy what products will read. Under a limit of memory nothing is copied."""
    found = _chosen(tensors, num_threads=num_threads, is_limited=memory_limit_bytes is not None)
    tensors.layout = found.layout
    return found


def _chosen(tensors: Tensors, *, num_threads: int | None, is_limited: bool) -> LayoutChoice:
    num_bytes = tensors.ternary_bytes
    if num_bytes == 0:
        return _as_in_file("no matrix is in tiles")
    if tensors.keeps_tiles:
        return _as_in_file("codes are learnt, and a copy would not follow them")
    if is_limited and forced_layout() is None:
        return _as_in_file("memory is limited, and another layout is a copy")
    cache_bytes = system.cache_bytes()
    if num_threads is not None:
        check_threads(num_threads)
    count = default_threads().count if num_threads is None else num_threads
    found = best_layout(
        place="cache" if num_bytes <= cache_bytes else "memory", num_threads=count, cache_bytes=cache_bytes
    )
    if found.layout == LAYOUTS[0] or not found.measured or num_bytes < system.memory().available_bytes // 2:
        return found
    return _as_in_file(f"there is too little memory for a copy of {num_bytes // 2**20:,} MiB")


def _as_in_file(reason: str) -> LayoutChoice:
    return LayoutChoice(layout=LAYOUTS[0], reason=reason, measured={})
