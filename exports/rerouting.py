"""A packed model whose experts are decided some layers earlier: its routers fitted anew, all else as it was.

For each layer with experts a new router reads the residual stream behind an earlier layer, and learns to give
the scores that the old router gave at its own place. A model that was trained so from its beginning is better
(`backbone.moe.route_ahead` in its config); this is for a model that there is.

    W = argmin Σ BCE(σ(W d), σ(logits))       d = x / RMS(x) behind the deciding layer
"""

import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from chimera.block import Block
from chimera.model import ChimeraForCausalLM
from chronos_moe.feed_forward import MoEFeedForward
from chronos_moe.intent_file import FILE_NAME as INTENT_NAME
from chronos_moe.router import RoutingRecord, choose
from chronos_moe.statistics import chosen_mask
from configs.errors import DataError, UsageError
from configs.inventory import layers
from configs.load import to_json
from configs.schema.model import ModelConfig
from exports.pack_experts import names_beside
from exports.unpacked import torch_model
from quant.atomic import atomic_file
from quant.container_writer import B158Writer
from quant.whole_folder import check_free, whole_folder
from runtime.model_folder import CONFIG_NAME, PackedModel, open_model
from runtime.packed_specs import packed_specs

STEPS, ROWS, RATE = 1000, 512, 3e-3
ROW_TOKENS, BATCH_ROWS = 128, 8
HELD_SHARE = 10
"""One token of so many is kept to judge by."""
Progress = Callable[[int, int], None]
"""Given the tokens read, and all."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Rerouted:
    """What was written."""

    folder: Path
    digest: str
    agreement: dict[int, float]
    """By layer: the share of the old choice that the new one makes too, on tokens kept to judge by."""


def reroute(
    source: Path | str,
    out: Path | str,
    *,
    ahead: int,
    texts: Iterable[NDArray[np.int64]],
    most_tokens: int,
    seed: int = 0,
    progress: Progress | None = None,
) -> Rerouted:
    """Write the model into a folder of its own. `texts` are ids of documents of the kind that it is for."""
    opened, folder = open_model(source), Path(out)
    moe = opened.config.backbone.moe
    if not moe.enabled or moe.route_ahead:
        found = f"decides its experts {moe.route_ahead} layers ahead" if moe.enabled else "has no experts"
        raise UsageError(f"{opened.file.path} {found}; a model whose layers decide for themselves is needed")
    if opened.adapters:
        raise UsageError(
            f"{opened.folder} holds adapters, which were learnt by the routing as it is now",
            hint="Merge them first, or name the weights alone.",
        )
    if most_tokens < 1:
        raise UsageError(f"{most_tokens} tokens to fit by; a whole number from 1 is needed")
    if not 1 <= ahead <= opened.config.num_hidden_layers:
        raise UsageError(f"{ahead} layers ahead; allowed are 1 to {opened.config.num_hidden_layers}")
    check_free(folder)
    config = replace(
        opened.config,
        backbone=replace(opened.config.backbone, moe=replace(moe, route_ahead=ahead)),
    )
    model = torch_model(source)
    model.config = config
    seen = _read(model, texts, most_tokens=most_tokens, progress=progress)
    routers, agreement = dict[str, Tensor](), dict[int, float]()
    for layer, (d_TD, logits_TE) in seen.items():
        old = _ffn(model, layer)
        routers[f"layers.{layer}.ffn.router"], agreement[layer] = _fitted(old, d_TD, logits_TE, seed=seed)
    with whole_folder(folder) as unfinished:
        digest = _write(unfinished, opened, config, routers)
    return Rerouted(folder=folder, digest=digest, agreement=agreement)


def _write(folder: Path, opened: PackedModel, config: ModelConfig, routers: Mapping[str, Tensor]) -> str:
    """The model's folder with another config and other routers; the digest of its weights."""
    specs = packed_specs(config)
    path, metadata = folder / config.files.weights, opened.file.metadata
    with B158Writer(path, tensors=specs, config=to_json(config), metadata=metadata) as writer:
        for spec in specs:
            router = routers.get(spec.name)
            writer.write(spec.name, opened.file.tensor(spec.name) if router is None else router.numpy())
    for name in names_beside(config):
        # A classifier that learnt the old routing is none for the new one.
        if name not in (CONFIG_NAME, INTENT_NAME) and (opened.folder / name).is_file():
            shutil.copyfile(opened.folder / name, folder / name)
    with atomic_file(folder / CONFIG_NAME) as file:
        file.write(to_json(config).encode())
    return writer.digest


def decided_layers(config: ModelConfig) -> list[int]:
    """The layers whose experts are decided elsewhere."""
    return [layer.index for layer in layers(config) if layer.decided_behind is not None]


def _ffn(model: ChimeraForCausalLM, layer: int) -> MoEFeedForward:
    ffn = cast(Block, model.layers[layer]).ffn
    assert isinstance(ffn, MoEFeedForward), "a layer with experts"
    return ffn


@torch.no_grad()
def _read(
    model: ChimeraForCausalLM,
    texts: Iterable[NDArray[np.int64]],
    *,
    most_tokens: int,
    progress: Progress | None,
) -> dict[int, tuple[Tensor, Tensor]]:
    """What would decide, and what the old routers say, of every pass. The model goes the old way."""
    seen: dict[int, tuple[list[Tensor], list[Tensor]]] = {}
    for layer in decided_layers(model.config):
        seen[layer] = ([], [])
        _watch(_ffn(model, layer), *seen[layer])
    read = 0
    for ids_BT in _batches(texts):
        model(ids_BT, keep_state=False)
        read += ids_BT.numel()
        if progress is not None:
            progress(min(read, most_tokens), most_tokens)
        if read >= most_tokens:
            break
    if not read:
        raise DataError(
            f"no document has {ROW_TOKENS} tokens, of which some thousands are needed to fit a router"
        )
    return {layer: (torch.cat(inputs), torch.cat(logits)) for layer, (inputs, logits) in seen.items()}


def _batches(texts: Iterable[NDArray[np.int64]]) -> Iterator[Tensor]:
    """Rows of whole pieces; what is left of a document is not worth a row of its own."""
    rows = list[NDArray[np.int64]]()
    for ids_T in texts:
        for first in range(0, len(ids_T) - ROW_TOKENS + 1, ROW_TOKENS):
            rows.append(ids_T[first : first + ROW_TOKENS])
            if len(rows) == BATCH_ROWS:
                yield torch.from_numpy(np.stack(rows))
                rows.clear()
    if rows:
        yield torch.from_numpy(np.stack(rows))


def _watch(ffn: MoEFeedForward, inputs: list[Tensor], logits: list[Tensor]) -> None:
    """Have a layer write down what would decide and what decides, and go on as it did."""
    forward = ffn.forward

    def watched(
        x: Tensor,
        *,
        available: Tensor | None = None,
        logit_pressure_E: Tensor | None = None,
        deciding: Tensor | None = None,
    ) -> tuple[Tensor, RoutingRecord]:
        assert deciding is not None, "the config says who decides"
        y, record = forward(x, available=available, logit_pressure_E=logit_pressure_E)
        inputs.append(F.rms_norm(deciding.float(), deciding.shape[-1:], None, ffn.eps).flatten(end_dim=-2))
        logits.append(record.logits.flatten(end_dim=-2))
        return y, record

    cast(Any, ffn).forward = watched


def _fitted(old: MoEFeedForward, d_TD: Tensor, logits_TE: Tensor, *, seed: int) -> tuple[Tensor, float]:
    """A router for the new place, and how often it chooses as the old one."""
    generator = torch.Generator().manual_seed(seed)
    held = torch.arange(len(d_TD)) % HELD_SHARE == 0
    inputs, targets = d_TD[~held], torch.sigmoid(logits_TE[~held])
    router = torch.zeros_like(old.router).requires_grad_()
    optimizer = torch.optim.Adam([router], lr=RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
    for _ in range(STEPS):
        rows = torch.randint(len(inputs), (ROWS,), generator=generator)
        loss = F.binary_cross_entropy_with_logits(F.linear(inputs[rows], router), targets[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    with torch.no_grad():
        found, right = (
            chosen_mask(
                choose(torch.sigmoid(logits), bias_E=old.router_bias, num_chosen=old.num_chosen),
                num_experts=len(old.router),
            )
            for logits in (F.linear(d_TD[held], router), logits_TE[held])
        )
    return router.detach(), float((found & right).sum() / right.sum())
