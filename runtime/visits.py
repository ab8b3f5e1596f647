"""What tokens went through since a model was opened: which experts they visited, and how many rounds."""

import numpy as np

from configs.inventory import layers
from configs.schema.model import ModelConfig
from runtime.binding import Integers
from runtime.building.experts import counted_name
from runtime.building.loop import Controls
from runtime.building.workspace import Workspace


class Visits:
    """Counts that the program keeps."""

    def __init__(self, config: ModelConfig, workspace: Workspace, controls: Controls) -> None:
        num_experts = config.backbone.moe.n_routed_experts
        self._of_layers: dict[int, Integers] = {
            layer.index: workspace.array(counted_name(layer.index), (num_experts,), np.int64)
            for layer in layers(config)
            if layer.experts
        }
        self._controls = controls

    def of_experts(self) -> dict[int, Integers]:
        """Tokens that visited each expert, by layer."""
        return {layer: counts.copy() for layer, counts in self._of_layers.items()}

    def of_rounds(self) -> Integers:
        """Tokens that took each round of the loop."""
        return self._controls.totals.copy()

    def last_rounds(self, num_tokens: int, *, of: int) -> Integers:
        """Rounds that the last tokens took, `of` so many in the last step."""
        return self._controls.taken_T[max(0, of - num_tokens) : of].copy()
