"""Kernels called by address, so that a program can be a table of operations.

What runs a table is compiled once and knows none of the kernels; which form of each it calls is decided by
the addresses in the table. Only kernels of three integers without a result can be called so: see
`quant.kernels.arguments`.
"""

from typing import Any

from quant.registers import intrinsic, ir, types

_BYTES = ir.IntType(8).as_pointer()
_I64 = ir.IntType(64)


@intrinsic
def call_kernel(typing_context: Any, address: Any, arguments: Any, first: Any, last: Any) -> Any:
    """`call_kernel(address, arguments, first, last)`, with an address from `quant.native.address_of`."""

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        # Numba's own convention: where the result and the exception go, then the arguments; it gives a
        # status. A kernel raises nothing, so the status is not looked at.
        kind = ir.FunctionType(ir.IntType(32), [_BYTES.as_pointer(), _BYTES.as_pointer(), _I64, _I64, _I64])
        with builder.goto_entry_block():
            unused = [builder.alloca(_BYTES), builder.alloca(_BYTES)]
        function = builder.inttoptr(values[0], kind.as_pointer())
        builder.call(function, [*unused, *values[1:]])
        return context.get_dummy_value()

    return types.void(*[types.int64] * 4), generate
