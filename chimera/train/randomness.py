"""The states of every random generator that a process shares: PyTorch's on CPU and GPUs, NumPy's, Python's.

A generator that somebody made for himself is not among them; its owner saves it.
"""

import random
from typing import Any

import numpy as np
import torch


def random_states() -> dict[str, Any]:
    """What `restore_random_states` takes, of values that a checkpoint can hold."""
    return {
        "python": random.getstate(),
        "numpy": np.random.get_state(legacy=False),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def restore_random_states(states: dict[str, Any]) -> None:
    """Set the generators. GPUs that were not there when the states were taken keep their own."""
    random.setstate(states["python"])
    np.random.set_state(states["numpy"])
    torch.set_rng_state(states["torch"])
    for index, state in enumerate(states["cuda"][: torch.cuda.device_count()]):
        torch.cuda.set_rng_state(state, device=index)
