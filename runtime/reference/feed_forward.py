"""Feed-forward parts on tokens: SwiGLU, or a shared expert and the chosen ones."""

import numpy as np
from numpy.typing import NDArray

from configs.inventory import Layer
from quant.kernels.dense.reference import dense
from quant.kernels.experts.reference import choose, weigh
from quant.kernels.norm.reference import Quantized
from quant.kernels.residual.reference import norm_both
from quant.kernels.swiglu.reference import swiglu_norm_quantize
from runtime.reference.weights import Floats, ReferenceWeights


def feed_forward(
    weights: ReferenceWeights,
    layer: Layer,
    x_TD: Floats,
    *,
    deciding_TD: Floats | None = None,
    visited: list[NDArray[np.int64]] | None = None,
) -> Floats:
    """What the layer's feed-forward part adds to the residual stream.

    `deciding_TD` is the residual stream that decides which experts are visited, where that is another one.
    The choice is added to `visited`.
    """
    prefix, config = f"layers.{layer.index}.ffn.", weights.config
    normed_TD, codes, scales, sums = norm_both(x_TD, weights.floats(f"{prefix}norm.weight"), weights.eps)
    quantized = codes, scales, sums
    if not layer.experts:
        return _swiglu(weights, prefix, quantized, inner=config.intermediate_size, gain="down_norm.weight")
    moe = config.backbone.moe
    if deciding_TD is not None:
        normed_TD = norm_both(deciding_TD, np.ones(config.hidden_size, dtype=np.float32), weights.eps)[0]
    logits_TE = dense(normed_TD, weights.floats(f"{prefix}router"))
    chosen_TA, weights_TA = choose(
        logits_TE, weights.floats(f"{prefix}router_bias"), moe.num_experts_per_tok, moe.routing == "softmax"
    )
    if visited is not None:
        visited.append(chosen_TA)
    shared_width = moe.n_shared_experts * moe.moe_intermediate_size
    shared_TD = _swiglu(weights, f"{prefix}shared.", quantized, inner=shared_width, gain="down_norm")
    rows = [
        _swiglu(
            weights,
            f"{prefix}experts.{expert}.",
            (codes[token, None], scales[token, None], sums[token, None]),
            inner=moe.moe_intermediate_size,
            gain="down_norm",
        )
        for token, chosen in enumerate(chosen_TA)
        for expert in chosen
    ]
    places_TA = np.arange(chosen_TA.size).reshape(chosen_TA.shape)
    return weigh(np.concatenate(rows), shared_TD, weights_TA, places_TA)


def _swiglu(weights: ReferenceWeights, prefix: str, acts: Quantized, *, inner: int, gain: str) -> Floats:
    width = weights.config.hidden_size
    gate, up = (weights.product(f"{prefix}{name}_proj.weight", acts, width=width) for name in ("gate", "up"))
    _, codes, scales, sums = swiglu_norm_quantize(gate, up, weights.floats(prefix + gain), weights.eps)
    return weights.product(f"{prefix}down_proj.weight", (codes, scales, sums), width=inner)
