"""A program: operations in groups, their argument tables, and the numbers in them that change with a call.

The tables hold addresses of weights and of the engine's buffers, which never change; of streams' states,
which change with the streams; and numbers of tokens. The last two are known by their places, so that a
program is turned to other streams by one addition of arrays.

Tokens of several streams stand side by side, one stream's behind another's. Most operations see rows and
nothing else. One that needs a stream's state, or its own rows alone, is there once for each stream, and is
passed over where a stream has no tokens.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from quant.native import Kernel, address_of
from runtime.worker_places import (
    ARGUMENTS,
    COUNT,
    ENDS_GROUP,
    JOB_PLACES,
    KERNEL,
    NUM_RECORDS,
    RECORD_PLACES,
    RECORDS,
    STOPS,
    UNITS,
    UNITS_PER_TOKEN,
)

Integers: TypeAlias = NDArray[np.int64]


class Tokens:
    """Stands for the number of tokens of the group that an operation is in."""


TOKENS: Final = Tokens()


class TokensCell:
    """Stands for the address of the number of tokens of the operation's stream."""


TOKENS_CELL: Final = TokensCell()


@dataclass(frozen=True, slots=True)
class InState:
    """Stands for an address in a stream's state."""

    offset: int


@dataclass(frozen=True, slots=True)
class RowOfStream:
    """Stands for the row of a stream's first token."""

    address: int
    stride: int


@dataclass(frozen=True, slots=True)
class OfStream:
    """Stands for a stream's own part of a buffer that has one for each."""

    address: int
    stride: int


@dataclass(frozen=True, slots=True)
class HeardRow:
    """Stands for the row of a token that the head is to hear; a call says which they are, by numbers."""

    address: int
    stride: int
    number: int


@dataclass(frozen=True, slots=True, eq=False)
class PlaceOf:
    """Stands for the address of a place in another operation's table."""

    step: "Step"
    place: int


@dataclass(frozen=True, slots=True, eq=False)
class TargetsOf:
    """Stands for the address of lists: where the operations of a count's groups read what depends on it.

    The number of places that hold the count, and their addresses; the number of places that hold the count of
    one stream, and for each its address and the stream; the number of places that hold the first row of a
    stream, and for each its address, row 0, the stride and the stream.
    """

    count: "Count"


Value: TypeAlias = (
    int | Tokens | TokensCell | InState | RowOfStream | OfStream | HeardRow | PlaceOf | TargetsOf
)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Step:
    """An operation with its arguments. Its units of work are so many, and so many more for each token."""

    kernel: Kernel
    arguments: Mapping[int, Value]
    """Place in the argument table: what stands there. Other places hold 0."""
    num_places: int
    units: int = 0
    units_per_token: int = 0
    count: "Count | None" = None
    """Its number of tokens, where that is not the group's."""
    stream: int = 0
    """Whose state and rows it works on."""
    stops: int = 0
    """The address of a number that it makes other than 0 to stop the program behind its group; else 0."""

    @property
    def is_of_stream(self) -> bool:
        """Whether it works on one stream, and there has to be one for each."""
        return any(
            isinstance(value, (InState, RowOfStream, OfStream, TokensCell))
            or (isinstance(value, PlaceOf) and value.step.is_of_stream)
            for value in self.arguments.values()
            if not isinstance(value, int)  # nearly all are, and there are thousands
        )


@dataclass(kw_only=True, slots=True, eq=False)
class Count:
    """A number of tokens that groups of operations share, in a cell of memory."""

    cell: Integers
    streams: Sequence["Count"] = ()
    """How many of them each stream has; nothing where there is one stream alone."""
    steps: list[Step] = field(default_factory=list[Step])

    @property
    def address(self) -> int:
        return self.cell.ctypes.data

    @property
    def num_streams(self) -> int:
        return max(1, len(self.streams))

    def of_stream(self, stream: int) -> "Count":
        """The number of one stream's."""
        return self.streams[stream] if self.streams else self


Group: TypeAlias = tuple[Count, Sequence[Step]]
"""Operations that need nothing of each other."""


class ProgramBuilder:
    """Groups of operations, one after another."""

    def __init__(self) -> None:
        self._groups: list[Group] = []
        self._of_streams: dict[Step, tuple[Step, ...]] = {}

    def together(self, count: Count, *steps: Step) -> None:
        """Add a group; what comes after it waits for all of it."""
        group = [one for step in steps for one in self._each(step, count)]
        for step in group:
            (step.count or count).steps.append(step)
        self._groups.append((count, group))

    def _each(self, step: Step, count: Count) -> tuple[Step, ...]:
        """The step, or one of it for each stream. Who speaks of its places may come before it itself."""
        if not step.is_of_stream:
            return (step,)
        if step not in self._of_streams:
            self._of_streams[step] = tuple(
                self._for_stream(step, count, stream) for stream in range(count.num_streams)
            )
        return self._of_streams[step]

    def _for_stream(self, step: Step, count: Count, stream: int) -> Step:
        arguments = {
            place: PlaceOf(self._each(value.step, count)[stream], value.place)
            if isinstance(value, PlaceOf) and value.step.is_of_stream
            else value
            for place, value in step.arguments.items()
        }
        return replace(step, arguments=arguments, count=count.of_stream(stream), stream=stream)

    def build(self, *, tokens: Count, heard: Sequence[Count] = ()) -> "Program":
        """The program, whose caller sets the number of `tokens`; every other count is set by an operation.

        `heard` are the counts of who listens to the tokens that a call names, each 1 or 0.
        """
        return Program(self._groups, tokens=tokens, heard=heard)


class Program:
    """Records that the worker runs, and the arrays that they need.

    Its job is all of it. A tail can be set behind the program proper, and be another one for the next call.
    """

    def __init__(self, groups: Sequence[Group], *, tokens: Count, heard: Sequence[Count] = ()) -> None:
        self._tokens, self._heard = tokens, heard
        self._tables = tables = _Tables([step for _, steps in groups for step in steps])
        self._proper = _records(groups, tables)
        self._numbers = {step: number for number, step in enumerate(chain(*(steps for _, steps in groups)))}
        in_state = [
            (at, value.offset, step.stream) for at, value, step in tables if isinstance(value, InState)
        ]
        self._state_places, self._state_offsets, self._state_streams = _columns(in_state, 3)
        heard_rows = [
            (at, value.address, value.stride, value.number)
            for at, value, _ in tables
            if isinstance(value, HeardRow)
        ]
        self._heard_places, self._heard_addresses, self._heard_strides, self._heard_numbers = _columns(
            heard_rows, 4
        )
        self._token_places = np.array(tables.places_of(tokens), dtype=np.int64)
        self._share_places, self._share_streams = _columns(tables.shares_of(tokens), 2)
        self._row_places, self._row_addresses, self._row_strides, self._row_streams = _columns(
            tables.rows_of(tokens), 4
        )
        self._jobs: Integers = np.zeros((4, JOB_PLACES), dtype=np.int64)
        self.job, self.job_with_tail, self.job_of_tail, self._job_of_part = (
            job.ctypes.data for job in self._jobs
        )
        """What a pool is given: the program proper, all, the tail alone."""
        self.set_tail(())

    @property
    def num_records(self) -> int:
        """Operations of the program proper."""
        return len(self._proper)

    def set_tail(self, groups: Sequence[Group]) -> None:
        """What comes behind the program proper. Its operations depend on neither tokens nor state."""
        self._tail_tables = _Tables([step for _, steps in groups for step in steps])
        tail = _records(groups, self._tail_tables)
        self._tail = groups
        self._records = np.concatenate([self._proper, tail])
        first, behind = self._records.ctypes.data, self._records[len(self._proper) :].ctypes.data
        self._jobs[:3, NUM_RECORDS] = len(self._proper), len(self._records), len(tail)
        self._jobs[:3, RECORDS] = first, first, behind

    def part(self, first: Step, *, before: Step | None = None, with_tail: bool = False) -> int:
        """A job from an operation on, to before another or to the end. The next call makes it another."""
        begin = self._numbers[first]
        end = len(self._records) if with_tail else len(self._proper)
        end = end if before is None else self._numbers[before]
        self._jobs[3, NUM_RECORDS], self._jobs[3, RECORDS] = end - begin, self._records[begin:].ctypes.data
        return self._job_of_part

    def set_tokens(self, *num_tokens: int) -> None:
        """How many tokens the next job has of each stream; of streams that are not named it has none."""
        numbers, total = self._tables.numbers, sum(num_tokens)
        self._tokens.cell[0] = total
        numbers[self._token_places] = total
        if not self._tokens.streams:
            return
        shares = np.zeros(self._tokens.num_streams, dtype=np.int64)
        shares[: len(num_tokens)] = num_tokens
        for count, share in zip(self._tokens.streams, shares, strict=True):
            count.cell[0] = share
        firsts = np.cumsum(shares) - shares
        numbers[self._share_places] = shares[self._share_streams]
        numbers[self._row_places] = self._row_addresses + firsts[self._row_streams] * self._row_strides

    def set_states(self, *addresses: int) -> None:
        """Where the states of the next job's streams are; those of others are not looked at."""
        held = np.zeros(self._tokens.num_streams, dtype=np.int64)
        held[: len(addresses)] = addresses
        self._tables.numbers[self._state_places] = self._state_offsets + held[self._state_streams]

    def set_heard(self, *rows: int) -> None:
        """The rows of the tokens that the head is to hear."""
        for number, count in enumerate(self._heard):
            count.cell[0] = int(number < len(rows))
        found = np.zeros(max(1, len(self._heard)), dtype=np.int64)
        found[: len(rows)] = rows
        self._tables.numbers[self._heard_places] = (
            self._heard_addresses + found[self._heard_numbers] * self._heard_strides
        )


class _Tables:
    """The argument tables of some operations, end to end."""

    def __init__(self, steps: Sequence[Step]) -> None:
        self._begins: dict[Step, int] = {}
        size = 0
        for step in steps:
            self._begins[step] = size
            size += step.num_places
        self.numbers: Integers = np.zeros(size, dtype=np.int64)
        self._lists: list[Integers] = []
        self._entries = [
            (begin + place, value, step)
            for step, begin in self._begins.items()
            for place, value in step.arguments.items()
        ]
        self._rows = [
            (at, value, step) for at, value, step in self._entries if isinstance(value, RowOfStream)
        ]
        for at, value, step in self._entries:
            self.numbers[at] = value if isinstance(value, int) else self._number(value, step)

    def __iter__(self) -> Iterator[tuple[int, Value, Step]]:
        """Every argument, where it stands, and whose it is."""
        return iter(self._entries)

    def address_of(self, step: Step) -> int:
        """Where an operation's table is."""
        return self.numbers.ctypes.data + self._begins[step] * 8

    def places_of(self, count: Count) -> list[int]:
        """Where the number of a count's tokens stands."""
        return [
            self._begins[step] + place
            for step in count.steps
            if step in self._begins  # the number may be that of other programs too
            for place, value in step.arguments.items()
            if value is TOKENS
        ]

    def shares_of(self, count: Count) -> list[tuple[int, int]]:
        """Where the number of one stream's tokens stands, and which stream that is."""
        return [(at, stream) for stream, own in enumerate(count.streams) for at in self.places_of(own)]

    def rows_of(self, count: Count) -> list[tuple[int, int, int, int]]:
        """Where the first row of one stream stands: place, row 0, stride, stream."""
        own = {id(part) for part in count.streams}
        return [
            (at, value.address, value.stride, step.stream)
            for at, value, step in self._rows
            if id(step.count) in own
        ]

    def _number(self, value: Value, step: Step) -> int:
        """What stands in a table at first; what depends on the call is set with it."""
        match value:
            case PlaceOf():
                return self.address_of(value.step) + value.place * 8
            case TargetsOf():
                self._lists.append(self._targets(value.count))
                return self._lists[-1].ctypes.data
            case OfStream():
                return value.address + step.stream * value.stride
            case RowOfStream():
                return value.address
            case TokensCell():
                assert step.count is not None, "an operation of one stream"
                return step.count.address
            case Tokens() | InState() | HeardRow():
                return 0
            case _:
                return value

    def _targets(self, count: Count) -> Integers:
        """As `TargetsOf` says."""
        base = self.numbers.ctypes.data
        wholes = [base + place * 8 for place in self.places_of(count)]
        shares = [(base + place * 8, stream) for place, stream in self.shares_of(count)]
        shares += [(own.address, stream) for stream, own in enumerate(count.streams)]
        rows = [(base + row[0] * 8, *row[1:]) for row in self.rows_of(count)]
        flat = [len(wholes), *wholes, len(shares), *chain(*shares), len(rows), *chain(*rows)]
        return np.array(flat, dtype=np.int64)


def _records(groups: Sequence[Group], tables: _Tables) -> Integers:
    """What the worker reads, a row for each operation."""
    rows: list[tuple[int, ...]] = []
    for count, steps in groups:
        stops = max((step.stops for step in steps), default=0)
        for step in steps:
            entries = {
                KERNEL: address_of(step.kernel),
                ARGUMENTS: tables.address_of(step),
                UNITS: step.units,
                UNITS_PER_TOKEN: step.units_per_token,
                COUNT: (step.count or count).address,
                ENDS_GROUP: count.address if step is steps[-1] else 0,
                STOPS: stops,
            }
            rows.append(tuple(entries[place] for place in range(RECORD_PLACES)))
    return np.array(rows, dtype=np.int64).reshape(-1, RECORD_PLACES)


def _columns(rows: Sequence[tuple[int, ...]], width: int) -> tuple[Integers, ...]:
    """The columns of a list of rows, which may be empty."""
    return tuple(np.array([row[column] for row in rows], dtype=np.int64) for column in range(width))
