"""Titans, memory as context: a layer that reads its memory, attends to the answers and a window, and writes.

    x̂ = RMSNorm(x), x̃ = Q(x̂)        q, k, v = SiLU(conv(W x̃)), q and k of unit length
    h_t = M(q_t)                       M the memory at the start of the token's chunk
    y_t = attention of q_t over slots, the chunk's h_j and the window           `attention.py`
    z_t = M(y_t / ‖y_t‖)               o = y ⊙ σ(RMSNorm_head(z))        out = W_o Q(RMSNorm(o))
    the memory learns k_t → v_t with η = σ(·), θ = 0.01 σ(·), α = σ(·)          `chunk.py`, `step.py`

Writing takes the token's own key and value: projecting the attention's output once more, as the paper draws
it, would cost two more products of the layer's size a token. The window holds turned keys and values in int8,
as a stream's ring does, so that a model learns with the codes it will run with; what is written stays float.
Titans (Behrouz et al., 2025), sections 3 and 4.1.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from chimera.mixers.convolution import CausalConvolution
from chimera.mixers.packing import Packing, document_of
from chimera.mixers.projections import GateProjection, project_gates, unit
from chimera.mixers.titans.attention import (
    QUERY_BLOCK,
    MemoryTokens,
    Slots,
    Tokens,
    attend,
    attend_once,
    past_of,
    rolled,
)
from chimera.mixers.titans.chunk import memory_chunks
from chimera.mixers.titans.layout import ChunkLayout, chunk_layout
from chimera.mixers.titans.memory import read_memory
from chimera.mixers.titans.rotary import rotate, rotation
from chimera.mixers.titans.state import AttentionState, FastWeights, TitansState, fresh_weights
from chimera.mixers.titans.step import enter_chunk, memory_step
from configs.errors import UsageError
from configs.schema.mixers import WindowBits
from quant.activations import BLOCK, ActBlock
from quant.qat.activations import RMSNorm, fake_quantize_activations
from quant.qat.linear import BitLinear
from quant.ternary import GROUP, GroupSize

LARGEST_RATE = 1e-2
ETA_BIAS = 0.0
THETA_BIAS = -2.0
ALPHA_BIAS = -4.0


class TitansOutput(NamedTuple):
    """The layer's output, and how much each token surprised the memory."""

    y_BTD: Tensor
    state: TitansState
    surprise_BT: Tensor
    """Norm of the memory's gradient before clipping, the mean over heads; it has no gradient of its own."""


class _Inputs(NamedTuple):
    """What a token brings to the recurrence."""

    q_BTHK: Tensor
    k_BTHK: Tensor
    v_BTHV: Tensor
    log_keep_BTH: Tensor
    log_momentum_BTH: Tensor
    rate_BTH: Tensor
    tails: tuple[Tensor, Tensor, Tensor]


class TitansMAC(nn.Module):
    """The layer. The caller adds the residual."""

    def __init__(
        self,
        *,
        width: int,
        num_heads: int,
        head_dim: int = 64,
        num_slots: int = 64,
        window: int = 1024,
        window_bits: WindowBits = 8,
        memory_chunk: int = 64,
        conv_size: int = 4,
        rope_theta: float = 10_000.0,
        backprop_chunks: int | None = 2,
        query_block: int = QUERY_BLOCK,
        eps: float = 1e-6,
        group_size: GroupSize = GROUP,
        act_block: ActBlock = BLOCK,
        init_std: float = 0.006,
        out_init_std: float | None = None,
    ) -> None:
        super().__init__()
        if head_dim % 2:
            raise UsageError(f"a rotated head needs an even number of channels, got {head_dim}")
        if backprop_chunks is not None and backprop_chunks < 1:
            raise UsageError(f"backprop_chunks must be at least 1, or None for all; got {backprop_chunks}")
        inner = num_heads * head_dim

        def linear(num_inputs: int, num_outputs: int, *, std: float = init_std) -> BitLinear:
            return BitLinear(
                num_inputs, num_outputs, group_size=group_size, act_block=act_block, norm=False, init_std=std
            )

        self.num_heads = num_heads
        self.head_dim = head_dim
        self.window = window
        self.window_bits: WindowBits = window_bits
        self.memory_chunk = memory_chunk
        self.rope_theta = rope_theta
        self.backprop_chunks = backprop_chunks
        self.query_block = query_block
        self.act_block: ActBlock = act_block
        self.norm = RMSNorm(width, eps=eps)
        self.q_proj = linear(width, inner)
        self.k_proj = linear(width, inner)
        self.v_proj = linear(width, inner)
        self.q_conv = CausalConvolution(channels=inner, num_taps=conv_size)
        self.k_conv = CausalConvolution(channels=inner, num_taps=conv_size)
        self.v_conv = CausalConvolution(channels=inner, num_taps=conv_size)
        self.eta_proj = GateProjection(width=width, num_heads=num_heads, init_std=init_std)
        self.theta_proj = GateProjection(width=width, num_heads=num_heads, init_std=init_std)
        self.alpha_proj = GateProjection(width=width, num_heads=num_heads, init_std=init_std)
        self.eta_bias = nn.Parameter(torch.empty(num_heads))
        self.theta_bias = nn.Parameter(torch.empty(num_heads))
        self.alpha_bias = nn.Parameter(torch.empty(num_heads))
        self.memory_w1 = nn.Parameter(torch.empty(num_heads, head_dim, head_dim))
        self.memory_w2 = nn.Parameter(torch.empty(num_heads, head_dim, head_dim))
        self.slot_keys = nn.Parameter(torch.empty(num_slots, inner)) if num_slots else None
        self.slot_values = nn.Parameter(torch.empty(num_slots, inner)) if num_slots else None
        self.attn_scale = nn.Parameter(torch.empty(num_heads))
        self.memory_key_gain = nn.Parameter(torch.empty(inner))
        self.gate_norm = RMSNorm(head_dim, eps=eps)
        self.out_norm = RMSNorm(inner, eps=eps)
        self.o_proj = linear(inner, width, std=init_std if out_init_std is None else out_init_std)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """The memory, the slots and the gates' biases; the modules below reset their own."""
        nn.init.constant_(self.eta_bias, ETA_BIAS)
        nn.init.constant_(self.theta_bias, THETA_BIAS)
        nn.init.constant_(self.alpha_bias, ALPHA_BIAS)
        # Keys have length √K: the hidden layer starts at unit variance, its answer small beside the residual.
        nn.init.normal_(self.memory_w1, std=self.head_dim**-0.5)
        nn.init.normal_(self.memory_w2, std=0.1 * self.head_dim**-0.5)
        if self.slot_keys is not None and self.slot_values is not None:
            nn.init.normal_(self.slot_keys, std=self.head_dim**-0.5)
            nn.init.normal_(self.slot_values, std=self.eta_proj.init_std)
        nn.init.constant_(self.attn_scale, self.head_dim**0.5)
        nn.init.ones_(self.memory_key_gain)

    def initial_state(self, batch: int, *, device: torch.device | None = None) -> TitansState:
        """The state before a text; the memory in it is the learned one, with its gradient."""
        device = self.attn_scale.device if device is None else device

        def nothing(num_places: int) -> Tensor:
            return torch.zeros(batch, self.num_heads, num_places, self.head_dim, device=device)

        return TitansState(
            fast=FastWeights(*(x.to(device) for x in fresh_weights(self._initial_memory(), batch))),
            attention=AttentionState(
                chunk_keys_BHCK=nothing(self.memory_chunk),
                chunk_values_BHCV=nothing(self.memory_chunk),
                window_keys_BHWK=nothing(self.window),
                window_values_BHWV=nothing(self.window),
                position_B=torch.zeros(batch, dtype=torch.int64, device=device),
            ),
            tails=self._initial_tails(batch, device),
        )

    def forward(
        self, x_BTD: Tensor, state: TitansState | None = None, *, packing: Packing | None = None
    ) -> tuple[Tensor, TitansState]:
        """The output [B, T, D] and the state after the last token."""
        output = self.forward_with_surprise(x_BTD, state, packing=packing)
        return output.y_BTD, output.state

    def forward_with_surprise(
        self, x_BTD: Tensor, state: TitansState | None = None, *, packing: Packing | None = None
    ) -> TitansOutput:
        """`forward`, and what surprised the memory. One token takes the step, more the chunks."""
        batch = x_BTD.shape[0]
        tails = self._initial_tails(batch, x_BTD.device) if state is None else state.tails
        inputs = self._inputs(x_BTD, tails=tails, packing=packing)
        if x_BTD.shape[1] == 1 and packing is None:
            state = self.initial_state(batch, device=x_BTD.device) if state is None else state
            o_BTHV, state, surprise_BTH = self._step(inputs, state)
        else:
            o_BTHV, state, surprise_BTH = self._chunks(inputs, state, packing=packing)
        o = fake_quantize_activations(
            self.out_norm(o_BTHV.flatten(-2)), block=self.act_block, mix=self.o_proj.quant_mix
        )
        return TitansOutput(self.o_proj.project(o), state, surprise_BTH.mean(dim=-1))

    def step(self, x_BD: Tensor, state: TitansState | None = None) -> tuple[Tensor, TitansState]:
        """One token: the output [B, D] and the new state."""
        y_BTD, new_state = self(x_BD.unsqueeze(1), state)
        return y_BTD.squeeze(1), new_state

    def _initial_memory(self) -> Tensor:
        return torch.stack((self.memory_w1, self.memory_w2), dim=1)

    def _initial_tails(self, batch: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
        return (
            self.q_conv.initial_tail(batch, device=device),
            self.k_conv.initial_tail(batch, device=device),
            self.v_conv.initial_tail(batch, device=device),
        )

    def _slots(self) -> Slots:
        if self.slot_keys is None or self.slot_values is None:
            none = self.attn_scale.new_zeros(self.num_heads, 0, self.head_dim)
            return Slots(keys_HPK=none, values_HPV=none)
        heads = (self.num_heads, self.head_dim)
        return Slots(
            keys_HPK=self.slot_keys.unflatten(-1, heads).transpose(0, 1),
            values_HPV=self.slot_values.unflatten(-1, heads).transpose(0, 1),
        )

    def _inputs(
        self, x_BTD: Tensor, *, tails: tuple[Tensor, Tensor, Tensor], packing: Packing | None
    ) -> _Inputs:
        resets_BT = None if packing is None else packing.resets_BT
        x_hat = self.norm(x_BTD)
        x_tilde = fake_quantize_activations(x_hat, block=self.act_block, mix=self.q_proj.quant_mix)
        q, q_tail = self.q_conv(self.q_proj.project(x_tilde), tail=tails[0], resets_BT=resets_BT)
        k, k_tail = self.k_conv(self.k_proj.project(x_tilde), tail=tails[1], resets_BT=resets_BT)
        v, v_tail = self.v_conv(self.v_proj.project(x_tilde), tail=tails[2], resets_BT=resets_BT)
        q, k, v = (F.silu(x).unflatten(-1, (self.num_heads, self.head_dim)) for x in (q, k, v))
        eta, theta, alpha = project_gates(x_hat, (self.eta_proj, self.theta_proj, self.alpha_proj))
        return _Inputs(
            q_BTHK=unit(q),
            k_BTHK=unit(k),
            v_BTHV=v,
            log_keep_BTH=F.logsigmoid(-(alpha + self.alpha_bias)),
            log_momentum_BTH=F.logsigmoid(eta + self.eta_bias),
            rate_BTH=LARGEST_RATE * torch.sigmoid(theta + self.theta_bias),
            tails=(q_tail, k_tail, v_tail),
        )

    def _tokens(self, inputs: _Inputs, position_BT: Tensor) -> Tokens:
        """Heads first, the scale in the queries, turned copies, and keys and values as in the window."""
        q = (inputs.q_BTHK * self.attn_scale.unsqueeze(-1)).transpose(1, 2)
        k, v = inputs.k_BTHK.transpose(1, 2), inputs.v_BTHV.transpose(1, 2)
        by = rotation(position_BT.unsqueeze(1), head_dim=self.head_dim, theta=self.rope_theta)
        return Tokens(
            q_BHTK=q,
            rotated_q_BHTK=rotate(q, by),
            rotated_k_BHTK=self._in_window(rotate(k, by)),
            v_BHTV=self._in_window(v),
        )

    def _in_window(self, x_BHTK: Tensor) -> Tensor:
        """Keys or values as the window holds them: in int8, with a scale for each token and head."""
        if self.window_bits == 32:
            return x_BHTK
        return fake_quantize_activations(x_BHTK, block="token", mix=self.q_proj.quant_mix)

    def _chunks(
        self, inputs: _Inputs, state: TitansState | None, *, packing: Packing | None
    ) -> tuple[Tensor, TitansState, Tensor]:
        """Gated outputs [B, T, H, V], the new state and the surprise [B, T, H]."""
        batch, num_tokens = inputs.q_BTHK.shape[:2]
        device = inputs.q_BTHK.device
        layout = chunk_layout(
            batch=batch,
            num_tokens=num_tokens,
            memory_chunk=self.memory_chunk,
            position_B=None if state is None else state.attention.position_B,
            packing=packing,
            device=device,
        )
        initial = self._initial_memory()
        memory = memory_chunks(
            inputs.k_BTHK,
            inputs.v_BTHV,
            log_keep_BTH=inputs.log_keep_BTH,
            log_momentum_BTH=inputs.log_momentum_BTH,
            rate_BTH=inputs.rate_BTH,
            state=fresh_weights(initial, batch) if state is None else state.fast,
            initial=initial,
            layout=layout,
            backprop_chunks=self.backprop_chunks,
        )
        tokens = self._tokens(inputs, layout.position_BT)
        answers = self._answers(inputs.q_BTHK, memory.border, layout=layout, state=state)
        past = None if state is None else past_of(state.attention)
        y_BTHV = attend(
            tokens,
            memory=answers,
            slots=self._slots(),
            past=past,
            document_BT=torch.zeros(1, num_tokens, dtype=torch.int64, device=device)
            if packing is None
            else document_of(packing.resets_BT),
            layout=layout,
            window=self.window,
            block=self.query_block,
        )
        z_BTHV = layout.to_tokens(read_memory(memory.border, layout.to_chunks(unit(y_BTHV))))
        keys, values = tokens.rotated_k_BHTK, tokens.v_BHTV
        if past is not None:
            keys, values = torch.cat((past.keys, keys), dim=2), torch.cat((past.values, values), dim=2)
        last_B = layout.position_BT[:, -1].expand(batch)
        ring_keys, ring_values = rolled(keys, values, last_B=last_B, window=self.window)
        attention = AttentionState(
            chunk_keys_BHCK=layout.last_chunk(answers.keys),
            chunk_values_BHCV=layout.last_chunk(answers.values),
            window_keys_BHWK=ring_keys,
            window_values_BHWV=ring_values,
            position_B=last_B + 1,
        )
        surprise_BTH = layout.to_tokens(memory.surprise.unsqueeze(-1)).squeeze(-1)
        return self._gated(y_BTHV, z_BTHV), TitansState(memory.state, attention, inputs.tails), surprise_BTH

    def _answers(
        self, q_BTHK: Tensor, border: Tensor, *, layout: ChunkLayout, state: TitansState | None
    ) -> MemoryTokens:
        """The memory's answers to all queries; in the first chunk also those from before this row."""
        values = read_memory(border, layout.to_chunks(q_BTHK))
        keys, filled_BSC = self._memory_keys(values), layout.filled_BSC
        if state is None:
            return MemoryTokens(keys=keys, values=values, filled_BSC=filled_BSC)
        first_B = layout.position_BT[:, :1] % self.memory_chunk
        before_BC = torch.arange(self.memory_chunk, device=q_BTHK.device) < first_B
        before = before_BC[:, None, :, None]
        kept = state.attention
        first_keys = torch.where(before, kept.chunk_keys_BHCK, keys[:, :, 0])
        first_values = torch.where(before, kept.chunk_values_BHCV, values[:, :, 0])
        return MemoryTokens(
            keys=torch.cat((first_keys.unsqueeze(2), keys[:, :, 1:]), dim=2),
            values=torch.cat((first_values.unsqueeze(2), values[:, :, 1:]), dim=2),
            filled_BSC=torch.cat(((filled_BSC[:, 0] | before_BC).unsqueeze(1), filled_BSC[:, 1:]), dim=1),
        )

    def _step(self, inputs: _Inputs, state: TitansState) -> tuple[Tensor, TitansState, Tensor]:
        """The same for one token, [B, 1, H, V] and [B, 1, H]."""
        past, position_B = state.attention, state.attention.position_B
        fast = enter_chunk(state.fast, position_B=position_B, memory_chunk=self.memory_chunk)
        tokens = self._tokens(inputs, position_B.unsqueeze(1))
        answer = read_memory(fast.border, inputs.q_BTHK.transpose(1, 2))  # [B, H, 1, V]
        slot_B = position_B % self.memory_chunk
        attention = AttentionState(
            chunk_keys_BHCK=_put(past.chunk_keys_BHCK, self._memory_keys(answer), slot_B, clear=True),
            chunk_values_BHCV=_put(past.chunk_values_BHCV, answer, slot_B, clear=True),
            window_keys_BHWK=_put(past.window_keys_BHWK, tokens.rotated_k_BHTK, position_B % self.window),
            window_values_BHWV=_put(past.window_values_BHWV, tokens.v_BHTV, position_B % self.window),
            position_B=position_B + 1,
        )
        y_BHV = attend_once(tokens, state=attention, slots=self._slots(), position_B=position_B)
        z = read_memory(fast.border, unit(y_BHV).unsqueeze(2)).transpose(1, 2)
        written = memory_step(
            inputs.k_BTHK.squeeze(1),
            inputs.v_BTHV.squeeze(1),
            log_keep_BH=inputs.log_keep_BTH.squeeze(1),
            log_momentum_BH=inputs.log_momentum_BTH.squeeze(1),
            rate_BH=inputs.rate_BTH.squeeze(1),
            state=fast,
        )
        new_state = TitansState(written.state, attention, inputs.tails)
        return self._gated(y_BHV.unsqueeze(1), z), new_state, written.surprise_BH.unsqueeze(1)

    def _memory_keys(self, h: Tensor) -> Tensor:
        """Keys of memory tokens [B, H, ..., C, K]."""
        gain = self.memory_key_gain.view(self.num_heads, *(1,) * (h.dim() - 3), self.head_dim)
        return unit(h) * gain

    def _gated(self, y_BTHV: Tensor, z_BTHV: Tensor) -> Tensor:
        return y_BTHV * torch.sigmoid(self.gate_norm(z_BTHV))


def _put(store: Tensor, new: Tensor, slot_B: Tensor, *, clear: bool = False) -> Tensor:
    """`store` [B, H, n, *] with `new` [B, H, 1, *] in a slot; `clear` empties the others at slot 0."""
    place = slot_B[:, None, None, None]
    if clear:
        store = torch.where(place == 0, 0.0, store)
    return torch.where(torch.arange(store.shape[2], device=store.device).unsqueeze(1) == place, new, store)
