"""How the tokens of a step are cut into batches: rows of a length, so many batches before an update."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from configs.errors import UsageError

BATCH_TOKENS: Mapping[str, int] = {"cpu": 4096, "cuda": 65536}
"""Tokens of one batch where nobody says how many rows it has: small models have room for as many."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Geometry:
    """The shape of a step."""

    rows: int
    """Rows of one batch, of all workers together."""
    seq_len: int
    """Tokens of a row."""
    accumulate: int
    """Batches whose gradients are added up before an update."""

    def __post_init__(self) -> None:
        for name, value in (
            ("--rows", self.rows),
            ("--seq-len", self.seq_len),
            ("--accumulate", self.accumulate),
        ):
            if value < 1:
                raise UsageError(f"{name} {value}; allowed are whole numbers from 1 on")

    @property
    def batch_tokens(self) -> int:
        """Tokens of one batch, padding among them."""
        return self.rows * self.seq_len

    @property
    def step_tokens(self) -> int:
        """Tokens of one update, padding among them."""
        return self.batch_tokens * self.accumulate


def geometry_of(
    *,
    seq_len: int,
    batch_tokens: int | None,  # of a step, as the caller asks
    config_tokens: int | None,  # of a step, as the config says
    rows: int | None,
    accumulate: int | None,
    device: torch.device,
) -> Geometry:
    """The shape of a step of about `batch_tokens`, rounded up to whole rows."""
    if rows is not None and accumulate is not None:
        # Both given: they decide, and the config's own size of a step gives way.
        made = Geometry(rows=rows, seq_len=seq_len, accumulate=accumulate)
        if batch_tokens is not None and batch_tokens != made.step_tokens:
            raise UsageError(
                f"--rows {rows} × --seq-len {seq_len} × --accumulate {accumulate} are {made.step_tokens} "
                f"tokens a step, not --batch-tokens {batch_tokens}",
                hint="Leave one of them out.",
            )
        return made
    # A wish out of range is refused before it is divided by.
    Geometry(
        rows=1 if rows is None else rows, seq_len=seq_len, accumulate=1 if accumulate is None else accumulate
    )
    asked = batch_tokens if batch_tokens is not None else config_tokens
    assert asked is not None
    if asked < 1:
        raise UsageError(f"--batch-tokens {asked}; allowed are whole numbers from 1 on")
    sequences = -(-asked // seq_len)
    if rows is not None:
        return Geometry(rows=rows, seq_len=seq_len, accumulate=-(-sequences // rows))
    if accumulate is None:
        fitting = max(1, BATCH_TOKENS[device.type] // seq_len)
        accumulate = -(-sequences // fitting)
    return Geometry(rows=-(-sequences // accumulate), seq_len=seq_len, accumulate=accumulate)
