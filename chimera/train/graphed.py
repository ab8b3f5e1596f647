"""Micro-batches as CUDA graphs: what the GPU did once is replayed whole, with no launch by the CPU.

A looped hybrid starts some thousands of small kernels a step, and the CPU takes longer to start them than
the GPU to run them. Each shape and depth runs plainly a few times, so that compilers and libraries have
settled, and is then captured. All graphs share one pool of memory, as they run one after another.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

WARM_RUNS = 2


class _Captured(NamedTuple):
    graph: torch.cuda.CUDAGraph
    inputs: list[Tensor]
    """Where the next micro-batch is put before the replay."""


class Graphed:
    """A function of tensors in nested tuples that works in place, replayed from graphs by shape and depth."""

    def __init__(self) -> None:
        self._pool = torch.cuda.graph_pool_handle()
        self._stream = torch.cuda.Stream()
        self._runs: dict[Any, int] = {}
        self._captured: dict[Any, _Captured] = {}

    def run(self, function: Callable[[Any, int, Any], None], batch: Any, rounds: int, experts: Any) -> None:
        """Call `function(batch, rounds, experts)`, or replay what such a call did."""
        tensors = _tensors((batch, experts))
        key = (rounds, tuple((tuple(x.shape), x.dtype) for x in tensors))
        captured = self._captured.get(key)
        if captured is None and self._runs.get(key, 0) < WARM_RUNS:
            self._runs[key] = self._runs.get(key, 0) + 1
            self._plainly(lambda: function(batch, rounds, experts))
            return
        if captured is None:
            batch, experts = _copied((batch, experts))
            graph = torch.cuda.CUDAGraph()
            torch.cuda.synchronize()
            with torch.cuda.graph(graph, pool=self._pool, stream=self._stream):
                function(batch, rounds, experts)
            captured = self._captured[key] = _Captured(graph, _tensors((batch, experts)))
        for place, tensor in zip(captured.inputs, tensors, strict=True):
            place.copy_(tensor)
        captured.graph.replay()

    def _plainly(self, call: Callable[[], None]) -> None:
        """On the stream of the captures: libraries keep workspaces by stream."""
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            call()
        torch.cuda.current_stream().wait_stream(self._stream)


def _tensors(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    return [x for part in value for x in _tensors(part)] if isinstance(value, tuple) else []


def _copied(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.clone()
    if not isinstance(value, tuple):
        return value
    parts = (_copied(part) for part in value)
    return type(value)(*parts) if hasattr(value, "_fields") else tuple(parts)
