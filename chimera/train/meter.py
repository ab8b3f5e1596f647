"""What a run can say of itself after each step: speed, loss, memory, time left, balance of the experts."""

import dataclasses
import math
import resource
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from chronos_moe.statistics import LoadWindow

SPEED_STEPS = 20
"""Steps that a speed is the mean of."""
SMOOTHING = 0.95
"""Share of the past in a smoothed loss."""
BALANCE_STEPS = 1000
"""Steps over which experts are held to be balanced; chance alone unbalances a few."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Reading:
    """A run after one step."""

    step: int
    """Steps that are done."""
    num_steps: int
    tokens: int
    """Tokens learnt from so far."""
    loss: float
    """Nats a token, without the losses of the routing."""
    bits_per_byte: float | None
    smooth_loss: float
    smooth_bits_per_byte: float | None
    grad_norm: float
    rate: float
    """Learning rate of the step."""
    terms: Mapping[str, float]
    """Losses of the routing, without their weights."""
    tokens_per_s: float
    model_flops_used: float
    """Share of the device's peak that went into useful products."""
    memory_bytes: int
    """The most that was held so far: of the GPU, or of the process."""
    seconds_left: float
    expert_violation: float | None = None
    """Load of the busiest expert above the mean, of the worst layer; 0.15 is 15 % above."""
    expert_entropy: float | None = None
    """Entropy of the load, of the worst layer; 1 is even."""
    unbalanced: bool = False
    """Whether a full window of steps was above the limit."""

    @property
    def alarm(self) -> str:
        """What is plainly wrong with this step; nothing, if all is well."""
        if not math.isfinite(self.loss):
            return f"the loss is {self.loss}"
        if not math.isfinite(self.grad_norm):
            return f"the gradient norm is {self.grad_norm}"
        if self.grad_norm == 0.0:
            return "the gradient norm is exactly 0: nothing is being learnt"
        return ""

    def as_json(self) -> dict[str, Any]:
        """The reading by name, without what was not measured."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        values["terms"] = dict(self.terms)
        return {name: value for name, value in values.items() if value is not None}


class Smooth:
    """A mean that forgets: each value counts `SMOOTHING` times as much as the next one."""

    def __init__(self) -> None:
        self._sum = 0.0
        self._weight = 0.0

    def add(self, value: float) -> float:
        """Take in a value and give the mean. What is no number is left out, so that it can recover."""
        if math.isfinite(value):
            self._sum = SMOOTHING * self._sum + (1 - SMOOTHING) * value
            self._weight = SMOOTHING * self._weight + (1 - SMOOTHING)
        return self._sum / self._weight if self._weight else math.nan


class Meter:
    """Keeps count from step to step. It is asked once after each step, when the step's result is known."""

    def __init__(
        self,
        *,
        num_steps: int,
        flops_per_token: float,
        peak_flops: float,  # of all devices together
        device: torch.device,
        imbalance_limit: float = math.inf,
        first_step: int = 0,
        tokens_before: int = 0,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.num_steps = num_steps
        self.tokens = tokens_before
        self._step = first_step
        self._flops_share = flops_per_token / peak_flops
        self._device = device
        self._limit = imbalance_limit
        self._clock = clock
        self._last = clock()
        self._recent: deque[tuple[int, float]] = deque(maxlen=SPEED_STEPS)
        self._loss, self._bits = Smooth(), Smooth()
        self._loads: LoadWindow | None = None
        self._loads_seen = 0

    def skip(self) -> None:
        """Forget the time since the last step: it went into a checkpoint or a look at the validation data."""
        self._last = self._clock()

    def read(
        self,
        *,
        loss: float,
        grad_norm: float,
        rate: float,
        num_tokens: int,  # with a loss
        num_bytes: int,  # of the text that those tokens stand for
        expert_counts_LE: Tensor | None = None,
        terms: Mapping[str, float] | None = None,
    ) -> Reading:
        """Take in a step's result."""
        now = self._clock()
        self._recent.append((num_tokens, now - self._last))
        self._last = now
        self._step += 1
        self.tokens += num_tokens
        seconds = sum(took for _, took in self._recent)
        tokens_per_s = sum(count for count, _ in self._recent) / seconds if seconds > 0 else 0.0
        bits = bits_per_byte(loss * num_tokens, num_bytes)
        violation, entropy, unbalanced = self._balance(expert_counts_LE)
        return Reading(
            step=self._step,
            num_steps=self.num_steps,
            tokens=self.tokens,
            loss=loss,
            bits_per_byte=bits,
            smooth_loss=self._loss.add(loss),
            smooth_bits_per_byte=None if bits is None else self._bits.add(bits),
            grad_norm=grad_norm,
            rate=rate,
            terms=terms or {},
            tokens_per_s=tokens_per_s,
            model_flops_used=tokens_per_s * self._flops_share,
            memory_bytes=peak_memory_bytes(self._device),
            seconds_left=max(0, self.num_steps - self._step) * seconds / len(self._recent),
            expert_violation=violation,
            expert_entropy=entropy,
            unbalanced=unbalanced,
        )

    def _balance(self, counts_LE: Tensor | None) -> tuple[float | None, float | None, bool]:
        if counts_LE is None or counts_LE.numel() == 0:
            return None, None, False
        if self._loads is None:
            num_layers, num_experts = counts_LE.shape
            self._loads = LoadWindow(num_layers=num_layers, num_experts=num_experts, num_steps=BALANCE_STEPS)
        self._loads.add(counts_LE)
        self._loads_seen += 1
        violation = self._loads.max_violation().max().item()
        # Experts begin unbalanced, and a small window always is.
        unbalanced = self._loads_seen >= BALANCE_STEPS and violation > self._limit
        return violation, self._loads.load_entropy().min().item(), unbalanced


def bits_per_byte(nats: float, num_bytes: int) -> float | None:
    """What a text costs, whatever it was cut into; nothing where there is no text."""
    return nats / math.log(2) / num_bytes if num_bytes else None


def peak_memory_bytes(device: torch.device) -> int:
    """The most memory that was held at once: by tensors on a GPU, by the process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
