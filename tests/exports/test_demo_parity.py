"""The shipped model by the engine and by PyTorch, teacher-forced on texts of its own.

Where a value lies in the middle between two int8 codes, the last bit of a float decides, and from there on
the two differ by a code's size. PyTorch's own two forms of the layers, token by token and by chunks, differ
from each other in just that way: no engine can be nearer to either than they are to one another.
"""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.demo_samples import PROMPTS
from chimera.model import ChimeraForCausalLM
from exports.unpacked import torch_model
from runtime.engine import Engine
from runtime.model_folder import open_model

DEMO = "runtime/models/demo"
NUM_TEXTS, NUM_TOKENS = 6, 256
NEAR_TIE = 0.2
"""Logits nearer to each other than this may change places."""


def drawn(engine: Engine, ids: list[int], rng: np.random.Generator) -> NDArray[np.int64]:
    """A text of the model's own that begins with some ids, drawn word by word."""
    state = engine.new_state()
    engine.prefill(state, ids)
    while len(ids) < NUM_TOKENS:
        scores = engine.logits().astype(np.float64) / 0.8
        shares = np.exp(scores - scores.max())
        ids.append(int(rng.choice(len(shares), p=shares / shares.sum())))
        engine.step(state, ids[-1])
    return np.array(ids)


def by_engine(engine: Engine, ids: NDArray[np.int64]) -> Tensor:
    state = engine.new_state()
    rows: list[NDArray[np.float32]] = []
    for token in ids.tolist():
        engine.step(state, token)
        rows.append(engine.logits().copy())
    return torch.from_numpy(np.stack(rows))


def by_steps(model: ChimeraForCausalLM, ids_BT: Tensor) -> Tensor:
    state = None
    columns: list[Tensor] = []
    for ids_B in ids_BT.unbind(dim=1):
        output = model(ids_B[:, None], state=state)
        state = output.state
        columns.append(model.logits(output.hidden_BTD))
    return torch.cat(columns, dim=1)


def nats(logits: Tensor, ids: NDArray[np.int64]) -> float:
    following = torch.from_numpy(ids)[1:, None]
    return -torch.log_softmax(logits.double(), dim=-1)[:-1].gather(1, following).sum().item()


@pytest.mark.slow
@torch.no_grad()
def test_texts_are_foreseen_alike() -> None:
    tokenizer = open_model(DEMO).tokenizer()
    assert tokenizer is not None
    model = torch_model(DEMO)
    rng = np.random.default_rng(0)
    with Engine.open(DEMO, num_threads=1) as engine:
        texts = [drawn(engine, tokenizer.encode(prompt), rng) for prompt in PROMPTS[:NUM_TEXTS]]
        found_texts = [by_engine(engine, ids) for ids in texts]
    # All texts at once: PyTorch takes as long for one token as for one of each.
    ids_BT = torch.from_numpy(np.stack(texts))
    steps_texts, chunks_texts = by_steps(model, ids_BT), model.logits(model(ids_BT).hidden_BTD)
    apart = {"engine": 0, "torch": 0}
    off, num_bytes = 0.0, 0
    for ids, found, steps, chunks in zip(texts, found_texts, steps_texts, chunks_texts, strict=True):
        off += nats(found, ids) - nats(chunks, ids)
        num_bytes += len(tokenizer.decode_bytes(ids.tolist()))
        best, right = found.argmax(dim=-1), chunks.argmax(dim=-1)
        gap_T = chunks.gather(1, right[:, None]) - chunks.gather(1, best[:, None])
        assert gap_T.max() < NEAR_TIE
        apart["engine"] += int((best != right).sum())
        apart["torch"] += int((steps.argmax(dim=-1) != right).sum())
    assert abs(off) / np.log(2) / num_bytes < 1e-3
    assert apart["engine"] <= 2 * apart["torch"] + 5, apart
