"""The folder of a training run: what it was begun with, its lock, its checkpoints.

    lock          held by the one process that trains here
    run.json      the config and settings that the run was begun with; nobody edits it
    config.json   the config again, where every other program looks for it
    checkpoints/  see `chimera.train.checkpoint`
    model/        the tokenizer, and the trained model once the run has ended

A run goes on only with what it was begun with. What may change, such as how often a line is logged, is named
by the caller.
"""

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

from chimera.train.differences import Difference, differences, is_under, report
from chimera.train.folder_lock import NAME as LOCK_NAME
from chimera.train.folder_lock import FolderLock
from chimera.train.folders import make_folder
from configs.codec import encode
from configs.errors import ChimeraError, ModelError, UsageError
from configs.load import build_config, load_config, to_json
from configs.schema.model import ModelConfig
from configs.strict_json import parse_object
from quant.atomic import atomic_file, sweep_unfinished

FORMAT = "chimera-run"
FORMAT_VERSION = 1
RECORD_NAME = "run.json"
CONFIG_NAME = "config.json"
CHECKPOINTS_NAME = "checkpoints"
MODEL_NAME = "model"


@dataclass(frozen=True, kw_only=True, slots=True)
class RunFolder:
    """A run's folder, locked while this object is open."""

    path: Path
    config: ModelConfig
    settings: Mapping[str, Any]
    is_new: bool
    """Whether this call made the run."""
    changed: tuple[Difference, ...]
    """Settings that differ from those of before, as they may."""
    lock: FolderLock

    @classmethod
    def open(
        cls,
        path: Path | str,
        *,
        config: ModelConfig,
        settings: Mapping[str, Any],
        may_change: Collection[str] = (),
    ) -> Self:
        """Begin a run in a new or empty folder, or go on with the run that is there.

        `settings` is JSON: whatever decides the run beside its config, the digests of its data and tokenizer
        among it. A name in `may_change`, such as `log_every` or `machine.devices`, covers what is below it.
        """
        path, settings = Path(path), _as_json(settings)
        try:
            make_folder(path)
            lock = FolderLock(path)
            try:
                sweep_unfinished(path, names="*.json")
                is_new = not (path / RECORD_NAME).exists()
                changed = () if is_new else _compare(path, config, settings, may_change)
                if is_new:
                    _check_empty(path)
                if is_new or changed:
                    _write_record(path, config, settings)
                if not (path / CONFIG_NAME).exists():
                    _write(path / CONFIG_NAME, to_json(config))
                make_folder(path / CHECKPOINTS_NAME)
            except BaseException:
                lock.release()
                raise
        except OSError as error:
            raise ChimeraError(
                f"the run folder {path} cannot be used: {error.strerror or error}",
                hint="Check the folder, its permissions and free space.",
            ) from error
        return cls(
            path=path, config=config, settings=settings, is_new=is_new, changed=tuple(changed), lock=lock
        )

    @property
    def checkpoints(self) -> Path:
        """Where the checkpoints are."""
        return self.path / CHECKPOINTS_NAME

    def close(self) -> None:
        """Let another process use the folder."""
        self.lock.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _as_json(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings as they come back from a file, so that tuples and lists compare equal."""
    try:
        text = json.dumps(settings, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise UsageError(f"the settings of a run must be JSON values: {error}") from error
    return dict(parse_object(text, source="the settings of the run", error=UsageError))


class Record(NamedTuple):
    """What a run was begun with."""

    config: ModelConfig
    settings: Mapping[str, Any]


def read_record(path: Path) -> Record:
    """The record of a run's folder."""
    record_path = path / RECORD_NAME
    record = parse_object(record_path.read_bytes(), source=str(record_path), error=ModelError)
    config, settings = record.get("config"), record.get("settings")
    kind = record.get("format"), record.get("format_version")
    if kind != (FORMAT, FORMAT_VERSION):
        raise ModelError(
            f"{record_path}: format {kind[0]!a}, version {kind[1]!a}; this version reads {FORMAT!r},"
            f" version {FORMAT_VERSION}",
            hint="If a newer version wrote the file, update: pip install --upgrade chimera-edge",
        )
    if not isinstance(config, dict) or not isinstance(settings, dict):
        raise ModelError(f"{record_path}: the config or the settings are missing")
    # Built anew, so that keys which came into the schema since have their defaults.
    return Record(build_config(config, source=f"{record_path} (config)"), settings)


def _compare(
    path: Path, config: ModelConfig, settings: Mapping[str, Any], may_change: Collection[str]
) -> tuple[Difference, ...]:
    """The settings that differ and may; all others are refused, and so is any change of the config."""
    record = read_record(path)
    began, began_settings = encode(record.config), record.settings
    changed = differences(began_settings, settings)
    wrong = {
        "the config was edited": differences(began, encode(config)),
        "the settings differ": tuple(one for one in changed if not is_under(one.key, may_change)),
    }
    if (path / CONFIG_NAME).exists():
        copy = encode(load_config(path / CONFIG_NAME))
        wrong[f"the folder's {CONFIG_NAME} was edited"] = differences(began, copy)
    if any(wrong.values()):
        parts = "".join(f"\n{what}:{report(found)}" for what, found in wrong.items() if found)
        raise UsageError(
            f"{path}: this run was begun with something else, so it cannot go on{parts}",
            hint="Give the run what it was begun with, or begin another one in a new folder.",
        )
    return changed


def _check_empty(path: Path) -> None:
    others = sorted(one.name for one in path.iterdir() if one.name != LOCK_NAME)
    if others:
        more = f" and {len(others) - 3} more" if len(others) > 3 else ""
        raise UsageError(
            f"{path} is not empty ({', '.join(map(ascii, others[:3]))}{more}) and holds no"
            f" {RECORD_NAME}, so it is no run to go on with",
            hint="Name a new or empty folder.",
        )


def _write_record(path: Path, config: ModelConfig, settings: Mapping[str, Any]) -> None:
    record = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "settings": settings,
        "config": encode(config),
    }
    _write(path / RECORD_NAME, json.dumps(record, ensure_ascii=False, indent=2) + "\n")


def _write(path: Path, text: str) -> None:
    with atomic_file(path) as file:
        file.write(text.encode())
