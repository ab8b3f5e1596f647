"""The steps that choose experts: at a layer's own input, or behind an earlier layer, to know them sooner.

What is decided ahead is decided for the tokens that are there. A loop's rounds may have fewer of them, side
by side, so what was scored before the loop is gathered for the tokens of each round and chosen from there.
"""

from dataclasses import dataclass

import numpy as np

from configs.inventory import Layer, layers
from quant.kernels.experts import places as at
from quant.kernels.rounds import places as rounds_at
from runtime.building import steps
from runtime.building.foresight import tell_certain
from runtime.building.plan import Chosen, Passage, Plan, Stream
from runtime.building.steps import Table
from runtime.building.workspace import Rows
from runtime.program import Count, Step

BEFORE_LOOP = -1
"""Stands for the round of what is decided before a loop."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Choice:
    """The choice of one pass, and where it is left."""

    passage: Passage
    logits: Rows
    chosen: Chosen
    table: Table

    def score(self, normed: Rows) -> Step:
        """What the router says of tokens."""
        return steps.dense(normed, weight=self.passage.floats("ffn.router"), y=self.logits)

    def choose(self) -> Step:
        """The best of it, and their weights."""
        return Step(
            kernel=steps.kernel_of("choose_experts"),
            arguments=self.table,
            num_places=at.NUM_PLACES,
            units_per_token=1,
        )


def choice_of(passage: Passage) -> Choice:
    """The choice of a layer in a round. Each has a place of its own, where it can be looked at later."""
    moe, workspace = passage.config.backbone.moe, passage.workspace
    E, A, T = moe.n_routed_experts, moe.num_experts_per_tok, workspace.num_rows
    name = f"experts.{passage.layer.index}.{passage.round_number}"
    logits = workspace.rows(f"{_room(passage)}.logits", E)
    experts_TA = workspace.array(f"{name}.chosen", (T, A), np.int64)
    chosen = Chosen(layer=passage.layer.index, round_number=passage.round_number, experts_TA=experts_TA)
    table: Table = {
        at.NUM_EXPERTS: E,
        at.NUM_CHOSEN: A,
        at.CHOSEN: experts_TA.ctypes.data,
        at.WEIGHTS: workspace.array(f"{name}.weights", (T, A), np.float32).ctypes.data,
        at.LOGITS: logits.address,
        at.LOGITS_STRIDE: logits.stride,
        at.BIAS: passage.floats("ffn.router_bias").ctypes.data,
        at.IS_SOFTMAX: int(moe.routing == "softmax"),
        at.SCORES: workspace.array(f"{_room(passage)}.scores", (T, E), np.float32).ctypes.data,
        at.LOG_SCORES: workspace.array(f"{_room(passage)}.log_scores", (T, E), np.float32).ctypes.data,
    }
    return Choice(passage=passage, logits=logits, chosen=chosen, table=table)


def _room(passage: Passage) -> str:
    """Whose work space a choice takes: what is decided ahead is decided for several layers at once."""
    if passage.layer.decided_behind is None:
        return "experts"
    return f"experts.{passage.layer.index}" + (".ahead" if passage.round_number == BEFORE_LOOP else "")


def decide_behind(plan: Plan, stream: Stream, *, source: int, number: int, count: Count) -> None:
    """Behind a layer: which experts the layers that it decides for will visit."""
    decided = [layer for layer in layers(plan.config) if layer.decided_behind == source]
    if not decided:
        return
    width, eps = plan.config.hidden_size, plan.config.rms_norm_eps
    normed = plan.workspace.rows("deciding.normed", width)
    norm = steps.norm_both(
        stream.x,
        addend=stream.take_addend(),
        gain=plan.tensors.made("deciding.gain", lambda: np.ones(width, dtype=np.float32)),
        eps=eps,
        normed=normed,
        acts=plan.workspace.int8("deciding", width),
    )
    choices = [
        choice_of(_passage(plan, layer, BEFORE_LOOP if _outlives(plan, layer) else number, count))
        for layer in decided
    ]
    plan.program.together(count, norm)
    plan.program.together(count, *(choice.score(normed) for choice in choices))
    plan.program.together(count, *(choice.choose() for choice in choices))
    tell_certain(plan, [choice.chosen for choice in choices], count=count)


def gather_decided(plan: Plan, *, number: int, count: Count, table: Table) -> None:
    """At a round's beginning: what was decided before the loop, for the tokens that take the round.

    `table` is the loop's, which knows them.
    """
    before = [layer for layer in layers(plan.config) if _outlives(plan, layer)]
    if not before:
        return
    num_experts = plan.config.backbone.moe.n_routed_experts
    nothing = plan.workspace.rows("deciding.nothing", num_experts, num_rows=1)
    gathers, choices = list[Step](), list[Choice]()
    for layer in before:
        whole = choice_of(_passage(plan, layer, BEFORE_LOOP, count)).logits
        choice = choice_of(_passage(plan, layer, number, count))
        arguments: Table = {
            **table,
            rounds_at.INPUT: whole.address,
            rounds_at.INPUT_STRIDE: whole.stride,
            rounds_at.WIDTH: num_experts,
            rounds_at.MIXED: choice.logits.address,
            rounds_at.MIXED_STRIDE: choice.logits.stride,
            rounds_at.DECAY: nothing.address,
            # A first round mixes nothing in: it takes its input as it is.
            rounds_at.ROUND: 0,
        }
        kernel = steps.kernel_of("mix_rounds")
        gathers.append(
            Step(kernel=kernel, arguments=arguments, num_places=rounds_at.NUM_PLACES, units_per_token=1)
        )
        choices.append(choice)
    plan.program.together(count, *gathers)
    plan.program.together(count, *(choice.choose() for choice in choices))


def _outlives(plan: Plan, layer: Layer) -> bool:
    """Whether a layer inside the loop is decided before it, and so once for all rounds."""
    source = layer.decided_behind
    return layer.looped and source is not None and source < plan.config.looping.loop[0]


def _passage(plan: Plan, layer: Layer, number: int, count: Count) -> Passage:
    return Passage(plan=plan, layer=layer, round_number=number, count=count)
