"""`Chimera51Config`: a Chimera's config.json as `transformers` holds it."""

from typing import Any, ClassVar

from transformers import PreTrainedConfig

from configs.schema.model import ModelConfig
from exports.handover.config_keys import KEPT_KEY, form_of, kept, model_config
from exports.handover.names import Form


class Chimera51Config(PreTrainedConfig):
    """All keys of the file as attributes, and the config that they make."""

    model_type = "chimera51"
    attribute_map: ClassVar[dict[str, str]] = {"num_attention_heads": "num_heads"}

    def __post_init__(self, **kwargs: Any) -> None:
        named = {**kwargs, "transformers_version": self.transformers_version or ""}
        kwargs.setdefault(KEPT_KEY, kept(named, form="latent"))
        super().__post_init__(**kwargs)

    @property
    def weight_form(self) -> Form:
        """Whether the weights are to be quantised where they are used, or were once and for all."""
        return form_of(self.to_dict())

    def model_config(self) -> ModelConfig:
        """The config as the rest of the house has it, checked."""
        return model_config(self.to_dict(), source=str(self.name_or_path or type(self).__name__))
