"""What compiled code asks of a file: bytes at an offset, into memory that is given.

It is one call of the system by its number, like sleeping in `quant.pool_system`. Where the system has no such
call nothing is read, and whoever asked does it in another way.
"""

import sys
from typing import Any

from quant import cpu
from quant.parking import has_function
from quant.registers import cgutils, intrinsic, ir, types

# Linux numbers its calls by architecture.
READ_CALLS: dict[str, int] = {"x86_64": 17, "aarch64": 67}

_I64 = ir.IntType(64)


@intrinsic
def read_at(typing_context: Any, handle: Any, address: Any, num_bytes: Any, offset: Any) -> Any:
    """Read from an open file; how many bytes came, and −1 where none did."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        number = READ_CALLS.get(cpu.target().architecture)
        if number is None or sys.platform != "linux" or not has_function("syscall"):
            return ir.Constant(_I64, -1)
        kind = ir.FunctionType(_I64, [_I64], var_arg=True)
        call = cgutils.get_or_insert_function(builder.module, kind, "syscall")
        return builder.call(call, [ir.Constant(_I64, number), *arguments])

    return types.int64(*[types.int64] * 4), generate
