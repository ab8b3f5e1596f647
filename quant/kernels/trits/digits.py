"""How bytes of five digits give their digits, one after another."""

from typing import Any

from quant import cpu
from quant.jit import helper
from quant.registers import ir, joined, lanes_of, unary
from quant.simd import greater, sign_extend, splat

# What one register of the target holds, the longest first: feature, bytes, and how assembly names it.
_REGISTERS = (("avx512bw", 64, "v"), ("avx2", 32, "x"))


def _tripled(builder: Any, kind: Any, x: Any) -> Any:
    twice = builder.add(x, x)
    if cpu.target().architecture == "x86_64":
        twice = _unseen(builder, kind, twice)
    return builder.add(twice, x)


def _unseen(builder: Any, kind: Any, x: Any) -> Any:
    """The same value, register by register, through which LLVM does not see."""
    size, letter = next(
        ((size, letter) for have, size, letter in _REGISTERS if cpu.target().has(have)), (16, "x")
    )
    size = min(size, kind.num_bytes)
    register = ir.VectorType(x.type.element, size)
    parts: list[Any] = []
    for first in range(0, kind.num_bytes, size):
        part = x if size == kind.num_bytes else lanes_of(builder, x, list(range(first, first + size)))
        parts.append(builder.asm(ir.FunctionType(register, [register]), "", f"={letter},0", [part], False))
    while len(parts) > 1:
        parts = [joined(builder, low, high) for low, high in zip(parts[::2], parts[1::2], strict=True)]
    return parts[0]


tripled = unary(_tripled)
"""Three times each byte, without what does not fit. x86 has no product of bytes, and LLVM, which makes a
product of three terms that it knows, would spell one out with two shuffles."""


@helper
def digits(kind: Any, turned: Any) -> Any:
    """The digits that bytes begin with. Their top bits are turned, so that they compare as signed numbers;
    three times such a byte is three times the byte, its top bit turned."""
    one = sign_extend(kind, greater(turned, splat(kind, -43)))
    return -(one + sign_extend(kind, greater(turned, splat(kind, 42))))
