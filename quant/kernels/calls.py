"""Argument tables made of arrays: every shape, type and number is checked before an address is formed."""

from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from configs.errors import UsageError
from quant.activations import BLOCK, QuantizedActivations, num_blocks
from quant.kernels import places
from quant.kernels.operation import Kernel
from quant.layouts import LaidTernary, laid_shape
from quant.packing import (
    ROW_PAIR,
    PackedRows,
    PackedTernary,
    codes_shape,
    num_pairs,
    row_scales_shape,
    ternary_scales_shape,
)
from quant.sherry_packing import PackedSherry, sherry_codes_shape
from quant.ternary import checked_inputs

Packed: TypeAlias = PackedTernary | LaidTernary | PackedSherry | PackedRows


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Call:
    """The arguments of an operation on packed weights; it keeps the arrays alive whose addresses it holds."""

    table: NDArray[np.int64]
    y: NDArray[np.float32]
    """The results, padding included; every element is written."""
    units: int
    """What the kernel's `first` and `last` count: pairs of row blocks, or rows of a list."""
    held: tuple[NDArray[Any], ...]

    def run(self, kernel: Kernel, first: int, last: int) -> None:
        """Do a part of the work; all of it is 0 … units."""
        if not 0 <= first <= last <= self.units:
            raise UsageError(f"the work is 0 … {self.units}, got the part {first} … {last}")
        kernel(self.table.ctypes.data, first, last)


def ternary_call(packed: PackedTernary, acts: QuantizedActivations) -> Call:
    """A ternary matrix times tokens; y is [tokens, rows padded to 32]."""
    shape = ternary_scales_shape(packed.num_rows, packed.num_inputs)
    _check(packed.scales, shape=shape, dtype=np.float16, what="the scales")
    return _matmul_call(packed, acts, codes=codes_shape(packed.num_rows, packed.num_inputs, bits=2))


def laid_call(laid: LaidTernary, acts: QuantizedActivations) -> Call:
    """A ternary matrix that lies otherwise than in tiles times tokens; y is [tokens, rows padded to 32]."""
    shape = ternary_scales_shape(laid.num_rows, laid.num_inputs)
    _check(laid.scales, shape=shape, dtype=np.float16, what="the scales")
    return _matmul_call(laid, acts, codes=laid_shape(laid.num_rows, laid.num_inputs, layout=laid.layout))


def sherry_call(packed: PackedSherry, acts: QuantizedActivations) -> Call:
    """A ternary matrix with one zero in four times tokens; y is [tokens, rows padded to 32]."""
    shape = ternary_scales_shape(packed.num_rows, packed.num_inputs)
    _check(packed.scales, shape=shape, dtype=np.float16, what="the scales")
    return _matmul_call(packed, acts, codes=sherry_codes_shape(packed.num_rows, packed.num_inputs))


def rows_call(packed: PackedRows, acts: QuantizedActivations) -> Call:
    """A table of rows times tokens; y is [tokens, rows padded to 32]."""
    _check(packed.scales, shape=row_scales_shape(packed.num_rows), dtype=np.float32, what="the scales")
    return _matmul_call(packed, acts, codes=_rows_shape(packed))


def selected_rows_call(packed: PackedRows, acts: QuantizedActivations, ids: NDArray[np.int64]) -> Call:
    """Chosen rows of a table times one token; y is [1, ids]. Sorted ids are faster."""
    if acts.codes.shape[0] != 1:
        raise UsageError(f"chosen rows are multiplied with one token, got {acts.codes.shape[0]}")
    whole = rows_call(packed, acts)
    _check_ids(ids, num_rows=packed.num_rows)
    y = np.empty((1, ids.size), dtype=np.float32)
    _set_output(whole.table, y)
    whole.table[places.IDS] = ids.ctypes.data
    return Call(table=whole.table, y=y, units=ids.size, held=(*whole.held, ids))


def lookup_call(packed: PackedRows, ids: NDArray[np.int64]) -> Call:
    """Chosen rows of a table as float32; y is [ids, inputs padded to 64]."""
    _check(packed.scales, shape=row_scales_shape(packed.num_rows), dtype=np.float32, what="the scales")
    _check_ids(ids, num_rows=packed.num_rows)
    table = np.zeros(places.NUM_ARGUMENTS, dtype=np.int64)
    _set_weights(table, packed, codes=_rows_shape(packed))
    y = np.empty((ids.size, num_blocks(packed.num_inputs) * BLOCK), dtype=np.float32)
    _set_output(table, y)
    table[places.IDS] = ids.ctypes.data
    return Call(table=table, y=y, units=ids.size, held=(packed.codes, packed.scales, ids))


def _rows_shape(packed: PackedRows) -> tuple[int, ...]:
    return codes_shape(packed.num_rows, packed.num_inputs, bits=packed.bits)


def _matmul_call(packed: Packed, acts: QuantizedActivations, *, codes: tuple[int, ...]) -> Call:
    checked_inputs(acts, num_inputs=packed.num_inputs)
    num_tokens, blocks, pairs = acts.codes.shape[0], num_blocks(acts.num_inputs), num_pairs(packed.num_rows)
    _check(acts.codes, shape=(num_tokens, blocks * BLOCK), dtype=np.int8, what="the codes of the tokens")
    _check(acts.scales, shape=(num_tokens, blocks), dtype=np.float32, what="the scales of the tokens")
    _check(acts.neg_sums, shape=(num_tokens, blocks), dtype=np.int32, what="the sums of the tokens")
    table = np.zeros(places.NUM_ARGUMENTS, dtype=np.int64)
    _set_weights(table, packed, codes=codes)
    table[places.NUM_TOKENS] = num_tokens
    table[places.Q] = acts.codes.ctypes.data
    table[places.Q_STRIDE] = acts.codes.strides[0]
    table[places.D] = acts.scales.ctypes.data
    table[places.STARTS] = acts.neg_sums.ctypes.data
    table[places.D_STRIDE] = acts.scales.strides[0]
    y = np.empty((num_tokens, pairs * ROW_PAIR), dtype=np.float32)
    _set_output(table, y)
    held = (packed.codes, packed.scales, acts.codes, acts.scales, acts.neg_sums)
    return Call(table=table, y=y, units=pairs, held=held)


def _set_weights(table: NDArray[np.int64], packed: Packed, *, codes: tuple[int, ...]) -> None:
    dtype = np.int8 if isinstance(packed, PackedRows) and packed.bits == 8 else np.uint8
    _check(packed.codes, shape=codes, dtype=dtype, what="the tiles")
    table[places.CODES] = packed.codes.ctypes.data
    table[places.SCALES] = packed.scales.ctypes.data
    table[places.NUM_BLOCKS] = num_blocks(packed.num_inputs)


def _set_output(table: NDArray[np.int64], y: NDArray[np.float32]) -> None:
    table[places.Y] = y.ctypes.data
    table[places.Y_STRIDE] = y.strides[0]


def _check(array: NDArray[Any], *, shape: tuple[int, ...], dtype: Any, what: str) -> None:
    if array.shape != shape or array.dtype != dtype or not array.flags.c_contiguous:
        order = "" if array.flags.c_contiguous else ", not contiguous"
        raise UsageError(
            f"{what} must be {np.dtype(dtype)} {shape}, got {array.dtype} {array.shape}{order}",
            hint="Pack the weights and quantise the tokens with the functions of this package.",
        )


def _check_ids(ids: NDArray[np.int64], *, num_rows: int) -> None:
    _check(ids, shape=(ids.size,), dtype=np.int64, what="the ids")
    if ids.size and (ids.min() < 0 or ids.max() >= num_rows):
        raise UsageError(f"ids must lie in 0 … {num_rows - 1}, got {ids.min()} … {ids.max()}")
