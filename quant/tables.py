"""Tables of sixteen bytes in registers: one instruction looks up a byte for each of sixteen or more."""

from typing import Any

from quant import cpu
from quant.registers import binary, call_llvm, ir, joined, lanes_of

# What the target needs, the instruction, and bytes of its register; the longest first.
_SHUFFLES = (
    ("avx512bw", "llvm.x86.avx512.pshuf.b.512", 64),
    ("avx2", "llvm.x86.avx2.pshuf.b", 32),
    ("ssse3", "llvm.x86.ssse3.pshuf.b.128", 16),
)


def _look_up(builder: Any, kind: Any, table: Any, index: Any) -> Any:
    name, size = _instruction(kind.num_bytes)
    if not name:
        return _spelled_out(builder, kind, table, index)
    register = ir.VectorType(ir.IntType(8), size)
    parts: list[Any] = []
    for first in range(0, kind.num_bytes, size):
        given = [lanes_of(builder, value, list(range(first, first + size))) for value in (table, index)]
        parts.append(call_llvm(builder, name, register, given))
    while len(parts) > 1:
        parts = [joined(builder, low, high) for low, high in zip(parts[::2], parts[1::2], strict=True)]
    return parts[0]


def _instruction(num_bytes: int) -> tuple[str, int]:
    if cpu.target().architecture == "aarch64":
        return "llvm.aarch64.neon.tbl1.v16i8", 16
    for feature, name, size in _SHUFFLES:
        if cpu.target().has(feature) and num_bytes % size == 0:
            return name, size
    return "", 0


def _spelled_out(builder: Any, kind: Any, table: Any, index: Any) -> Any:
    number = ir.IntType(32)
    result = ir.Constant(kind.llvm, ir.Undefined)
    for place in range(kind.lanes):
        at = builder.zext(builder.extract_element(index, ir.Constant(number, place)), number)
        found = builder.extract_element(table, builder.add(at, ir.Constant(number, place // 16 * 16)))
        result = builder.insert_element(result, found, ir.Constant(number, place))
    return result


look_up = binary(_look_up)
"""`look_up(table, index)`: for each byte of `index`, 0 … 15, the byte at that place of the table in the same
sixteen bytes."""
