"""The quantised table in torch: values of the reference, one gradient for lookup and head, export."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from configs.errors import UsageError
from quant.embedding import RowBits, dequantize_rows, quantize_rows
from quant.qat.embedding import QuantEmbedding, export_rows, quantized_rows
from quant.qat.linear import set_quant_mix

ALL_BITS: list[RowBits] = [8, 4, 2]


def gaussian(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("bits", ALL_BITS)
@pytest.mark.parametrize("width", [1, 96, 384])
def test_the_values_of_the_reference(bits: RowBits, width: int):
    table = gaussian(50, width) * 0.02
    table[7] = 0
    value = quantized_rows(table, bits=bits).numpy()
    assert np.array_equal(value, dequantize_rows(quantize_rows(table.numpy(), bits=bits)))


@pytest.mark.parametrize("bits", ALL_BITS)
def test_a_lookup_is_a_row_of_the_head(bits: RowBits):
    embedding = QuantEmbedding(50, 96, bits=bits)
    ids = torch.tensor([[3, 49], [3, 0]])
    assert torch.equal(embedding(ids), embedding.quantized_weight()[ids])
    x_TD = gaussian(4, 96)
    assert torch.equal(embedding.project(x_TD), F.linear(x_TD, embedding.quantized_weight()))


@pytest.mark.parametrize("bits", ALL_BITS)
def test_both_gradients_meet_in_the_table(bits: RowBits):
    embedding = QuantEmbedding(50, 96, bits=bits)
    ids = torch.tensor([3, 49, 3])
    up_TD, x_TD, up_TN = gaussian(3, 96), gaussian(4, 96, seed=1), gaussian(4, 50, seed=2)
    (embedding(ids) * up_TD).sum().backward()
    looked_up = torch.zeros(50, 96).index_add_(0, ids, up_TD)
    assert embedding.weight.grad is not None
    assert torch.equal(embedding.weight.grad, looked_up)
    (embedding.project(x_TD) * up_TN).sum().backward()
    torch.testing.assert_close(embedding.weight.grad, looked_up + up_TN.T @ x_TD)


@pytest.mark.parametrize("bits", ALL_BITS)
def test_what_is_exported_is_what_the_table_uses(bits: RowBits):
    embedding = QuantEmbedding(150, 96, bits=bits)
    pieces = list(export_rows(embedding, rows_a_piece=64))
    assert [len(piece.scales) for piece in pieces] == [64, 64, 22]
    assert {piece.bits for piece in pieces} == {bits}
    exported = np.concatenate([dequantize_rows(piece) for piece in pieces])
    assert np.array_equal(exported, embedding.quantized_weight().detach().numpy())


def test_the_gradual_mix():
    embedding = QuantEmbedding(50, 96)
    set_quant_mix(embedding, 0)
    ids = torch.arange(50)
    assert torch.equal(embedding(ids), embedding.weight)
    assert torch.equal(embedding.quantized_weight(), embedding.weight)
    with pytest.raises(UsageError, match="an embedding still computes with a quantisation mix of 0"):
        next(export_rows(embedding))


@pytest.mark.parametrize("bits", ALL_BITS)
def test_it_compiles_into_one_graph(bits: RowBits):
    embedding = QuantEmbedding(50, 96, bits=bits)

    def logits(ids: torch.Tensor) -> torch.Tensor:
        return embedding.project(embedding(ids))

    ids = torch.tensor([[3, 49], [3, 0]])
    compiled = torch.compile(logits, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(ids), logits(ids), rtol=1e-5, atol=1e-6)
    (gradient,) = torch.autograd.grad(compiled(ids).square().sum(), embedding.weight)
    (expected,) = torch.autograd.grad(logits(ids).square().sum(), embedding.weight)
    torch.testing.assert_close(gradient, expected, rtol=1e-4, atol=1e-6)


def test_unknown_bits_are_refused():
    with pytest.raises(UsageError, match="3 bits a weight are unknown; allowed are 8, 4 and 2"):
        QuantEmbedding(5, 8, bits=3)
