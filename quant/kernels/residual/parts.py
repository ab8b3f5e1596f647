"""Sixteen floats of a row, or as many as are left of it."""

from typing import Any

from quant.jit import helper
from quant.registers import f32x16
from quant.simd import load, load_first, store, store_first


@helper
def load_part(address: int, left: int) -> Any:
    """What is not there is zero."""
    if left >= 16:
        return load(f32x16, address)
    return load_first(f32x16, address, left)


@helper
def store_part(address: int, values: Any, left: int) -> None:
    if left >= 16:
        store(address, values)
    else:
        store_first(address, values, left)
