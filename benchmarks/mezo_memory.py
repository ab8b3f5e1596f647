"""The peak memory of MeZO in PyTorch beside that of its latent weights and one pass of the same batch.

    python -m benchmarks.mezo_memory

Each side is a process of its own. The bound is 1.15 times: weights are moved in place, and no copy is kept.
"""

import argparse
import resource
import subprocess
import sys

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.finetune_tasks.references import encoded, padded
from benchmarks.finetune_tasks.tasks import items
from chimera.finetune.mezo import Mezo, MezoSettings, sequence_losses
from exports.latents import latent_model
from runtime.model_folder import DEMO

SIDES: dict[str, MezoSettings | None] = {
    "weights and a pass": None,
    "ternary": MezoSettings(seed=0),
    "all, normal directions": MezoSettings(seed=0, trained="all", distribution="gaussian"),
    "sparse": MezoSettings(seed=0, sparse=True),
    "light": MezoSettings(seed=0, trained="light"),
}
STEPS = 2
MOST = 1.15


def main() -> None:
    """Measure each side in its process, and print a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--only", choices=list(SIDES), help="do one side's work and print its peak in bytes")
    args = parser.parse_args()
    if args.only is not None:
        print(_peak(SIDES[args.only], batch=args.batch))
        return
    command = [sys.executable, "-m", "benchmarks.mezo_memory", "--batch", str(args.batch), "--only"]
    peaks = {
        name: int(subprocess.run([*command, name], check=True, capture_output=True, text=True).stdout)
        for name in SIDES
    }
    base = peaks["weights and a pass"]
    table = Table("side", "peak MB", f"times (at most {MOST})", box=None)
    for name, peak in peaks.items():
        table.add_row(name, f"{peak / 1e6:,.0f}", f"{peak / base:.2f}")
    Console().print(table)
    if max(peaks.values()) > MOST * base:
        raise SystemExit(1)


def _peak(settings: MezoSettings | None, *, batch: int) -> int:
    torch.set_num_threads(1)
    model = latent_model(DEMO).eval()
    ids_BT, labels_BT = padded(encoded(items("commas", part="train", seed=0)[:batch]))
    if settings is None:
        sequence_losses(model, ids_BT, labels_BT)
    else:
        run = Mezo(model, settings=settings)
        for step in range(STEPS):
            for side in (1, -1):
                run.look(step, side=side)
                sequence_losses(model, ids_BT, labels_BT)
            run.apply(step, [1e-4])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    main()
