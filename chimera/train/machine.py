"""What this machine offers to training: its device, whether bfloat16 pays on it, and its threads."""

import contextlib
import os

import torch

from configs.errors import UsageError


def device_of(name: str | None) -> torch.device:
    """The device of a name; without one, the GPU if there is one."""
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UsageError(f"{name!r} is no device", hint="Allowed are cpu and cuda, or cuda:0.") from None
    if device.type not in ("cpu", "cuda"):
        raise UsageError(f"training on {name!r} is not built", hint="Allowed are cpu and cuda.")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UsageError(
            f"the device {name!r} is not there: PyTorch sees {torch.cuda.device_count()} GPUs",
            hint="Leave --device out, or pass --device cpu.",
        )
    return device


def bfloat16_pays(device: torch.device) -> bool:
    """Whether the hardware has products in bfloat16: emulated, they are a hundred times slower."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def physical_cores() -> int:
    """Cores that this process may use, two hardware threads of a core counted once."""
    # Asked for here alone: a lent machine may have PyTorch and little else.
    import psutil

    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(psutil.cpu_count(logical=False) or 1, allowed))


def set_threads(num_threads: int) -> None:
    """Products take this many threads, and operators run one after another.

    A process can choose the second only before its first parallel work; in one that has begun, it stays.
    """
    if num_threads < 1:
        raise UsageError(f"{num_threads} threads; at least 1 is needed")
    torch.set_num_threads(num_threads)
    # PyTorch refuses once work has begun, and has no way to ask whether it has.
    with contextlib.suppress(RuntimeError):
        torch.set_num_interop_threads(1)
