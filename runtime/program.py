"""A program: operations in groups, their argument tables, and the numbers in them that change with a call.

The tables hold addresses of weights and of the engine's buffers, which never change; of a stream's state,
which change with the stream; and numbers of tokens. The last two are known by their places, so that a program
is turned to another stream by one addition of arrays.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from quant.indirect import address_of
from quant.kernels.operation import Kernel
from runtime.worker import (
    ARGUMENTS,
    COUNT,
    ENDS_GROUP,
    JOB_PLACES,
    KERNEL,
    NUM_RECORDS,
    RECORD_PLACES,
    RECORDS,
    UNITS,
    UNITS_PER_TOKEN,
)

Integers: TypeAlias = NDArray[np.int64]


class Tokens:
    """Stands for the number of tokens of the group that an operation is in."""


TOKENS: Final = Tokens()


@dataclass(frozen=True, slots=True)
class InState:
    """Stands for an address in a stream's state."""

    offset: int


@dataclass(frozen=True, slots=True)
class LastRow:
    """Stands for the row of the call's last token."""

    address: int
    stride: int


@dataclass(frozen=True, slots=True, eq=False)
class PlaceOf:
    """Stands for the address of a place in another operation's table."""

    step: "Step"
    place: int


@dataclass(frozen=True, slots=True, eq=False)
class TargetsOf:
    """Stands for the address of a list: where the operations of a count's groups read the number."""

    count: "Count"


@dataclass(frozen=True, slots=True, eq=False)
class NumTargetsOf:
    """Stands for the length of that list, which is known once all operations are."""

    count: "Count"


Value: TypeAlias = int | Tokens | InState | LastRow | PlaceOf | TargetsOf | NumTargetsOf


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Step:
    """An operation with its arguments. Its units of work are so many, and so many more for each token."""

    kernel: Kernel
    arguments: Mapping[int, Value]
    """Place in the argument table: what stands there. Other places hold 0."""
    num_places: int
    units: int = 0
    units_per_token: int = 0


@dataclass(kw_only=True, slots=True, eq=False)
class Count:
    """A number of tokens that groups of operations share, in a cell of memory."""

    cell: Integers
    steps: list[Step] = field(default_factory=list[Step])

    @property
    def address(self) -> int:
        return self.cell.ctypes.data


Group: TypeAlias = tuple[Count, Sequence[Step]]
"""Operations that need nothing of each other."""


class ProgramBuilder:
    """Groups of operations, one after another."""

    def __init__(self) -> None:
        self._groups: list[Group] = []

    def together(self, count: Count, *steps: Step) -> None:
        """Add a group; what comes after it waits for all of it."""
        count.steps.extend(steps)
        self._groups.append((count, steps))

    def build(self, *, tokens: Count) -> "Program":
        """The program, whose caller sets the number of `tokens`; every other count is set by an operation."""
        return Program(self._groups, tokens=tokens)


class Program:
    """Records that the worker runs, and the arrays that they need.

    Its job is all of it. A tail can be set behind the program proper, and be another one for the next call.
    """

    def __init__(self, groups: Sequence[Group], *, tokens: Count) -> None:
        self._tokens = tokens
        self._tables = _Tables([step for _, steps in groups for step in steps])
        self._proper = _records(groups, self._tables)
        in_state = [(at, value.offset) for at, value in self._tables if isinstance(value, InState)]
        self._state_places, self._state_offsets = _columns(in_state, 2)
        rows = [(at, value.address, value.stride) for at, value in self._tables if isinstance(value, LastRow)]
        self._row_places, self._row_addresses, self._row_strides = _columns(rows, 3)
        self._token_places = np.array(self._tables.places_of(tokens), dtype=np.int64)
        self._jobs: Integers = np.zeros((3, JOB_PLACES), dtype=np.int64)
        self.job, self.job_with_tail, self.job_of_tail = (job.ctypes.data for job in self._jobs)
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
        self._jobs[:, NUM_RECORDS] = len(self._proper), len(self._records), len(tail)
        self._jobs[:, RECORDS] = first, first, behind

    def set_tokens(self, num_tokens: int) -> None:
        """How many tokens the next job has."""
        numbers = self._tables.numbers
        self._tokens.cell[0] = num_tokens
        numbers[self._token_places] = num_tokens
        numbers[self._row_places] = self._row_addresses + (num_tokens - 1) * self._row_strides

    def set_state(self, address: int) -> None:
        """Where the state of the next job's stream is."""
        self._tables.numbers[self._state_places] = self._state_offsets + address


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
        for at, value in self:
            self.numbers[at] = self._number(value)

    def __iter__(self) -> Iterator[tuple[int, Value]]:
        """Every argument and where it stands."""
        for step, begin in self._begins.items():
            for place, value in step.arguments.items():
                yield begin + place, value

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

    def _number(self, value: Value) -> int:
        """What stands in a table at first; what depends on the call is set with it."""
        match value:
            case PlaceOf():
                return self.address_of(value.step) + value.place * 8
            case TargetsOf():
                base = self.numbers.ctypes.data
                targets = [base + place * 8 for place in self.places_of(value.count)]
                self._lists.append(np.array([*targets, 0], dtype=np.int64))
                return self._lists[-1].ctypes.data
            case NumTargetsOf():
                return len(self.places_of(value.count))
            case Tokens() | InState() | LastRow():
                return 0
            case _:
                return value


@cache
def code_of(kernel: Kernel) -> int:
    """The address of a kernel, which lives as long as its module. Asking anew takes 0.2 ms each time."""
    return address_of(kernel)


def _records(groups: Sequence[Group], tables: _Tables) -> Integers:
    """What the worker reads, a row for each operation."""
    rows: list[tuple[int, ...]] = []
    for count, steps in groups:
        for step in steps:
            entries = {
                KERNEL: code_of(step.kernel),
                ARGUMENTS: tables.address_of(step),
                UNITS: step.units,
                UNITS_PER_TOKEN: step.units_per_token,
                COUNT: count.address,
                ENDS_GROUP: int(step is steps[-1]),
            }
            rows.append(tuple(entries[place] for place in range(RECORD_PLACES)))
    return np.array(rows, dtype=np.int64).reshape(-1, RECORD_PLACES)


def _columns(rows: Sequence[tuple[int, ...]], width: int) -> tuple[Integers, ...]:
    """The columns of a list of rows, which may be empty."""
    return tuple(np.array([row[column] for row in rows], dtype=np.int64) for column in range(width))
