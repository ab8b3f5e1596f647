"""The arms of the first proof: what each is made of, how wide it is, and what it costs.

The hybrid sets the size. Every other arm has its width and depth, and the inner width of feed-forward layers
that brings its packed file nearest to the hybrid's; rows are padded to 32, so the files differ by under 1 %.
A twin in bfloat16 is the same model with its quantisers off; its file is the larger for it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Literal

import torch

from benchmarks.proof_transformer import Transformer
from chimera.model import ChimeraForCausalLM, build
from chimera.train.flops import training_flops
from configs.accounting import active_parameters, applied_parameters, file_bytes, parameters
from configs.inventory import layers
from configs.load import build_config
from configs.schema.model import ModelConfig
from quant.qat.linear import set_quant_mix

SizeName = Literal["full", "micro"]
Peer = ChimeraForCausalLM | Transformer
"""What an arm trains: both have the call that `TrainStep` makes."""

WIDTH_STEP = 32
"""Of inner widths: rows of a packed matrix are padded to as many."""
BF16_BYTES = 2


@dataclass(frozen=True, kw_only=True, slots=True)
class Size:
    """What all arms of a proof have in common, and the hybrid's own parts."""

    width: int
    num_layers: int
    pattern: str
    """Of the hybrid."""
    inner: int
    """Inner width of the hybrid's feed-forward layers."""
    experts: Mapping[str, Any]
    loop: Mapping[str, Any]
    extra: Mapping[str, Any]


SIZES: Mapping[SizeName, Size] = {
    "full": Size(
        width=256,
        num_layers=8,
        pattern="GD XM GD TM GD XM GD SK",
        inner=448,
        experts={"enabled": True, "n_routed_experts": 8, "moe_intermediate_size": 128},
        loop={"enabled": True, "prelude": [0, 1], "loop": [2, 5], "coda": [6, 7], "loop_range": [1, 4]},
        extra={},
    ),
    "micro": Size(
        width=64,
        num_layers=4,
        pattern="GD XM TM SK",
        inner=64,
        experts={"enabled": True, "n_routed_experts": 4, "moe_intermediate_size": 32},
        loop={"enabled": True, "prelude": [0, 0], "loop": [1, 2], "coda": [3, 3], "loop_range": [1, 2]},
        extra={"titans": {"persistent_memory_slots": 8, "local_window_size": 32, "memory_chunk": 16}},
    ),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Arm:
    """One of the models compared."""

    title: str
    pattern: str | None = None
    """Aliases of its layers; None takes the hybrid's."""
    ternary: bool = True
    looped: bool = False
    experts: bool = False
    matched: bool = True
    """Whether the inner width is chosen for the file's size; else it is the hybrid's own."""
    shaped_as: str | None = None
    """An arm whose inner width it takes, whatever its file's size."""
    quantization: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """Laid over the config's section."""

    @property
    def is_transformer(self) -> bool:
        """Whether it is attention alone."""
        return self.pattern == ATTENTION


ATTENTION = "AT"

# In this order they are begun: first the four that the goals speak of, then the hybrid's parts.
ARMS: Mapping[str, Arm] = {
    "hybrid": Arm(title="hybrid", looped=True, experts=True, matched=False),
    "transformer": Arm(title="transformer", pattern=ATTENTION),
    "hybrid_bf16": Arm(title="hybrid, bf16", ternary=False, looped=True, experts=True, matched=False),
    "transformer_bf16": Arm(title="transformer, bf16", pattern=ATTENTION, ternary=False),
    "hybrid_no_loops": Arm(title="hybrid, no loops", experts=True, matched=False),
    "hybrid_no_moe": Arm(title="hybrid, no experts", looped=True),
    "gated_delta": Arm(title="Gated DeltaNet", pattern="GD"),
    "delta_mlstm": Arm(title="with two mLSTM", pattern="GD XM GD GD GD XM GD GD"),
    "delta_titans": Arm(title="with one Titans", pattern="GD GD GD TM GD GD GD GD"),
    "delta_sherry": Arm(
        title="Sherry",
        pattern="GD",
        shaped_as="gated_delta",
        quantization={"sherry_mode": {"enabled": True}},
    ),
    "delta_correction": Arm(
        title="with a correction",
        pattern="GD",
        shaped_as="gated_delta",
        quantization={"hgf_correction": {"enabled": True}},
    ),
}


@lru_cache
def config_of(name: str, *, size: SizeName, vocab_size: int) -> ModelConfig:
    """The config of an arm."""
    arm, common = ARMS[name], SIZES[size]
    if arm.shaped_as is not None:
        inner = config_of(arm.shaped_as, size=size, vocab_size=vocab_size).intermediate_size
        return _config(arm, common, vocab_size=vocab_size, inner=inner)
    if not arm.matched:
        return _config(arm, common, vocab_size=vocab_size, inner=common.inner)
    target = file_bytes(config_of("hybrid", size=size, vocab_size=vocab_size))
    candidates = (
        _config(arm, common, vocab_size=vocab_size, inner=inner)
        for inner in range(WIDTH_STEP, 8 * common.width, WIDTH_STEP)
    )
    return min(candidates, key=lambda config: abs(file_bytes(config) - target))


def build_arm(name: str, *, size: SizeName, vocab_size: int, seed: int) -> Peer:
    """The model of an arm, freshly initialised from a seed, on the CPU."""
    config = config_of(name, size=size, vocab_size=vocab_size)
    torch.manual_seed(seed)
    model: Peer = Transformer(config) if ARMS[name].is_transformer else build(config)
    if not ARMS[name].ternary:
        set_quant_mix(model, 0.0)
    return model


def costs(name: str, *, size: SizeName, vocab_size: int, seq_len: int) -> dict[str, Any]:
    """What an arm weighs, and what it does for a token."""
    config = config_of(name, size=size, vocab_size=vocab_size)
    rounds = config.rounds_default
    products = applied_parameters(config, rounds=rounds) - parameters(config, part="embedding")
    mixing = mixing_flops(config, context=seq_len, rounds=rounds)
    packed = file_bytes(config)
    return {
        "parameters": parameters(config),
        "active_parameters": active_parameters(config),
        "stored_bytes": packed if ARMS[name].ternary else BF16_BYTES * parameters(config),
        "packed_bytes": packed,
        "inner_width": config.intermediate_size,
        "flops": 2 * products + mixing,
        "mixing_flops": mixing,
        "training_flops": training_flops(config),
    }


def mixing_flops(config: ModelConfig, *, context: int, rounds: int) -> int:
    """Operations that the mixers' recurrences take for a token after `context` others, step by step.

    A multiplication and an addition are two. Attention reads `context` keys and values; a state of H·K·K
    numbers is decayed, read and written once, by the delta rule read twice.
    """
    P, K, titans = config.inner_width, config.head_dim, config.titans
    seen = min(context, titans.local_window_size) + titans.persistent_memory_slots
    of_kind = {
        "gated_deltanet": 7 * P * K,
        "tsp_span_knot": 7 * P * K,
        "xlstm_m": 5 * P * K,
        # Two layers read, gone through and back for the gradient; momentum and forgetting of both.
        "titans_mac": (4 + 10 + 8) * P * K + 4 * seen * P,
        "gqa": 4 * context * P,
    }
    return sum(of_kind[layer.kind] * (rounds if layer.looped else 1) for layer in layers(config))


def _config(arm: Arm, common: Size, *, vocab_size: int, inner: int) -> ModelConfig:
    backbone: dict[str, Any] = {"layer_pattern": common.pattern if arm.pattern is None else arm.pattern}
    if arm.is_transformer:
        backbone["layer_aliases"] = {ATTENTION: "gqa"}
    if arm.experts:
        backbone["moe"] = dict(common.experts)
    raw = {
        "hidden_size": common.width,
        "intermediate_size": inner,
        "num_hidden_layers": common.num_layers,
        "vocab_size": vocab_size,
        "backbone": backbone,
        "looping": dict(common.loop) if arm.looped else {},
        "quantization": dict(arm.quantization),
        **common.extra,
    }
    return build_config(raw, source="an arm of the proof")
