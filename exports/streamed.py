"""A packed model in PyTorch on a GPU, with its experts on disk: for models that no memory of the GPU holds.

    with streamed_model("packed", device_bytes=2**30, memory_bytes=4 * 2**30) as streamed:
        words = list(generate(streamed.model, prompt, max_new_tokens=100))

The folder is one of `chimera pack-experts`. The GPU holds all but the routed experts, and of those as many as
`device_bytes` has room for; `memory_bytes` of the host's memory are pinned behind it, and the disk is behind
that. Every miss is waited for, so the text is that of a GPU which holds all of it.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch

from chimera.mixers.table import act_block
from chimera.model import ChimeraForCausalLM, build
from chronos_moe.device.streamed import Course, StreamedExperts
from chronos_moe.device.tier import CudaTier
from chronos_moe.feed_forward import MoEFeedForward, decision
from chronos_moe.store.choice import best_reading
from chronos_moe.store.form import expert_layers
from chronos_moe.store.ledger import Ledger
from chronos_moe.store.meter import Meter
from chronos_moe.store.policy import PolicyName
from chronos_moe.store.predictors import PREDICTORS, PredictorName
from chronos_moe.store.reading import open_reader
from chronos_moe.store.store import ExpertStore, check_budget
from configs.errors import ModelError, NotEnoughMemory, UsageError
from configs.inventory import layers
from configs.schema.model import ModelConfig
from exports.unpacked import load_packed
from runtime.building.tensors import Tensors
from runtime.model_folder import open_model


@dataclass(frozen=True, kw_only=True, slots=True)
class Streamed:
    """An open model and what brings its experts: `tier.num_hits`, `tier.store.meter` and more tell how."""

    model: ChimeraForCausalLM
    tier: CudaTier


@contextmanager
def streamed_model(
    path: Path | str,
    *,
    device_bytes: int,
    memory_bytes: int,
    device: torch.device | str = "cuda",
    policy: PolicyName = "lru",
    predictor: PredictorName = "same",
) -> Iterator[Streamed]:
    """A model for evaluation; its store is closed behind the block."""
    if torch.device(device).type != "cuda" or not torch.cuda.is_available():
        raise UsageError(
            f"experts are brought to CUDA devices alone, and {device} is none that PyTorch sees here",
            hint="Without one, chimera-run --experts-memory SIZE runs such a folder.",
        )
    opened = open_model(path)
    manifest = Tensors(opened).manifest
    if manifest is None:
        raise ModelError(
            f"{opened.file.path} has no experts on disk",
            hint="Make clusters of them: chimera pack-experts MODEL",
        )
    config, form = opened.config, manifest.form
    num_chosen, num_experts = config.backbone.moe.num_experts_per_tok, config.backbone.moe.n_routed_experts
    rows = {layer: row for row, layer in enumerate(expert_layers(config))}
    order = _order(config, rows)
    slots = check_budget(memory_bytes, block_bytes=form.block_bytes, num_chosen=num_chosen)
    on_device = device_bytes // form.block_bytes
    if on_device < num_chosen:
        raise NotEnoughMemory(
            f"{device_bytes:,} bytes of {device} hold {on_device} experts of {form.block_bytes:,} bytes; "
            f"a token needs {num_chosen} at a time",
            hint=f"Give the device {num_chosen * form.block_bytes:,} bytes at least.",
        )
    folder = opened.file.path.parent
    reading = best_reading(manifest, folder)
    ledger = Ledger(num_layers=len(rows), num_experts=num_experts, most_passes=len(rows) * config.rounds_most)
    store = ExpertStore(
        manifest,
        folder,
        layers=tuple(rows),
        ledger=ledger,
        order=order,
        num_slots=slots,
        reader=open_reader(reading.reader, [folder / cluster.file for cluster in manifest.clusters]),
        num_readers=reading.num_readers,
        policy=policy,
        meter=Meter(),
    )
    try:
        tier = CudaTier(store, num_slots=min(on_device, ledger.words.size), device=device)
        try:
            foreseen = PREDICTORS[predictor](manifest.by_rows(tuple(rows)))
            course = Course(tier, order=order, num_chosen=num_chosen, predictor=foreseen)
            model = build(config, device="meta")
            for layer, row in rows.items():
                cast(Any, model.layers[layer]).ffn.experts = StreamedExperts(
                    course, row=row, form=form, act_block=act_block(config), eps=config.rms_norm_eps
                )
            model = load_packed(model, opened, with_experts=False).to(device)
            _tell(course, model, rows)
            yield Streamed(model=model, tier=tier)
        finally:
            tier.close()
    finally:
        store.close()


def _order(config: ModelConfig, rows: dict[int, int]) -> tuple[int, ...]:
    """The passes of a call with the usual rounds, by the rows of their layers."""
    looped = [layer.index for layer in layers(config) if layer.looped]
    plain = [layer.index for layer in layers(config) if not layer.looped]
    first = looped[0] if looped else len(plain)
    before, after = [index for index in plain if index < first], [index for index in plain if index > first]
    indices = (*before, *looped * config.rounds_default, *after)
    return tuple(rows[index] for index in indices if index in rows)


def _tell(course: Course, model: ChimeraForCausalLM, rows: dict[int, int]) -> None:
    """Have the course know when a call begins, and what one layer decides for a later one."""
    model.register_forward_pre_hook(lambda *_: course.begin())
    for layer in layers(model.config):
        if layer.experts and layer.decided_behind is not None:
            ffn = cast(MoEFeedForward, cast(Any, model.layers[layer.index]).ffn)

            def decide(*given: Any, ffn: MoEFeedForward = ffn, row: int = rows[layer.index]) -> None:
                course.decide(row, decision(ffn, given[-1].x_BTD))

            model.layers[layer.decided_behind].register_forward_hook(decide)
