"""Adapters and a model's folder: put into it, taken out again, or merged into weights of a new one."""

import shutil
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path

from chronos_moe.intent_file import FILE_NAME as INTENT_NAME
from chronos_moe.store.manifest import MANIFEST_NAME
from configs.errors import AdapterError, UsageError
from configs.load import load_config
from configs.text.tokenizer import FILES_OF_A_FOLDER
from quant.adapter import SUFFIX, read_adapter
from quant.adapter_log import write_adapter
from quant.container_writer import B158Writer
from quant.whole_folder import check_free, errors_named, whole_folder
from runtime.adapting.state import STATE, begin_learnt
from runtime.building.states import state_layout
from runtime.building.tensors import Tensors
from runtime.model_folder import (
    ADAPTERS_NAME,
    CONFIG_NAME,
    TEMPLATE_NAME,
    PackedModel,
    open_model,
    own_adapters,
)
from runtime.verified import check_whole

BASE_KEY, ADAPTERS_KEY = "merged_base", "merged_adapters"
"""Keys of a merged file's metadata: digests of what it was made of."""
SIDE_NAME = "tokenizer_config.json"


def apply(folder: Path, paths: Sequence[Path]) -> list[Path]:
    """Put adapters into a model's folder, behind those that it has; they fit it, or nothing is done."""
    _check_folder(folder)
    model = open_model(folder, adapters=paths)
    # Weights have learnt already; what streams begin with is played when an engine is built, and here.
    begin_learnt(state_layout(model.config, Tensors(model)), model.adapters)
    here, first = folder / ADAPTERS_NAME, _next_number(folder)
    targets = [here / f"{number:03d}-{path.stem}{SUFFIX}" for number, path in enumerate(paths, start=first)]
    _check_order(own_adapters(folder), targets)
    found: list[Path] = []
    try:
        with errors_named(here):
            here.mkdir(exist_ok=True)
        for target, path in zip(targets, paths, strict=True):
            write_adapter(target, read_adapter(path))
            found.append(target)
    except BaseException:
        _take_out(*found, here=here)
        raise
    return found


def undo(folder: Path) -> Path:
    """Take the last adapter out of a folder again; what is left is what was there before, bit for bit."""
    _check_folder(folder)
    paths = own_adapters(folder)
    if not paths:
        raise UsageError(f"{folder} has no adapter to take out", hint="Adapters are put in by: apply")
    _take_out(paths[-1], here=folder / ADAPTERS_NAME)
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
    check_free(out)
    beside = check_base(model)
    with whole_folder(out) as folder:
        for name in (*_names_beside(model), *beside):
            if (model.folder / name).is_file():
                shutil.copyfile(model.folder / name, folder / name)
        return _write(model, folder / model.file.path.name)


def check_base(model: PackedModel) -> list[str]:
    """Refuse a damaged model: what is made of it has digests of its own. Gives its files of experts."""
    tensors = Tensors(model)
    check_whole(tensors.whole_files)
    names = [file.path.name for file in tensors.whole_files if file.path != model.file.path]
    return names if tensors.manifest is None else [*names, MANIFEST_NAME]


def _names_beside(model: PackedModel) -> list[str]:
    """The files of a model's folder that may lie beside its weights and experts."""
    files = model.config.files
    named = [getattr(files, field.name) for field in fields(files) if field.name not in ("weights", "moe")]
    names = [TEMPLATE_NAME, SIDE_NAME, INTENT_NAME, *FILES_OF_A_FOLDER, *named]
    path = model.folder / CONFIG_NAME
    # Where several models share a folder, it is that of another one.
    if path.is_file() and replace(load_config(path), files=files) == model.config:
        names.append(CONFIG_NAME)
    return list(dict.fromkeys(names))


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


def _take_out(*paths: Path, here: Path) -> None:
    """Remove adapters, and their place where nothing is left in it."""
    for path in paths:
        path.unlink()
    if here.is_dir() and not any(here.iterdir()):
        here.rmdir()


def _check_order(before: Sequence[Path], targets: Sequence[Path]) -> None:
    """Refuse names by which new adapters would not come last: names are the order that they have."""
    if sorted([*before, *targets]) != [*before, *targets]:
        raise UsageError(
            f"{targets[-1].name} would come before {before[-1].name if before else targets[0].name}, and "
            "adapters are applied in the order of their names",
            hint=f"Rename those in {targets[0].parent}, as in 001-NAME{SUFFIX}, "
            "or merge them into a model of its own.",
        )


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
