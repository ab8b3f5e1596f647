"""The feed-forward part of a layer with experts: one norm, one router, one shared expert, many routed ones.

    x̂ = RMSNorm(x);  x̃ = Q(x̂)
    y = E_shared(x̃) + Σ_chosen p_j E_j(x̃)

The router reads x̂, in float32; all experts read x̃. Where the experts are decided ahead, the router reads
the residual stream d behind an earlier layer instead, as d / RMS(d): its weights do what a gain would.
"""

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from chronos_moe.experts import DispatchForm, Experts, SharedExpert
from chronos_moe.router import BIAS_RATE, RoutingRecord, balance_bias, route
from chronos_moe.soft_gate import gate_weights
from configs.errors import UsageError
from configs.schema.backbone import Routing
from quant.activations import BLOCK, ActBlock
from quant.qat.activations import RMSNorm, fake_quantize_activations
from quant.ternary import GROUP, GroupSize


class MoEFeedForward(nn.Module):
    """Experts in place of a feed-forward layer. The caller adds the residual, and sums up the load."""

    router_bias: Tensor

    def __init__(
        self,
        width: int,
        inner_width: int,
        *,
        num_experts: int,
        num_chosen: int,
        num_shared: int = 1,
        routing: Routing = "noaux_bias",
        group_size: GroupSize = GROUP,
        act_block: ActBlock = BLOCK,
        eps: float = 1e-6,
        init_std: float = 0.006,
        down_init_std: float | None = None,
        form: DispatchForm = "sorted",
        device: torch.device | None = None,
    ) -> None:
        super().__init__()
        if not 1 <= num_chosen <= num_experts:
            raise UsageError(
                f"{num_chosen} of {num_experts} experts per token; allowed are 1 … {num_experts}"
            )
        if num_shared < 1:
            raise UsageError(
                f"{num_shared} shared experts; at least 1 is needed, which stands in for an expert not loaded"
            )
        self.num_chosen = num_chosen
        self.routing: Routing = routing
        self.act_block: ActBlock = act_block
        self.eps = eps
        self.init_std = init_std
        self.norm = RMSNorm(width, eps=eps, device=device)
        self.router = nn.Parameter(torch.empty(num_experts, width, device=device, dtype=torch.float32))
        self.register_buffer("router_bias", torch.zeros(num_experts, device=device, dtype=torch.float32))
        self.shared = SharedExpert(
            width,
            num_shared * inner_width,
            group_size=group_size,
            act_block=act_block,
            eps=eps,
            init_std=init_std,
            down_init_std=down_init_std,
            device=device,
        )
        self.experts = Experts(
            width,
            inner_width,
            num_experts=num_experts,
            group_size=group_size,
            act_block=act_block,
            eps=eps,
            init_std=init_std,
            down_init_std=down_init_std,
            form=form,
            device=device,
        )
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """The norm, the router and its bias; the experts reset their own."""
        nn.init.ones_(self.norm.weight)
        nn.init.normal_(self.router, std=self.init_std)
        nn.init.zeros_(self.router_bias)

    def forward(
        self,
        x: Tensor,  # [..., D]
        *,
        available: Tensor | None = None,  # [E] or [..., E]: 1 where an expert is there, 0 where it is away
        logit_pressure_E: Tensor | None = None,  # added to the router's logits
        chosen: Tensor | None = None,  # [..., A] visit these, as an earlier record of the same tokens says
        deciding: Tensor | None = None,  # [..., D] what decides instead of x
    ) -> tuple[Tensor, RoutingRecord]:
        """The layer's output, in the type of its products, and what the router decided."""
        x_hat = self.norm(x)
        record = route(
            x_hat if deciding is None else _normed(deciding, eps=self.eps),
            self.router,
            num_chosen=self.num_chosen,
            routing=self.routing,
            bias_E=self.router_bias,
            logit_pressure_E=logit_pressure_E,
            chosen=chosen,
        )
        x_quantized = fake_quantize_activations(x_hat, block=self.act_block, mix=self.experts.quant_mix)
        shared = self.shared(x_quantized)
        expert_TA, weights_TA = record.chosen.flatten(end_dim=-2), record.weights.flatten(end_dim=-2)
        y = shared.float()
        if available is not None:
            there = available if available.dim() == 1 else available.flatten(end_dim=-2)
            weights_TA, shared_T = gate_weights(weights_TA, expert_TA, available=there)
            y = y * shared_T.view(*x.shape[:-1], 1)
        routed_TD = self.experts(x_quantized.flatten(end_dim=-2), expert_TA, weights_TA)
        return (y + routed_TD.view_as(y)).to(shared.dtype), record

    def update_bias(
        self, counts_E: Tensor, *, rate: float | None = None, group: dist.ProcessGroup | None = None
    ) -> None:
        """After an optimiser step: move the bias against the load of that step, over all processes.

        `rate` None is the published step for this layer's scores.
        """
        if not self.training:
            raise UsageError(
                "the router's bias is frozen in evaluation",
                hint="Call train() on the model before a training step.",
            )
        balance_bias(
            self.router_bias, counts_E, rate=BIAS_RATE[self.routing] if rate is None else rate, group=group
        )


def decision(ffn: MoEFeedForward, deciding: Tensor) -> Tensor:
    """The experts that a layer will visit, as soon as what decides them is known."""
    return route(
        _normed(deciding, eps=ffn.eps),
        ffn.router,
        num_chosen=ffn.num_chosen,
        routing=ffn.routing,
        bias_E=ffn.router_bias,
    ).chosen


def _normed(x: Tensor, *, eps: float) -> Tensor:
    """x over its root mean square, in float32."""
    dtype = torch.promote_types(x.dtype, torch.float32)
    return F.rms_norm(x.to(dtype), x.shape[-1:], None, eps)
