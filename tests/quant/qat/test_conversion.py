"""A small float model becomes ternary: norms and a gradual mix lose less than a hard switch without them.

Most of the gain is the norms'. At this size a hard switch with norms is better still, so the mix is a tool
for models that a switch would break, and not the default.
"""

import copy
from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from quant.qat.linear import BitLinear, set_quant_mix

NUM_SYMBOLS = 24
CONTEXT = 4
STEPS = 40


class TinyModel(nn.Module):
    """The next of 24 symbols from the last four."""

    def __init__(self, *, norm: bool) -> None:
        super().__init__()
        self.embedding = nn.Embedding(NUM_SYMBOLS, 64)
        self.layers = nn.ModuleList(
            [
                BitLinear(64 * CONTEXT, 128, norm=norm, init_std=0.06),
                *(BitLinear(128, 128, norm=norm, init_std=0.09) for _ in range(3)),
            ]
        )
        self.head = nn.Linear(128, NUM_SYMBOLS)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        first, *others = self.layers
        hidden = first(self.embedding(ids).flatten(1))
        for layer in others:
            hidden = hidden + layer(F.silu(hidden))
        return self.head(F.silu(hidden))


def text_of_two_symbol_rules() -> torch.Tensor:
    """Windows of a text in which two symbols say much about the next."""
    generator = torch.Generator().manual_seed(0)
    odds = torch.randn(NUM_SYMBOLS, NUM_SYMBOLS, NUM_SYMBOLS, generator=generator) * 2.5
    heights = torch.softmax(odds, dim=-1).cumsum(dim=-1)
    text = [0, 1]
    for draw in torch.rand(20_000, generator=generator):
        text.append(int(torch.searchsorted(heights[text[-2], text[-1]], draw).clamp(max=NUM_SYMBOLS - 1)))
    return torch.tensor(text).unfold(0, CONTEXT + 1, 1)


def loss_of(model: nn.Module, windows: torch.Tensor) -> torch.Tensor:
    return F.cross_entropy(model(windows[:, :CONTEXT]), windows[:, CONTEXT])


def train(
    model: TinyModel, windows: torch.Tensor, *, steps: int, rate: float, gradual: bool = False
) -> float:
    """Train; the loss over all windows. Gradual: λ rises in the first quarter, in later layers later."""
    optimiser = torch.optim.Adam(model.parameters(), lr=rate)
    generator = torch.Generator().manual_seed(1)
    ramp = steps / 4
    for step in range(steps):
        for place, layer in enumerate(model.layers if gradual else []):
            start = ramp / 2 * place / len(model.layers)
            set_quant_mix(layer, min(1.0, max(0.0, (step - start) / (ramp - start))))
        batch = windows[torch.randint(len(windows), (128,), generator=generator)]
        optimiser.zero_grad()
        loss_of(model, batch).backward()
        optimiser.step()
    with torch.no_grad():
        return loss_of(model, windows).item()


def with_norms(model: TinyModel) -> TinyModel:
    normed = TinyModel(norm=True)
    normed.load_state_dict(model.state_dict(), strict=False)
    return normed


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Products this small lose more by sharing than they gain."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
def test_norms_and_a_gradual_mix_lose_less_than_a_hard_switch():
    windows = text_of_two_symbol_rules()
    torch.manual_seed(0)
    model = TinyModel(norm=False)
    set_quant_mix(model, 0)
    float_loss = train(model, windows, steps=500, rate=2e-3)
    set_quant_mix(model, None)
    hard = train(copy.deepcopy(model), windows, steps=STEPS, rate=1e-3)
    gradual_model = with_norms(model)
    gradual = train(gradual_model, windows, steps=STEPS, rate=1e-3, gradual=True)
    assert all(layer.quant_mix == 1 for layer in gradual_model.layers)
    assert float_loss < 2
    assert float_loss < gradual < hard - 0.005
