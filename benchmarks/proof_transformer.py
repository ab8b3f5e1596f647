"""The transformer that the hybrid is compared with: causal attention over documents, and SwiGLU.

    x = x + W_o Q(RMSNorm(softmax(q kᵀ/√K) v));  x = x + SwiGLU(x)      q, k rotated, x normed and quantised

It has the norms, the quantiser, the embedding and the head of our own layers, and the call that `TrainStep`
makes, so that an arm differs in nothing but its mixers. Its config describes `gqa` layers, and its parameters
are those that `configs.inventory` lists for them: bytes and counts are computed for all arms by one code.
A document attends to itself alone and its positions begin at 0. There is no cache: it is for learning.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from chimera.block import build_feed_forward
from chimera.cross_entropy import cross_entropy, cut_cross_entropy, mean_loss
from chimera.mixers.packing import Packing, document_of, tokens_since_reset
from chimera.mixers.table import act_block, group_size, residual_std
from chimera.model import ExpertControl, ModelOutput, ModelState
from configs.errors import UsageError
from configs.inventory import Layer, layers
from configs.schema.model import ModelConfig
from quant.qat.activations import RMSNorm, norm_quant
from quant.qat.embedding import QuantEmbedding
from quant.qat.linear import BitLinear

ROPE_THETA = 10_000.0


class Transformer(nn.Module):
    """Embedding, layers of attention and tied head."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        plan = layers(config)
        assert all(layer.kind == "gqa" for layer in plan), "a transformer's layers are all attention"
        assert not config.looping.enabled
        self.config = config
        self.embedding = QuantEmbedding(
            config.vocab_size,
            config.hidden_size,
            bits=config.quantization.embedding_bits,
            init_std=config.initializer_range,
        )
        self.layers = nn.ModuleList(TransformerBlock(config, layer) for layer in plan)
        self.final_norm = RMSNorm(config.hidden_size, eps=config.rms_norm_eps)

    def forward(
        self,
        ids_BT: Tensor,
        *,
        state: ModelState | None = None,
        packing: Packing | None = None,
        rounds: int | Sequence[int] | None = None,
        keep_state: bool = False,
        experts: ExpertControl | None = None,
    ) -> ModelOutput:
        """Hidden vectors. The arguments are those of our own models; what needs a state is refused."""
        if state is not None or keep_state:
            raise UsageError("this transformer keeps no state: give it whole rows, with keep_state=False")
        if rounds not in (None, 1) or experts is not None:
            raise UsageError("this transformer has no loop and no experts")
        if packing is None:
            resets_BT = torch.zeros_like(ids_BT, dtype=torch.bool)
            resets_BT[:, 0] = True
        else:
            resets_BT = packing.resets_BT
        document_BT = document_of(resets_BT)
        index_T = torch.arange(ids_BT.shape[1], device=ids_BT.device)
        same_BTT = document_BT[:, :, None] == document_BT[:, None, :]
        mask_B1TT = (same_BTT & (index_T[:, None] >= index_T))[:, None]
        turn_B1TK = turns(tokens_since_reset(resets_BT), self.config.head_dim)
        x_BTD = self.embedding(ids_BT)
        for layer in self.layers:
            x_BTD = layer(x_BTD, mask_B1TT, *turn_B1TK)
        hidden_BTD = norm_quant(
            x_BTD, self.final_norm, block=act_block(self.config), mix=self.embedding.quant_mix
        )
        return ModelOutput(hidden_BTD, (), [], None, torch.ones_like(ids_BT))

    def logits(self, hidden_BTD: Tensor) -> Tensor:
        """Scores of every word."""
        return self.embedding.project(hidden_BTD)

    def loss(self, hidden_BTD: Tensor, labels_BT: Tensor, *, chunk: int | None = None) -> Tensor:
        """The mean cross-entropy of the words that follow; a label of -100 has none."""
        x_TD, labels_T = hidden_BTD.flatten(0, 1), labels_BT.flatten()
        weight_ND = self.embedding.quantized_weight()
        if chunk is None:
            return mean_loss(cross_entropy(x_TD, weight_ND=weight_ND, labels_T=labels_T), labels_T)
        losses_T = cut_cross_entropy(x_TD, weight_ND=weight_ND, labels_T=labels_T, chunk=chunk)
        return mean_loss(losses_T, labels_T)


class TransformerBlock(nn.Module):
    """Attention and feed-forward part, each added to the residual stream."""

    def __init__(self, config: ModelConfig, layer: Layer) -> None:
        super().__init__()
        self.mixer = Attention(config)
        self.ffn = build_feed_forward(config, layer)

    def forward(self, x_BTD: Tensor, mask_B1TT: Tensor, cos_B1TK: Tensor, sin_B1TK: Tensor) -> Tensor:
        """The residual stream after the block."""
        x_BTD = x_BTD + self.mixer(x_BTD, mask_B1TT, cos_B1TK, sin_B1TK)
        return x_BTD + self.ffn(x_BTD)


class Attention(nn.Module):
    """As many heads of keys as of queries, rotary positions, a norm before the output as our mixers have."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        D, P = config.hidden_size, config.inner_width
        self.num_heads = config.num_heads
        assert config.attention.num_key_value_heads in (None, config.num_heads)

        def linear(num_inputs: int, num_outputs: int, *, std: float = config.initializer_range) -> BitLinear:
            return BitLinear(
                num_inputs,
                num_outputs,
                group_size=group_size(config),
                act_block=act_block(config),
                norm=False,
                init_std=std,
            )

        self.norm = RMSNorm(D, eps=config.rms_norm_eps)
        self.q_proj, self.k_proj, self.v_proj = linear(D, P), linear(D, P), linear(D, P)
        self.out_norm = RMSNorm(P, eps=config.rms_norm_eps)
        self.o_proj = linear(P, D, std=residual_std(config))

    def forward(self, x_BTD: Tensor, mask_B1TT: Tensor, cos_B1TK: Tensor, sin_B1TK: Tensor) -> Tensor:
        """What attention adds."""
        x = norm_quant(x_BTD, self.norm, block=self.q_proj.act_block, mix=self.q_proj.quant_mix)
        q, k, v = (
            proj.project(x).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
            for proj in (self.q_proj, self.k_proj, self.v_proj)
        )
        q, k = (rotated(part, cos_B1TK, sin_B1TK).to(v.dtype) for part in (q, k))
        y_BHTV = F.scaled_dot_product_attention(q, k, v, attn_mask=mask_B1TT)
        y_BTP = y_BHTV.transpose(1, 2).flatten(2)
        out = self.o_proj
        return out.project(norm_quant(y_BTP, self.out_norm, block=out.act_block, mix=out.quant_mix))


def turns(position_BT: Tensor, head_dim: int) -> tuple[Tensor, Tensor]:
    """Cosine and sine of each position's angles, for half of a head's channels."""
    half = head_dim // 2
    rate_K = ROPE_THETA ** (-torch.arange(half, device=position_BT.device) / half)
    angle_B1TK = position_BT[:, None, :, None] * rate_K
    return angle_B1TK.cos(), angle_B1TK.sin()


def rotated(x_BHTK: Tensor, cos_B1TK: Tensor, sin_B1TK: Tensor) -> Tensor:
    """Rotary positions, half-split, in float32."""
    first, second = x_BHTK.float().chunk(2, dim=-1)
    return torch.cat((first * cos_B1TK - second * sin_B1TK, first * sin_B1TK + second * cos_B1TK), dim=-1)
