"""Files that say which experts are visited: logs of activations, and the intent classifier."""

import json
import random
from collections.abc import Callable, Mapping
from functools import cache

import numpy as np

from chronos_moe.checked_file import read_checked, write_checked
from chronos_moe.intent_file import KIND as INTENT_KIND
from chronos_moe.intent_file import Intent, IntentShape, read_intent, write_intent
from chronos_moe.visit_log import KIND as VISITS_KIND
from chronos_moe.visit_log import VisitLog, co_occurrence, read_visits, write_visits
from configs.errors import ModelError
from tests.fuzz.mutations import changed_bytes, changed_json, one_of
from tests.fuzz.target import Mutate, Target, put, scratch

DTYPES = (np.uint8, np.uint16, np.uint32, np.int64, np.float16, np.float32)
LARGEST_TABLE = 2**24
"""Numbers of a table of meetings that a search has the memory for."""


def load_visits(data: bytes) -> None:
    """Of a log that is taken, every token visits experts that there are."""
    log = read_visits(put("visits", data))
    experts = len(log.layers) * log.num_experts
    if experts * max(experts, len(log.ids_T)) <= LARGEST_TABLE:
        assert log.sets_TLE().shape == (len(log.ids_T), len(log.layers), log.num_experts)
        meetings = co_occurrence(log)
        assert np.isfinite(meetings).all()
        assert (meetings == meetings.T).all()


def load_intent(data: bytes) -> None:
    """A classifier that is taken foretells a share for each expert."""
    intent = read_intent(put("intent", data))
    with np.errstate(all="ignore"):
        scores = intent.forecast(np.arange(min(5, intent.shape.vocab_size)))
    assert scores.shape == (intent.shape.num_layers, intent.shape.num_experts) == intent.usage_LE.shape


@cache
def visits_seed() -> bytes:
    """Seven tokens through two layers, one of them twice."""
    rng = np.random.default_rng(0)
    log = VisitLog(
        model="0" * 64,
        vocab_size=50,
        num_experts=4,
        passes=((3, 0), (3, 1), (5, 0)),
        ids_T=rng.integers(0, 50, 7).astype(np.uint32),
        begins=np.array([0, 3, 7]),
        chosen=rng.integers(0, 4, (7, 3, 2)).astype(np.uint16),
    )
    path = scratch("seed.visits")
    write_visits(path, log)
    return path.read_bytes()


@cache
def intent_seed() -> bytes:
    """The smallest classifier."""
    shape = IntentShape(
        num_layers=2, num_experts=3, vocab_size=20, num_buckets=8, width=4, inner_width=8, num_heads=2,
        depth=1, max_tokens=6,
    )  # fmt: skip
    rng = np.random.default_rng(0)
    tensors = {name: rng.standard_normal(size, dtype=np.float32) for name, size in shape.tensors().items()}
    usage_LE = np.full((2, 3), 0.5, dtype=np.float32)
    path = scratch("seed.intent")
    write_intent(path, Intent(shape=shape, layers=(1, 2), model="0" * 64, usage_LE=usage_LE, tensors=tensors))
    return path.read_bytes()


def described(data: bytes, kind: str, **about: str) -> bytes:
    """A file with some of its description replaced, and a checksum that agrees."""
    before, arrays = read_checked(put("described", data), kind=kind, what="file", hint="")
    path = scratch("described.file")
    write_checked(path, arrays, kind=kind, about={**before, **about})
    return path.read_bytes()


def shaped(changed: Mapping[str, float]) -> str:
    """The shape of the smallest classifier with some of it replaced."""
    about, _ = read_checked(put("shaped", intent_seed()), kind=INTENT_KIND, what="file", hint="")
    return json.dumps({**json.loads(about["shape"]), **changed})


def changed_file(kind: str) -> Mutate:
    """An array or a word of the description changed, with a checksum that agrees."""

    def change(data: bytes, rng: random.Random) -> bytes:
        try:
            about, arrays = read_checked(put("changed", data), kind=kind, what="file", hint="")
        except ModelError:
            return changed_bytes(data, rng)
        if not arrays or not about:
            return changed_bytes(data, rng)
        name = rng.choice(sorted(arrays))
        if not arrays[name].size:
            return changed_bytes(data, rng)
        if rng.random() < 0.4:
            key = rng.choice(sorted(about))
            about[key] = changed_json(about[key].encode(), rng).decode("utf-8", "replace")
        elif rng.random() < 0.2:
            del arrays[name]
        elif rng.random() < 0.5:
            flat = bytearray(arrays[name].tobytes())
            flat[rng.randrange(len(flat))] = rng.randrange(256)
            arrays[name] = np.frombuffer(flat, arrays[name].dtype).reshape(arrays[name].shape)
        elif rng.random() < 0.5:
            arrays[name] = arrays[name][: rng.randrange(len(arrays[name]) + 1)]
        else:
            with np.errstate(all="ignore"):
                arrays[name] = arrays[name].astype(rng.choice(DTYPES))
        path = scratch("changed.file")
        write_checked(path, arrays, kind=kind, about=about)
        return path.read_bytes()

    return change


def _target(name: str, load: Callable[[bytes], None], seed: Callable[[], bytes], kind: str) -> Target:
    return Target(
        name=name,
        load=load,
        seeds=lambda: [seed()],
        mutate=one_of(changed_file(kind), changed_file(kind), changed_bytes),
        refusals=(ModelError,),
        sources=("chronos_moe.checked_file", "chronos_moe.visit_log", "chronos_moe.intent_file"),
    )


VISITS = _target("visits", load_visits, visits_seed, VISITS_KIND)
INTENT = _target("intent", load_intent, intent_seed, INTENT_KIND)
