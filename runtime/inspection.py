"""The report that `chimera inspect` prints: a tree of plain values, ready for JSON."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, cast, get_args

from configs import accounting
from configs.claims import claims
from configs.errors import UsageError
from configs.inventory import layers
from configs.leaves import inert_paths, leaves
from configs.load import PRESETS, build_config, config_path, load_raw, named_values
from configs.schema.model import ModelConfig
from configs.schema.quantization import EmbeddingBits

Report = dict[str, Any]
Progress = Callable[[int], None]
B158_SUFFIX = ".b158"
HEADER_ALLOWANCE = 0.05
HEADER_ALLOWANCE_BYTES = 10**6
"""A file is this much larger than its tensors at most: its header holds the config and a line a tensor."""


def inspect_model(source: str, *, verify: bool = False, progress: Progress | None = None) -> Report:
    """The report on a preset, a config, a packed file or a model's folder; `progress` is given the bytes read
    to verify it.
    """
    path = Path(source)
    folder = path if source not in PRESETS and config_path(source) != path else None
    packed = path if folder is None else _sole_packed(folder)
    if packed.suffix == B158_SUFFIX:
        from runtime.packed_inspection import inspect_packed

        report = inspect_packed(packed, verify=verify, progress=progress)
    elif verify:
        raise UsageError(f"--verify reads a packed file, and {source} is a config", hint="Name a .b158 file.")
    else:
        raw = load_raw(source)
        near = None if source in PRESETS else config_path(source).parent
        report = inspect_config(build_config(raw, source=source), raw=raw, source=source, folder=near)
    return report if folder is None else {**report, "adapters": _adapters(folder)}


def _sole_packed(folder: Path) -> Path:
    """The weights of a folder that holds no config beside them; else the folder itself."""
    try:
        packed = [path for path in folder.iterdir() if path.suffix == B158_SUFFIX]
        return packed[0] if len(packed) == 1 and not config_path(folder).is_file() else folder
    except OSError:
        # Whoever reads its config meets the same, and tells.
        return folder


def _adapters(folder: Path) -> list[Report]:
    """What was learnt since the model was packed, and is applied by whoever opens the folder."""
    # Here and not above: the report on a config needs no NumPy.
    from runtime.adapting.listing import adapters_of

    return adapters_of(folder)


def inspect_config(config: ModelConfig, *, raw: dict[str, Any], source: str, folder: Path | None) -> Report:
    """The report on a config. `raw` is what its file named; its model's files are looked for in `folder`."""
    named = named_values(raw)
    return {
        "source": source,
        "name": config.name_or_path,
        "schema": config.v,
        "model": _model(config),
        "layers": _layers(config),
        "loop": _loop(config),
        "parameters": _parameters(config),
        "bytes": _bytes(config),
        "streams": config.deployment.max_streams,
        "stream": _stream(config),
        "claims": [{**dataclasses.asdict(claim), "verdict": claim.verdict} for claim in claims(config)],
        "files": _files(config, named=named, folder=folder),
        "inert": inert_paths(named),
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
        "layer_pattern": config.backbone.layer_pattern,
        "experts": moe.n_routed_experts if moe.enabled else 0,
        "experts_shared": moe.n_shared_experts if moe.enabled else 0,
        "experts_per_token": moe.num_experts_per_tok if moe.enabled else 0,
        "expert_width": moe.moe_intermediate_size if moe.enabled else 0,
        "embedding_bits": config.quantization.embedding_bits,
    }


def _layers(config: ModelConfig) -> list[Report]:
    parameters = accounting.parameters_by_layer(config)
    return [
        {
            **dataclasses.asdict(layer),
            "parameters": parameters[layer.index],
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
    """Stored parameters and those applied to a token, by part, and of mixers by alias."""
    return {
        "total": accounting.parameters(config),
        "active": accounting.active_parameters(config),
        "projections": accounting.projection_parameters(config),
        "applied_by_rounds": {
            str(rounds): accounting.applied_parameters(config, rounds=rounds)
            for rounds in accounting.round_counts(config)
        },
        "by_part": [
            {
                "part": share.part,
                "alias": share.alias,
                "stored": share.stored,
                "applied_by_rounds": {str(rounds): number for rounds, number in share.applied.items()},
            }
            for share in accounting.shares(config)
        ],
    }


def _bytes(config: ModelConfig) -> Report:
    """Sizes by the form of ternary weights and the bits of the embedding, on disk and with one stream."""
    state = accounting.stream_state(config, rounds=config.rounds_default).total
    sizes: Report = {}
    for form in accounting.TERNARY_BITS:
        for bits in cast(tuple[EmbeddingBits, ...], get_args(EmbeddingBits)):
            variant = _with_embedding(config, bits)
            total = accounting.file_bytes(variant, form=form)
            sizes[f"{form} ternary, {bits}-bit embedding"] = {
                "total": total,
                "routed_experts": accounting.file_bytes(variant, form=form, experts=True),
                "in_memory": total + state,
            }
    return sizes


def _stream(config: ModelConfig) -> list[Report]:
    """What streams hold and what one token reads, by the number of rounds."""
    weights = accounting.file_bytes(config)
    rows: list[Report] = []
    for rounds in accounting.round_counts(config):
        state = accounting.stream_state(config, rounds=rounds)
        read = accounting.bytes_per_token(config, rounds=rounds)
        rows.append(
            {
                "rounds": rounds,
                "state_bytes": state.total,
                "state": dataclasses.asdict(state),
                "all_streams_bytes": state.total * config.deployment.max_streams,
                "memory_bytes": weights + state.total,
                "ternary_bits": accounting.TERNARY_BITS[accounting.own_form(config)],
                "weight_bytes_per_token": read,
                "bytes_per_token": read + state.total,
                "growth_bytes_per_token": accounting.cache_growth(config, rounds=rounds),
            }
        )
    return rows


def _files(config: ModelConfig, *, named: Report, folder: Path | None) -> list[Report]:
    """The files that the config names: whether each is there, and as large as its tensors ask."""
    routed = accounting.file_bytes(config, experts=True)
    weights = accounting.file_bytes(config, experts=False)
    # Experts lie in a file of their own, or all tensors in one.
    expected = {"weights": [weights, weights + routed], "moe": [routed]}
    rows: list[Report] = []
    for leaf in leaves({"files": named.get("files", {})}):
        key = leaf.path.removeprefix("files.")
        sizes = expected.get(key, [])
        row: Report = {"key": key, "name": leaf.value, "found_bytes": None}
        row["computed_bytes"] = sizes[0] if sizes else None
        if leaf.field.key.state != "works" or sizes == [0]:
            row["verdict"] = "not used"
        elif folder is None:
            row["verdict"] = "not looked for"
        else:
            row["found_bytes"] = _size_on_disk(folder / leaf.value)
            row["verdict"] = _file_verdict(row["found_bytes"], sizes)
        rows.append(row)
    return rows


def _size_on_disk(path: Path) -> int | None:
    try:
        return path.stat().st_size if path.is_file() else None
    except OSError:
        # A name that the system cannot hold is the name of no file.
        return None


def _file_verdict(found: int | None, sizes: list[int]) -> str:
    if found is None:
        return "missing"
    fits = [size <= found <= size * (1 + HEADER_ALLOWANCE) + HEADER_ALLOWANCE_BYTES for size in sizes]
    return "holds" if any(fits) or not sizes else "differs"


def _with_embedding(config: ModelConfig, bits: Literal[8, 4, 2]) -> ModelConfig:
    return dataclasses.replace(
        config, quantization=dataclasses.replace(config.quantization, embedding_bits=bits)
    )
