"""Activation checkpointing that keeps the routing: recomputed tokens go to the experts of the first time.

A score that differs in its last bit can name another expert, and then the gradient belongs to a network
that never ran. So the choice is saved and everything else is computed again:

    torch.utils.checkpoint.checkpoint(layer, x, use_reentrant=False, context_fn=keep_routing)

A caller who keeps the record can also pass its `chosen` to the layer.
"""

from typing import Any

import torch
from torch.utils.checkpoint import create_selective_checkpoint_contexts


def keep_routing() -> tuple[Any, Any]:
    """For `context_fn`: the contexts of the first run and of the second."""
    # `choose` is the one place that picks experts, and it picks with argmax alone.
    return create_selective_checkpoint_contexts([torch.ops.aten.argmax.default])
