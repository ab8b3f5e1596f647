"""A coarse copy of the head, from which it is proved which logits cannot win.

Only int8 heads have one: 4 bits a weight, with a scale a row that makes the error smallest. Let row o be s·c
in the head and g·h in the copy, x the token's activations d·q, and B the blocks of 64. In real numbers

    |s c·x − g h·x|  ≤  ‖s c − g h‖ · ‖x‖                                           (Cauchy and Schwarz)

Integer sums are exact, and each of B + 2 float32 operations on the way to a score is wrong by 2^-24 of its
result at most, so a computed score lies within (B + 4)·2^-24·‖s c‖·‖x‖ of the real one, the copy's likewise.
The sum of the three is `slack`·‖x‖, every part of it rounded up: no row's logit is farther from its coarse
score. Nothing about x is assumed; how many rows are left to be looked at is all that depends on it.

For rows of normal noise the slack is 0.115·‖s c‖·‖x‖, while logits spread by ‖s c‖·‖x‖ / √inputs. So a narrow
head is screened well and a wide one badly: at 384 inputs the best must stand 5 deviations out, at 2560 nine.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from quant.activations import QuantizedActivations, num_blocks
from quant.embedding import MAX_CODES, RowWeights
from quant.packing import ROW_PAIR, PackedRows, num_pairs, pack_rows, row_scales_shape, unpack_rows

Floats: TypeAlias = NDArray[np.float32]
Doubles: TypeAlias = NDArray[np.float64]

_PIECE_ROWS = 4096
# Steps of the copy as parts of a row's largest weight over 7: the tails of a row may be cut for a finer rest.
_STEPS = tuple(np.float32(part) for part in (1.0, 0.85, 0.75, 0.65))
_SAMPLE_ROWS = 64
_WORK_BYTES = 24
"""For each weight of a piece: its code, and float32 copies of it."""
_ROUNDING = 2.0**-24
_UP = 1 + 2.0**-20
"""Covers the rounding of a few operations and of a float64 to a float32."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Screen:
    """The copy, and how far a logit may be from its coarse score, in units of the token's norm."""

    rows: PackedRows
    slack: Floats  # [rows]

    @property
    def num_bytes(self) -> int:
        """Memory that it takes."""
        return self.rows.codes.nbytes + self.rows.scales.nbytes + self.slack.nbytes


def build_screen(head: PackedRows) -> Screen:
    """The coarse copy of an int8 head, row by row."""
    assert head.bits == 8, "a coarser copy of a coarse head proves nothing"
    pieces = [_coarse(piece) for piece in _pieces(head)]
    packed = [pack_rows(rows) for rows, _ in pieces]
    return Screen(
        rows=PackedRows(
            codes=np.concatenate([piece.codes.view(np.uint8) for piece in packed]),
            scales=np.concatenate([piece.scales for piece in packed]),
            num_rows=head.num_rows,
            num_inputs=head.num_inputs,
            bits=4,
        ),
        slack=np.concatenate([slack for _, slack in pieces]),
    )


def bytes_to_make(head: PackedRows) -> int:
    """Memory that `build_screen` takes at most: the copy in pieces and as a whole, and work on one piece."""
    rows = num_pairs(head.num_rows) * ROW_PAIR
    copy = head.codes.nbytes // 2 + 2 * head.scales.nbytes + 4 * rows
    return 2 * copy + _WORK_BYTES * min(rows, _PIECE_ROWS) * head.num_inputs


def norm_above(acts: QuantizedActivations) -> np.float32:
    """The norm of one token's activations, never too small."""
    squares = acts.codes[0].astype(np.int64) ** 2
    sums = squares.reshape(acts.scales.shape[1], -1).sum(axis=1)
    scales = acts.scales[0].astype(np.float64)
    return np.float32(np.sqrt((scales * scales * sums).sum()) * _UP)


def _pieces(head: PackedRows) -> Iterator[RowWeights]:
    """The head's rows, some thousand at a time."""
    step = _PIECE_ROWS // ROW_PAIR
    for first in range(0, num_pairs(head.num_rows), step):
        rows = min(head.num_rows - first * ROW_PAIR, _PIECE_ROWS)
        scales = head.scales[first : first + step]
        assert scales.shape == row_scales_shape(rows)
        part = PackedRows(
            codes=head.codes[first : first + step],
            scales=scales,
            num_rows=rows,
            num_inputs=head.num_inputs,
            bits=8,
        )
        yield unpack_rows(part)


def _coarse(rows: RowWeights) -> tuple[RowWeights, Floats]:
    """Rows in 4 bits, and their slack."""
    exact = rows.codes.astype(np.float32)
    largest = np.maximum(np.abs(exact).max(axis=1), np.float32(1)) / np.float32(MAX_CODES[4])
    sample = slice(0, _SAMPLE_ROWS)
    part = min(_STEPS, key=lambda part: _error(exact[sample], _codes(exact[sample], largest[sample] * part)))
    kept = _codes(exact, largest * part)
    h, scales = kept.astype(np.float32), rows.scales.astype(np.float64)
    own = np.maximum(_dots(h, h), 1)
    coarse_scales = (scales * _dots(exact, h) / own).astype(np.float32)
    g = coarse_scales.astype(np.float64)
    # ‖s c − g h‖² out of exact dot products. A difference of large numbers is not exact: hence the last term.
    c_norm, h_norm = scales * np.sqrt(_dots(exact, exact)), g * np.sqrt(_dots(h, h))
    square = c_norm**2 - 2 * scales * g * _dots(exact, h) + h_norm**2
    distance = np.sqrt(np.maximum(square, 0) + 2.0**-45 * (c_norm**2 + h_norm**2))
    rounding = (num_blocks(exact.shape[1]) + 4) * _ROUNDING * (c_norm + np.abs(h_norm))
    slack = ((distance + rounding) * _UP).astype(np.float32)
    return RowWeights(codes=kept, scales=coarse_scales, bits=4), slack


def _codes(exact: Floats, steps: Floats) -> NDArray[np.int8]:
    """The nearest codes for a step a row."""
    limit = MAX_CODES[4]
    return np.clip(np.rint(exact / steps[:, None]), -limit, limit).astype(np.int8)


def _error(exact: Floats, codes: NDArray[np.int8]) -> float:
    """Squared distance of rows from their codes, each with its best scale."""
    coarse = codes.astype(np.float32)
    along = _dots(exact, coarse) ** 2 / np.maximum(_dots(coarse, coarse), 1)
    return float((_dots(exact, exact) - along).sum())


def _dots(some: Floats, others: Floats) -> Doubles:
    """Row by row, exact: products are whole numbers below 2^24, and so are float64 sums of them."""
    return (some * others).sum(axis=1, dtype=np.float64)
