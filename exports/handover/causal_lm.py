"""`Chimera51ForCausalLM`: the model of `chimera.model` behind the interface of `transformers`.

Notable choices:
- parameters are float32 whatever `dtype` asks for, as quantising needs them; `dtype=torch.bfloat16` computes
  products in it, by autocast, as training does;
- the cache that `generate` carries is the recurrent state, of constant size;
- padding on the left is a document of its own before the text, so that it leaves no trace in the state;
  padding elsewhere would, and is refused where the state is kept.
"""

from contextlib import AbstractContextManager, nullcontext
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import GenerationMixin, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutputWithPast

from chimera.mixers.packing import Packing, packing_of
from chimera.model import build
from configs.errors import UsageError
from exports.handover.config import Chimera51Config
from exports.handover.stream_state import StreamState
from exports.unpacked import hold_weights


class Chimera51ForCausalLM(PreTrainedModel, GenerationMixin):
    """A Chimera as a language model of `transformers`."""

    config_class = Chimera51Config
    base_model_prefix = ""
    main_input_name = "input_ids"
    _is_stateful = True
    _keep_in_fp32_modules_strict: set[str] | list[str] | None = ["model"]  # noqa: RUF012

    def __init__(self, config: Chimera51Config) -> None:
        super().__init__(config)
        self.model = build(config.model_config())
        if config.weight_form == "held":
            hold_weights(self.model)
        self.post_init()

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        past_key_values: StreamState | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int = 0,
        rounds: int | None = None,
        exit_threshold: float | None = None,
        return_dict: bool | None = None,
    ) -> CausalLMOutputWithPast | tuple[Any, ...]:
        """Logits of the next words, the loss where there are labels, and the state that goes on.

        `logits_to_keep` is the number of last places to compute logits for; 0 is all. `rounds` and
        `exit_threshold` are those of the loop; the config's own are the default, as in our runtime. With a
        threshold of 0 every token takes all rounds, and a batch goes through them together.
        """
        self._check(learns=self.training and labels is not None)
        seen = 0 if past_key_values is None else past_key_values.num_tokens
        real_BT = None if attention_mask is None else attention_mask[:, -input_ids.shape[1] :].bool()
        ends_padded = real_BT is not None and bool((~real_BT[:, -1]).any())
        keeps_state = not (self.training or ends_padded) if use_cache is None else use_cache
        packing = None if real_BT is None else padding_of(real_BT, has_past=seen > 0, keeps_state=keeps_state)
        with self._precision():
            out = self.model(
                input_ids,
                state=None if past_key_values is None else past_key_values.state,
                packing=packing,
                rounds=rounds,
                exit_threshold=self._threshold(exit_threshold),
                keep_state=keeps_state,
            )
            loss = None
            if labels is not None:
                loss = self.model.loss(out.hidden_BTD[:, :-1], labels[:, 1:].contiguous())
            logits = self.model.logits(out.hidden_BTD[:, -logits_to_keep:])
        state = StreamState(out.state, num_tokens=seen + input_ids.shape[1]) if keeps_state else None
        made = CausalLMOutputWithPast(
            loss=loss,
            logits=logits,
            # Theirs is a class of keys and values; who only carries it along asks for no more than ours has.
            past_key_values=cast(Any, state),
        )
        return made if return_dict is not False else made.to_tuple()

    def get_input_embeddings(self) -> nn.Module:
        """The table of embedding and head."""
        return self.model.embedding

    def _init_weights(self, module: nn.Module) -> None:
        """Layers initialise themselves; called for what a file did not hold."""
        reset = getattr(module, "reset_parameters", None)
        if reset is not None:
            reset()

    def _threshold(self, asked: float | None) -> float:
        if self.training:
            return 0.0
        return self.model.config.exit_threshold_default if asked is None else asked

    def _check(self, *, learns: bool) -> None:
        if self.dtype != torch.float32:
            raise UsageError(
                f"the parameters were turned to {self.dtype}, but quantising needs them in float32",
                hint="Load the model with that dtype instead: products are computed in it.",
            )
        if learns and self.config.weight_form == "held":
            raise UsageError(
                "weights that came out of a packed model are scale × code, and cannot be trained",
                hint="Draw latent weights for them: chimera import huggingface FOLDER CHECKPOINT",
            )

    def _precision(self) -> AbstractContextManager[Any]:
        dtype = self.config.dtype
        if not isinstance(dtype, torch.dtype) or dtype == torch.float32:
            return nullcontext()
        return torch.autocast(device_type=self.device.type, dtype=dtype)

    @classmethod
    def _supports_default_dynamic_cache(cls) -> bool:
        return False


def padding_of(real_BT: Tensor, *, has_past: bool, keeps_state: bool) -> Packing | None:
    """How padding is kept out of the text: before it, as a document of its own.

    Behind a text it changes nothing that came before, so it may stand where no state is kept.
    """
    if bool(real_BT.all()):
        return None
    rises = (real_BT[:, 1:] & ~real_BT[:, :-1]).sum(dim=1)
    falls = (~real_BT[:, 1:] & real_BT[:, :-1]).sum(dim=1)
    if bool((rises + falls > 1).any()):
        raise UsageError(
            "the attention mask of a row has a gap; a text may have padding before it, or behind it",
            hint="Let the tokenizer pad: padding_side='left' to generate, either side to train.",
        )
    if bool((falls > 0).any()) and keeps_state:
        raise UsageError(
            "padding behind a text would become part of the recurrent state",
            hint="Pad on the left (tokenizer.padding_side = 'left'), or call with use_cache=False.",
        )
    if has_past and bool((~real_BT).any()):
        raise UsageError(
            "padding in what goes on from a state would cut the text off from it",
            hint="Give each row its next tokens without padding, or go on row by row.",
        )
    return packing_of(real_BT.long())
