"""One layer of the model: a mixer and a feed-forward part, each added to the residual stream.

    x = x + Mixer(x);  x = x + FeedForward(x)        each norms its own input

A block is what is compiled, checkpointed and sharded; it has one signature whatever its layers are.
"""

from typing import Any, NamedTuple

from torch import Tensor, nn

from chimera.mixers.packing import Packing
from chimera.mixers.table import act_block, build_mixer, group_size, residual_std
from chronos_moe.feed_forward import MoEFeedForward
from chronos_moe.router import RoutingRecord
from configs.inventory import Layer
from configs.schema.model import ModelConfig
from quant.qat.swiglu import SwiGLU

State = Any
"""The state of a mixer: a named tuple of tensors, of the mixer's own type."""


class BlockOutput(NamedTuple):
    """What a block gives."""

    x_BTD: Tensor
    state: State
    routing: RoutingRecord | None


class Block(nn.Module):
    """Mixer and feed-forward part of one layer."""

    def __init__(self, config: ModelConfig, layer: Layer) -> None:
        super().__init__()
        self.mixer = build_mixer(config, layer)
        self.ffn = build_feed_forward(config, layer)

    def forward(
        self,
        x_BTD: Tensor,
        state: State | None,
        *,
        packing: Packing | None = None,
        available_E: Tensor | None = None,
        pressure_E: Tensor | None = None,
        deciding_BTD: Tensor | None = None,
    ) -> BlockOutput:
        """The residual stream after this layer, and the mixer's new state.

        A layer with experts may be told which are there, what to add to the router's logits, and the residual
        stream of an earlier place that decides instead of its own.
        """
        mixed_BTD, state = self.mixer(x_BTD, state, packing=packing)
        x_BTD = x_BTD + mixed_BTD
        if isinstance(self.ffn, MoEFeedForward):
            fed_BTD, routing = self.ffn(
                x_BTD, available=available_E, logit_pressure_E=pressure_E, deciding=deciding_BTD
            )
            return BlockOutput(x_BTD + fed_BTD, state, routing)
        return BlockOutput(x_BTD + self.ffn(x_BTD), state, None)


def build_feed_forward(config: ModelConfig, layer: Layer) -> SwiGLU | MoEFeedForward:
    """The feed-forward part that the config gives to a layer."""
    moe = config.backbone.moe
    if layer.experts:
        return MoEFeedForward(
            config.hidden_size,
            moe.moe_intermediate_size,
            num_experts=moe.n_routed_experts,
            num_chosen=moe.num_experts_per_tok,
            num_shared=moe.n_shared_experts,
            routing=moe.routing,
            group_size=group_size(config),
            act_block=act_block(config),
            eps=config.rms_norm_eps,
            init_std=config.initializer_range,
            down_init_std=residual_std(config),
        )
    return SwiGLU(
        config.hidden_size,
        config.intermediate_size,
        group_size=group_size(config),
        act_block=act_block(config),
        eps=config.rms_norm_eps,
        init_std=config.initializer_range,
        down_init_std=residual_std(config),
    )
