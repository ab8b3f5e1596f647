"""Which parameters the optimiser pulls towards zero: each is in one of two groups, by its name.

Decay is for the matrices that multiply activations. Norms, gates, decay rates, biases and the loop's A, B
and C are scales of something and mean something by their size; the learned slots and first memories of
Titans are values, not maps; a convolution is four numbers a channel. A parameter of one axis never decays,
whatever it is called, so that a new one is safe before anybody thinks of it here.
"""

import re
from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
from torch import nn

from configs.errors import UsageError

BETAS = (0.9, 0.95)
EPSILON = 1e-8

NO_DECAY = re.compile(
    r"(^|[._])("
    r"norm|gain|scale|bias|A_log|dt_bias"  # scales and offsets
    r"|alpha_proj|beta_proj|i_proj|f_proj|eta_proj|theta_proj"  # the float gates of the mixers
    r"|conv|slot_keys|slot_values|memory_w1|memory_w2"
    r")(\.weight)?$|^loop\."
)
EMBEDDING = re.compile(r"^embedding\.")
GATE = re.compile(r"(^|\.)correction\.gate$")
"""Gates of low-rank corrections, which stop learning before the rest."""


class Groups(NamedTuple):
    """The parameters of a model by what the optimiser does to them, as names in the order of the model."""

    decayed: tuple[str, ...]
    undecayed: tuple[str, ...]


def group_names(model: nn.Module, *, decay_embedding: bool = False) -> Groups:
    """Sort the learnt parameters of a model; frozen ones are in no group."""
    decayed: list[str] = []
    undecayed: list[str] = []
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            decays = _decays(name, parameter.dim(), decay_embedding=decay_embedding)
            (decayed if decays else undecayed).append(name)
    if not decayed and not undecayed:
        raise UsageError("no parameter of the model is to be learnt", hint="Unfreeze some of them.")
    return Groups(tuple(decayed), tuple(undecayed))


def parameter_groups(
    model: nn.Module, *, weight_decay: float, decay_embedding: bool = False
) -> list[dict[str, Any]]:
    """The groups as an optimiser of PyTorch takes them; each says in `decays` whether the decay is for it.

    The gates of corrections, if there are any, are a group of their own, which says so in `gates`.
    """
    names = group_names(model, decay_embedding=decay_embedding)
    by_name = dict(model.named_parameters())
    gates = [name for name in names.undecayed if GATE.search(name)]
    others = [name for name in names.undecayed if name not in set(gates)]
    return [
        {
            "params": [by_name[name] for name in group],
            "weight_decay": weight_decay if decays else 0.0,
            "decays": decays,
            "gates": group is gates,
        }
        for group, decays in ((names.decayed, True), (others, False), (gates, False))
        if group
    ]


def adamw(model: nn.Module, *, weight_decay: float, decay_embedding: bool = False) -> torch.optim.AdamW:
    """The optimiser of a model. Its rate is 0 until `set_rates` says otherwise."""
    groups = parameter_groups(model, weight_decay=weight_decay, decay_embedding=decay_embedding)
    on_gpu = all(parameter.is_cuda for group in groups for parameter in group["params"])
    return torch.optim.AdamW(groups, lr=0.0, betas=BETAS, eps=EPSILON, fused=on_gpu)


def set_rates(
    groups: Iterable[dict[str, Any]], *, rate: float, decay: float, gates_learn: bool = True
) -> None:
    """Set the learning rate of all groups, and the decay of those that have one."""
    for group in groups:
        # At rate 0 a step leaves a parameter as it is, to the bit.
        group["lr"] = rate if gates_learn or not group.get("gates") else 0.0
        group["weight_decay"] = decay if group["decays"] else 0.0


def _decays(name: str, dimensions: int, *, decay_embedding: bool) -> bool:
    # torch.compile puts its own name in front of what it wraps.
    name = name.replace("_orig_mod.", "")
    if EMBEDDING.search(name):
        return decay_embedding
    return dimensions > 1 and not NO_DECAY.search(name)
