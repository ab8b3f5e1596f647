"""A packed model in PyTorch to be learnt with: latent weights that quantise to the weights of the file."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch

from chimera.finetune.latents import draw_latents
from chimera.finetune.trained import columns_of_group
from chimera.mixers.table import group_size
from chimera.model import ChimeraForCausalLM, build
from configs.errors import ModelError, UsageError
from configs.inventory import Tensor, tensors
from quant.embedding import dequantize_rows
from quant.packing import PackedRows, PackedTernary, unpack_rows, unpack_ternary
from quant.ternary import dequantize_ternary
from runtime.model_folder import PackedModel, open_model


def latent_model(path: Path | str, *, learnt: Mapping[str, torch.Tensor] | None = None) -> ChimeraForCausalLM:
    """The model of a `.b158` file or a model's folder, with latent weights in the place of lost ones.

    Tensors that were learnt since, by name, take the place of those that it began with.
    """
    opened = open_model(path)
    if opened.holding != "all tensors":
        raise ModelError(
            f"{opened.file.path} holds no routed experts: they are in {opened.config.files.moe}",
            hint="Export the model into one file first.",
        )
    quantization = opened.config.quantization
    if quantization.sherry_mode.enabled or quantization.hgf_correction.enabled:
        raise UsageError(
            f"{opened.file.path} has weights of 1.25 bits or corrections, which keep no latent ones",
            hint="Name the folder of the checkpoint that it was exported from.",
        )
    model = build(opened.config, device="meta")
    known = learnt or {}
    weights = {
        tensor.name: known[tensor.name] if tensor.name in known else _values(opened, tensor, stream=stream)
        for stream, tensor in enumerate(tensors(opened.config))
    }
    model.load_state_dict(weights, assign=True)
    return model


def _values(opened: PackedModel, tensor: Tensor, *, stream: int) -> torch.Tensor:
    """A tensor as training holds it. An expert's draw is that of its own tensor and number."""
    parts = [
        _part(opened, part.name, stream=stream << 16 | expert) for expert, part in enumerate(tensor.apart())
    ]
    return torch.stack(parts) if tensor.experts else parts[0]


def _part(opened: PackedModel, name: str, *, stream: int) -> torch.Tensor:
    held = opened.file.tensor(name)
    if isinstance(held, PackedTernary):
        ternary = unpack_ternary(held)
        values_RC = torch.from_numpy(dequantize_ternary(ternary))
        scales = torch.from_numpy(ternary.scales.astype("float32"))
        # A file repeats the scale of a row or of a tensor for each of its groups.
        rows, columns = values_RC.shape
        group = columns_of_group(group_size(opened.config), columns=columns)
        if group is None:
            group, rows = values_RC.numel(), 1
        scale_RG = scales if group < columns else scales[:rows, :1]
        flat_RC = values_RC.view(rows, -1)
        return draw_latents(flat_RC, scale_RG=scale_RG, group=group, stream=stream).view_as(values_RC)
    if isinstance(held, PackedRows):
        return torch.from_numpy(dequantize_rows(unpack_rows(held)))
    assert isinstance(held, np.ndarray), "no other packed form is left"
    return torch.from_numpy(held.copy())
