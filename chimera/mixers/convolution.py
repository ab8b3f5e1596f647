"""Causal depthwise convolution of a few taps, with the last inputs as its state.

    y_t = Σ_j w_j ⊙ x_{t−(Y−1)+j}        j = 0 … Y−1, the last tap meets the token itself, no bias

What lies before a document's first token is zero.
"""

import torch
from torch import Tensor, nn

from chimera.mixers.packing import tokens_since_reset
from chimera.mixers.precision import full_precision, widened


def causal_convolution_reference(
    x_BTD: Tensor, *, weight_DY: Tensor, tail: Tensor, resets_BT: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """`causal_convolution` as it is written down, token by token, in the type of its inputs."""
    outputs: list[Tensor] = []
    for t in range(x_BTD.shape[1]):
        if resets_BT is not None:
            tail = tail * ~resets_BT[:, t, None, None]
        taken = torch.cat((tail, x_BTD[:, t : t + 1]), dim=1)  # [B, Y, D]
        outputs.append((taken * weight_DY.T).sum(dim=1))
        tail = taken[:, 1:]
    return torch.stack(outputs, dim=1), tail


@full_precision
def causal_convolution(
    x_BTD: Tensor,
    *,
    weight_DY: Tensor,
    tail: Tensor,  # [B, Y-1, D] the inputs before the first token, oldest first
    resets_BT: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Convolve over T tokens; returns the outputs, at least float32, and the new tail."""
    # Shifted products fuse into the SiLU behind them. conv1d wants [B, D, T], and its depthwise form is slow.
    x_BTD = widened(x_BTD)
    num_tokens, num_taps = x_BTD.shape[1], weight_DY.shape[1]
    past_and_x = torch.cat((tail.to(x_BTD.dtype), x_BTD), dim=1)
    age_BT = None if resets_BT is None else tokens_since_reset(resets_BT)
    y_BTD = x_BTD * weight_DY[:, -1]
    for lag in range(1, num_taps):
        start = num_taps - 1 - lag
        shifted = past_and_x[:, start : start + num_tokens]
        if age_BT is not None:
            shifted = shifted * (age_BT >= lag).unsqueeze(-1)
        y_BTD = y_BTD + shifted * weight_DY[:, start]
    new_tail = past_and_x[:, num_tokens:]
    if age_BT is not None:
        # Entry i of the new tail lies num_taps - 2 - i tokens before the last token.
        lag_Y = torch.arange(num_taps - 2, -1, -1, device=x_BTD.device)
        new_tail = new_tail * (age_BT[:, -1:] >= lag_Y).unsqueeze(-1)
    return y_BTD, new_tail


class CausalConvolution(nn.Module):
    """The taps of a causal depthwise convolution."""

    def __init__(self, *, channels: int, num_taps: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(channels, num_taps))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Uniform with PyTorch's bound for a convolution of one channel a group."""
        bound = self.weight.shape[1] ** -0.5
        nn.init.uniform_(self.weight, -bound, bound)

    def initial_tail(self, batch: int, *, device: torch.device | None = None) -> Tensor:
        """The zeros before a text, [B, Y-1, D]."""
        channels, num_taps = self.weight.shape
        dtype = torch.promote_types(self.weight.dtype, torch.float32)
        return torch.zeros(
            batch,
            num_taps - 1,
            channels,
            dtype=dtype,
            device=self.weight.device if device is None else device,
        )

    def forward(
        self, x_BTD: Tensor, *, tail: Tensor, resets_BT: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Outputs and the new tail."""
        return causal_convolution(x_BTD, weight_DY=self.weight, tail=tail, resets_BT=resets_BT)
