"""Functions that move the lanes of registers, or bring them together."""

from typing import Any

from quant.registers import (
    ELEMENTS,
    Tile,
    Vector,
    binary,
    by_element,
    converting,
    extreme,
    intrinsic,
    ir,
    joined,
    lanes_of,
    unary,
    with_number,
)


def _repeat(builder: Any, kind: Any, result: Any, x: Any) -> Any:
    return lanes_of(builder, x, list(range(kind.lanes)) * (result.lanes // kind.lanes))


repeat = converting(_repeat)
"""A longer register that holds a short one over and over."""


def _swap(builder: Any, kind: Any, x: Any, distance: int) -> Any:
    return lanes_of(builder, x, [place ^ distance for place in range(kind.lanes)])


def _broadcast(builder: Any, kind: Any, x: Any, place: int) -> Any:
    return lanes_of(builder, x, [place] * kind.lanes)


swap_lanes = with_number(_swap)
"""Lane i takes lane i xor the number."""

broadcast_lane = with_number(_broadcast)
"""One lane in all places."""


def _part(first: int, total: int) -> Any:
    def emit(builder: Any, kind: Any, x: Any) -> Any:
        size = kind.lanes // total
        return lanes_of(builder, x, list(range(first * size, (first + 1) * size)))

    return unary(
        emit, result_of=lambda x: Vector(x.register.element, x.register.lanes // total).shaped_like(x)
    )


low_half = _part(0, 2)
high_half = _part(1, 2)


def _join(builder: Any, kind: Any, low: Any, high: Any) -> Any:
    return joined(builder, low, high)


join = binary(
    _join, result_of=lambda low, high: Vector(low.register.element, 2 * low.register.lanes).shaped_like(low)
)
"""One register of twice the lanes."""


def _sum_of_neighbours(builder: Any, kind: Any, x: Any) -> Any:
    even, odd = (lanes_of(builder, x, list(range(first, kind.lanes, 2))) for first in (0, 1))
    return by_element("add", "fadd")(builder, kind, even, odd)


sum_of_neighbours = unary(
    _sum_of_neighbours,
    result_of=lambda x: Vector(x.register.element, x.register.lanes // 2).shaped_like(x),
)
"""Lane i is the sum of lanes 2i and 2i + 1."""


def _fold(distance: int) -> Any:
    """Add lanes a distance apart, of two registers whose lanes are in groups of twice that size."""

    def emit(builder: Any, kind: Any, x: Any, y: Any) -> Any:
        # A group of one and of the other in turn; at the last step two and two, as x86 shuffles four lanes.
        size, past = (4, (0, 2)) if distance == 1 else (2 * distance, range(distance))
        starts = [first + other for first in range(0, kind.lanes, size) for other in (0, kind.lanes)]
        low = [start + place for start in starts for place in past]
        both = joined(builder, x, y)
        high = [place + distance for place in low]
        return builder.fadd(lanes_of(builder, both, low), lanes_of(builder, both, high))

    return emit


fold_8, fold_4, fold_2, fold_1 = (binary(_fold(distance)) for distance in (8, 4, 2, 1))
"""Steps of sixteen sums at once, each in the order of `add_lanes`.

`fold_8(a, b)` adds the lanes of two f32x16 that lie 8 apart, `fold_4` those of two results that lie 4 apart,
and so on; `fold_1` gives the sums of sixteen registers, and none of the steps leaves a lane unused. Registers
in the order 0 8 4 12 1 9 5 13 2 10 6 14 3 11 7 15 give their sums in the order 0 … 15.
"""


@intrinsic(prefer_literal=True)
def lane(typing_context: Any, x: Any, place: Any) -> Any:
    """One lane of a register as a scalar; the place is known when compiling."""
    known = ir.Constant(ir.IntType(32), place.literal_value)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.extract_element(arguments[0], known)

    return ELEMENTS[x.element][1](x, place), generate


@intrinsic(prefer_literal=True)
def pick(typing_context: Any, x: Any, place: Any) -> Any:
    """One register of a tile; the place is known when compiling."""
    known = place.literal_value

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.extract_value(arguments[0], known)

    return x.register(x, place), generate


@intrinsic
def pair_of(typing_context: Any, x: Any, y: Any) -> Any:
    """A tile of two registers."""
    result = Tile(x, 2)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        first = builder.insert_value(ir.Constant(result.llvm, ir.Undefined), arguments[0], 0)
        return builder.insert_value(first, arguments[1], 1)

    return (result(x, y), generate) if isinstance(x, Vector) and x == y else None


def _tree(emit: Any) -> Any:
    """A scalar from all lanes: the upper half joins the lower half, again and again, in this order always."""

    @intrinsic
    def operation(typing_context: Any, x: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            value, lanes = arguments[0], x.lanes
            while lanes > 1:
                lanes //= 2
                low = lanes_of(builder, value, list(range(lanes)))
                high = lanes_of(builder, value, list(range(lanes, 2 * lanes)))
                value = emit(builder, Vector(x.element, lanes), low, high)
            return builder.extract_element(value, ir.Constant(ir.IntType(32), 0))

        return ELEMENTS[x.element][1](x), generate

    return operation


add_lanes = _tree(by_element("add", "fadd"))
max_lanes = _tree(extreme(">"))
min_lanes = _tree(extreme("<"))
