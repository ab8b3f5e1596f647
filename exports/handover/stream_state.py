"""The recurrent state of a batch in the place where `transformers` keeps keys and values of a past."""

import torch

from chimera.model import ModelState
from chimera.rows import first_tensor, take_rows
from configs.errors import UsageError


class StreamState:
    """The state of every layer and round, and how many tokens led to it. It does not grow."""

    is_compileable = False

    def __init__(self, state: ModelState, *, num_tokens: int) -> None:
        self.state = state
        self.num_tokens = num_tokens

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Tokens seen, padding among them."""
        return self.num_tokens

    def reorder_cache(self, beam_idx: torch.Tensor) -> None:
        """Let each row go on from the row of that number, as beam search asks."""
        self.state = tuple(tuple(take_rows(held, beam_idx) for held in layer) for layer in self.state)

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Let each row be that many."""
        rows = torch.arange(first_tensor(self.state).shape[0], device=first_tensor(self.state).device)
        self.reorder_cache(rows.repeat_interleave(repeats))

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        """Keep some rows."""
        self.reorder_cache(indices)

    def crop(self, max_length: int) -> None:
        """A state cannot be cut: what a token did to it is in all of it."""
        raise UsageError(
            f"a recurrent state of {self.num_tokens} tokens cannot be cut to {max_length}",
            hint="Keep a copy of the state from before (copy.deepcopy), and go on from that.",
        )
