"""Work a token: what a step's products cost by the config, and what the machine could do in the time.

A product with a parameter is two operations forward and four backward. Rounds before those with gradient
cost no backward pass. The recurrences themselves are left out (a few per cent), and so is what checkpointing
computes twice: the share of the peak is that of useful work, a little under what the hardware did.
"""

import math
import time
from collections.abc import Mapping

import torch

from chimera.looping import rounds_with_gradient
from configs.accounting import applied_parameters, parameters
from configs.schema.model import ModelConfig

GPU_PEAKS: Mapping[str, float] = {
    "B200": 2250e12,
    "H200": 989e12,
    "H100 PCIe": 756e12,
    "H100 NVL": 835e12,
    "H100": 989e12,
    "A100": 312e12,
    "L40S": 362e12,
    "L4": 121e12,
    "RTX 4090": 165e12,
    "RTX 3090": 71e12,
}
"""Operations a second of dense bfloat16 products by part of the card's name; the first that fits counts."""

TF32_SHARE = 0.5
"""Products of float32 numbers run at half that rate, where TF32 is allowed."""
MEASURED_SIZE = 1024
MEASURED_RUNS = 5


def rounds_shares(config: ModelConfig) -> dict[int, float]:
    """The share of a training batch's rows that takes each number of rounds."""
    looping = config.looping
    if not looping.enabled or looping.depth_selection == "fixed":
        return {config.rounds_default: 1.0}
    mean, (least, most) = looping.loop_default, looping.loop_range
    shares = dict.fromkeys(range(least, most + 1), 0.0)
    # Poisson, held within the range: what lies outside counts at its ends.
    left, term = 1.0, math.exp(-mean)
    for rounds in range(most):
        shares[max(least, rounds)] += term
        left -= term
        term *= mean / (rounds + 1)
    shares[most] += left
    return shares


def training_flops(config: ModelConfig) -> float:
    """Operations that one token of training costs, in the mean over the rounds that rows take."""
    truncation = config.looping.backward_truncation if config.looping.enabled else "none"
    return sum(
        share
        * (2 * _products(config, rounds) + 4 * _products(config, rounds_with_gradient(rounds, truncation)))
        for rounds, share in rounds_shares(config).items()
    )


def peak_flops(device: torch.device, *, bf16: bool) -> float:
    """Operations a second that the device could do: by its name, or measured on a product."""
    dtype = torch.bfloat16 if bf16 else torch.float32
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
        known = known_peak(name, bf16=bf16)
        if known is not None:
            return known
    return measured_flops(device, dtype=dtype)


def known_peak(name: str, *, bf16: bool) -> float | None:
    """The peak of a card by its name, if the table has it."""
    peak = next((peak for part, peak in GPU_PEAKS.items() if part in name), None)
    return None if peak is None else peak * (1.0 if bf16 else TF32_SHARE)


def measured_flops(device: torch.device, *, dtype: torch.dtype, size: int = MEASURED_SIZE) -> float:
    """Operations a second of the fastest of a few square products."""
    generator = torch.Generator().manual_seed(0)
    left, right = (torch.randn(size, size, generator=generator).to(device, dtype) for _ in range(2))
    fastest = math.inf
    for _ in range(MEASURED_RUNS):
        begin = time.perf_counter()
        torch.mm(left, right)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        fastest = min(fastest, time.perf_counter() - begin)
    return 2 * size**3 / fastest


def _products(config: ModelConfig, rounds: int) -> int:
    """Parameters that a token is multiplied with; looking up its embedding is no product."""
    return applied_parameters(config, rounds=rounds) - parameters(config, part="embedding")
