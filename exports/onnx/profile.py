"""Where the time of a step goes, by kinds of nodes, as onnxruntime's own profile tells it."""

import json
import tempfile
from collections import Counter, defaultdict
from pathlib import Path
from typing import NamedTuple

import numpy as np

from exports.onnx.session import GraphSession

STEPS = 30
CONTAINERS = ("If", "Scan")
"""Their time is that of the nodes inside, which are counted themselves."""


class NodeTime(NamedTuple):
    """A kind of nodes."""

    kind: str
    num_nodes: int
    share: float
    """Of the time that nodes take in a step."""


def node_times(folder: Path, *, num_threads: int) -> tuple[NodeTime, ...]:
    """Every kind of nodes, the slowest first; of each node, its median over some steps."""
    with tempfile.TemporaryDirectory() as made:
        session = GraphSession(folder, num_threads=num_threads, profile=Path(made) / "nodes")
        stream = session.bound(session.begin())
        for _ in range(STEPS):
            stream.step(1)
        events = json.loads(session.end_profile().read_bytes())
    durations: defaultdict[tuple[str, str], list[float]] = defaultdict(list)
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            durations[event["args"]["op_name"], event["name"]].append(event["dur"])
    times, counts = defaultdict[str, float](float), Counter[str]()
    for (kind, _), found in durations.items():
        if kind not in CONTAINERS:
            times[kind] += float(np.median(found)) * len(found) / STEPS
            counts[kind] += 1
    total = sum(times.values())
    return tuple(
        NodeTime(kind=kind, num_nodes=counts[kind], share=spent / total)
        for kind, spent in sorted(times.items(), key=lambda pair: -pair[1])
    )
