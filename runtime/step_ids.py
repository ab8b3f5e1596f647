"""The ids of a step: checked, and laid side by side where the program reads them."""

from collections.abc import Sequence

import numpy as np

from configs.errors import UsageError
from runtime.binding import Ids, Integers, Part


def check_streams(num_streams: int, *, slice_tokens: int) -> None:
    """Refuse a number of streams that no step has room for."""
    if not 1 <= num_streams <= slice_tokens:
        raise UsageError(
            f"{num_streams} streams in slices of {slice_tokens} tokens; a slice has one token at least, "
            "and one for each stream"
        )


class StepIds:
    """The row of ids that a program reads."""

    def __init__(self, row_T: Integers, *, vocab_size: int) -> None:
        self._row_T, self._vocab_size = row_T, vocab_size

    def checked(self, ids: Ids) -> Integers:
        """Ids of any kind as those of this vocabulary."""
        given = np.asarray(ids)
        if given.size and (given.ndim != 1 or given.dtype.kind not in "iu"):
            raise UsageError(f"ids must be whole numbers in a row, got {given.dtype} {given.shape}")
        self._check(given)
        return given.astype(np.int64)

    def lay_one(self, token: int) -> None:
        """Lay one token, once it is checked."""
        if not 0 <= token < self._vocab_size:
            self._refuse(token, token)
        self._row_T[0] = token

    def lay(self, ids_T: Integers) -> None:
        """Lay ids that were checked."""
        self._row_T[: len(ids_T)] = ids_T

    def lay_parts(self, parts: Sequence[Part | None], *, most: int) -> None:
        """Lay what several streams read, once it is checked; so many together at most."""
        total = 0
        for part in parts:
            if part is not None:
                count = len(part.ids)
                if not 0 < count <= most - total:
                    raise UsageError(
                        f"{total + count} tokens in a step, {count} of one stream; at least 1 of each and "
                        f"{most} together are allowed"
                    )
                self._row_T[total : total + count] = part.ids
                total += count
        if not total:
            raise UsageError("a step without a stream reads nothing")
        self._check(self._row_T[:total])

    def _check(self, ids_T: Integers) -> None:
        if ids_T.size and not 0 <= int(ids_T.min()) <= int(ids_T.max()) < self._vocab_size:
            self._refuse(int(ids_T.min()), int(ids_T.max()))

    def _refuse(self, least: int, most: int) -> None:
        raise UsageError(
            f"ids from {least} to {most}, but the vocabulary holds 0 to {self._vocab_size - 1}",
            hint="The text was encoded with the tokenizer of another model.",
        )
