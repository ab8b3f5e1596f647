"""One optimiser step: micro-batches forward and backward, one gradient, clipped, applied once.

Notable choices:
- all sequences of a micro-batch take one number of rounds, drawn for it, so that its shapes are always the
  same: a compiler has one program for each depth, and a GPU replays it as one graph;
- the loss is the mean over the labelled tokens of the whole step, however they lie over micro-batches and
  workers; so is each routing loss, by sequences;
- nothing is applied unless loss and gradient are finite, and the caller is told before anything is lost;
- workers add their gradients in one sum of one flat vector. A worker's rows are its own, its rounds are not.
"""

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import NamedTuple, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from chimera.block import Block
from chimera.looping import draw_rounds
from chimera.mixers.packing import Packing
from chimera.model import ChimeraForCausalLM, ExpertControl, ModelState
from chimera.train.carried import detached, num_rows, rounds_of
from chimera.train.graphed import Graphed
from chronos_moe.anchor import RouterAnchor
from chronos_moe.checkpointing import keep_routing
from chronos_moe.feed_forward import MoEFeedForward
from chronos_moe.objective import routing_loss
from chronos_moe.pairs import Segments
from chronos_moe.passes import RoutingPass, counts_by_layer
from chronos_moe.soft_gate import draw_available
from configs.errors import UsageError
from quant.qat.correction import gate_penalty, gates_of

TERMS = ("balance", "temporal", "lookahead", "anchor")
"""Routing losses, as they are logged; one of weight 0 is not computed."""


class MicroBatch(NamedTuple):
    """Some rows on the device, and what of them is to be learnt."""

    ids_BT: Tensor
    labels_BT: Tensor  # the word that follows; -100 where there is no loss
    resets_BT: Tensor | None  # true at the first token of a document
    max_documents: int  # no row has more; a constant of a run, as shapes depend on it
    num_labels: int  # counted where the batch was made: the device is not asked
    num_bytes: int  # of text that the labelled tokens stand for


class StepResult(NamedTuple):
    """What one step was like, over all workers."""

    loss: float
    """Mean cross-entropy of a labelled token, in nats."""
    terms: Mapping[str, float]
    """Routing losses without their weights."""
    grad_norm: float
    """Before clipping."""
    num_tokens: int
    num_bytes: int
    counts_LE: Tensor | None
    """Visits of each expert, on the CPU."""

    @property
    def finite(self) -> bool:
        """Whether the step could be applied."""
        return math.isfinite(self.loss) and math.isfinite(self.grad_norm)


class StepOptions(NamedTuple):
    """How steps are computed; none of it changes what is learnt but for rounding."""

    bf16: bool = False
    checkpointing: bool = False
    graphs: bool = False
    """Replay each micro-batch as one CUDA graph."""
    head_chunk: int | None = None
    """Words of the vocabulary at a time; None computes all logits at once."""


class TrainStep:
    """Forward, backward and update of a model. It owns the gradients, not the order of the data."""

    def __init__(
        self,
        model: ChimeraForCausalLM,
        optimizer: torch.optim.Optimizer,
        *,
        grad_clip: float | None,
        seed: int,
        options: StepOptions = StepOptions(),  # noqa: B008 - a constant
        anchor: RouterAnchor | None = None,
        group: dist.ProcessGroup | None = None,
    ) -> None:
        self.model, self.optimizer, self.anchor = model, optimizer, anchor
        self.grad_clip, self.seed, self.options, self.group = grad_clip, seed, options, group
        self.moe = model.config.backbone.moe
        self.moe_layers = list(self.moe.layers) if self.moe.enabled else []
        self.terms = tuple(
            name
            for name in TERMS
            if self.moe_layers
            and getattr(model.config.chronos, f"lambda_{name}")
            and (name != "anchor" or anchor is not None)
        )
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        self.gates = gates_of(model)
        self.device = self.parameters[0].device
        self.state: ModelState | None = None
        self._sums = torch.zeros(1 + len(self.terms), dtype=torch.float64, device=self.device)
        self._counts = torch.zeros(
            len(self.moe_layers), self.moe.n_routed_experts, dtype=torch.int64, device=self.device
        )
        self._scale = torch.zeros((), device=self.device)
        self._share = torch.zeros((), device=self.device)
        self._graphed = Graphed() if options.graphs else None
        for parameter in self.parameters:
            parameter.grad = torch.zeros_like(parameter)

    def run(
        self, batches: Sequence[MicroBatch], *, step: int, carry: bool = False, apply: bool = True
    ) -> StepResult:
        """One step on its micro-batches; `carry` goes on from `state` and leaves the new one there."""
        labels = self._summed([batch.num_labels for batch in batches])
        if labels[0] == 0:
            raise UsageError(
                f"step {step} has no token to learn from",
                hint="A phase that learns answers alone needs chats or prompts with answers: check the data.",
            )
        num_bytes = self._summed([batch.num_bytes for batch in batches])[0]
        self.optimizer.zero_grad(set_to_none=False)
        self._sums.zero_()
        self._counts.zero_()
        self._scale.fill_(1.0 / labels[0])
        self._share.fill_(1.0 / (len(batches) * self._world))
        depths = self._depths(step, len(batches))
        if carry and self.state is not None:
            # A text keeps its rounds: each has a state of its own.
            depths = [rounds_of(self.state)] * len(batches)
        for place, (batch, rounds) in enumerate(zip(batches, depths, strict=True)):
            experts = self._experts(step, place)
            if carry:
                self._carried(batch, rounds, experts)
            elif self._graphed is not None:
                self._graphed.run(self._micro, batch, rounds, experts)
            else:
                self._micro(batch, rounds, experts)
        self._add_up()
        sums, norm = self._sums.tolist(), self._clip()
        result = StepResult(
            loss=sums[0],
            terms=dict(zip(self.terms, sums[1:], strict=True)),
            grad_norm=norm,
            num_tokens=labels[0],
            num_bytes=num_bytes,
            counts_LE=self._all_counts() if self.moe_layers else None,
        )
        if apply and result.finite:
            self.optimizer.step()
            self._balance()
        return result

    def _micro(self, batch: MicroBatch, rounds: int, experts: ExpertControl | None) -> None:
        """Forward and backward of one micro-batch; sums and gradients grow in place."""
        self._backward(batch, rounds, experts, state=None, keep_state=False)

    def _carried(self, batch: MicroBatch, rounds: int, experts: ExpertControl | None) -> None:
        if self.state is not None and num_rows(self.state) != len(batch.ids_BT):
            raise UsageError("carried states need the same rows at every step, and one micro-batch a step")
        state = self._backward(batch, rounds, experts, state=self.state, keep_state=True)
        self.state = detached(state)

    def _backward(
        self,
        batch: MicroBatch,
        rounds: int,
        experts: ExpertControl | None,
        *,
        state: ModelState | None,
        keep_state: bool,
    ) -> ModelState:
        packing = None if batch.resets_BT is None else Packing(batch.resets_BT, batch.max_documents)
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.options.bf16):
            output = self.model(
                batch.ids_BT,
                state=state,
                packing=packing,
                rounds=rounds,
                keep_state=keep_state,
                experts=experts,
            )
            # The mean over this batch's own labels, brought back to a sum: the labels are on the device.
            labels = (batch.labels_BT != -100).sum()
            mean = self.model.loss(output.hidden_BTD, batch.labels_BT, chunk=self.options.head_chunk)
            loss = mean.float() * labels * self._scale
        self._sums[0] += loss.detach()
        if self.gates:
            loss = loss + gate_penalty(self.gates) * self._share
        if output.routing:
            segments = Segments(
                document_BT=None if packing is None else packing.resets_BT.cumsum(dim=1),
                mask_BT=batch.labels_BT != -100,
            )
            routing = routing_loss(
                output.routing,
                weights=self.model.config.chronos,
                layers=self.moe_layers,
                log_ahead=output.foresight,
                segments=segments,
            )
            loss = loss + routing.total * self._share
            terms = dict(routing.terms)
            if self.anchor is not None:
                inputs = batch.ids_BT, state, packing, rounds
                with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.options.bf16):
                    distance = self.anchor(output.routing, *inputs, mask_BT=segments.mask_BT)
                loss = loss + self.model.config.chronos.lambda_anchor * distance * self._share
                terms["anchor"] = distance.detach()
            for place, name in enumerate(self.terms, start=1):
                self._sums[place] += terms[name] * self._share
            self._counts += counts_by_layer(
                output.routing,
                layers=self.moe_layers,
                num_experts=self.moe.n_routed_experts,
                mask_BT=segments.mask_BT,
            )
        loss.backward()
        return output.state

    def _depths(self, step: int, num_batches: int) -> list[int]:
        """Rounds of each micro-batch, the same for all workers; a repeated step repeats them."""
        looping = self.model.config.looping
        if not looping.enabled or looping.depth_selection == "fixed":
            return [self.model.config.rounds_default] * num_batches
        least, most = looping.loop_range
        generator = _generator(self.seed * 1_000_003 + step)
        return draw_rounds(
            num_batches, mean=looping.loop_default, least=least, most=most, generator=generator
        )

    def _experts(self, step: int, place: int) -> ExpertControl | None:
        drop = self.model.config.chronos.expert_dropout if self.moe_layers else 0.0
        if drop == 0.0:
            return None
        generator = _generator((self.seed * 1_000_003 + step) * 4099 + place)
        shape = (len(self.moe_layers), self.moe.n_routed_experts)
        return ExpertControl(
            available_LE=draw_available(*shape, drop=drop, generator=generator, device=self.device)
        )

    def _balance(self) -> None:
        for place, index in enumerate(self.moe_layers):
            ffn = cast(Block, self.model.layers[index]).ffn
            assert isinstance(ffn, MoEFeedForward)
            ffn.update_bias(self._counts[place], rate=self.moe.bias_update_rate, group=self.group)

    def _clip(self) -> float:
        norm = nn.utils.get_total_norm([p.grad for p in self.parameters if p.grad is not None])
        # A norm that is no number would spoil all gradients, and hide whose it was from the report.
        if self.grad_clip is not None and torch.isfinite(norm):
            nn.utils.clip_grads_with_norm_(self.parameters, self.grad_clip, norm)
        return norm.item()

    @property
    def _world(self) -> int:
        return dist.get_world_size(self.group) if dist.is_initialized() else 1

    def _summed(self, values: Sequence[int]) -> list[int]:
        """The sum of some numbers of all workers."""
        if self._world == 1:
            return [sum(values)]
        total = torch.tensor([sum(values)], device=self.device)
        dist.all_reduce(total, group=self.group)
        return [int(total)]

    def _add_up(self) -> None:
        """Sum gradients and losses over the workers."""
        if self._world == 1:
            return
        grads = [p.grad for p in self.parameters if p.grad is not None]
        flat = torch.cat([grad.flatten() for grad in grads])
        dist.all_reduce(flat, group=self.group)
        parts = flat.split([grad.numel() for grad in grads])
        for grad, part in zip(grads, parts, strict=True):
            grad.copy_(part.view_as(grad))
        dist.all_reduce(self._sums, group=self.group)

    def _all_counts(self) -> Tensor:
        counts = self._counts.clone()
        if self._world > 1:
            dist.all_reduce(counts, group=self.group)
        return counts.cpu()


def anchor_of(model: ChimeraForCausalLM) -> RouterAnchor | None:
    """The tie of the routing to that of a model as it is now, if the config wants one.

    To be asked before `prepare`, whose changes to the blocks are not for copies.
    """
    moe = model.config.backbone.moe
    wanted = moe.enabled and moe.layers and model.config.chronos.lambda_anchor
    return RouterAnchor(model, run_routing=_routing) if wanted else None


def _routing(
    model: ChimeraForCausalLM, ids_BT: Tensor, state: ModelState | None, packing: Packing | None, rounds: int
) -> Sequence[RoutingPass]:
    return model(ids_BT, state=state, packing=packing, rounds=rounds, keep_state=False).routing


def prepare(model: ChimeraForCausalLM, *, compile: bool, checkpointing: bool) -> None:
    """Compile each block, and compute it again in backward instead of keeping what is inside, as asked."""
    if compile:
        # Kinds of layers, with experts and without, with gradient and without, each depth's state.
        torch._dynamo.config.recompile_limit = max(64, torch._dynamo.config.recompile_limit)
    for layer in model.layers:
        forward = torch.compile(layer.forward, dynamic=False) if compile else layer.forward
        if checkpointing:
            forward = partial(checkpoint, forward, use_reentrant=False, context_fn=keep_routing)
        layer.forward = forward


def _generator(seed: int) -> torch.Generator:
    # Any seed that a run may have, times what tells its steps apart: a generator takes 64 bits.
    return torch.Generator().manual_seed(seed % 2**63)
