"""The fast products for whoever has arrays in hand: the same bits as the references, by this machine's
kernels."""

import numpy as np
from numpy.typing import NDArray

from quant.activations import QuantizedActivations
from quant.embedding import RowBits
from quant.kernels.calls import Call, lookup_call, rows_call, selected_rows_call, ternary_call
from quant.packing import PackedRows, PackedTernary
from quant.selfcheck import chosen

_MATMUL: dict[RowBits, str] = {8: "int8_matmul", 4: "int4_matmul", 2: "int2_matmul"}
_SELECTED: dict[RowBits, str] = {8: "int8_selected", 4: "int4_selected", 2: "int2_selected"}
_LOOKUP: dict[RowBits, str] = {8: "int8_lookup", 4: "int4_lookup", 2: "int2_lookup"}


def ternary_matmul(packed: PackedTernary, acts: QuantizedActivations) -> NDArray[np.float32]:
    """As `quant.ternary.ternary_matmul`: [tokens, rows]."""
    return _result("ternary_matmul", ternary_call(packed, acts))[:, : packed.num_rows]


def rows_matmul(packed: PackedRows, acts: QuantizedActivations) -> NDArray[np.float32]:
    """As `quant.embedding.rows_matmul`: [tokens, rows]."""
    return _result(_MATMUL[packed.bits], rows_call(packed, acts))[:, : packed.num_rows]


def selected_rows(
    packed: PackedRows, acts: QuantizedActivations, ids: NDArray[np.int64]
) -> NDArray[np.float32]:
    """Those columns of `rows_matmul` for one token: [ids]. Sorted ids are faster."""
    return _result(_SELECTED[packed.bits], selected_rows_call(packed, acts, ids))[0]


def lookup_rows(packed: PackedRows, ids: NDArray[np.int64]) -> NDArray[np.float32]:
    """As `quant.embedding.lookup_rows`: [ids, inputs]."""
    return _result(_LOOKUP[packed.bits], lookup_call(packed, ids))[:, : packed.num_inputs]


def _result(name: str, call: Call) -> NDArray[np.float32]:
    call.run(chosen(name).kernel, 0, call.units)
    return call.y
