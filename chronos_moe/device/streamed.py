"""Experts that come to the device when a token visits them, in the place of `chronos_moe.experts.Experts`.

    y_t = Σ_a weight_ta · E_(expert ta)(x̃_t)        as there, one expert at a time

Which experts a layer visits has to be known on the host before their bytes can be asked for. The choice comes
down by a copy with an event of its own, and that event alone is waited for. What is known earlier is asked
for earlier: choices that an earlier layer has made for a later one, and what the predictor says.
"""

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from chronos_moe.device.blocks import expert_weights
from chronos_moe.device.tier import CudaTier
from chronos_moe.store.form import ExpertForm
from chronos_moe.store.predictors import Predictor, Seen, Wish
from quant.activations import BLOCK, ActBlock
from quant.qat.activations import fake_quantize_activations


class Course:
    """One way through a model's layers: what the host knows, and what is asked for ahead."""

    def __init__(
        self, tier: CudaTier, *, order: tuple[int, ...], num_chosen: int, predictor: Predictor | None = None
    ) -> None:
        """`order` is the passes of a call by the rows of their layers."""
        self.tier = tier
        self._order, self._num_chosen, self._predictor = order, num_chosen, predictor
        self._place = -1
        self._decided: dict[int, _Coming] = {}
        """Choices on their way down, by the row of the layer that they are for."""

    def begin(self) -> None:
        """The model is called anew."""
        self._place = -1
        self._decided.clear()

    def decide(self, row: int, chosen: Tensor) -> None:
        """A later layer's experts are known on the device."""
        self._decided[row] = _Coming(chosen)

    def arrive(self, row: int, expert_TA: Tensor) -> NDArray[np.int64]:
        """A layer has chosen. Its choice on the host; what comes after it has been asked for."""
        coming = _Coming(expert_TA)
        self._place = self._next_place(row)
        ids_TA = coming.wait()
        self._decided.pop(row, None)
        self.tier.count(self._place, row, np.unique(ids_TA).tolist())
        self.tier.prefetch(self._wishes(room=self.tier.num_slots - ids_TA.shape[-1]))
        return ids_TA

    def _next_place(self, row: int) -> int:
        places = len(self._order)
        ahead = (step % places for step in range(self._place + 1, self._place + 1 + places))
        return next(place for place in ahead if self._order[place] == row)

    def _wishes(self, *, room: int) -> list[Wish]:
        seen = self._seen()
        found: list[Wish] = []
        for row, coming in self._decided.items():
            ahead = seen.passes_until(row)
            if ahead is not None:
                # It was queued before what has been waited for, on the same stream.
                experts = np.unique(coming.wait()).tolist()
                found += [Wish(layer=row, expert=expert, passes_ahead=ahead) for expert in experts]
        if self._predictor is not None:
            decided = set(self._decided)
            guesses = self._predictor.predict(seen, room=room)
            found += [wish for wish in guesses if wish.layer not in decided]
        found.sort(key=lambda wish: wish.passes_ahead)
        return found[: max(0, room)]

    def _seen(self) -> Seen:
        ledger = self.tier.store.ledger
        shape = (ledger.num_layers, ledger.num_experts)
        return Seen(
            clock=int(ledger.clock[0]),
            place=self._place,
            order=self._order,
            num_chosen=self._num_chosen,
            last_visits=ledger.last_visits.reshape(shape),
            visits=ledger.visits.reshape(shape),
            foresight=None,
        )


class StreamedExperts(nn.Module):
    """The routed experts of a layer, for evaluation."""

    quant_mix: Tensor | None

    def __init__(
        self, course: Course, *, row: int, form: ExpertForm, act_block: ActBlock = BLOCK, eps: float = 1e-6
    ) -> None:
        super().__init__()
        self._course, self._row, self._form = course, row, form
        self.act_block: ActBlock = act_block
        self.eps = eps
        self.register_buffer("quant_mix", None, persistent=False)

    def forward(self, x_TD: Tensor, expert_TA: Tensor, weights_TA: Tensor) -> Tensor:
        """The weighted sum of each token's experts, float32. `x_TD` is normed and quantised."""
        ids_TA = self._course.arrive(self._row, expert_TA)
        rows_TAD = x_TD.new_empty((*ids_TA.shape, x_TD.shape[-1]), dtype=torch.float32)
        visited, tier = np.unique(ids_TA).tolist(), self._course.tier
        for first in range(0, len(visited), tier.num_slots):
            wave = visited[first : first + tier.num_slots]
            for expert, block in tier.use(self._row, wave).items():
                token, place = (_on(x_TD.device, found) for found in np.nonzero(ids_TA == expert))
                rows_TAD[token, place] = self._expert(block, x_TD[token])
            tier.done(self._row, wave)
        weights = weights_TA.unsqueeze(-1)
        return torch.where(weights != 0, rows_TAD * weights, 0.0).sum(dim=1)

    def _expert(self, block: Tensor, x_UD: Tensor) -> Tensor:
        weights = expert_weights(block, self._form)
        gate, up = F.linear(x_UD.float(), weights.gate_and_up).chunk(2, dim=-1)
        hidden = F.silu(gate.float()) * up.float()
        normed = F.rms_norm(hidden, hidden.shape[-1:], None, self.eps) * weights.down_norm
        return F.linear(fake_quantize_activations(normed, block=self.act_block), weights.down).float()


class _Coming:
    """A tensor of ids on its way to the host."""

    def __init__(self, ids: Tensor) -> None:
        self._there = torch.empty(ids.shape, dtype=ids.dtype, pin_memory=True)
        self._there.copy_(ids, non_blocking=True)
        self._copied = torch.cuda.Event()
        self._copied.record(torch.cuda.current_stream(ids.device))

    def wait(self) -> NDArray[np.int64]:
        """The ids, once they are there."""
        self._copied.synchronize()
        return self._there.numpy()


def _on(device: torch.device, ids: NDArray[np.int64]) -> Tensor:
    """Ids on the device, without a wait: what they are copied from is pinned, and its allocator holds it."""
    return torch.from_numpy(ids).pin_memory().to(device, non_blocking=True)
