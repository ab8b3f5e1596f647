"""The model that a config describes, in PyTorch: what is trained, and the truth that the runtime is held to.

Notable choices:
- layers carry a recurrent state instead of a cache; any call may start from one and gives the next;
- a looped layer has one state for each round, so a token is written once into each;
- rows of a training batch may take different numbers of rounds: they are sorted by depth, so that each round
  is one dense slice, and only the last half of a row's rounds is differentiated;
- the embedding is quantised and tied to the head, which reads the same int8 activations as every other layer;
- `configs.inventory` lists the same tensors by name and shape; a test holds the two equal.
"""

from collections.abc import Sequence
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from chimera.block import Block, State
from chimera.cross_entropy import cross_entropy, cut_cross_entropy, mean_loss
from chimera.looping import LoopInjection, groups_of_round
from chimera.mixers.packing import Packing
from chimera.mixers.table import act_block
from chimera.rows import first_tensor, packing_rows, packing_tokens, put_rows, take_rows
from chronos_moe.lookahead import LookaheadRouter
from chronos_moe.passes import RoutingPass
from configs.errors import UsageError
from configs.inventory import layers
from configs.schema.model import ModelConfig
from quant.qat.activations import RMSNorm, norm_quant
from quant.qat.embedding import QuantEmbedding
from quant.qat.linear import add_corrections
from quant.qat.sherry import use_sherry

ModelState = tuple[tuple[State, ...], ...]
"""The state of a batch of streams, [layer][round]."""


class ModelOutput(NamedTuple):
    """What one pass gives."""

    hidden_BTD: Tensor
    """What the head reads: the output of the last layer, normed and quantised."""
    state: ModelState
    """Where the streams stand now; empty when it was not to be kept."""
    routing: list[RoutingPass]
    foresight: Tensor | None
    """Log-probabilities of the lookahead router, [B, T, layers with experts, 1 + steps, E]."""
    rounds_BT: Tensor
    """Rounds that each token took."""


class ExpertControl(NamedTuple):
    """What bears on the routing from outside. L counts the layers with experts, in order."""

    available_LE: Tensor | None = None
    """1 where an expert is there, 0 where the shared one has to stand in for it."""
    pressure_LE: Tensor | None = None
    """Added to the router's logits."""


def build(config: ModelConfig, *, device: torch.device | str | None = None) -> "ChimeraForCausalLM":
    """The model of a config, freshly initialised on a device; on `meta` it costs no memory."""
    attention = [layer.kind for layer in layers(config) if layer.kind in ("mla", "swa", "gqa")]
    if attention:
        raise UsageError(
            f"layers of the kind {attention[0]} are described by a config but cannot be trained here",
            hint="Use the recurrent kinds: gated_deltanet, xlstm_m, titans_mac, tsp_span_knot.",
        )
    with torch.device(device or "cpu"):
        return ChimeraForCausalLM(config)


class ChimeraForCausalLM(nn.Module):
    """Embedding, layers, loop and tied head."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        D, moe = config.hidden_size, config.backbone.moe
        plan = layers(config)
        self.embedding = QuantEmbedding(
            config.vocab_size, D, bits=config.quantization.embedding_bits, init_std=config.initializer_range
        )
        self.layers = nn.ModuleList(Block(config, layer) for layer in plan)
        self.loop = (
            LoopInjection(
                width=D,
                injection=config.looping.injection,
                zoh_input=config.looping.zoh_input,
                eps=config.rms_norm_eps,
            )
            if config.looping.enabled
            else None
        )
        self.lookahead = (
            LookaheadRouter(
                width=D,
                num_layers=len(moe.layers),
                num_experts=moe.n_routed_experts,
                num_steps=moe.lookahead_steps,
                init_std=config.initializer_range,
            )
            if moe.enabled and moe.layers
            else None
        )
        self.final_norm = RMSNorm(D, eps=config.rms_norm_eps)
        quantization = config.quantization
        if quantization.sherry_mode.enabled:
            use_sherry(self)
        if quantization.hgf_correction.enabled:
            add_corrections(self, rank=quantization.hgf_correction.rank)

    def initial_state(self, batch: int, *, rounds: int | None = None) -> ModelState:
        """The state before a text, for streams of at most `rounds` rounds."""
        rounds = self.config.rounds_default if rounds is None else rounds
        device = self.final_norm.weight.device
        return tuple(
            tuple(
                cast(Block, block).mixer.initial_state(batch, device=device)
                for _ in range(rounds if layer.looped else 1)
            )
            for layer, block in zip(layers(self.config), self.layers, strict=True)
        )

    def forward(
        self,
        ids_BT: Tensor,
        *,
        state: ModelState | None = None,
        packing: Packing | None = None,
        rounds: int | Sequence[int] | None = None,
        exit_threshold: float = 0.0,
        keep_state: bool = True,
        experts: ExpertControl | None = None,
    ) -> ModelOutput:
        """Hidden vectors and the new state. `rounds` is one number, or one for each row.

        Training asks for no new state with `keep_state=False`; rows without a state start a text.

        With `exit_threshold`, a token leaves the loop once a round changes it by less than that share; the
        states of the rounds that it skips do not see it.
        """
        self._check_ids(ids_BT)
        depths = self._depths(ids_BT.shape[0], rounds)
        if state is None and exit_threshold > 0.0:
            state = self.initial_state(ids_BT.shape[0], rounds=max(depths))
        if state is not None:
            self._check_state(state, batch=ids_BT.shape[0], rounds=max(depths))
        run = _Pass(
            self,
            state,
            packing,
            batch=len(depths),
            rounds=max(depths),
            keep_state=keep_state,
            experts=experts,
        )
        looping = self.config.looping
        x_BTD = self.embedding(ids_BT)
        rounds_BT = (
            torch.full_like(ids_BT, depths[0])  # no copy from the CPU, which a captured graph could not hold
            if max(depths) == min(depths)
            else torch.tensor(depths, device=ids_BT.device)[:, None].expand_as(ids_BT)
        )
        if self.loop is None:
            x_BTD = run.through(x_BTD, range(len(self.layers)), round=0)
        else:
            x_BTD = run.through(x_BTD, range(looping.prelude[0], looping.prelude[1] + 1), round=0)
            if exit_threshold > 0.0:
                x_BTD, rounds_BT = run.loop_until_still(self.loop, x_BTD, depths, exit_threshold)
            else:
                x_BTD = run.loop(self.loop, x_BTD, depths)
            run.behind[looping.loop[1]] = x_BTD
            x_BTD = run.through(x_BTD, range(looping.coda[0], looping.coda[1] + 1), round=0)
        hidden_BTD = norm_quant(
            x_BTD, self.final_norm, block=act_block(self.config), mix=self.embedding.quant_mix
        )
        return ModelOutput(hidden_BTD, run.new_state(), run.routing, run.foresight, rounds_BT)

    def logits(self, hidden_BTD: Tensor) -> Tensor:
        """Scores of every word, from the hidden vectors that `forward` gives."""
        return self.embedding.project(hidden_BTD)

    def loss(self, hidden_BTD: Tensor, labels_BT: Tensor, *, chunk: int | None = None) -> Tensor:
        """The mean cross-entropy of the words that follow; a label of -100 has none.

        With `chunk`, the head runs by that many words at a time and its logits are never held whole.
        """
        if labels_BT.shape != hidden_BTD.shape[:2]:
            raise UsageError(
                f"labels of {tuple(labels_BT.shape)} for hidden vectors of "
                f"{tuple(hidden_BTD.shape[:2])} tokens"
            )
        x_TD, labels_T = hidden_BTD.flatten(0, 1), labels_BT.flatten()
        weight_ND = self.embedding.quantized_weight()
        if chunk is None:
            return mean_loss(cross_entropy(x_TD, weight_ND=weight_ND, labels_T=labels_T), labels_T)
        losses_T = cut_cross_entropy(x_TD, weight_ND=weight_ND, labels_T=labels_T, chunk=chunk)
        return mean_loss(losses_T, labels_T)

    def _check_ids(self, ids_BT: Tensor) -> None:
        if ids_BT.dim() != 2 or ids_BT.shape[0] == 0 or ids_BT.shape[1] == 0:
            raise UsageError(
                f"ids must be [rows, tokens] with at least one of each, got {tuple(ids_BT.shape)}"
            )
        if ids_BT.dtype != torch.int64:
            raise UsageError(f"ids must be int64, got {ids_BT.dtype}")
        # On a GPU a look at the ids would wait for all work before it: there they are the caller's.
        if ids_BT.device.type == "cpu":
            least, most = ids_BT.aminmax()
            if least < 0 or most >= self.config.vocab_size:
                raise UsageError(
                    f"ids from {int(least)} to {int(most)}, but the vocabulary holds "
                    f"0 to {self.config.vocab_size - 1}",
                    hint="The text was encoded with the tokenizer of another model.",
                )

    def _depths(self, batch: int, rounds: int | Sequence[int] | None) -> list[int]:
        rounds = self.config.rounds_default if rounds is None else rounds
        depths = [rounds] * batch if isinstance(rounds, int) else list(rounds)
        if len(depths) != batch:
            raise UsageError(f"{len(depths)} numbers of rounds for {batch} rows")
        most = self.config.rounds_most
        if min(depths) < 1 or max(depths) > most:
            raise UsageError(f"{min(depths)} to {max(depths)} rounds, but this model takes 1 to {most}")
        return depths

    def _check_state(self, state: ModelState, *, batch: int, rounds: int) -> None:
        if len(state) != len(self.layers):
            raise UsageError(f"a state of {len(state)} layers for a model of {len(self.layers)}")
        for layer, held in zip(layers(self.config), state, strict=True):
            needed = rounds if layer.looped else 1
            if len(held) < needed:
                raise UsageError(
                    f"layer {layer.index} has states for {len(held)} rounds, but {needed} are asked for"
                )
            rows = first_tensor(held[0]).shape[0]
            if rows != batch:
                raise UsageError(f"a state of {rows} streams for {batch} rows of ids")


class _Pass:
    """One call of the model: what the layers leave behind as it goes through them."""

    def __init__(
        self,
        model: ChimeraForCausalLM,
        state: ModelState | None,
        packing: Packing | None,
        *,
        batch: int,
        rounds: int,
        keep_state: bool,
        experts: ExpertControl | None,
    ) -> None:
        self.model = model
        self.packing = packing
        self.batch = batch
        self.keep_state = keep_state
        self.experts = experts or ExpertControl()
        plan = layers(model.config)
        self.place_of_layer = {index: place for place, index in enumerate(model.config.backbone.moe.layers)}
        self.states: list[list[State | None]] = (
            [[None] * (rounds if layer.looped else 1) for layer in plan]
            if state is None
            else [list(held) for held in state]
        )
        self.decided_behind = {layer.index: layer.decided_behind for layer in plan}
        self.is_looped = [layer.looped for layer in plan]
        self.behind: dict[int, Tensor] = {}
        """The residual stream behind layers that decide for later ones; in a loop, of the rows in hand."""
        self.routing: list[RoutingPass] = []
        self.foresight: Tensor | None = None

    def new_state(self) -> ModelState:
        """The states of all layers and rounds after this call."""
        return tuple(tuple(held) for held in self.states) if self.keep_state else ()

    def through(self, x_BTD: Tensor, indices: range, *, round: int, rows: Tensor | None = None) -> Tensor:
        """Run some layers on all rows, or on those named."""
        packing = self.packing if rows is None else packing_rows(self.packing, rows)
        for index in indices:
            x_BTD = self._layer(x_BTD, index, round=round, rows=rows, packing=packing)
            self._keep_behind(x_BTD, index)
            if index == 0 and self.model.lookahead is not None:
                self.foresight = self.model.lookahead(x_BTD)
        return x_BTD

    def loop(self, loop: LoopInjection, x_BTD: Tensor, depths: Sequence[int]) -> Tensor:
        """The looped layers, each row as often as its depth says."""
        order = sorted(range(len(depths)), key=lambda row: -depths[row])
        uniform = max(depths) == min(depths)
        order_B = torch.arange(len(depths), device=x_BTD.device)
        if not uniform:
            order_B = torch.tensor(order, device=x_BTD.device)
        falling = [depths[row] for row in order]
        looping = self.model.config.looping
        truncation = looping.backward_truncation if self.model.training else "none"
        indices = range(looping.loop[0], looping.loop[1] + 1)
        input_BTD = loop.enter(x_BTD if uniform else x_BTD[order_B])
        h_BTD = torch.zeros_like(input_BTD)
        for done in range(max(depths)):
            parts: list[Tensor] = []
            groups = groups_of_round(falling, done, truncation)
            for first, after, gradient in groups:
                whole = uniform and after - first == len(depths)
                rows = None if whole else order_B[first:after]
                with torch.set_grad_enabled(gradient and torch.is_grad_enabled()):
                    h_part = h_BTD[first:after] if done else torch.zeros_like(input_BTD[first:after])
                    mixed = loop.mix(h_part, input_BTD[first:after])
                    parts.append(self.through(mixed, indices, round=done, rows=rows))
            active = groups[-1][1]
            h_BTD = (
                torch.cat((*parts, h_BTD[active:])) if len(parts) > 1 or active < len(depths) else parts[0]
            )
        left_BTD = loop.leave(h_BTD)
        return left_BTD if uniform else left_BTD[torch.argsort(order_B)]

    def loop_until_still(
        self, loop: LoopInjection, x_BTD: Tensor, depths: Sequence[int], threshold: float
    ) -> tuple[Tensor, Tensor]:
        """The looped layers, each token until a round hardly changes it; rows one by one."""
        looping = self.model.config.looping
        indices = range(looping.loop[0], looping.loop[1] + 1)
        input_BTD = loop.enter(x_BTD)
        h_BTD = torch.zeros_like(input_BTD)
        rounds_BT = torch.zeros(x_BTD.shape[:2], dtype=torch.int64, device=x_BTD.device)
        for row, depth in enumerate(depths):
            rows = torch.tensor([row], device=x_BTD.device)
            whole = packing_rows(self.packing, rows)
            active_T = torch.arange(x_BTD.shape[1], device=x_BTD.device)
            for done in range(depth):
                before = h_BTD[row : row + 1, active_T]
                packing = packing_tokens(whole, active_T)
                after = loop.mix(before, input_BTD[row : row + 1, active_T])
                for index in indices:
                    after = self._layer(
                        after, index, round=done, rows=rows, packing=packing, active_T=active_T
                    )
                    self._keep_behind(after, index)
                h_BTD = h_BTD.index_put((rows, active_T), after[0])
                rounds_BT[row, active_T] = done + 1
                change_T = (after - before).norm(dim=-1)[0]
                active_T = active_T[change_T >= threshold * after.norm(dim=-1)[0]]
                if active_T.numel() == 0:
                    break
        return loop.leave(h_BTD), rounds_BT

    def _layer(
        self,
        x_BTD: Tensor,
        index: int,
        *,
        round: int,
        rows: Tensor | None,
        packing: Packing | None,
        active_T: Tensor | None = None,
    ) -> Tensor:
        held = self.states[index][round]
        x_BTD, state, record = self.model.layers[index](
            x_BTD,
            held if rows is None or held is None else take_rows(held, rows),
            packing=packing,
            available_E=self._of_layer(self.experts.available_LE, index),
            pressure_E=self._of_layer(self.experts.pressure_LE, index),
            deciding_BTD=self._deciding(index, rows=rows, active_T=active_T),
        )
        if self.keep_state:
            self.states[index][round] = state if rows is None else self._put(held, index, rows, state)
        if record is not None:
            self.routing.append(RoutingPass(index, round, rows, record))
        return x_BTD

    def _keep_behind(self, x_BTD: Tensor, index: int) -> None:
        if index in self.decided_behind.values():
            self.behind[index] = x_BTD

    def _deciding(self, index: int, *, rows: Tensor | None, active_T: Tensor | None) -> Tensor | None:
        """What decides a layer's experts, of the rows and tokens that go through it."""
        source = self.decided_behind[index]
        if source is None:
            return None
        decides_BTD = self.behind[source]
        if rows is None or self.is_looped[source]:
            return decides_BTD
        return decides_BTD[rows] if active_T is None else decides_BTD[rows][:, active_T]

    def _put(self, held: State | None, index: int, rows: Tensor, state: State) -> State:
        """The state of the whole batch, some rows of which have moved on."""
        if held is None:
            mixer = cast(Block, self.model.layers[index]).mixer
            held = mixer.initial_state(self.batch, device=rows.device)
        return put_rows(held, rows, state)

    def _of_layer(self, table_LE: Tensor | None, index: int) -> Tensor | None:
        place = self.place_of_layer.get(index)
        return None if table_LE is None or place is None else table_LE[place]
