"""Section `backbone`: which layer stands where, and where the experts are."""

from collections.abc import Mapping
from dataclasses import field
from typing import Annotated, Literal

from configs.schema.keys import NAMES, QUANTITY, Key
from configs.schema.section import section

LayerKind = Literal["gated_deltanet", "xlstm_m", "titans_mac", "tsp_span_knot", "mla", "swa", "gqa"]
ATTENTION_KINDS: tuple[LayerKind, ...] = ("mla", "swa", "gqa")
DEFAULT_ALIASES: Mapping[str, LayerKind] = {
    "GD": "gated_deltanet",
    "XM": "xlstm_m",
    "TM": "titans_mac",
    "SK": "tsp_span_knot",
}
CacheKind = Literal["none", "latent", "window", "full"]
CACHE_OF_KIND: Mapping[str, CacheKind] = {"mla": "latent", "swa": "window", "gqa": "full"}
BackboneType = Literal["hybrid_recurrent_no_attention", "hybrid", "transformer"]
Routing = Literal["noaux_bias", "softmax"]


@section
class MixtureOfExperts:
    """Layers whose feed-forward part is chosen token by token."""

    enabled: Annotated[bool, Key("Use experts in the layers listed", "works")] = False
    layers: Annotated[tuple[int, ...], Key("Layers with experts, counted from 0", "works", low=0)] = ()
    n_routed_experts: Annotated[
        int, Key("Experts to choose from", "works", unit="experts", low=2, high=4096)
    ] = 16
    n_shared_experts: Annotated[
        int,
        Key(
            "Experts that every token visits, fused to one wider expert",
            "works",
            unit="experts",
            low=1,
            high=16,
        ),
    ] = 1
    num_experts_per_tok: Annotated[
        int, Key("Routed experts that a token visits", "works", unit="experts", low=1, high=64)
    ] = 2
    moe_intermediate_size: Annotated[
        int, Key("Inner width of one expert", "works", unit="channels", low=16, high=65536)
    ] = 384
    routing: Annotated[
        Routing, Key("Sigmoid scores balanced by a bias on the selection, or softmax scores", "works")
    ] = "noaux_bias"
    bias_update_rate: Annotated[
        float, Key("Step of the balancing bias after each optimiser step", "works", low=0.0, high=1.0)
    ] = 1e-3
    route_ahead: Annotated[
        int,
        Key(
            "Layers before its own behind which a layer's experts are decided, so that they are known early; "
            "0 decides by the layer's own input",
            "works",
            unit="layers",
            low=0,
            high=64,
        ),
    ] = 0
    lookahead_steps: Annotated[
        int,
        Key(
            "Future tokens whose experts the lookahead router foresees",
            "works",
            unit="tokens",
            low=0,
            high=16,
        ),
    ] = 2
    total_params: Annotated[str | None, Key("Stated parameters of all experts", "works", form=QUANTITY)] = (
        None
    )
    active_params_per_tok: Annotated[
        str | None, Key("Stated expert parameters that a token visits", "works", form=QUANTITY)
    ] = None


@section
class Backbone:
    """Which layer stands where."""

    type: Annotated[BackboneType, Key("Whether attention layers may stand in the pattern", "works")] = (
        "hybrid_recurrent_no_attention"
    )
    layer_pattern: Annotated[
        str, Key("Aliases of layers, repeated from the first layer on", "works", form=NAMES)
    ] = "GD XM GD TM GD XM GD SK"
    layer_pattern_repeat: Annotated[
        float | None, Key("How often the pattern fits into the layers", "works", unit="times", low=0.0)
    ] = None
    layer_aliases: Annotated[Mapping[str, LayerKind], Key("Kind of layer behind each alias", "works")] = (
        field(default_factory=lambda: dict(DEFAULT_ALIASES))
    )
    layer_counts: Annotated[
        Mapping[str, int] | None, Key("Layers of each alias", "works", unit="layers", low=0)
    ] = None
    kv_cache: Annotated[CacheKind, Key("Kind of cache that attention layers keep", "works")] = "none"
    moe: Annotated[MixtureOfExperts, Key("Experts", "works")] = field(default_factory=MixtureOfExperts)
