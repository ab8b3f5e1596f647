"""How routing behaves: load per expert, its worst excess over a window, entropy, overlap of neighbours."""

import torch
from torch import Tensor

from chronos_moe.pairs import Segments, mean_where, valid_pairs
from configs.errors import UsageError


def expert_counts(chosen: Tensor, *, num_experts: int, mask: Tensor | None = None) -> Tensor:
    """Tokens that visited each expert, [E] int64. `mask` [...] leaves out padding."""
    # A comparison and a sum, not bincount: its output has a size that torch.compile cannot know.
    hits = chosen.unsqueeze(-1) == torch.arange(num_experts, device=chosen.device)  # [..., A, E]
    if mask is not None:
        hits = hits & mask[..., None, None]
    return hits.flatten(end_dim=-2).sum(dim=0)


def max_violation(counts: Tensor) -> Tensor:
    """max/mean − 1 over the last axis: 0 is perfect balance, E − 1 one expert alone; without tokens 0."""
    mean = counts.double().mean(dim=-1)
    return torch.where(mean > 0, counts.amax(dim=-1) / mean - 1, 0.0)


def load_entropy(counts: Tensor) -> Tensor:
    """Entropy of the load over log E: 1 is perfect balance, 0 one expert alone; without tokens 0."""
    share = counts.double() / counts.sum(dim=-1, keepdim=True).clamp(min=1)
    entropy = torch.special.entr(share).sum(dim=-1)
    return entropy / torch.log(torch.tensor(counts.shape[-1], dtype=torch.float64, device=counts.device))


def choice_entropy(log_probs: Tensor, *, mask: Tensor | None = None) -> Tensor:
    """Mean entropy in nats of a token's probabilities: how undecided the router is, a scalar."""
    entropy = -(log_probs.exp() * log_probs).sum(dim=-1)
    return entropy.mean() if mask is None else mean_where(entropy, mask.expand(entropy.shape))


def chosen_mask(chosen: Tensor, *, num_experts: int) -> Tensor:
    """The sets of experts as booleans, [..., E]."""
    empty = torch.zeros(*chosen.shape[:-1], num_experts, dtype=torch.bool, device=chosen.device)
    return empty.scatter(-1, chosen, True)


def adjacent_jaccard(sets: Tensor, *, segments: Segments | None = None) -> Tensor:
    """Mean overlap (common over joint experts) of neighbouring tokens' sets [..., B, T, E], a scalar."""
    now, before = sets[..., 1:, :], sets[..., :-1, :]
    both = (now & before).sum(dim=-1)
    either = (now | before).sum(dim=-1)
    valid = valid_pairs(sets, ahead=1, segments=segments)
    return mean_where(both / either.clamp(min=1), valid.expand(both.shape))


class LoadWindow:
    """Counts of the last `num_steps` steps.

    A small batch is never balanced: with 512 tokens an expert, chance alone gives a violation of 0.08. The
    alarm of the config is therefore over a window of 1000 training steps, or 4096 tokens of inference.
    """

    def __init__(self, *, num_layers: int, num_experts: int, num_steps: int = 1000) -> None:
        if num_steps < 1:
            raise UsageError(f"a window of {num_steps} steps holds nothing; allowed are whole numbers from 1")
        # Kept on the CPU: a thousand steps of a large model are megabytes that no kernel reads.
        self._ring = torch.zeros(num_steps, num_layers, num_experts, dtype=torch.int64)
        self._next = 0

    def add(self, counts_LE: Tensor) -> None:
        """Take in a step's counts; the oldest step falls out of a full window."""
        if counts_LE.shape != self._ring.shape[1:]:
            raise UsageError(
                f"counts of the shape {tuple(counts_LE.shape)} for a window of {tuple(self._ring.shape[1:])}"
                " (layers, experts)"
            )
        self._ring[self._next] = counts_LE.cpu()
        self._next = (self._next + 1) % len(self._ring)

    @property
    def counts_LE(self) -> Tensor:
        """Counts of the whole window."""
        return self._ring.sum(dim=0)

    def max_violation(self) -> Tensor:
        """The worst excess of load per layer, [L]."""
        return max_violation(self.counts_LE)

    def load_entropy(self) -> Tensor:
        """Entropy of the load per layer over log E, [L]."""
        return load_entropy(self.counts_LE)
