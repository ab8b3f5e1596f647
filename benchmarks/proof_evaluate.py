"""What a trained arm can do: bits per byte by source, recall by pairs, needles by length and depth.

The blocks run without their compiled forms, as `chimera.train.validation` does it: a few batches do not repay
another compilation. Logits are computed in float32: in bfloat16, ties would decide what is the best word.
"""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.proof_arms import Peer
from benchmarks.proof_tasks import Needles
from chimera.data.batches import IGNORED, Batches, batches_of
from chimera.data.recall import associative_recall
from chimera.data.shards import Shards
from chimera.mixers.packing import Packing

PAIRS = (4, 8, 16, 32, 64, 128)
"""Asked for in a row of full length; those that do not fit are left out."""
IDS_A_PAIR = 4


@torch.no_grad()
def evaluate(
    model: Peer, *, validation: Shards, needles: Needles, seq_len: int, rows: int, questions: int, seed: int
) -> dict[str, Any]:
    """All measures of an arm; `questions` rows of recall for each number of pairs."""
    was_training = model.training
    model.eval()
    with torch.compiler.set_stance("force_eager"):
        found = {
            "bits_per_byte": bits_per_byte(model, validation, seq_len=seq_len, rows=rows),
            "recall": recall(model, seq_len=seq_len, rows=rows, questions=questions, seed=seed),
            "needles": find_needles(model, needles, rows=rows),
        }
    model.train(was_training)
    return found


@torch.no_grad()
def bits_per_byte(model: Peer, shards: Shards, *, seq_len: int, rows: int) -> dict[str, float]:
    """Bits per byte of each source and of `all`, over every row of the shards once."""
    batches = batches_of(shards, rows=rows, seq_len=seq_len)
    nats, num_bytes = np.zeros(len(shards.sources)), np.zeros(len(shards.sources))
    for ids_BT, labels_BT, resets_BT, sources_BT in _rows_once(batches):
        losses_BT = losses(model, ids_BT, labels_BT, resets_BT, max_documents=batches.max_documents)
        counted = labels_BT != IGNORED
        source = sources_BT[counted]
        nats += np.bincount(source, weights=losses_BT[counted], minlength=len(nats))
        text = shards.id_bytes[labels_BT[counted]].astype(np.float64)
        num_bytes += np.bincount(source, weights=text, minlength=len(nats))
    by_source = {
        name: float(nats[number] / math.log(2) / num_bytes[number])
        for number, name in enumerate(shards.sources)
        if num_bytes[number]
    }
    return {"all": float(nats.sum() / math.log(2) / num_bytes.sum()), **by_source}


@torch.no_grad()
def recall(model: Peer, *, seq_len: int, rows: int, questions: int, seed: int) -> dict[str, float]:
    """Share of values that are the best word, by number of pairs in a row."""
    found: dict[str, float] = {}
    for pairs in (pairs for pairs in PAIRS if IDS_A_PAIR * pairs <= seq_len):
        ids_NT, labels_NT = associative_recall(
            questions,
            num_pairs=pairs,
            length=seq_len,
            vocab_size=model.config.vocab_size,
            seed=2 * seed + 1,  # practice has even ones
        )
        right = total = 0
        for at in range(0, questions, rows):
            ids, labels = ids_NT[at : at + rows], labels_NT[at : at + rows]
            best_BT = _logits(model, ids, _whole(ids), max_documents=1).argmax(dim=-1).cpu().numpy()
            asked = labels != IGNORED
            right += int((best_BT[asked] == labels[asked]).sum())
            total += int(asked.sum())
        found[str(pairs)] = right / total
    return found


@torch.no_grad()
def find_needles(model: Peer, needles: Needles, *, rows: int) -> dict[str, Any]:
    """Share of needles found: every token of the answer the best one, and the answer above a wrong one."""
    exact_N, right_N = _answers(model, needles.right_NT, needles.right_answer_NT, rows=rows)
    _, wrong_N = _answers(model, needles.wrong_NT, needles.wrong_answer_NT, rows=rows)
    chosen_N = right_N < wrong_N

    def shares(by_N: NDArray[Any]) -> dict[str, dict[str, float]]:
        return {
            f"{value:g}": {
                "exact": float(exact_N[by_N == value].mean()),
                "chosen": float(chosen_N[by_N == value].mean()),
            }
            for value in np.unique(by_N).tolist()
        }

    return {
        "exact": float(exact_N.mean()),
        "chosen": float(chosen_N.mean()),
        "by_length": shares(needles.length_N),
        "by_depth": shares(needles.depth_N),
    }


def losses(
    model: Peer,
    ids_BT: NDArray[np.int64],
    labels_BT: NDArray[np.int64],
    resets_BT: NDArray[np.bool_],
    *,
    max_documents: int,
) -> NDArray[np.float64]:
    """Nats of each label; 0 where there is none."""
    logits = _logits(model, ids_BT, resets_BT, max_documents=max_documents)
    labels = torch.from_numpy(labels_BT).to(logits.device)
    found = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORED, reduction="none")
    return found.view_as(labels).double().cpu().numpy()


def _answers(
    model: Peer, ids_NT: NDArray[np.uint16], answer_NT: NDArray[np.bool_], *, rows: int
) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    """Whether every token of an answer is the best one, and the nats of the whole answer."""
    exact: list[NDArray[np.bool_]] = []
    nats: list[NDArray[np.float64]] = []
    for at in range(0, len(ids_NT), rows):
        ids = ids_NT[at : at + rows].astype(np.int64)
        asked = answer_NT[at : at + rows, 1:]
        inputs, labels = ids[:, :-1], np.where(asked, ids[:, 1:], IGNORED)
        logits = _logits(model, inputs, _whole(inputs), max_documents=1)
        best = logits.argmax(dim=-1).cpu().numpy()
        exact.append(((best == labels) | ~asked).all(axis=1))
        target = torch.from_numpy(labels).to(logits.device)
        found = F.cross_entropy(logits.transpose(1, 2), target, ignore_index=IGNORED, reduction="none")
        nats.append(found.double().sum(dim=1).cpu().numpy())
    return np.concatenate(exact), np.concatenate(nats)


def _logits(
    model: Peer, ids_BT: NDArray[np.int64], resets_BT: NDArray[np.bool_], *, max_documents: int
) -> Tensor:
    device = model.final_norm.weight.device
    ids, resets = torch.from_numpy(ids_BT).to(device), torch.from_numpy(resets_BT).to(device)
    with torch.autocast(device.type, dtype=torch.bfloat16, enabled=device.type == "cuda"):
        hidden_BTD = model(ids, packing=Packing(resets, max_documents), keep_state=False).hidden_BTD
    return model.logits(hidden_BTD.float())


def _whole(ids_BT: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Rows that are one document each; what stands behind its end is not seen by what stands before."""
    resets_BT = np.zeros(ids_BT.shape, dtype=np.bool_)
    resets_BT[:, 0] = True
    return resets_BT


def _rows_once(batches: Batches) -> Iterator[tuple[NDArray[Any], ...]]:
    """Every row once: the last batch is filled up from the next pass, which is not counted."""
    for number in range(batches.batches_per_epoch):
        batch = batches.batch(number)
        kept = slice(0, batches.plan.num_rows - number * batches.rows)
        yield batch.ids_BT[kept], batch.labels_BT[kept], batch.resets_BT[kept], batch.sources_BT[kept]
