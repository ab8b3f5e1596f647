"""Which steps stand behind each kind of layer."""

from collections.abc import Callable, Mapping

from configs.schema.backbone import LayerKind
from runtime.building.mixers.gated_delta import add_gated_delta
from runtime.building.mixers.mlstm import add_mlstm
from runtime.building.mixers.titans import add_titans
from runtime.building.plan import Passage, Stream

MIXERS: Mapping[LayerKind, Callable[[Passage, Stream], None]] = {
    "gated_deltanet": add_gated_delta,
    "tsp_span_knot": add_gated_delta,
    "xlstm_m": add_mlstm,
    "titans_mac": add_titans,
}
