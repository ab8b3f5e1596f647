"""Ternary codes that move by one: −1, 0 and 1, never further.

A direction has one candidate in every `spread` weights, and −1 or 1 for it: block n of `quant.philox` says of
the weights from n · spread on which one it is, its sign, and whether it goes along when only a part of them
does. A look moves all candidates, or those whose draw is below its length; a step of length a / 65536 those
whose draw is below |a|, along the sign of a. Weights are counted in the order of the tiles, their padding
with them, which never moves.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from configs.errors import ModelError, UsageError
from quant.adapter import Setting
from quant.container import B158File
from quant.packing import ROW_PAIR, TILE_BYTES
from quant.philox import words_of_moves
from runtime.adapting.drift import check_lengths
from runtime.adapting.scales import grouped_names

CODES = 4
"""Codes of a byte."""
WHOLE = 1 << 16
"""The length of a step that takes all candidates."""
DEFAULT_SPREAD = 1024
MOST_SPREAD = 1 << 31

MOST_WAITING = 64
"""Steps that wait for each other: a replay takes many at once."""

Places = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Matrix:
    """A matrix in 2-bit tiles."""

    bytes: NDArray[np.uint8]
    """All of them, flat."""
    columns: int
    """Tiles of a row of blocks: [pairs, columns, 2, 64]."""
    num_rows: int
    num_inputs: int


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Candidates:
    """Of a matrix and some directions, one row for each."""

    at: Places
    """Bytes; no two of a direction are one."""
    shift: NDArray[np.uint8]
    sign: NDArray[np.int8]
    draw: NDArray[np.uint32]
    """Below 2^16; beyond it where there is padding, which never goes."""


class _Step(NamedTuple):
    """A length along a direction."""

    step: int
    pair: int
    length: int


class Codes:
    """The codes of all ternary matrices of a file whose map is this process's own."""

    def __init__(self, file: B158File, *, seed: int, settings: Mapping[str, Setting]) -> None:
        self._spread = checked_spread(settings["spread"])
        self._seed = seed
        self._matrices = [_matrix(file, name) for name in grouped_names(file)]
        self.look_length = WHOLE
        """How many of the candidates a look moves, of 65536."""
        self._before: list[tuple[NDArray[np.uint8], Places, NDArray[np.uint8]]] = []
        self._waiting = list[_Step]()

    @property
    def num_bytes(self) -> int:
        """Memory of what is kept beside the model, at most."""
        return sum(matrix.bytes.size * CODES // self._spread * 9 for matrix in self._matrices)

    def look(self, step: int, *, pair: int = 0, side: int) -> None:
        """Stand to one side of what was learnt."""
        self.settle()
        for stream, matrix in enumerate(self._matrices if side else ()):
            found = self._candidates(stream, [_Step(step, pair, WHOLE)])
            at = found.at[0][found.draw[0] < self.look_length]
            self._before.append((matrix.bytes, at, matrix.bytes[at]))
            _move(matrix, found, np.array([side * self.look_length]))

    def apply(self, step: int, lengths: Sequence[float], *, decay: float = 0.0) -> None:
        """End a step. Codes have no way back to decay on."""
        check_lengths(step, lengths, longest=WHOLE)
        self._go_back()
        self._waiting += [_Step(step, pair, int(length)) for pair, length in enumerate(lengths) if length]
        if len(self._waiting) >= MOST_WAITING:
            self._flush()

    def settle(self) -> None:
        """Stand where the last step ended."""
        self._go_back()
        self._flush()

    def _go_back(self) -> None:
        """Take back a look: what was at a border before cannot be told from where it is now."""
        for codes, at, before in self._before:
            codes[at] = before
        self._before.clear()

    def _flush(self) -> None:
        """Take the steps that wait."""
        lengths = np.array([step.length for step in self._waiting])
        for stream, matrix in enumerate(self._matrices if self._waiting else ()):
            _move(matrix, self._candidates(stream, self._waiting), lengths)
        self._waiting.clear()

    def _candidates(self, stream: int, steps: Sequence[_Step]) -> _Candidates:
        matrix = self._matrices[stream]
        blocks = -(-matrix.bytes.size * CODES // self._spread)
        words = words_of_moves(
            blocks,
            seed=self._seed,
            stream=stream,
            steps=[step.step for step in steps],
            pairs=[step.pair for step in steps],
        )
        begins = np.arange(blocks, dtype=np.int64) * self._spread
        place = begins + words[:, :, 0] % np.uint32(self._spread)
        at, field = place // CODES, place % CODES
        tile, byte = at // TILE_BYTES, at % TILE_BYTES
        row = tile // 2 // matrix.columns * ROW_PAIR + tile % 2 * 16 + byte // 4
        column = tile // 2 % matrix.columns * 16 + field * 4 + byte % 4
        is_real = (row < matrix.num_rows) & (column < matrix.num_inputs) & (at < matrix.bytes.size)
        return _Candidates(
            at=at,
            shift=(field * 2).astype(np.uint8),
            sign=((words[:, :, 1] & 1) * 2).astype(np.int8) - np.int8(1),
            draw=np.where(is_real, words[:, :, 2] >> np.uint32(16), np.uint32(WHOLE)),
        )


def checked_spread(value: Setting) -> int:
    """Weights for each candidate, as it may be asked for."""
    if isinstance(value, bool) or not isinstance(value, int) or not CODES <= value <= MOST_SPREAD:
        raise UsageError(f"spread {value}; allowed are whole numbers from {CODES} to {MOST_SPREAD}")
    if value % CODES:
        raise UsageError(f"spread {value}; allowed are multiples of {CODES}")
    return value


def _move(matrix: _Matrix, found: _Candidates, lengths: Places) -> None:
    """Move the candidates of each direction that go along, by one, as far as there is a code."""
    goes = found.draw < np.abs(lengths)[:, None]
    at = found.at[goes]
    if np.unique(at).size == at.size:
        # None meets another, so that it is all the same which goes first.
        sign = (found.sign * np.sign(lengths).astype(np.int8)[:, None])[goes]
        _move_some(matrix, at, found.shift[goes], sign)
        return
    for number, length in enumerate(lengths):
        chosen = goes[number]
        sign = found.sign[number][chosen] * np.int8(np.sign(length))
        _move_some(matrix, found.at[number][chosen], found.shift[number][chosen], sign)


def _move_some(matrix: _Matrix, at: Places, shift: NDArray[np.uint8], sign: NDArray[np.int8]) -> None:
    before = matrix.bytes[at]
    moved = np.clip((before >> shift & 3).astype(np.int8) + sign, 0, 2).astype(np.uint8)
    matrix.bytes[at] = before & ~(np.uint8(3) << shift) | moved << shift


def _matrix(file: B158File, name: str) -> _Matrix:
    if file.tensors[name].kind == "sherry":
        raise ModelError(
            f"{file.path}: {name} has one zero in every four weights; a code that moves alone breaks that",
            hint="Learn the scales of such a model: --method scales.",
        )
    packed = file.ternary(name)
    return _Matrix(
        bytes=packed.codes.reshape(-1),
        columns=packed.codes.shape[1],
        num_rows=packed.num_rows,
        num_inputs=packed.num_inputs,
    )
