"""Loops of a kernel's assembly, and what they cost: instructions for 64 inputs of 16 rows and one token.

Nothing runs. A loop is a label and what stands up to a jump back to it. In a product the loop over blocks
turns integer sums into floats, one for each row and token, which tells how much one turn of it does; the
products in the loops inside tell how often those turn.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

_LABEL = re.compile(r"^(\.?L\w+):")
_INSTRUCTION = re.compile(r"^\s+([a-z][\w.]*)(?:\s+(.*))?$")
_JUMP = re.compile(r"^(?:j\w+|b(?:\.\w+)?|cbn?z|tbn?z)$")
_TARGET = re.compile(r"(\.?L\w+)$")
_STACK = re.compile(r"\[sp|\(%rsp")

BLOCK_INPUTS, BLOCK_ROWS = 64, 16

# Instructions that multiply weights, and how many products of bytes each makes by its registers. The first
# group that is found holds the products; others of a lower group then widen sums.
_PRODUCTS: tuple[tuple[re.Pattern[str], dict[str, int]], ...] = (
    (re.compile(r"^v?pdpbusd$"), {"%zmm": 64, "%ymm": 32, "%xmm": 16}),
    (re.compile(r"^sdot$"), {"": 16}),
    (re.compile(r"^v?pmaddubsw$"), {"%zmm": 64, "%ymm": 32, "%xmm": 16}),
    (re.compile(r"^sml?(?:al|ull)2?$"), {".8h": 8, ".4s": 4}),
    (re.compile(r"^v?pmullw$|^ml?a?u?l?$"), {"%zmm": 32, "%ymm": 16, "%xmm": 8, ".8h": 8}),
    (re.compile(r"^v?pmaddwd$"), {"%zmm": 32, "%ymm": 16, "%xmm": 8}),
)
# A look-up gives two weights of a row times a half of an input's bits: two of them are two products.
_LOOK_UPS = (re.compile(r"^v?pshufb$|^tbl$"), {"%zmm": 64, "%ymm": 32, "%xmm": 16, ".16b": 16})
_CONVERSION = re.compile(r"^(?:v?cvtdq2ps|scvtf)$")
_LANES = {"%zmm": 16, "%ymm": 8, "%xmm": 4, ".4s": 4}
_STORE = re.compile(r"^(?:str|stp|stur|v?mov(?:[au]p[sd]|dq[au]\d*))$")


@dataclass(frozen=True, kw_only=True, slots=True)
class Instruction:
    """One line of assembly."""

    name: str
    operands: str

    @property
    def uses_stack(self) -> bool:
        return bool(_STACK.search(self.operands))


@dataclass(frozen=True, kw_only=True, slots=True)
class Loop:
    """Lines from a label to the last jump back to it."""

    first: int
    last: int

    def holds(self, other: "Loop") -> bool:
        return self.first <= other.first and other.last <= self.last and self != other


@dataclass(frozen=True, kw_only=True, slots=True)
class Cost:
    """A loop over blocks: instructions for 64 inputs of 16 rows and one token."""

    tokens: int
    """That one turn does at once."""
    instructions: float
    products: float
    stack: float
    """Instructions that use the stack, for want of registers."""


class Assembly:
    """A kernel's code as text, taken apart."""

    def __init__(self, text: str) -> None:
        self._lines: list[Instruction | None] = []
        labels: dict[str, int] = {}
        ends: dict[int, int] = {}
        for line in text.splitlines():
            label, found = _LABEL.match(line), _INSTRUCTION.match(line)
            if label:
                labels[label[1]] = len(self._lines)
            elif found and not found[1].startswith("."):
                instruction = Instruction(name=found[1], operands=(found[2] or "").split("//")[0].strip())
                target = _TARGET.search(instruction.operands)
                if _JUMP.match(instruction.name) and target and target[1] in labels:
                    ends[labels[target[1]]] = len(self._lines)
                self._lines.append(instruction)
        self.loops = [Loop(first=first, last=last) for first, last in sorted(ends.items())]

    def count(self) -> int:
        """Instructions in all."""
        return len(self._lines)

    def named(self, pattern: str) -> int:
        """Instructions whose names match as a whole."""
        return sum(bool(re.fullmatch(pattern, line.name)) for line in self._lines if line)

    def block_costs(self, *, by_tables: bool = False) -> list[Cost]:
        """What each loop over blocks costs, the fewest tokens first; nothing where there are no products."""
        kinds = (_LOOK_UPS,) if by_tables else _PRODUCTS
        kind = next((kind for kind in kinds if any(_units(line, *kind) for line in self._lines)), None)
        if kind is None:
            return []
        costs = [
            cost for loop in self.loops if self._is_over_blocks(loop) and (cost := self._cost(loop, *kind))
        ]
        return sorted(costs, key=lambda cost: (cost.tokens, -cost.instructions))

    def step_costs(self) -> list[float]:
        """Instructions for 16 float32 that are written, in each innermost loop that writes registers."""
        found: list[float] = []
        for loop in self.loops:
            body = list(self._body(loop))
            if any(loop.holds(other) for other in self.loops):
                continue
            stored = sum(_stored_bytes(line) for line in body)
            if stored >= 64:
                found.append(len(body) * 64 / stored)
        return found

    def _body(self, loop: Loop) -> Iterator[Instruction]:
        for line in self._lines[loop.first : loop.last + 1]:
            if line:
                yield line

    def _is_over_blocks(self, loop: Loop) -> bool:
        """It converts sums, and no loop inside does."""
        return self._converted(loop) > 0 and not any(
            loop.holds(other) and self._converted(other) for other in self.loops
        )

    def _converted(self, loop: Loop) -> int:
        return sum(_of(line, _LANES) for line in self._body(loop) if _CONVERSION.match(line.name))

    def _cost(self, loop: Loop, pattern: re.Pattern[str], units: dict[str, int]) -> Cost | None:
        inner = [other for other in self.loops if loop.holds(other)]
        own = _sums(self._body(loop), pattern, units)
        inside = [0, 0, 0, 0]
        for other in inner:
            inside = [a + b for a, b in zip(inside, _sums(self._body(other), pattern, units), strict=True)]
        own = [a - b for a, b in zip(own, inside, strict=True)]
        row_tokens = self._converted(loop)
        turns, left = divmod(row_tokens * BLOCK_INPUTS - own[0], inside[0]) if inside[0] else (0, 0)
        if not own[0] + inside[0] or turns < 0 or left:
            return None
        share = BLOCK_ROWS / row_tokens
        _, count, products, stack = (a + turns * b for a, b in zip(own, inside, strict=True))
        tokens = row_tokens // BLOCK_ROWS if row_tokens > 2 * BLOCK_ROWS else 1
        return Cost(tokens=tokens, instructions=count * share, products=products * share, stack=stack * share)


def _sums(body: Iterator[Instruction], pattern: re.Pattern[str], units: dict[str, int]) -> list[int]:
    """Products of bytes, instructions, those that multiply, those that use the stack."""
    lines = list(body)
    made = [_units(line, pattern, units) for line in lines]
    return [sum(made), len(lines), sum(map(bool, made)), sum(line.uses_stack for line in lines)]


def _units(line: Instruction | None, pattern: re.Pattern[str], units: dict[str, int]) -> int:
    return _of(line, units) if line and pattern.match(line.name) else 0


def _of(line: Instruction, sizes: dict[str, int]) -> int:
    """The size that belongs to the registers that an instruction names."""
    return next((size for sign, size in sizes.items() if sign in line.operands), 0)


def _stored_bytes(line: Instruction) -> int:
    if not _STORE.match(line.name) or line.uses_stack:
        return 0
    if line.name in ("str", "stur"):
        return 16 if line.operands.startswith("q") else 0
    if line.name == "stp":
        return 32 if line.operands.startswith("q") else 0
    source, _, to = line.operands.rpartition(", ")
    return {"%zmm": 64, "%ymm": 32, "%xmm": 16}.get(source[:4], 0) if "(" in to else 0


def cheapest(costs: Sequence[Cost]) -> list[Cost]:
    """For each number of tokens the cheapest loop: others do what is left over."""
    best: dict[int, Cost] = {}
    for cost in costs:
        if cost.tokens not in best or cost.instructions < best[cost.tokens].instructions:
            best[cost.tokens] = cost
    return list(best.values())
