"""The report on a packed file: what it holds, whether its config asks for that, whether it is sound."""

from pathlib import Path
from typing import Any

from configs.errors import ContainerError
from configs.inventory import tensors
from configs.load import build_config
from configs.schema.model import ModelConfig
from configs.strict_json import parse_object
from quant.container import B158File, open_b158
from quant.container_format import FORMAT_VERSION, Kind
from runtime.inspection import inspect_config

Report = dict[str, Any]
SHOWN = 5


def inspect_packed(path: Path, *, verify: bool) -> Report:
    """The report on the config inside a file, and on the file itself."""
    with open_b158(path) as file:
        source = f"{path}: config"
        raw = dict(parse_object(file.config, source=source, error=ContainerError))
        config = build_config(raw, source=source)
        check_tensors(file, config)
        if verify:
            _verify(file)
        report = inspect_config(config, raw=raw, source=str(path))
        return {**report, "file": _file(file, verified=verify)}


def check_tensors(file: B158File, config: ModelConfig) -> None:
    """Refuse a file whose tensors are not its config's. Routed experts may all lie in another file."""
    expected = expected_tensors(config)
    routed = {
        name for tensor in tensors(config) if tensor.experts for name in (t.name for t in tensor.apart())
    }
    found = {name: (spec.kind, spec.shape) for name, spec in file.tensors.items()}
    apart = routed.isdisjoint(found)
    wrong = [
        f"{name} is missing" for name in expected if name not in found and not (apart and name in routed)
    ]
    wrong += [f"{name} is not of this model" for name in found if name not in expected]
    wrong += [
        f"{name} is {found[name][0]} {list(found[name][1])}, not {kind} {list(shape)}"
        for name, (kind, shape) in expected.items()
        if name in found and found[name] != (kind, shape)
    ]
    if wrong:
        more = f" and {len(wrong) - SHOWN} more" if len(wrong) > SHOWN else ""
        raise ContainerError(
            f"{file.path}: its tensors are not those of its config: {'; '.join(wrong[:SHOWN])}{more}",
            hint="Export the model again.",
        )


def expected_tensors(config: ModelConfig) -> dict[str, tuple[Kind, tuple[int, ...]]]:
    """Kind and shape of every tensor that a config's packed file holds."""
    rows: dict[int, Kind] = {8: "int8", 4: "int4", 2: "int2"}
    kinds: dict[str, Kind] = {
        "ternary": "ternary",
        "float32": "float32",
        "embedding": rows[config.quantization.embedding_bits],
    }
    return {
        part.name: (kinds[part.storage], part.shape) for tensor in tensors(config) for part in tensor.apart()
    }


def _verify(file: B158File) -> None:
    problems = file.verify()
    if problems:
        shown = "; ".join(
            f"{problem.tensor} ({problem.part}): {problem.what}" for problem in problems[:SHOWN]
        )
        more = f" and {len(problems) - SHOWN} more" if len(problems) > SHOWN else ""
        raise ContainerError(
            f"{file.path} is damaged: {shown}{more}",
            hint="Copy it again from where it came, or export it again.",
        )


def _file(file: B158File, *, verified: bool) -> Report:
    kinds: dict[str, dict[str, int]] = {}
    for name, spec in file.tensors.items():
        row = kinds.setdefault(spec.kind, {"count": 0, "bytes": 0})
        row["count"] += 1
        row["bytes"] += file.stored_bytes(name)
    return {
        "path": str(file.path),
        "file_bytes": file.path.stat().st_size,
        "format_version": FORMAT_VERSION,
        "digest": file.digest,
        "kinds": kinds,
        "verified": verified,
    }
