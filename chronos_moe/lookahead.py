"""The lookahead router: from the residual stream after block 0, which experts each layer will want soon.

    Q = softmax(W_out SiLU(W_hidden x))       per layer and step k = 0 … K

k = 0 is the token itself in the layers still ahead, k ≥ 1 the tokens to come. One softmax per layer,
because the store loads the experts of each layer by themselves. Row ((layer · (1 + K)) + k) · E + expert of
`out` speaks of that expert.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from configs.errors import UsageError


class LookaheadRouter(nn.Module):
    """A two-layer perceptron without bias. `num_layers` counts the layers with experts."""

    def __init__(
        self, *, width: int, num_layers: int, num_experts: int, num_steps: int = 2, init_std: float = 0.006
    ) -> None:
        super().__init__()
        if width % 4 or width < 4:
            raise UsageError(
                f"the lookahead router halves the width {width} twice; it must be a multiple of 4"
            )
        self.num_layers = num_layers
        self.num_experts = num_experts
        self.num_steps = num_steps
        self.init_std = init_std
        self.hidden = nn.Parameter(torch.empty(width // 4, width))
        self.out = nn.Parameter(torch.empty(num_layers * (1 + num_steps) * num_experts, width // 4))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Normal weights, as everywhere in the model."""
        nn.init.normal_(self.hidden, std=self.init_std)
        nn.init.normal_(self.out, std=self.init_std)

    def forward(self, x_BTD: Tensor) -> Tensor:
        """Log-probabilities [B, T, L, 1 + K, E], float32 whatever the surrounding dtype of the products."""
        preact = F.linear(F.silu(F.linear(x_BTD, self.hidden)), self.out)
        logits = preact.unflatten(-1, (self.num_layers, 1 + self.num_steps, self.num_experts))
        return torch.log_softmax(logits.to(torch.promote_types(logits.dtype, torch.float32)), dim=-1)


def check_foresight(log_ahead: Tensor, real_LBTE: Tensor) -> None:
    """Refuse a prediction that is not one for these layers, tokens and experts."""
    num_layers, num_sequences, num_tokens, num_experts = real_LBTE.shape
    expected = (num_sequences, num_tokens, num_layers, log_ahead.shape[-2], num_experts)
    if log_ahead.shape != expected:
        raise UsageError(
            f"the lookahead router's output has the shape {tuple(log_ahead.shape)}, but the routing of"
            f" {num_layers} layers asks for {expected} (batch, tokens, layers, 1 + steps ahead, experts)"
        )
