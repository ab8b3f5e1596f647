"""Adapters and a model's folder: put into it, taken out again, or merged into weights of a new one."""

import shutil
from collections.abc import Sequence
from pathlib import Path

from configs.errors import AdapterError, UsageError
from quant.adapter import SUFFIX, read_adapter
from quant.adapter_log import write_adapter
from quant.container_writer import B158Writer
from runtime.adapting.state import STATE
from runtime.model_folder import ADAPTERS_NAME, PackedModel, open_model, own_adapters

BASE_KEY, ADAPTERS_KEY = "merged_base", "merged_adapters"
"""Keys of a merged file's metadata: digests of what it was made of."""


def apply(folder: Path, paths: Sequence[Path]) -> list[Path]:
    """Put adapters into a model's folder, behind those that it has; they fit it, or nothing is done."""
    _check_folder(folder)
    open_model(folder, adapters=paths).file.close()
    here, first = folder / ADAPTERS_NAME, _next_number(folder)
    here.mkdir(exist_ok=True)
    found: list[Path] = []
    for number, path in enumerate(paths, start=first):
        target = here / f"{number:03d}-{path.name}"
        write_adapter(target, read_adapter(path))
        found.append(target)
    return found


def undo(folder: Path) -> Path:
    """Take the last adapter out of a folder again; what is left is what was there before, bit for bit."""
    _check_folder(folder)
    paths = own_adapters(folder)
    if not paths:
        raise UsageError(f"{folder} has no adapter to take out", hint="Adapters are put in by: apply")
    paths[-1].unlink()
    if len(paths) == 1 and not any(paths[-1].parent.iterdir()):
        paths[-1].parent.rmdir()
    return paths[-1]


def merge(source: Path, paths: Sequence[Path], *, out: Path) -> str:
    """Write a model whose weights are those that the adapters give; gives its digest."""
    model = open_model(source, adapters=paths)
    if not model.adapters:
        raise UsageError(f"{source} has no adapters, and none is named: there is nothing to merge")
    for adapter in model.adapters:
        if adapter.header.method == STATE:
            raise AdapterError(
                f"{adapter.path} is of what a stream begins with, which no file of weights holds",
                hint="Use it as it is: chimera-run --adapter FILE.",
            )
    refuse_filled(out)
    out.mkdir(parents=True, exist_ok=True)
    for file in sorted(model.folder.iterdir()):
        if file.is_file() and file != model.file.path and file.suffix != SUFFIX:
            shutil.copyfile(file, out / file.name)
    return _write(model, out / model.file.path.name)


def refuse_filled(out: Path) -> None:
    """Refuse a place that holds something already."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError(f"{out} is there already, and is no empty folder", hint="Name another one.")


def _write(model: PackedModel, path: Path) -> str:
    file = model.file
    metadata = {
        **file.metadata,
        BASE_KEY: file.digest,
        ADAPTERS_KEY: " ".join(adapter.digest for adapter in model.adapters),
    }
    specs = list(file.tensors.values())
    with B158Writer(path, tensors=specs, config=file.config, metadata=metadata) as writer:
        for spec in specs:
            writer.write(spec.name, file.tensor(spec.name))
    return writer.digest


def _check_folder(folder: Path) -> None:
    if not folder.is_dir():
        raise UsageError(
            f"{folder} is no folder", hint="Adapters are put into a model's folder; name that, not its file."
        )


def _next_number(folder: Path) -> int:
    """One more than the last one's."""
    paths = own_adapters(folder)
    last = paths[-1].name.partition("-")[0] if paths else "0"
    return int(last) + 1 if last.isdecimal() else len(paths) + 1
