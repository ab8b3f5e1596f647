"""A packed model in PyTorch again: the weights that the file holds, as the torch layers compute with them.

What was rounded away is not in a file, so such a model computes but learns no more: its ternary weights are
scale × code, and stay as they are. It is for comparing, and for handing over to whoever wants PyTorch.
"""

from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
import torch.nn.functional as F

from chimera.model import ChimeraForCausalLM, build
from chronos_moe.experts import ExpertLinear
from configs.errors import ModelError
from configs.inventory import tensors
from quant.embedding import dequantize_rows
from quant.packing import PackedRows, PackedTernary, unpack_rows, unpack_ternary
from quant.qat.correction import Correction
from quant.qat.embedding import QuantEmbedding
from quant.qat.linear import BitLinear
from quant.sherry_packing import PackedSherry, unpack_sherry
from quant.ternary import dequantize_ternary
from runtime.model_folder import PackedModel, open_model


def torch_model(path: Path | str) -> ChimeraForCausalLM:
    """The model of a `.b158` file or a model's folder, for evaluation."""
    opened = open_model(path)
    if opened.holding != "all tensors":
        raise ModelError(
            f"{opened.file.path} holds no routed experts: they are in {opened.config.files.moe}",
            hint="Export the model into one file first, or open it on a GPU with exports.streamed.",
        )
    return load_packed(build(opened.config, device="meta"), opened)


def load_packed(
    model: ChimeraForCausalLM, opened: PackedModel, *, with_experts: bool = True
) -> ChimeraForCausalLM:
    """Give a model that has no weights yet those of a packed file, for evaluation."""
    weights: dict[str, torch.Tensor] = {}
    for tensor in tensors(opened.config):
        if tensor.experts and not with_experts:
            continue
        if tensor.folded:
            # It lies in its neighbour, which nobody multiplies with it again.
            weights[tensor.name] = torch.zeros(tensor.shape)
            continue
        parts = [_weight(opened, part.name) for part in tensor.apart()]
        weights[tensor.name] = torch.stack(parts) if tensor.experts else parts[0]
    model.load_state_dict(weights, assign=True)
    return hold_weights(model).eval()


@torch.no_grad()
def hold_weights(model: ChimeraForCausalLM) -> ChimeraForCausalLM:
    """Let a model whose weights are quantised already take them as they are."""
    for module in model.modules():
        if isinstance(module, BitLinear | ExpertLinear):
            # On the object, so that whatever asks for the weights gets these.
            cast(Any, module).quantized_weight = partial(getattr, module, "weight")
        elif isinstance(module, Correction):
            for part in ("down", "up"):
                setattr(module, f"{part}_weight", partial(getattr, module, part))
    embedding = cast(Any, model.embedding)
    embedding.quantized_weight = partial(getattr, embedding, "weight")
    embedding.forward = partial(_rows, embedding)
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    return model


def _rows(embedding: QuantEmbedding, ids: torch.Tensor) -> torch.Tensor:
    """The vectors of some ids. The table is looked up when asked: a loader may have put another there."""
    return F.embedding(ids, embedding.weight)


def _weight(opened: PackedModel, name: str) -> torch.Tensor:
    held = opened.file.tensor(name)
    if isinstance(held, PackedTernary):
        array = dequantize_ternary(unpack_ternary(held))
    elif isinstance(held, PackedSherry):
        array = dequantize_ternary(unpack_sherry(held))
    elif isinstance(held, PackedRows):
        array = dequantize_rows(unpack_rows(held))
    else:
        array = held.copy()
    return torch.from_numpy(array)
