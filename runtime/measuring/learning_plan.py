"""How much memory fine-tuning a model takes here, before it is made or loaded: `chimera plan --finetune`.

The engine that learns is built on weights that stand in, as `chimera plan` does, and reads a batch; what the
process has then is measured. What a method keeps beside the model is counted, and so are the files, of which
every byte is read.
"""

import importlib
from math import prod
from pathlib import Path
from typing import Any, Final

import numpy as np

from configs.errors import UsageError
from configs.schema.model import ModelConfig
from quant.container_format import GROUPED, stored_parts
from runtime import system
from runtime.adapting.codes import CODES, DEFAULT_SPREAD
from runtime.adapting.state import BeginState, memories, written_exponents
from runtime.building.states import check_runnable
from runtime.engine import Engine
from runtime.finetune.losses import NUM_STREAMS, Losses
from runtime.finetune.method import Item
from runtime.measuring.planning import subject_of
from runtime.measuring.stand_in import StandIn
from runtime.model_folder import open_model
from runtime.packed_specs import packed_specs

METHODS: Final = ("scales", "codes", "state")
SEQUENCES = 2 * NUM_STREAMS
LEARNT_BYTES_OF_SCALE = 4
"""float16 as it was, and how far it has gone."""
LOOK_BYTES_OF_SCALE = 16
"""Of one matrix, while it is moved."""
BYTES_OF_CANDIDATE = 64
"""Of one matrix, while its codes are moved; and of all, what they were."""
READERS = ("sentencepiece", "jinja2", "runtime.finetune.run", "runtime.cli.learning")
"""What learning loads beside the engine."""


def plan_learning(
    source: str, method: str, *, longest: int, num_threads: int | None = None
) -> dict[str, Any]:
    """The peak of a process that teaches a model sequences of so many tokens at most."""
    if method not in METHODS:
        raise UsageError(
            f"memory of the method {method!r} is not planned; of {', '.join(METHODS)} it is",
            hint="PyTorch's own memory depends on more than the model.",
        )
    if not 2 <= longest <= 1 << 20:
        raise UsageError(f"sequences of {longest} tokens; allowed are 2 to {1 << 20}")
    subject = subject_of(source, embedding_bits=None)
    config = subject.config
    check_runnable(config)
    for name in READERS:
        importlib.import_module(name)
    if subject.files_exist and Path(source).is_dir():
        open_model(source).tokenizer()  # for what it takes in memory
    stand_in = StandIn(config, cache_bytes=system.cache_bytes())
    with Engine(stand_in.model, num_threads=num_threads, num_streams=NUM_STREAMS) as engine:
        learnt_bytes = _learnt_bytes(config, method, engine)
        rounds = config.rounds_default
        Losses(engine, rounds=rounds).of([_item(number, longest, config) for number in range(SEQUENCES)])
        # The most that there was: kernels are checked when they are first used. What stood in for floats lies
        # in the files of a real model.
        process_bytes = system.peak_bytes() - _float_bytes(config)
        state_bytes = engine.state_bytes(rounds)
    available = system.memory()
    needed = process_bytes + subject.files_bytes + learnt_bytes
    return {
        "source": source,
        "method": method,
        "longest": longest,
        "files_bytes": subject.files_bytes,
        "state_bytes": state_bytes,
        "streams": NUM_STREAMS,
        "learnt_bytes": learnt_bytes,
        "process_bytes": process_bytes,
        "needed_bytes": needed,
        "available_bytes": available.available_bytes,
        "available_is": available.reason,
        "fits": needed <= available.available_bytes,
    }


def _learnt_bytes(config: ModelConfig, method: str, engine: Engine) -> int:
    """What a method keeps, and what its largest matrix takes while it is moved."""
    if method == "state":
        rounds = config.rounds_default
        places = {place: 0 for place in memories(engine.layout) if place[1] < rounds}
        learnt = BeginState(
            engine.layout, seed=0, settings={"epsilon": 0.5, "exponents": written_exponents(places)}
        )
        return learnt.num_bytes
    parts = [part for spec in packed_specs(config) if spec.kind in GROUPED for part in stored_parts(spec)]
    role, each = ("scales", 1) if method == "scales" else ("codes", CODES / DEFAULT_SPREAD)
    counts = [int(prod(part.shape) * each) for part in parts if part.role == role]
    kept, moved = (
        (LEARNT_BYTES_OF_SCALE, LOOK_BYTES_OF_SCALE)
        if method == "scales"
        else (BYTES_OF_CANDIDATE, BYTES_OF_CANDIDATE)
    )
    return kept * sum(counts) + moved * max(counts, default=0)


def _float_bytes(config: ModelConfig) -> int:
    return sum(
        part.num_bytes
        for spec in packed_specs(config)
        if spec.kind == "float32"
        for part in stored_parts(spec)
    )


def _item(number: int, longest: int, config: ModelConfig) -> Item:
    ids = (np.arange(longest, dtype=np.int64) * 7 + number) % config.vocab_size
    counted = np.arange(longest) >= max(1, longest // 2)
    return Item(ids_T=ids, counted_T=counted, num_prompt=1, prompt="", answer="", file="", line=number)
