"""A resume pack of the newest checkpoint of a run, which may be going on meanwhile."""

from pathlib import Path
from typing import NamedTuple

from chimera.model import build
from chimera.train import checkpoint
from chimera.train.resume_pack import save_pack
from chimera.train.run_folder import CHECKPOINTS_NAME, RECORD_NAME, read_record
from configs.errors import ModelError


class Packed(NamedTuple):
    """What was written."""

    files: tuple[Path, ...]
    step: int
    tokens: int


def pack_of_run(run: Path | str, out: Path | str) -> Packed:
    """Write the pack, in parts where it is large."""
    run = Path(run)
    if not (run / RECORD_NAME).is_file():
        raise ModelError(f"{run} is no run's folder", hint=f"A run's folder holds {RECORD_NAME}.")
    record = read_record(run)
    found = checkpoint.load_latest(run / CHECKPOINTS_NAME)
    if found is None:
        raise ModelError(f"{run} has saved no step yet", hint="Train until the first checkpoint is written.")
    model = build(record.config, device="meta")
    model.load_state_dict(found.state["model"], assign=True)
    tokens = found.state["extra"]["tokens"]
    files = save_pack(
        out,
        model,
        step=found.step,
        position={"tokens": tokens},
        digests={name: record.settings[name] for name in ("data", "tokenizer")},
    )
    return Packed(files, found.step, tokens)
