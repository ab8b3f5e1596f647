"""Multi-query associative recall: what the delta rule is for, and a plain sum of writes can't do."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from chimera.mixers.gated_delta import layer as gated_delta_layer
from chimera.mixers.gated_delta.layer import GatedDeltaNet

WIDTH = 64
NUM_WORDS = 64  # keys are words 0 to 63, values 64 to 127
NUM_KEYS = 5
NUM_WRITES = 3  # of each key, every time with another value: the last one counts
STEPS = 450
LEARNING_RATE = 7e-3


class Model(nn.Module):
    """Two layers between an embedding and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(2 * NUM_WORDS, WIDTH)
        self.layers = nn.ModuleList(
            GatedDeltaNet(width=WIDTH, num_heads=2, head_dim=32, init_std=0.02) for _ in range(2)
        )
        self.norm = nn.RMSNorm(WIDTH)
        self.head = nn.Linear(WIDTH, 2 * NUM_WORDS)

    def forward(self, ids_BT: Tensor) -> Tensor:
        """Scores of every word, at the queries alone."""
        x_BTD = self.embedding(ids_BT)
        for layer in self.layers:
            x_BTD = x_BTD + layer(x_BTD)[0]
        return self.head(self.norm(x_BTD[:, -NUM_KEYS:]))


def task(batch: int) -> tuple[Tensor, Tensor]:
    """key value key value … query query …, and the value that each query should find."""
    keys = torch.rand(batch, NUM_WORDS).argsort(dim=1)[:, :NUM_KEYS]
    written = torch.rand(batch, NUM_WRITES, NUM_KEYS).argsort(dim=2)
    values = torch.randint(NUM_WORDS, 2 * NUM_WORDS, written.shape)
    last = torch.zeros(batch, NUM_KEYS, dtype=torch.int64).scatter(1, written[:, -1], values[:, -1])
    asked = torch.rand(batch, NUM_KEYS).argsort(dim=1)
    pairs = torch.stack((keys.gather(1, written.flatten(1)), values.flatten(1)), dim=-1).flatten(1)
    return torch.cat((pairs, keys.gather(1, asked)), dim=1), last.gather(1, asked)


def accuracy_after_training() -> float:
    torch.manual_seed(0)
    model = Model()
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=0.1, betas=(0.9, 0.95))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=STEPS, pct_start=0.1)
    for _ in range(STEPS):
        ids_BT, wanted = task(64)
        optimizer.zero_grad()
        F.cross_entropy(model(ids_BT).flatten(0, 1), wanted.flatten()).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    with torch.no_grad():
        ids_BT, wanted = task(512)
        return (model(ids_BT).argmax(dim=-1) == wanted).float().mean().item()


def linear_attention(
    q_BTHK: Tensor, k_BTHK: Tensor, v_BTHV: Tensor, *, state_BHKV: Tensor, **gates: Tensor | int | None
) -> tuple[Tensor, Tensor]:
    """S_t = S_{t−1} + k_t v_tᵀ: nothing fades, nothing is replaced."""
    scores = torch.einsum("bthk,bshk->bhts", q_BTHK, k_BTHK).tril()
    return torch.einsum("bhts,bshv->bthv", scores, v_BTHV), state_BHKV


@pytest.mark.slow
def test_gated_deltanet_learns_it():
    assert accuracy_after_training() >= 0.99


@pytest.mark.slow
def test_plain_linear_attention_does_not(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(gated_delta_layer, "gated_delta_chunks", linear_attention)
    assert accuracy_after_training() < 0.9
