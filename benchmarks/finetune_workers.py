"""Two workers of a fine-tuning in two network namespaces: the same log as one alone, and bytes on the wire.

    python -m benchmarks.finetune_workers                     as root, for namespaces; else over the loopback
    python -m benchmarks.finetune_workers --method mezo --steps 5

Bytes are what the link between the two has carried both ways, headers of Ethernet and TCP among them, for
each step and each of the looks by which a run finds its rate.
"""

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from rich.console import Console
from rich.table import Table

from benchmarks.finetune_tasks.tasks import write_items
from quant.adapter import read_adapter
from runtime.finetune.run import CALIBRATION_STEPS

PORT = 29517
NAMES = ("chimera-a", "chimera-b")
ADDRESSES = ("10.77.0.1", "10.77.0.2")


@dataclass(frozen=True, kw_only=True, slots=True)
class Network:
    """Where the two workers run."""

    what: str
    prefixes: tuple[tuple[str, ...], tuple[str, ...]]
    """What stands before each worker's command."""
    address: str
    """Of the first one."""
    device: str
    """Whose bytes are counted, on the first one's side."""

    def num_bytes(self) -> int:
        """What the link has carried."""
        command = [*self.prefixes[0], "cat", "/proc/net/dev"]
        for line in subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines():
            name, _, numbers = line.partition(":")
            if name.strip() == self.device:
                fields = numbers.split()
                # The loopback counts a packet as received and as sent.
                return int(fields[0]) if self.device == "lo" else int(fields[0]) + int(fields[8])
        raise SystemExit(f"no device {self.device}")


def main() -> None:
    """Run one worker, then two, and compare."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--method", default="scales")
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--loopback", action="store_true", help="without namespaces, root or not")
    args = parser.parse_args()
    with TemporaryDirectory() as name, network(loopback=args.loopback) as link:
        folder = Path(name)
        write_items(folder / "data", seed=0)
        logs = [folder / f"{which}.cza" for which in ("alone", "first", "second")]
        told = ["--data", str(folder / "data/mood/train.jsonl"), "--method", args.method]
        told += ["--steps", str(args.steps), "--batch", str(args.batch), "--threads", "1"]
        alone_s = _ended([_worker((), told, logs[0])])
        before = link.num_bytes()
        first = _worker(link.prefixes[0], told, logs[1], "--workers", f":{PORT}")
        second = _worker(link.prefixes[1], told, logs[2], "--workers", f"{link.address}:{PORT}")
        both_s = _ended([first, second])
        carried = link.num_bytes() - before
        same = logs[0].read_bytes() == logs[1].read_bytes() == logs[2].read_bytes()
        table = Table("", "", box=None, show_header=False)
        table.add_row("over", link.what)
        table.add_row("method, steps, batch", f"{args.method}, {args.steps}, {args.batch}")
        table.add_row("logs of one alone and of both", "the same bytes" if same else "NOT THE SAME")
        table.add_row("bytes a step on the link", f"{carried / (args.steps + CALIBRATION_STEPS):,.0f}")
        table.add_row("bytes of the log", f"{read_adapter(logs[0]).whole_bytes:,}")
        table.add_row("seconds alone, both", f"{alone_s:.0f}, {both_s:.0f}; load {os.getloadavg()[0]:.1f}")
        Console(width=110).print(table)
    if not same:
        raise SystemExit(1)


@contextmanager
def network(*, loopback: bool) -> Iterator[Network]:
    """Two namespaces with a cable between them, where that is allowed; else the loopback."""
    if loopback or os.geteuid():
        yield Network(what="the loopback", prefixes=((), ()), address="127.0.0.1", device="lo")
        return
    made: list[str] = []
    try:
        for name in NAMES:
            _ip("netns", "add", name)
            made.append(name)
        devices = [f"{name}-v" for name in NAMES]
        _ip(
            "link",
            "add",
            devices[0],
            "netns",
            NAMES[0],
            "type",
            "veth",
            "peer",
            devices[1],
            "netns",
            NAMES[1],
        )
        for name, device, address in zip(NAMES, devices, ADDRESSES, strict=True):
            _ip("-n", name, "addr", "add", f"{address}/24", "dev", device)
            for each in (device, "lo"):
                _ip("-n", name, "link", "set", each, "up")
        one, other = (("ip", "netns", "exec", name) for name in NAMES)
        yield Network(
            what="two network namespaces", prefixes=(one, other), address=ADDRESSES[0], device=devices[0]
        )
    finally:
        for name in made:
            _ip("netns", "del", name)


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True)


def _worker(prefix: tuple[str, ...], told: list[str], log: Path, *workers: str) -> subprocess.Popen[bytes]:
    command = [*prefix, sys.executable, "-m", "runtime.cli.main", "finetune", *told, "--out", str(log)]
    return subprocess.Popen([*command, *workers], stdout=subprocess.DEVNULL)


def _ended(workers: list[subprocess.Popen[bytes]]) -> float:
    started = time.perf_counter()
    for worker in workers:
        if worker.wait():
            raise SystemExit(f"a worker ended with {worker.returncode}")
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
