"""What the first proof asks of recall, beside text: needles read from a file, pairs drawn anew for each step.

Every step has some rows of both, the same ones for all arms, so that no arm meets a question for the first
time when it is tested. Multi-query associative recall needs no text (`chimera.data.recall`); needles come
from `benchmarks.proof_needles`.
"""

import hashlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from chimera.data.recall import associative_recall
from configs.errors import DataError, UsageError

NAME = "needles.npz"
RECALL_SHARES = (8, 4, 2, 1)
"""Practice of recall is in pieces of a row's length divided by these, a value asked for each eighth id."""
IDS_A_QUESTION = 8


class Rows(NamedTuple):
    """Some rows as a training step takes them."""

    ids_BT: NDArray[np.int64]
    labels_BT: NDArray[np.int64]
    resets_BT: NDArray[np.bool_]


class Needles(NamedTuple):
    """What `needles.npz` holds. A row of ids is one longer than what goes into a model."""

    practice: Rows
    right_NT: NDArray[np.uint16]
    right_answer_NT: NDArray[np.bool_]
    wrong_NT: NDArray[np.uint16]
    wrong_answer_NT: NDArray[np.bool_]
    length_N: NDArray[np.int64]
    depth_N: NDArray[np.float64]
    digest: str


def open_needles(work: Path, *, seq_len: int) -> Needles:
    """Read what `make_needles` wrote."""
    path = work / NAME
    if not path.is_file():
        raise DataError(
            f"{path} is not there", hint="Make it where a tokenizer is: python -m benchmarks.proof needles …"
        )
    data = path.read_bytes()
    with np.load(path) as held:
        parts = {name: held[name] for name in held.files}
    if parts["right"].shape[1] != seq_len + 1:
        raise UsageError(
            f"{path} holds rows of {parts['right'].shape[1] - 1} ids, but the proof runs with {seq_len}",
            hint="Make the needles again with the same --seq-len.",
        )
    return Needles(
        practice=Rows(
            parts["practice_ids"].astype(np.int64),
            parts["practice_labels"].astype(np.int64),
            parts["practice_resets"],
        ),
        right_NT=parts["right"],
        right_answer_NT=parts["right_answer"],
        wrong_NT=parts["wrong"],
        wrong_answer_NT=parts["wrong_answer"],
        length_N=parts["length"],
        depth_N=parts["depth"],
        digest=hashlib.sha256(data).hexdigest(),
    )


def practice_needles(needles: Needles, *, step: int, rows: int) -> Rows:
    """The rows of needles that a step learns from."""
    held = len(needles.practice.ids_BT)
    chosen = [(step * rows + row) % held for row in range(rows)]
    return Rows(*(part[chosen] for part in needles.practice))


def practice_recall(*, step: int, rows: int, seq_len: int, vocab_size: int, seed: int) -> Rows:
    """Rows of recall that no other step has, in pieces of four lengths by turns."""
    parts = [_recall_row(step * rows + row, seq_len, vocab_size, seed) for row in range(rows)]
    return Rows(*(np.stack(part) for part in zip(*parts, strict=True)))


def _recall_row(
    number: int, seq_len: int, vocab_size: int, seed: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.bool_]]:
    count = RECALL_SHARES[number % len(RECALL_SHARES)]
    length = seq_len // count
    ids, labels = associative_recall(
        count,
        num_pairs=length // IDS_A_QUESTION,
        length=length,
        vocab_size=vocab_size,
        # An even number: questions of the evaluation are drawn from odd ones.
        seed=2 * (seed * 1_000_003 + number),
    )
    resets = np.zeros((count, length), dtype=np.bool_)
    resets[:, 0] = True
    return ids.reshape(-1), labels.reshape(-1), resets.reshape(-1)
