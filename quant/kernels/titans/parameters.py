"""A layer's float parameters as its kernel reads them: heads first, vectors padded, matrices transposed."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from configs.errors import UsageError
from quant.kernels.titans.shapes import TitansShape

Floats = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class TitansParameters:
    """The parameters of a layer."""

    eta_bias: Floats  # [H]
    theta_bias: Floats  # [H]
    alpha_bias: Floats  # [H]
    attn_scale: Floats  # [H]
    slot_keys: Floats  # [H, P, padded K]
    slot_values: Floats  # [H, P, padded K]
    memory_key_gain: Floats  # [H, padded K]
    gate_gain: Floats  # [padded K]
    eps: np.float32
    initial_memory: Floats  # [H, W1 and W2, K, padded K]


def titans_parameters(
    shape: TitansShape,
    *,
    eta_bias: Floats,  # [H]
    theta_bias: Floats,  # [H]
    alpha_bias: Floats,  # [H]
    attn_scale: Floats,  # [H]
    slot_keys: Floats | None,  # [P, H·K]; none where there are no slots
    slot_values: Floats | None,  # [P, H·K]
    memory_key_gain: Floats,  # [H·K]
    gate_gain: Floats,  # [K]
    memory_w1: Floats,  # [H, K, K]
    memory_w2: Floats,  # [H, K, K]
    eps: float,
) -> TitansParameters:
    """The parameters from the tensors of a file, each under the name that it has there."""
    H, K, num_slots = shape.num_heads, shape.head_dim, shape.num_slots
    none = np.zeros((0, H * K), dtype=np.float32)
    slot_keys, slot_values = (none if slots is None else slots for slots in (slot_keys, slot_values))
    wanted: dict[str, tuple[Floats, tuple[int, ...]]] = {
        "eta_bias": (eta_bias, (H,)),
        "theta_bias": (theta_bias, (H,)),
        "alpha_bias": (alpha_bias, (H,)),
        "attn_scale": (attn_scale, (H,)),
        "slot_keys": (slot_keys, (num_slots, H * K)),
        "slot_values": (slot_values, (num_slots, H * K)),
        "memory_key_gain": (memory_key_gain, (H * K,)),
        "gate_norm": (gate_gain, (K,)),
        "memory_w1": (memory_w1, (H, K, K)),
        "memory_w2": (memory_w2, (H, K, K)),
    }
    for name, (array, size) in wanted.items():
        if array.shape != size or array.dtype != np.float32:
            raise UsageError(f"{name} must be float32 {size}, got {array.dtype} {array.shape}")

    def by_head(slots: Floats) -> Floats:
        return padded(slots.reshape(num_slots, H, K).transpose(1, 0, 2), shape=shape)

    return TitansParameters(
        eta_bias=eta_bias,
        theta_bias=theta_bias,
        alpha_bias=alpha_bias,
        attn_scale=attn_scale,
        slot_keys=by_head(slot_keys),
        slot_values=by_head(slot_values),
        memory_key_gain=padded(memory_key_gain.reshape(H, K), shape=shape),
        gate_gain=padded(gate_gain, shape=shape),
        eps=np.float32(eps),
        initial_memory=padded(np.stack((memory_w1, memory_w2), axis=1).swapaxes(-1, -2), shape=shape),
    )


def padded(x: Floats, *, shape: TitansShape) -> Floats:
    """A contiguous copy with zeros after a head's channels."""
    whole = np.zeros((*x.shape[:-1], shape.padded_dim), dtype=np.float32)
    whole[..., : x.shape[-1]] = x
    return whole
