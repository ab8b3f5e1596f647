"""The report on a packed file: what it holds, whether its config asks for that, whether it is sound."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from configs.errors import ContainerError
from configs.inventory import packed_tensors, tensors
from configs.load import build_config
from configs.schema.model import ModelConfig
from configs.schema.quantization import EmbeddingBits
from configs.strict_json import parse_object
from quant.container import B158File, open_b158
from quant.container_format import Kind, version_of

if TYPE_CHECKING:
    from runtime.inspection import Progress, Report

Holding = Literal["all tensors", "all but routed experts", "routed experts"]
KIND_OF_EMBEDDING: Mapping[EmbeddingBits, Kind] = {8: "int8", 4: "int4", 2: "int2"}
SHOWN = 5
MOST_NAMED = 50_000


def inspect_packed(path: Path, *, verify: bool, progress: "Progress | None" = None) -> "Report":
    """The report on the config inside a file, and on the file itself."""
    from runtime.inspection import inspect_config

    with open_b158(path) as file:
        source = f"{path}: config"
        raw = dict(parse_object(file.config, source=source, error=ContainerError))
        config = build_config(raw, source=source)
        holding = check_tensors(file, config)
        if verify:
            _verify(file, progress=progress)
        report = inspect_config(config, raw=raw, source=str(path), folder=path.parent)
        if holding == "all tensors":
            _take_in_experts(report)
        return {**report, "file": _file(file, holding=holding, verified=verify)}


def check_tensors(file: B158File, config: ModelConfig) -> Holding:
    """What a file holds of its config's model; refused when that is not one of three wholes."""
    _check_count(file, config)
    expected, routed = expected_tensors(config), routed_tensors(config)
    found = {name: (spec.kind, spec.shape) for name, spec in file.tensors.items()}
    wanted, holding = expected.keys(), "all tensors"
    if routed and routed.isdisjoint(found):
        wanted, holding = expected.keys() - routed, "all but routed experts"
    elif found and routed.issuperset(found):
        wanted, holding = routed, "routed experts"
    wrong = [f"{name} is missing" for name in expected if name in wanted and name not in found]
    wrong += [f"{name} is not of this model" for name in found if name not in expected]
    wrong += [
        f"{name} is {found[name][0]} {list(found[name][1])}, not {kind} {list(shape)}"
        for name, (kind, shape) in expected.items()
        if name in found and found[name] != (kind, shape)
    ]
    if wrong:
        raise ContainerError(
            f"{file.path}: its tensors are not those of its config: {_listed(wrong)}",
            hint="Export the model again.",
        )
    return holding


def _check_count(file: B158File, config: ModelConfig) -> None:
    """Refuse a config of far more tensors than the file has before each is named: it may ask for millions."""
    wanted = sum(max(1, tensor.experts) for tensor in tensors(config))
    if wanted > MOST_NAMED and wanted > 8 * len(file.tensors):
        raise ContainerError(
            f"{file.path}: its tensors are not those of its config: {len(file.tensors):,} are there, the "
            f"config's model has {wanted:,}",
            hint="Export the model again.",
        )


def expected_tensors(config: ModelConfig) -> dict[str, tuple[Kind, tuple[int, ...]]]:
    """Kind and shape of every tensor that a config's packed files hold."""
    kinds: dict[str, Kind] = {
        "ternary": "sherry" if config.quantization.sherry_mode.enabled else "ternary",
        "int8": "int8",
        "float32": "float32",
        "embedding": KIND_OF_EMBEDDING[config.quantization.embedding_bits],
    }
    return {
        part.name: (kinds[part.storage], part.shape)
        for tensor in packed_tensors(config)
        for part in tensor.apart()
    }


def routed_tensors(config: ModelConfig) -> set[str]:
    """The names of the tensors that may lie in a file of experts."""
    return {part.name for tensor in tensors(config) if tensor.experts for part in tensor.apart()}


def _verify(file: B158File, *, progress: "Progress | None") -> None:
    problems = [f"{found.tensor} ({found.part}): {found.what}" for found in file.verify(progress=progress)]
    if problems:
        raise ContainerError(
            f"{file.path} is damaged: {_listed(problems)}",
            hint="Copy it again from where it came, or export it again.",
        )


def _take_in_experts(report: "Report") -> None:
    """Experts that lie in the file of weights are missing nowhere else."""
    for file in report["files"]:
        if file["key"] == "moe" and file["verdict"] == "missing":
            file["verdict"] = "not used"


def _listed(problems: list[str]) -> str:
    more = f" and {len(problems) - SHOWN} more" if len(problems) > SHOWN else ""
    return "; ".join(problems[:SHOWN]) + more


def _file(file: B158File, *, holding: Holding, verified: bool) -> "Report":
    kinds: dict[str, dict[str, int]] = {}
    for name, spec in file.tensors.items():
        row = kinds.setdefault(spec.kind, {"count": 0, "bytes": 0})
        row["count"] += 1
        row["bytes"] += file.stored_bytes(name)
    return {
        "path": str(file.path),
        "file_bytes": file.path.stat().st_size,
        "format_version": version_of(file.tensors.values()),
        "digest": file.digest,
        "holds": holding,
        "kinds": kinds,
        "verified": verified,
    }
