"""Projections: a ternary product, and beside it the low-rank correction, where the model has one.

A correction is an int8 product, the int8 form of what it gives, a second int8 product, and a sum. The first
runs beside the ternary product, as it reads the same tokens; the rest comes behind it, step by step.
"""

from configs.inventory import has_correction
from quant.kernels.elementary import places as vector
from quant.kernels.residual import places as residual
from quant.packing import PackedRows, num_pairs
from runtime.building import steps
from runtime.building.plan import Passage, Projection
from runtime.building.workspace import Int8Rows, Rows
from runtime.program import TOKENS, Step


def projection(passage: Passage, name: str, *, acts: Int8Rows, y: Rows) -> Projection:
    """The product of a tensor such as `mixer.q_proj`; no two that run together have one name."""
    tensors, whole = passage.tensors, passage.name(name)
    product = steps.ternary(tensors.laid(f"{whole}.weight"), acts=acts, y=y)
    if not has_correction(passage.config):
        return Projection(product=product)
    down, up = (tensors.rows(f"{whole}.correction.{part}") for part in ("down", "up"))
    workspace = passage.workspace
    hidden = workspace.rows(f"correction.{name}.hidden", down.num_rows)
    hidden_acts = workspace.int8(f"correction.{name}.hidden", down.num_rows)
    added = workspace.rows(f"correction.{name}.added", up.num_rows)
    return Projection(
        product=product,
        beside=(_int8(down, acts=acts, y=hidden),),
        behind=(
            steps.quantize(hidden, acts=hidden_acts),
            _int8(up, acts=hidden_acts, y=added),
            add(added, to=y),
        ),
    )


def _int8(packed: PackedRows, *, acts: Int8Rows, y: Rows) -> Step:
    table: steps.Table = {**steps.weights(packed), **steps.quantized(acts), **steps.results(y)}
    return Step(
        kernel=steps.kernel_of("int8_matmul"),
        arguments={**table, steps.product.NUM_TOKENS: TOKENS},
        num_places=steps.product.NUM_ARGUMENTS,
        units=num_pairs(packed.num_rows),
    )


def add(addend: Rows, *, to: Rows) -> Step:
    """Add rows to others."""
    return Step(
        kernel=steps.kernel_of("add_rows"),
        arguments={
            vector.X: to.address,
            vector.X_STRIDE: to.stride,
            vector.NUM_INPUTS: addend.width,
            residual.ADDEND: addend.address,
            residual.ADDEND_STRIDE: addend.stride,
            residual.SUM: to.address,
            residual.SUM_STRIDE: to.stride,
        },
        num_places=vector.NUM_PLACES,
        units_per_token=1,
    )
