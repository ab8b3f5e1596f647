"""The intent classifier while it learns; `chronos_moe.intent_file` has its equations, and runs it later.

It learns from a log of activations: a document is cut somewhere, what stands before is a prompt, and what is
to be foretold is the share of the tokens behind that visit each expert. Training and use go one way: the same
forward, the same mask, no padded place counted anywhere.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from chronos_moe.intent_file import NORM_EPS, Intent, IntentShape
from chronos_moe.visit_log import VisitLog
from configs.errors import DataError, UsageError

LEAST_TOKENS = 8
"""Of a prompt, and of an answer."""
EXAMPLES_EACH = 4
"""Places at which a document is cut to be judged by."""
Progress = Callable[[int, int, float], None]
"""Given the steps done, all steps, and the loss."""


class Example(NamedTuple):
    """A prompt and what its answer visits."""

    ids_T: NDArray[np.int64]
    share_LE: NDArray[np.float32]


class Judgement(NamedTuple):
    """How well the experts of answers were foretold, by texts that were not learnt from."""

    loss: float
    intent_recall: float
    """Share of all visits that went to half of each layer's experts, the half that the prompt foretold."""
    usage_recall: float
    """The same by how often experts are visited at all."""
    best_recall: float
    """The same if one knew."""


class IntentClassifier(nn.Module):
    """A small encoder over hashed ids."""

    def __init__(self, shape: IntentShape) -> None:
        super().__init__()
        self.shape = shape
        self.weights = nn.ParameterDict(
            {
                name.replace(".", "_"): nn.Parameter(torch.empty(size))
                for name, size in shape.tensors().items()
            }
        )
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Gains of one, a bias of zero, and matrices by their inputs."""
        for name, weight in self.weights.items():
            if name.endswith("norm"):
                nn.init.ones_(weight)
            elif weight.dim() == 1:
                nn.init.zeros_(weight)
            else:
                nn.init.normal_(weight, std=0.02 if name in ("word", "place") else weight.shape[1] ** -0.5)

    def forward(self, buckets_BT: Tensor, mask_BT: Tensor) -> Tensor:
        """Logits [B, L, E]. `mask_BT` is true where there is a token."""
        x_BTD = self.weights["word"][buckets_BT] + self.weights["place"][: buckets_BT.shape[1]]
        H = self.shape.num_heads
        for layer in range(self.shape.depth):
            normed = self._normed(x_BTD, f"{layer}_attention_norm")
            qkv = F.linear(normed, self.weights[f"{layer}_qkv"]).unflatten(-1, (3, H, -1))
            q, k, v = qkv.permute(2, 0, 3, 1, 4)
            mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=mask_BT[:, None, None])
            x_BTD = x_BTD + F.linear(mixed.transpose(1, 2).flatten(2), self.weights[f"{layer}_merge"])
            hidden = F.relu(
                F.linear(self._normed(x_BTD, f"{layer}_inner_norm"), self.weights[f"{layer}_inner"])
            )
            x_BTD = x_BTD + F.linear(hidden, self.weights[f"{layer}_outer"])
        mask = mask_BT.unsqueeze(-1)
        pooled_BD = torch.where(mask, x_BTD, 0.0).sum(dim=1) / mask.sum(dim=1)
        logits = F.linear(
            self._normed(pooled_BD, "final_norm"), self.weights["head"], self.weights["head_bias"]
        )
        return logits.unflatten(-1, (self.shape.num_layers, self.shape.num_experts))

    def exported(self, log: VisitLog) -> Intent:
        """The classifier as the runtime reads it."""
        names = self.shape.tensors()
        return Intent(
            shape=self.shape,
            layers=log.layers,
            model=log.model,
            usage_LE=log.sets_TLE().mean(axis=0, dtype=np.float64).astype(np.float32),
            tensors={
                name: self.weights[name.replace(".", "_")].detach().float().cpu().numpy() for name in names
            },
        )

    def _normed(self, x: Tensor, name: str) -> Tensor:
        return F.rms_norm(x, x.shape[-1:], self.weights[name], NORM_EPS)


def train_intent(
    log: VisitLog,
    shape: IntentShape,
    *,
    steps: int,
    rows: int = 32,
    rate: float = 1e-3,
    seed: int = 0,
    progress: Progress | None = None,
) -> tuple[IntentClassifier, Judgement]:
    """A classifier that has learnt nine documents of ten, judged by the tenth."""
    if steps < 1 or rows < 1:
        raise UsageError(f"{steps} steps of {rows} rows; allowed are whole numbers from 1")
    documents = usable_documents(log)
    held, learnt = documents[::10], [number for place, number in enumerate(documents) if place % 10]
    if not learnt:
        raise DataError(
            f"{len(documents)} documents of at least {2 * LEAST_TOKENS} tokens; 2 are needed",
            hint="Record more text: one is learnt from, and one is kept to judge by.",
        )
    torch.manual_seed(seed)
    rng, sets = np.random.default_rng(seed), _SharesBehind(log)
    model = IntentClassifier(shape)
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=rate, total_steps=steps + 1)
    for step in range(steps):
        examples = [sets.example(learnt[int(pick)], rng) for pick in rng.integers(0, len(learnt), rows)]
        loss = _loss(model, examples)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if progress is not None:
            progress(step + 1, steps, loss.item())
    judged = [sets.example(number, rng) for number in held for _ in range(EXAMPLES_EACH)]
    return model.eval(), _judged(model, judged, log)


def usable_documents(log: VisitLog) -> list[int]:
    """The documents that are long enough for a prompt and an answer."""
    return np.flatnonzero(np.diff(log.begins) >= 2 * LEAST_TOKENS).tolist()


class _SharesBehind:
    """Examples out of a log."""

    def __init__(self, log: VisitLog) -> None:
        self._log = log
        self._sets_TLE = log.sets_TLE()

    def example(self, document: int, rng: np.random.Generator) -> Example:
        """A document cut at a random place."""
        first, after = self._log.begins[document : document + 2]
        cut = int(rng.integers(first + LEAST_TOKENS, after - LEAST_TOKENS + 1))
        ids_T = self._log.ids_T[first:cut].astype(np.int64)
        return Example(ids_T, self._sets_TLE[cut:after].mean(axis=0, dtype=np.float32))


def _loss(model: IntentClassifier, examples: list[Example]) -> Tensor:
    logits, shares = _logits(model, examples)
    return F.binary_cross_entropy_with_logits(logits, shares)


def _logits(model: IntentClassifier, examples: list[Example]) -> tuple[Tensor, Tensor]:
    kept = [example.ids_T[-model.shape.max_tokens :] for example in examples]
    longest = max(map(len, kept))
    buckets_BT = np.zeros((len(kept), longest), dtype=np.int64)
    mask_BT = np.zeros((len(kept), longest), dtype=np.bool_)
    for row, ids in enumerate(kept):
        buckets_BT[row, : len(ids)] = model.shape.buckets(ids)
        mask_BT[row, : len(ids)] = True
    shares = torch.from_numpy(np.stack([example.share_LE for example in examples]))
    return model(torch.from_numpy(buckets_BT), torch.from_numpy(mask_BT)), shares


@torch.no_grad()
def _judged(model: IntentClassifier, examples: list[Example], log: VisitLog) -> Judgement:
    usage = torch.from_numpy(log.sets_TLE().mean(axis=0, dtype=np.float64).astype(np.float32))
    losses, recalls = list[float](), list[list[float]]()
    for some in _some(examples, 32):
        logits, shares = _logits(model, some)
        losses += [F.binary_cross_entropy_with_logits(logits, shares).item()] * len(some)
        for row, share in zip(logits, shares, strict=True):
            recalls.append([_recall(scores, share) for scores in (row, usage, share)])
    return Judgement(float(np.mean(losses)), *np.mean(recalls, axis=0).tolist())


def _recall(scores_LE: Tensor, share_LE: Tensor) -> float:
    """The visits that the best half of each layer's experts has."""
    best = scores_LE.topk(-(-share_LE.shape[-1] // 2), dim=-1).indices
    return float(share_LE.gather(-1, best).sum() / share_LE.sum().clamp(min=1e-9))


def _some(examples: list[Example], size: int) -> Iterator[list[Example]]:
    for first in range(0, len(examples), size):
        yield examples[first : first + size]
