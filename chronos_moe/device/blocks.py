"""The matrices of one expert, out of the bytes that the store reads, on whatever device those are."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod
from typing import Final

import torch
from torch import Tensor

from chronos_moe.store.form import ExpertForm
from quant.container_format import Kind, TensorSpec
from quant.packing import ROW_PAIR
from quant.sherry_packing import pattern_table
from quant.ternary import GROUP

_DTYPES: Final = {"U8": torch.uint8, "F16": torch.float16, "F32": torch.float32}


@dataclass(frozen=True, kw_only=True, slots=True)
class ExpertWeights:
    """What one expert multiplies with, float32."""

    gate_and_up: Tensor  # [2F, D]
    down_norm: Tensor  # [F]
    down: Tensor  # [D, F]


def expert_weights(block: Tensor, form: ExpertForm) -> ExpertWeights:
    """The weights in the bytes of an expert."""
    parts = {
        part.name: block[begin : begin + part.num_bytes].view(_DTYPES[part.dtype]).view(part.shape)
        for part, begin in form.parts()
    }
    found: dict[str, Tensor] = {}
    for spec in form.tensors:
        if spec.kind == "float32":
            found[spec.name] = parts[f"{spec.name}.values"].flatten()[: prod(spec.shape)].view(spec.shape)
        else:
            codes = _CODES[spec.kind](parts[f"{spec.name}.codes"])
            found[spec.name] = _scaled(codes, parts[f"{spec.name}.scales"], spec)
    return ExpertWeights(
        gate_and_up=torch.cat([found["gate_proj.weight"], found["up_proj.weight"]]),
        down_norm=found["down_norm"],
        down=found["down_proj.weight"],
    )


def _scaled(codes: Tensor, scales: Tensor, spec: TensorSpec) -> Tensor:
    rows, inputs = spec.shape
    pairs, groups = scales.shape[:2]
    by_row = scales.permute(0, 2, 3, 1).reshape(pairs * ROW_PAIR, groups)[:rows].float()
    return codes[:rows, :inputs] * by_row.repeat_interleave(GROUP, dim=1)[:, :inputs]


def _ternary(tiles: Tensor) -> Tensor:
    """[pairs, inputs/16, 2, 64]: byte 4r + c holds inputs c, 4 + c, 8 + c and 12 + c of row r."""
    pairs, sixteens = tiles.shape[:2]
    by_row = tiles.view(pairs, sixteens, 2, 16, 4).permute(0, 2, 3, 1, 4)  # [pairs, h, r, t, c]
    fields = [(by_row >> shift & 3).to(torch.int8) - 1 for shift in (0, 2, 4, 6)]
    return torch.stack(fields, dim=4).reshape(pairs * ROW_PAIR, sixteens * 16)


def _sherry(tiles: Tensor) -> Tensor:
    """[pairs, inputs/64, 5, 64]: four lines of patterns of four inputs, and one of their signs."""
    pairs, blocks = tiles.shape[:2]
    lines = tiles.view(pairs, blocks, 5, 16, 4)
    # [pairs, blocks, u, h, r, g], and after it [pairs, h, r, blocks, u, half of a byte, g]
    joined = lines[:, :, :4].view(pairs, blocks, 2, 2, 16, 4)
    patterns = torch.stack([joined & 15, joined >> 4], dim=-2).permute(0, 3, 4, 1, 2, 5, 6)
    bits = torch.arange(8, device=tiles.device, dtype=torch.uint8).view(2, 4, 1, 1)
    signs = lines[:, :, None, None, 4] >> bits & 1  # [pairs, blocks, h, t, r, g]
    table = torch.from_numpy(pattern_table()).to(tiles.device, non_blocking=True)
    fours = table[patterns.reshape(pairs, 2, 16, blocks, 4, 4).long()]
    turned = 1 - 2 * signs.permute(0, 2, 4, 1, 3, 5).to(torch.int8)
    return (fours * turned.unsqueeze(-1)).reshape(pairs * ROW_PAIR, blocks * 64)


_CODES: Final[Mapping[Kind, Callable[[Tensor], Tensor]]] = {"ternary": _ternary, "sherry": _sherry}
