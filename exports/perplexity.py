"""A checkpoint as a scorer: the torch model reads a document window by window and carries its state on."""

from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from chimera.cross_entropy import cross_entropy
from chimera.model import ChimeraForCausalLM, ModelState, build
from chronos_moe.experts import ExpertLinear
from configs.inventory import tensors
from exports.checkpoint import open_checkpoint
from quant.qat.correction import Correction
from quant.qat.linear import BitLinear
from runtime.measuring.exit import exit_threshold_of

# Logits of this many words are held at once.
_LOGITS_AT_ONCE = 2**24


class TorchScorer:
    """A `Scorer` for one stream; `rounds` and exit of the loop are the config's where none are given.

    The model goes to its evaluation mode, and must not learn while it is scored.
    """

    def __init__(
        self, model: ChimeraForCausalLM, *, rounds: int | None = None, exit_threshold: float | None = None
    ) -> None:
        self.model = model.eval()
        self.rounds = rounds
        self.exit_threshold = exit_threshold_of(model.config, exit_threshold)
        self._state: ModelState | None = None
        with torch.no_grad():
            self._head_ND = model.embedding.quantized_weight()

    @torch.no_grad()
    def score(self, ids_T: NDArray[np.int64], *, goes_on: bool) -> NDArray[np.float64]:
        """Natural logarithms of the probability of each id but the first, given all before it."""
        ids = torch.from_numpy(ids_T).to(self._head_ND.device)
        out = self.model(
            ids[None, :-1],
            state=self._state if goes_on else None,
            rounds=self.rounds,
            exit_threshold=self.exit_threshold,
        )
        self._state = out.state
        at_once = max(1, _LOGITS_AT_ONCE // self._head_ND.shape[0])
        losses = [
            cross_entropy(hidden_TD, weight_ND=self._head_ND, labels_T=labels_T)
            for hidden_TD, labels_T in zip(
                out.hidden_BTD[0].split(at_once), ids[1:].split(at_once), strict=True
            )
        ]
        return -torch.cat(losses).cpu().numpy().astype(np.float64)


def open_scorer(
    checkpoint: Path | str,
    *,
    rounds: int | None = None,
    exit_threshold: float | None = None,
    device: torch.device | str = "cpu",
) -> TorchScorer:
    """The scorer of a checkpoint, as `exports.checkpoint` finds one."""
    with open_checkpoint(checkpoint) as source:
        model = build(source.config, device="meta")
        weights = {
            tensor.name: cast(torch.Tensor, source.weights.get_tensor(source.prefix + tensor.name)).float()
            for tensor in tensors(source.config)
        }
        model.load_state_dict(weights, assign=True)
        whole = _quantized_once(model.to(device))
        return TorchScorer(whole, rounds=rounds, exit_threshold=exit_threshold)


def use_threads(number: int | None) -> None:
    """Let PyTorch compute with so many threads; None leaves it its own number."""
    if number is not None:
        torch.set_num_threads(number)


@torch.no_grad()
def _quantized_once(model: ChimeraForCausalLM) -> ChimeraForCausalLM:
    """The model with its ternary weights in the place of the latent ones: it can no longer learn.

    Quantising them for every window takes longer than a short window's products.
    """
    for module in model.modules():
        if isinstance(module, BitLinear | ExpertLinear):
            module.weight = nn.Parameter(module.quantized_weight(), requires_grad=False)
            # On the object, so that whatever asks for the weights gets these.
            cast(Any, module).quantized_weight = partial(getattr, module, "weight")
        elif isinstance(module, Correction):
            module.down, module.up = (
                nn.Parameter(weight(), requires_grad=False)
                for weight in (module.down_weight, module.up_weight)
            )
            for part in ("down", "up"):
                setattr(module, f"{part}_weight", partial(getattr, module, part))
    return model
