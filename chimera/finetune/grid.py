"""Weights on a grid, so that a move of them can be taken back exactly.

Every weight of a group is a whole number of its group's unit, a power of two so small that the number stays
below 2^24. A float32 holds it, and sums of such weights with such moves are exact: W + d − 2d + d is W, bit
for bit, after any number of steps, in any order and on any machine. A copy of the weights is never needed.

A move of length `c` along a direction z adds rint(c · s / u) · u · z, where s is the group's mean magnitude
when training began and u its unit. So a length is a share of what a weight of the group weighs, and the
same length moves a group of small weights and one of large weights alike. A perturbation that is much
smaller than s would vanish in ternary rounding. The unit is about 2^-20 of a group's largest weight;
weights may grow to four times that.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from chimera.finetune.noise import (
    SPAN,
    DirectionKey,
    bits_of_bytes,
    direction,
    unpack_bits,
)

MANTISSA_BITS = 24
GROWTH_BITS = 2
"""A weight may grow to 2^2 times the largest one of its group."""
HEADROOM_BITS = 1
"""Perturbations may go as far beyond."""
SMALLEST_MEAN = 1e-3
"""The mean magnitude that a group of zeros is taken to have, as biases begin."""
CHUNK = {"cpu": 1 << 18, "cuda": 1 << 23}
"""Weights that are moved at once."""


@dataclass(kw_only=True, slots=True, eq=False)
class GridTensor:
    """A tensor that is trained, as rows of groups."""

    name: str
    stream: int
    """Its place among the trained tensors: part of the key of its directions."""
    weight_RC: Tensor
    """A view of the parameter."""
    group: int
    """Weights of a group; the last one of a row may be short."""
    scale_RG: Tensor
    unit_RG: Tensor
    mask: Tensor | None = None
    """A bit for each weight that moves, [R, spans, 16] bytes; None where all do."""

    @property
    def num_spans(self) -> int:
        """Spans of a direction in a row."""
        return -(-self.weight_RC.shape[1] // SPAN)

    def pieces(self) -> Iterator[tuple[int, int]]:
        """Rows that are moved at once, from the first to before the last."""
        num_rows, num_columns = self.weight_RC.shape
        at_once = max(1, CHUNK[self.weight_RC.device.type] // num_columns)
        for first in range(0, num_rows, at_once):
            yield first, min(first + at_once, num_rows)

    def direction(self, first: int, after: int, *, key: DirectionKey) -> Tensor:
        """Some rows of a direction, zero where weights stay, [rows, C]."""
        spans, rows = self.num_spans, after - first
        values = direction(
            first * spans, rows * spans, stream=self.stream, key=key, device=self.weight_RC.device
        )
        if self.mask is not None:
            bytes_NB = self.mask[first:after].flatten(0, 1)
            values *= unpack_bits(bytes_NB, table=bits_of_bytes(str(self.weight_RC.device)))
        return values.view(rows, -1)[:, : self.weight_RC.shape[1]]

    @torch.no_grad()
    def move(self, length: float, *, key: DirectionKey, times: int = 1, stay: bool = False) -> None:
        """Go `times` the same length along a direction. The same call with −`times` takes it back.

        A move that is to stay keeps the weights where later moves are exact.
        """
        for first, after in self.pieces():
            unit_RG = self.unit_RG[first:after]
            number_RG = self.scale_RG[first:after].double() * length / unit_RG
            if key.distribution == "rademacher":
                step_RG = (self._bounded(number_RG).mul_(times) * unit_RG).float()
                step_RC = self.direction(first, after, key=key) * self.spread(step_RG)
            else:
                number_RC = self.direction(first, after, key=key) * self.spread(number_RG)
                step_RC = (self._bounded(number_RC).mul_(times) * self.spread(unit_RG)).float()
            rows = self.weight_RC[first:after]
            rows += step_RC
            if stay:
                most_RC = self.spread(unit_RG) * 2.0 ** (MANTISSA_BITS - HEADROOM_BITS)
                torch.minimum(torch.maximum(rows, -most_RC, out=rows), most_RC, out=rows)

    @torch.no_grad()
    def decay(self, share: float) -> None:
        """Take a share of every weight away, to the nearest unit."""
        for first, after in self.pieces():
            unit_RC = self.spread(self.unit_RG[first:after])
            rows = self.weight_RC[first:after]
            rows -= torch.round(rows * (share / unit_RC)) * unit_RC

    @torch.no_grad()
    def skip_small(self, threshold: float) -> None:
        """Let weights below a share of their group's present mean stay where they are, from now on."""
        packed: list[Tensor] = []
        columns = self.weight_RC.shape[1]
        for first, after in self.pieces():
            size = self.weight_RC[first:after].abs()
            moves = size > self.spread(self.mean_by_group(size) * threshold)
            bits = F.pad(moves, (0, -columns % SPAN)).view(-1, self.num_spans, SPAN // 8, 8)
            powers = 1 << torch.arange(8, device=size.device)
            packed.append((bits * powers).sum(dim=-1, dtype=torch.int64).to(torch.uint8))
        self.mask = torch.cat(packed)

    def by_group(self, value_RC: Tensor) -> Tensor:
        """Some rows, cut into groups: [rows, groups, group], the last one filled up with zeros."""
        return F.pad(value_RC, (0, -value_RC.shape[1] % self.group)).unflatten(-1, (-1, self.group))

    def mean_by_group(self, size_RC: Tensor) -> Tensor:
        """The mean magnitude of each group. It is exact in any order: few small multiples of one number."""
        grouped = self.by_group(size_RC)
        counts_G = torch.full(grouped.shape[1:2], float(self.group), dtype=torch.float64)
        if size_RC.shape[1] % self.group:
            counts_G[-1] = size_RC.shape[1] % self.group
        return (grouped.sum(dim=-1, dtype=torch.float64) / counts_G.to(size_RC.device)).float()

    def spread(self, value_RG: Tensor) -> Tensor:
        """A value of each group in a form that meets every weight of some rows."""
        if value_RG.shape[1] == 1:
            return value_RG
        return value_RG.repeat_interleave(self.group, dim=1)[:, : self.weight_RC.shape[1]]

    def _bounded(self, number: Tensor) -> Tensor:
        """Whole numbers of units that leave a sum exact."""
        most = 2.0 ** (MANTISSA_BITS - HEADROOM_BITS - 1)
        return number.round_().clamp_(-most, most)


@torch.no_grad()
def on_grid(parameter: Tensor, *, name: str, stream: int, group: int | None) -> GridTensor:
    """Put a parameter on its grid, in place. Groups lie along the last axis; None makes it all one group.

    A weight moves by half a unit at most.
    """
    weight_RC = parameter.data.view(1, -1) if group is None else parameter.data.view(-1, parameter.shape[-1])
    columns = weight_RC.shape[1]
    group = columns if group is None else min(group, columns)
    scales: list[Tensor] = []
    units: list[Tensor] = []
    held = GridTensor(
        name=name,
        stream=stream,
        weight_RC=weight_RC,
        group=group,
        scale_RG=weight_RC[:0],
        unit_RG=weight_RC[:0],
    )
    for first, after in held.pieces():
        rows = weight_RC[first:after]
        largest_RG = held.by_group(rows.abs()).amax(dim=-1).clamp_min(SMALLEST_MEAN)
        _, exponent_RG = torch.frexp(largest_RG)
        power_RG = exponent_RG + (GROWTH_BITS + HEADROOM_BITS - MANTISSA_BITS)
        units.append(torch.ldexp(torch.ones_like(largest_RG), power_RG))
        unit_RC = held.spread(units[-1])
        rows.copy_(torch.round(rows / unit_RC) * unit_RC)
        # Of what is on the grid, so that weights that are there already are left as they are.
        mean_RG = held.mean_by_group(rows.abs())
        scales.append(torch.where(mean_RG > 0, mean_RG, SMALLEST_MEAN))
    held.scale_RG, held.unit_RG = torch.cat(scales), torch.cat(units)
    return held
