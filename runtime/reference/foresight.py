"""The lookahead router on one token."""

from quant.kernels.dense.reference import dense
from quant.kernels.elementary.reference import silu
from runtime.reference.weights import Floats, ReferenceWeights


def foresee(weights: ReferenceWeights, x_TD: Floats) -> Floats | None:
    """Scores [steps, layers with experts, experts] from the residual stream behind layer 0."""
    moe = weights.config.backbone.moe
    if not (moe.enabled and moe.layers):
        return None
    hidden = silu(dense(x_TD, weights.floats("lookahead.hidden")))
    scores = dense(hidden, weights.floats("lookahead.out"))[0]
    by_layer = scores.reshape(len(moe.layers), 1 + moe.lookahead_steps, moe.n_routed_experts)
    return by_layer.swapaxes(0, 1)
