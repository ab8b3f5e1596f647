"""Which mixer stands behind each kind of layer."""

from collections.abc import Callable, Mapping

from chimera.mixers.gated_delta.layer import GatedDeltaNet
from chimera.mixers.mlstm.layer import MLSTM
from chimera.mixers.titans.layer import TitansMAC
from configs.inventory import Layer
from configs.schema.backbone import LayerKind
from configs.schema.model import ModelConfig
from configs.schema.quantization import ActivationMethod
from quant.activations import BLOCK, ActBlock
from quant.ternary import GroupSize

Mixer = GatedDeltaNet | MLSTM | TitansMAC


def build_mixer(config: ModelConfig, layer: Layer) -> Mixer:
    """The mixer of one layer, freshly initialised."""
    return MIXERS[layer.kind](config, layer)


def group_size(config: ModelConfig) -> GroupSize:
    """What shares a weight scale, as the layers take it."""
    quantization = config.quantization
    sizes: Mapping[str, GroupSize] = {
        "absmean_per_group": quantization.group_size,
        "absmean_per_row": "row",
        "absmean_per_tensor": "tensor",
    }
    return sizes[quantization.weight_scale]


def act_block(config: ModelConfig) -> ActBlock:
    """What shares an activation scale, as the layers take it."""
    return ACT_BLOCKS[config.quantization.activation_method]


def residual_std(config: ModelConfig) -> float:
    """Deviation of weights that write to the residual stream: smaller, the more layers write to it."""
    return config.initializer_range / (2 * config.num_hidden_layers) ** 0.5


def _gated_deltanet(config: ModelConfig, layer: Layer) -> Mixer:
    exact_flow = config.efla.enabled and layer.alias in config.efla.target_layers.split()
    return GatedDeltaNet(
        width=config.hidden_size,
        num_heads=config.num_heads,
        head_dim=config.head_dim,
        conv_size=config.gated_deltanet.conv_size,
        chunk_size=config.gated_deltanet.chunk_size,
        use_output_gate=config.gated_deltanet.use_output_gate,
        rule="exact_flow" if exact_flow else "delta",
        eps=config.rms_norm_eps,
        group_size=group_size(config),
        act_block=act_block(config),
        init_std=config.initializer_range,
        out_init_std=residual_std(config),
    )


def _mlstm(config: ModelConfig, layer: Layer) -> Mixer:
    return MLSTM(
        width=config.hidden_size,
        num_heads=config.num_heads,
        head_dim=config.head_dim,
        conv_size=config.xlstm.conv_size,
        chunk_size=config.xlstm.chunk_size,
        use_output_gate=config.xlstm.use_output_gate,
        exponential_gating=config.xlstm.exponential_gating,
        eps=config.rms_norm_eps,
        group_size=group_size(config),
        act_block=act_block(config),
        init_std=config.initializer_range,
        out_init_std=residual_std(config),
    )


def _titans(config: ModelConfig, layer: Layer) -> Mixer:
    return TitansMAC(
        width=config.hidden_size,
        num_heads=config.num_heads,
        head_dim=config.head_dim,
        num_slots=config.titans.persistent_memory_slots,
        window=config.titans.local_window_size,
        window_bits=config.titans.window_bits,
        memory_chunk=config.titans.memory_chunk,
        conv_size=config.titans.conv_size,
        rope_theta=config.titans.rope_theta,
        eps=config.rms_norm_eps,
        group_size=group_size(config),
        act_block=act_block(config),
        init_std=config.initializer_range,
        out_init_std=residual_std(config),
    )


ACT_BLOCKS: Mapping[ActivationMethod, ActBlock] = {"absmax_per_block": BLOCK, "absmax_per_token": "token"}

MIXERS: Mapping[LayerKind, Callable[[ModelConfig, Layer], Mixer]] = {
    "gated_deltanet": _gated_deltanet,
    "tsp_span_knot": _gated_deltanet,
    "xlstm_m": _mlstm,
    "titans_mac": _titans,
}
"""A span knot is a Gated DeltaNet in its first phase. Attention layers are described, not trained here."""
