"""What decays and what does not, by name, and that nothing is left out or counted twice."""

import pytest
import torch
from torch import nn

from chimera.model import build
from chimera.train.groups import BETAS, EPSILON, adamw, group_names, parameter_groups, set_rates
from configs.errors import UsageError
from configs.inventory import tensors
from configs.load import build_config
from configs.schema.model import ModelConfig

EXTRA = {
    "plain": {},
    "gated": {"gated_deltanet": {"use_output_gate": True}, "xlstm": {"use_output_gate": True}},
    "dense loop": {"looping": {"injection": "dense"}},
}


def config(kind: str) -> ModelConfig:
    return build_config({"preset": "micro", **EXTRA[kind]}, source="test")


def model(kind: str = "plain") -> nn.Module:
    return build(config(kind), device="meta")


@pytest.mark.parametrize("kind", EXTRA)
@pytest.mark.parametrize("decay_embedding", [False, True])
def test_every_parameter_is_in_one_group(kind: str, decay_embedding: bool):
    one = model(kind)
    names = group_names(one, decay_embedding=decay_embedding)
    assert sorted(names.decayed + names.undecayed) == sorted(dict(one.named_parameters()))
    groups = parameter_groups(one, weight_decay=0.1, decay_embedding=decay_embedding)
    ids = [id(parameter) for group in groups for parameter in group["params"]]
    assert len(ids) == len(set(ids)) == len(list(one.parameters()))


@pytest.mark.parametrize("kind", EXTRA)
def test_every_ternary_matrix_decays_and_of_the_rest_only_routers(kind: str):
    decayed = set(group_names(model(kind)).decayed)
    ternary = {tensor.name for tensor in tensors(config(kind)) if tensor.storage == "ternary"}
    assert ternary <= decayed
    assert {name.rpartition(".")[2] for name in decayed - ternary} == {"router", "hidden", "out"}


@pytest.mark.parametrize(
    "name",
    [
        "final_norm.weight",
        "layers.0.mixer.A_log",
        "layers.0.mixer.dt_bias",
        "layers.0.mixer.alpha_proj.weight",
        "layers.0.mixer.q_conv.weight",
        "layers.0.mixer.head_norm.weight",
        "layers.1.mixer.f_bias",
        "layers.1.mixer.i_proj.weight",
        "layers.2.mixer.attn_scale",
        "layers.2.mixer.eta_proj.weight",
        "layers.2.mixer.memory_w1",
        "layers.2.mixer.slot_keys",
        "layers.2.ffn.experts.down_norm",
        "layers.2.ffn.shared.down_norm",
        "loop.A_log",
        "loop.B",
        "loop.C",
        "embedding.weight",
    ],
)
@pytest.mark.parametrize("kind", ["plain", "dense loop"])
def test_scales_gates_and_values_do_not_decay(name: str, kind: str):
    assert name in group_names(model(kind)).undecayed


def test_the_embedding_decays_when_asked():
    assert "embedding.weight" in group_names(model(), decay_embedding=True).decayed


def test_an_unknown_parameter_of_one_axis_never_decays():
    module = nn.Module()
    module.wondrous = nn.Parameter(torch.zeros(4))
    module.matrix = nn.Parameter(torch.zeros(4, 4))
    assert group_names(module) == (("matrix",), ("wondrous",))


def test_a_compiled_layer_is_grouped_as_the_layer_itself():
    plain, wrapped = group_names(model()), model()
    for index, layer in enumerate(wrapped.layers):
        compiled = nn.Module()
        compiled._orig_mod = layer  # as torch.compile names it
        wrapped.layers[index] = compiled
    names = group_names(wrapped)
    assert names != plain
    assert tuple(tuple(name.replace("_orig_mod.", "") for name in group) for group in names) == plain


def test_frozen_parameters_are_left_out():
    one = model()
    one.embedding.weight.requires_grad_(False)
    names = group_names(one, decay_embedding=True)
    assert "embedding.weight" not in names.decayed + names.undecayed
    for parameter in one.parameters():
        parameter.requires_grad_(False)
    with pytest.raises(UsageError, match="no parameter of the model is to be learnt"):
        group_names(one)


def test_the_optimiser_pulls_on_one_group_alone():
    module = nn.Module()
    module.matrix = nn.Parameter(torch.ones(2, 2))
    module.norm = nn.Parameter(torch.ones(2))
    optimizer = adamw(module, weight_decay=0.5)
    assert all(group["betas"] == BETAS and group["eps"] == EPSILON for group in optimizer.param_groups)
    for parameter in module.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    assert torch.equal(module.matrix, torch.ones(2, 2))  # the rate is 0 until it is set
    set_rates(optimizer.param_groups, rate=0.1, decay=0.5)
    optimizer.step()
    assert torch.allclose(module.matrix, torch.full((2, 2), 0.95))
    assert torch.equal(module.norm, torch.ones(2))
    set_rates(optimizer.param_groups, rate=0.1, decay=0.0)
    optimizer.step()
    assert torch.allclose(module.matrix, torch.full((2, 2), 0.95))


def test_the_state_of_the_optimiser_keeps_what_decays():
    module = nn.Linear(2, 2)
    optimizer = adamw(module, weight_decay=0.5)
    again = adamw(module, weight_decay=0.1)
    again.load_state_dict(optimizer.state_dict())
    assert [group["decays"] for group in again.param_groups] == [True, False]
