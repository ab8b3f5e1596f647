"""Graphs for onnxruntime beside the engine: what an export takes, and how fast both write.

    python -m benchmarks.onnx_beside_engine [--model demo] [--model chimera-5.1-sum] [--threads 2] [--nodes]

A model is `demo`, a packed file, or a preset, of which one with random weights is made. The export
runs in a process of its own, whose highest memory counts, with what it has mapped of the packed file. Then
engine and graph read one token after another in turns, each after a rest, and medians of the turns are told.
`chimera-5.1-sum` has 2.72 billion weights: it takes 4 GB of disk and 8 GB of memory, and some minutes.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.harness import REST_S
from configs.load import preset
from runtime.model_folder import DEMO, open_model

ROOT = Path(__file__).resolve().parents[1]
TURN_S = 0.5
"""Each turn of a side takes about so long."""
EXPORT = """
import json, resource, sys, time
from pathlib import Path
from exports.onnx.export import export_onnx
begun = time.perf_counter()
done = export_onnx(sys.argv[1], Path(sys.argv[2]), profile=sys.argv[3])
most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
graph = sum(path.stat().st_size for path in Path(sys.argv[2]).glob("model.onnx*"))
print(json.dumps([time.perf_counter() - begun, most, graph, done.packed_bytes]))
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Found:
    """What was measured of a model."""

    name: str
    export_s: float
    export_bytes: int
    graph_bytes: int
    packed_bytes: int
    load_s: float
    memory_bytes: int
    engine: "Times"
    graph: "Times"


@dataclass(frozen=True, kw_only=True, slots=True)
class Times:
    """Milliseconds of a token."""

    median: float
    lowest: float


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", action="append", help="default: demo")
    parser.add_argument("--profile", choices=("native", "reference"), default="native")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--turns", type=int, default=9)
    parser.add_argument("--nodes", action="store_true", help="tell which kinds of nodes take the time")
    parser.add_argument("--work", type=Path, help="where files are made (default: a temporary folder)")
    args = parser.parse_args()
    found: list[Found] = []
    for name in args.model or ["demo"]:
        with tempfile.TemporaryDirectory(dir=args.work) as folder:
            found.append(measure(name, Path(folder), args))
    show(found, args)
    return 0


def measure(name: str, folder: Path, args: argparse.Namespace) -> Found:
    """Export a model and let both sides run."""
    model, out = packed(name, folder), folder / "graph"
    command = [sys.executable, "-c", EXPORT, str(model), str(out), args.profile]
    done = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE)
    export_s, export_bytes, graph_bytes, packed_bytes = json.loads(done.stdout)

    from exports.onnx.session import GraphSession
    from runtime.engine import Engine

    with Engine(open_model(model), num_threads=args.threads) as engine:
        before, begun = resident_bytes(), time.perf_counter()
        session = GraphSession(out, num_threads=args.threads)
        load_s = time.perf_counter() - begun
        stream = session.bound(session.begin())
        state = engine.new_state(session.contract["rounds"])

        def step() -> None:
            engine.step(state, 5)
            engine.logits()

        of_engine, of_graph = in_turns((step, lambda: stream.step(5)), turns=args.turns)
        memory_bytes = resident_bytes() - before
    if args.nodes:
        show_nodes(name, out, args)
    return Found(
        name=name,
        export_s=export_s,
        export_bytes=export_bytes,
        graph_bytes=graph_bytes,
        packed_bytes=packed_bytes,
        load_s=load_s,
        memory_bytes=memory_bytes,
        engine=of_engine,
        graph=of_graph,
    )


def packed(name: str, folder: Path) -> Path:
    """A packed model."""
    if name == "demo":
        return DEMO
    if Path(name).exists():
        return Path(name)
    from runtime.random_model import random_b158

    path = folder / "model.b158"
    random_b158(preset(name), path)
    return path


def in_turns(sides: tuple[Callable[[], object], ...], *, turns: int) -> list[Times]:
    """Times of a step of each side. Each rests first: threads of the other spin for a while."""
    repeats: list[int] = []
    for side in sides:
        side()
        begun = time.perf_counter()
        side()
        repeats.append(max(1, int(TURN_S / (time.perf_counter() - begun))))
    times: list[list[float]] = [[] for _ in sides]
    for _ in range(turns):
        for side, count, held in zip(sides, repeats, times, strict=True):
            time.sleep(REST_S)
            side()
            for _ in range(count):
                begun = time.perf_counter()
                side()
                held.append(time.perf_counter() - begun)
    return [Times(median=1e3 * statistics.median(held), lowest=1e3 * min(held)) for held in times]


def resident_bytes() -> int:
    """What this process has in memory."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


def show(found: list[Found], args: argparse.Namespace) -> None:
    table = Table(title=f"{args.profile} profile, {args.threads} threads")
    for column in ("", *(one.name for one in found)):
        table.add_column(column, justify="left" if not column else "right")
    rows: dict[str, Callable[[Found], str]] = {
        "graph and weights, of the packed file": lambda one: f"{one.graph_bytes / one.packed_bytes:.3f}",
        "export": lambda one: f"{one.export_s:.1f} s",
        "  most memory, of the packed file": lambda one: f"{one.export_bytes / one.packed_bytes:.2f}",
        "onnxruntime loads it in": lambda one: f"{one.load_s:.1f} s",
        "  memory, of its files": lambda one: f"{one.memory_bytes / one.graph_bytes:.2f}",
        "engine, a token": lambda one: f"{one.engine.median:.2f} ms",
        "graph, a token": lambda one: f"{one.graph.median:.2f} ms",
        "speed beside the engine": lambda one: f"{one.engine.median / one.graph.median:.1%}",
        "  by lowest times": lambda one: f"{one.engine.lowest / one.graph.lowest:.1%}",
    }
    for label, cell in rows.items():
        table.add_row(label, *(cell(one) for one in found))
    Console().print(table)


def show_nodes(name: str, folder: Path, args: argparse.Namespace) -> None:
    from exports.onnx.profile import node_times

    table = Table(title=f"{name}: where the time of nodes goes")
    for column in ("kind", "nodes", "share"):
        table.add_column(column, justify="left" if column == "kind" else "right")
    for node in node_times(folder, num_threads=args.threads)[:12]:
        table.add_row(node.kind, str(node.num_nodes), f"{node.share:.1%}")
    Console().print(table)


if __name__ == "__main__":
    sys.exit(main())
