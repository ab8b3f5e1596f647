"""The report that `chimera inspect` prints: a tree of plain values, ready for JSON."""

import dataclasses
from pathlib import Path
from typing import Any, Literal, cast, get_args

from configs import accounting
from configs.claims import claims
from configs.errors import UsageError
from configs.inventory import Part, layers
from configs.leaves import inert_paths
from configs.load import build_config, load_raw, named_values
from configs.schema.model import ModelConfig
from configs.schema.quantization import EmbeddingBits

Report = dict[str, Any]
B158_SUFFIX = ".b158"


def inspect_model(source: str, *, verify: bool = False) -> Report:
    """The report on a preset, a config or a packed file."""
    path = Path(source)
    if path.suffix == B158_SUFFIX:
        from runtime.packed_inspection import inspect_packed

        return inspect_packed(path, verify=verify)
    if verify:
        raise UsageError(f"--verify reads a packed file, and {source} is a config", hint="Name a .b158 file.")
    raw = load_raw(source)
    return inspect_config(build_config(raw, source=source), raw=raw, source=source)


def inspect_config(config: ModelConfig, *, raw: dict[str, Any], source: str) -> Report:
    """The report on a config; `raw` is what its file named."""
    return {
        "source": source,
        "name": config.name_or_path,
        "schema": config.v,
        "model": _model(config),
        "layers": _layers(config),
        "loop": _loop(config),
        "parameters": _parameters(config),
        "bytes": _bytes(config),
        "stream": _stream(config),
        "claims": [{**dataclasses.asdict(claim), "verdict": claim.verdict} for claim in claims(config)],
        "inert": inert_paths(named_values(raw)),
    }


def _model(config: ModelConfig) -> Report:
    moe = config.backbone.moe
    return {
        "hidden_size": config.hidden_size,
        "num_heads": config.num_heads,
        "head_dim": config.head_dim,
        "intermediate_size": config.intermediate_size,
        "vocab_size": config.vocab_size,
        "num_hidden_layers": config.num_hidden_layers,
        "experts": moe.n_routed_experts if moe.enabled else 0,
        "experts_per_token": moe.num_experts_per_tok if moe.enabled else 0,
        "expert_width": moe.moe_intermediate_size if moe.enabled else 0,
        "embedding_bits": config.quantization.embedding_bits,
        "files": dataclasses.asdict(config.files),
    }


def _layers(config: ModelConfig) -> list[Report]:
    return [
        {
            **dataclasses.asdict(layer),
            "parameters": accounting.parameters(config, layer=layer.index),
            "state_bytes": accounting.layer_state(config, layer).total,
        }
        for layer in layers(config)
    ]


def _loop(config: ModelConfig) -> Report | None:
    looping = config.looping
    if not looping.enabled:
        return None
    least, most = looping.loop_range
    return {
        "first": looping.loop[0],
        "last": looping.loop[1],
        "least": least,
        "most": most,
        "default": looping.loop_default,
    }


def _parameters(config: ModelConfig) -> Report:
    kinds: dict[str, int] = {}
    for layer in layers(config):
        kinds[layer.alias] = kinds.get(layer.alias, 0) + accounting.parameters(
            config, part="mixer", layer=layer.index
        )
    return {
        "total": accounting.parameters(config),
        "active": accounting.active_parameters(config),
        "projections": accounting.projection_parameters(config),
        "by_part": {part: accounting.parameters(config, part=cast(Part, part)) for part in get_args(Part)},
        "by_mixer": kinds,
        "applied_by_rounds": {
            str(rounds): accounting.applied_parameters(config, rounds=rounds)
            for rounds in accounting.round_counts(config)
        },
    }


def _bytes(config: ModelConfig) -> Report:
    """Sizes of the packed tensors, by the form of ternary weights and the bits of the embedding."""
    return {
        f"{form} ternary, {bits}-bit embedding": {
            "total": accounting.file_bytes(_with_embedding(config, bits), form=form),
            "routed_experts": accounting.file_bytes(_with_embedding(config, bits), form=form, experts=True),
        }
        for form in accounting.TERNARY_BITS
        for bits in cast(tuple[EmbeddingBits, ...], get_args(EmbeddingBits))
    }


def _stream(config: ModelConfig) -> list[Report]:
    """What one stream holds and what one token reads, by the number of rounds."""
    rows: list[Report] = []
    for rounds in accounting.round_counts(config):
        state = accounting.stream_state(config, rounds=rounds)
        rows.append(
            {
                "rounds": rounds,
                "state_bytes": state.total,
                "state": dataclasses.asdict(state),
                "memory_bytes": accounting.file_bytes(config) + state.total,
                "bytes_per_token": accounting.bytes_per_token(config, rounds=rounds),
            }
        )
    return rows


def _with_embedding(config: ModelConfig, bits: Literal[8, 4, 2]) -> ModelConfig:
    return dataclasses.replace(
        config, quantization=dataclasses.replace(config.quantization, embedding_bits=bits)
    )
