"""Embedding and head in training: one table with the numbers of `quant.embedding`, with a gradient."""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from configs.errors import UsageError
from quant.activations import SMALLEST_MAXIMUM
from quant.embedding import MAX_CODES, RowBits, RowWeights, quantize_rows
from quant.qat.straight_through import refuse_mixed, straight_through
from quant.qat.weights import quantized_weight

_SMALLEST_MAXIMUM = float(SMALLEST_MAXIMUM)


def quantized_rows(weight_ND: Tensor, *, bits: RowBits) -> Tensor:
    """scale × code in float32, without a gradient; the last axis is a row."""
    if bits == 2:
        return quantized_weight(weight_ND, group_size="row")
    weight_ND = weight_ND.detach().float()
    largest = weight_ND.abs().amax(dim=-1, keepdim=True).clamp_min(_SMALLEST_MAXIMUM)
    max_code = torch.full_like(largest, MAX_CODES[bits])
    return torch.round(weight_ND * (max_code / largest)) * (largest / max_code)


class QuantEmbedding(nn.Module):
    """A table whose rows are an embedding's vectors and, tied, a head's weights.

    A lookup quantises the rows that it takes, the head all of them. Both gradients meet in the one table.
    """

    quant_mix: Tensor | None

    def __init__(
        self,
        num_rows: int,
        width: int,
        *,
        bits: RowBits = 8,
        init_std: float = 0.02,
        device: torch.device | None = None,
    ) -> None:
        super().__init__()
        if bits not in MAX_CODES:
            raise UsageError(f"{bits!r} bits a weight are unknown; allowed are 8, 4 and 2")
        self.bits: RowBits = bits
        self.init_std = init_std
        self.weight = nn.Parameter(torch.empty(num_rows, width, device=device, dtype=torch.float32))
        self.register_buffer("quant_mix", None, persistent=False)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.normal_(self.weight, std=self.init_std)

    def forward(self, ids: Tensor) -> Tensor:
        """The quantised vectors of some ids, float32."""
        rows = F.embedding(ids, self.weight).float()
        return straight_through(rows, quantized_rows(rows, bits=self.bits), mix=self.quant_mix)

    def project(self, x_quantized: Tensor) -> Tensor:
        """The logits of an input that is normed and quantised (`norm_quant`)."""
        return F.linear(x_quantized, self.quantized_weight())

    def quantized_weight(self) -> Tensor:
        """The whole table as the head sees it, with its straight-through gradient."""
        latent = self.weight.float()
        return straight_through(latent, quantized_rows(latent, bits=self.bits), mix=self.quant_mix)

    def extra_repr(self) -> str:
        num_rows, width = self.weight.shape
        return f"{num_rows}, {width}, bits={self.bits}"


def export_rows(embedding: QuantEmbedding, *, rows_a_piece: int = 4096) -> Iterator[RowWeights]:
    """The codes and scales that the table computes with, in pieces that fit memory and a file's writer."""
    refuse_mixed(embedding.quant_mix, what="an embedding")
    for piece in embedding.weight.detach().split(rows_a_piece):
        yield quantize_rows(piece.float().cpu().numpy(), bits=embedding.bits)
