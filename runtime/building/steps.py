"""Steps of a program: each operation with the buffers, weights and places in the state that it is given.

Kernels are those that the self-check chose for this machine.
"""

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from quant.activations import num_blocks
from quant.embedding import RowBits
from quant.kernels import places as product
from quant.kernels.convolution import places as convolution_places
from quant.kernels.dense import places as dense_places
from quant.kernels.elementary import places as vector
from quant.kernels.residual import places as residual
from quant.kernels.steering import places as steering_places
from quant.layouts import PRODUCTS, LaidTernary
from quant.native import Kernel, KernelsOf
from quant.packing import PackedRows, PackedTernary, num_pairs
from quant.selfcheck import chosen
from quant.sherry_packing import PackedSherry
from runtime.building.workspace import Floats, Int8Rows, Rows
from runtime.program import TOKENS, Step, Tokens, Value

steering = KernelsOf("quant.kernels.steering.kernels")
_MATMUL: dict[RowBits, str] = {8: "int8_matmul", 4: "int4_matmul", 2: "int2_matmul"}
_LOOKUP: dict[RowBits, str] = {8: "int8_lookup", 4: "int4_lookup", 2: "int2_lookup"}
Table = dict[int, Value]
Ternary: TypeAlias = PackedTernary | LaidTernary | PackedSherry


def kernel_of(name: str) -> Kernel:
    """This machine's kernel for an operation of the table."""
    return chosen(name).kernel


def bits_of(number: float) -> int:
    """A float32 by its bits."""
    return int(np.float32(number).view(np.int32))


def weights(packed: Ternary | PackedRows) -> Table:
    """Packed weights in an argument table."""
    return {
        product.CODES: packed.codes.ctypes.data,
        product.SCALES: packed.scales.ctypes.data,
        product.NUM_BLOCKS: num_blocks(packed.num_inputs),
    }


def quantized(acts: Int8Rows) -> Table:
    """Int8 rows in an argument table."""
    return {
        product.Q: acts.codes.ctypes.data,
        product.Q_STRIDE: acts.stride,
        product.D: acts.scales.ctypes.data,
        product.STARTS: acts.neg_sums.ctypes.data,
        product.D_STRIDE: acts.scales_stride,
    }


def results(y: Rows) -> Table:
    """Where results go."""
    return {product.Y: y.address, product.Y_STRIDE: y.stride}


def ternary_kernel(packed: Ternary) -> Kernel:
    """The product for the form that a ternary matrix is packed in."""
    if isinstance(packed, PackedSherry):
        return kernel_of("sherry_matmul")
    return kernel_of(PRODUCTS[packed.layout if isinstance(packed, LaidTernary) else "tiles"])


def ternary(packed: Ternary, *, acts: Int8Rows, y: Rows) -> Step:
    """A ternary matrix times tokens."""
    table: Table = {**weights(packed), **quantized(acts), **results(y), product.NUM_TOKENS: TOKENS}
    return Step(
        kernel=ternary_kernel(packed),
        arguments=table,
        num_places=product.NUM_ARGUMENTS,
        units=num_pairs(packed.num_rows),
    )


def head_product(packed: PackedRows, *, acts: Int8Rows, y: Rows, num_tokens: int | Tokens) -> Step:
    """The head's table times a fixed number of tokens, or those of the group."""
    table: Table = {**weights(packed), **quantized(acts), **results(y), product.NUM_TOKENS: num_tokens}
    return Step(
        kernel=kernel_of(_MATMUL[packed.bits]),
        arguments=table,
        num_places=product.NUM_ARGUMENTS,
        units=num_pairs(packed.num_rows),
    )


def lookup(packed: PackedRows, *, ids: NDArray[np.int64], y: Rows) -> Step:
    """The embedding of ids."""
    table: Table = {**weights(packed), **results(y), product.IDS: ids.ctypes.data}
    return Step(
        kernel=kernel_of(_LOOKUP[packed.bits]),
        arguments=table,
        num_places=product.NUM_ARGUMENTS,
        units_per_token=1,
    )


def source(x: Rows) -> Table:
    """Rows that are read."""
    return {vector.X: x.address, vector.X_STRIDE: x.stride, vector.NUM_INPUTS: x.width}


def gains(gain: Floats, *, eps: float) -> Table:
    return {vector.GAIN: gain.ctypes.data, vector.EPSILON: bits_of(eps)}


def norm_both(
    x: Rows,
    *,
    addend: Rows | None,
    gain: Floats,
    eps: float,
    normed: Rows,
    acts: Int8Rows,
    total: Rows | None = None,
) -> Step:
    """Add to the residual stream what is still to be added, and norm it, as floats and in int8 form.

    The sum takes the place of the residual stream, if there is no other place for it.
    """
    total = total or x
    table: Table = {**source(x), **gains(gain, eps=eps), **results(normed), **quantized(acts)}
    if addend is not None:
        table |= {residual.ADDEND: addend.address, residual.ADDEND_STRIDE: addend.stride}
        table |= {residual.SUM: total.address, residual.SUM_STRIDE: total.stride}
    return Step(
        kernel=kernel_of("norm_both" if addend is None else "add_norm_both"),
        arguments=table,
        num_places=vector.NUM_PLACES,
        units_per_token=1,
    )


def norm_quantize(x: Rows, *, gain: Floats, eps: float, acts: Int8Rows) -> Step:
    return Step(
        kernel=kernel_of("rms_norm_quantize"),
        arguments={**source(x), **gains(gain, eps=eps), **quantized(acts)},
        num_places=vector.NUM_PLACES,
        units_per_token=1,
    )


def quantize(x: Rows, *, acts: Int8Rows) -> Step:
    return Step(
        kernel=kernel_of("quantize_blocks"),
        arguments={**source(x), **quantized(acts)},
        num_places=vector.NUM_PLACES,
        units_per_token=num_blocks(x.width),
    )


def swiglu(gate: Rows, *, up: Rows, gain: Floats, eps: float, values: Rows, acts: Int8Rows) -> Step:
    """SwiGLU, its norm, and the int8 form of that."""
    return Step(
        kernel=kernel_of("swiglu_norm_quantize"),
        arguments=swiglu_table(gate, up=up, gain=gain, eps=eps, values=values, acts=acts),
        num_places=vector.NUM_PLACES,
        units_per_token=1,
    )


def swiglu_table(gate: Rows, *, up: Rows, gain: Floats, eps: float, values: Rows, acts: Int8Rows) -> Table:
    table = {**source(gate), **gains(gain, eps=eps), **results(values), **quantized(acts)}
    return {**table, vector.UP: up.address, vector.UP_STRIDE: up.stride}


def dense(x: Rows, *, weight: Floats, y: Rows) -> Step:
    """A small float32 matrix times tokens."""
    num_rows, num_inputs = weight.shape
    return Step(
        kernel=kernel_of("dense"),
        arguments={
            dense_places.X: x.address,
            dense_places.X_STRIDE: x.stride,
            dense_places.WEIGHT: weight.ctypes.data,
            dense_places.WEIGHT_STRIDE: weight.strides[0],
            dense_places.NUM_INPUTS: num_inputs,
            dense_places.NUM_ROWS: num_rows,
            dense_places.NUM_TOKENS: TOKENS,
            dense_places.Y: y.address,
            dense_places.Y_STRIDE: y.stride,
        },
        num_places=dense_places.NUM_PLACES,
        units=-(-num_rows // dense_places.ROWS),
    )


def convolution(x: Rows, *, weight_YC: Floats, tail: Value, y: Rows) -> Step:
    """The short convolution with SiLU, over all columns that there are taps for."""
    num_taps, num_channels = weight_YC.shape
    return Step(
        kernel=kernel_of("short_convolution"),
        arguments={
            convolution_places.X: x.of_stream,
            convolution_places.X_STRIDE: x.stride,
            convolution_places.WEIGHT: weight_YC.ctypes.data,
            convolution_places.TAIL: tail,
            convolution_places.NUM_CHANNELS: num_channels,
            convolution_places.NUM_TAPS: num_taps,
            convolution_places.NUM_TOKENS: TOKENS,
            convolution_places.Y: y.of_stream,
            convolution_places.Y_STRIDE: y.stride,
        },
        num_places=convolution_places.NUM_PLACES,
        units=-(-num_channels // 16),
    )


def copy_integer(origin: Value, *, target: Value) -> Step:
    return _integers(steering.copy_integer, origin, target)


def add_integer(origin: Value, *, target: Value) -> Step:
    return _integers(steering.add_integer, origin, target)


def _integers(kernel: Kernel, origin: Value, target: Value) -> Step:
    table: Table = {steering_places.SOURCE: origin, steering_places.TARGET: target}
    return Step(kernel=kernel, arguments=table, num_places=steering_places.NUM_PLACES, units=1)
