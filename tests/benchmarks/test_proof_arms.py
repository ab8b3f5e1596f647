"""The arms of the proof: equal in what is stored, sound where they begin, and learning in every part."""

import math

import pytest
import torch

from benchmarks.proof_arms import ARMS, build_arm, config_of, costs
from chimera.mixers.packing import Packing
from chimera.train.groups import adamw
from chimera.train.step import MicroBatch, TrainStep
from configs.accounting import parameters

VOCABULARY = 8192
TOKENS = 64


@pytest.mark.parametrize("name", ARMS)
def test_a_full_arm_is_of_the_size_that_is_reported(name: str):
    with torch.device("meta"):
        model = build_arm(name, size="full", vocab_size=VOCABULARY, seed=0)
    cost = costs(name, size="full", vocab_size=VOCABULARY, seq_len=1024)
    assert sum(parameter.numel() for parameter in model.parameters()) == cost["parameters"]
    assert 8e6 <= cost["parameters"] <= (11e6 if ARMS[name].shaped_as else 10e6)
    assert cost["active_parameters"] <= cost["parameters"]


def test_all_packed_files_are_of_one_size():
    packed = {
        name: costs(name, size="full", vocab_size=VOCABULARY, seq_len=1024)["packed_bytes"]
        for name, arm in ARMS.items()
        if arm.shaped_as is None
    }
    assert max(packed.values()) <= 1.01 * min(packed.values())
    assert packed["hybrid"] == packed["hybrid_bf16"]
    assert packed["transformer"] == packed["transformer_bf16"]


def test_what_is_left_out_is_left_out():
    configs = {name: config_of(name, size="full", vocab_size=VOCABULARY) for name in ARMS}
    assert {name for name, config in configs.items() if config.looping.enabled} == {
        "hybrid",
        "hybrid_bf16",
        "hybrid_no_moe",
    }
    assert {name for name, config in configs.items() if config.backbone.moe.enabled} == {
        "hybrid",
        "hybrid_bf16",
        "hybrid_no_loops",
    }


@pytest.mark.parametrize("name", ARMS)
def test_an_arm_begins_at_chance_and_every_parameter_learns(name: str):
    """The first loss is that of a guess among all words; the gradient reaches every parameter."""
    vocabulary = 512
    model = build_arm(name, size="micro", vocab_size=vocabulary, seed=0).train()
    step = TrainStep(model, adamw(model, weight_decay=0.0), grad_clip=1.0, seed=0)
    reached = dict.fromkeys((name for name, _ in model.named_parameters()), False)
    resets_BT = torch.zeros(4, TOKENS, dtype=torch.bool)
    resets_BT[:, [0, 20]] = True
    for number in range(3):
        # Words drawn at random: in a text that repeats itself, a tied head is above chance from the start.
        generator = torch.Generator().manual_seed(number)
        ids_BT, labels_BT = torch.randint(vocabulary, (2, 4, TOKENS), generator=generator)
        batch = MicroBatch(ids_BT, labels_BT, resets_BT, 2, labels_BT.numel(), labels_BT.numel())
        result = step.run([batch], step=number, apply=False)
        if number == 0:
            assert result.loss == pytest.approx(math.log(vocabulary), rel=0.02)
        for parameter_name, parameter in model.named_parameters():
            assert parameter.grad is not None
            reached[parameter_name] |= bool(parameter.grad.any())
    # One factor of a correction is zero at first, and so is the gradient of the other.
    idle = [name for name, found in reached.items() if not found and not name.endswith("correction.down")]
    assert idle == []
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters(
        config_of(name, size="micro", vocab_size=vocabulary)
    )


@pytest.mark.parametrize("name", ["hybrid", "transformer"])
def test_a_twin_is_the_same_model_without_its_quantisers(name: str):
    ids_BT = torch.arange(TOKENS).remainder(300)[None]
    own, twin = (
        build_arm(arm, size="micro", vocab_size=512, seed=3).eval() for arm in (name, f"{name}_bf16")
    )
    assert all(torch.equal(a, b) for a, b in zip(own.parameters(), twin.parameters(), strict=True))
    with torch.no_grad():
        hidden, other = (model(ids_BT, keep_state=False).hidden_BTD for model in (own, twin))
    assert not torch.equal(hidden, other)


def test_a_transformer_sees_its_document_alone_and_no_future():
    model = build_arm("transformer_bf16", size="micro", vocab_size=512, seed=0).eval()
    generator = torch.Generator().manual_seed(0)
    ids_T = torch.randint(512, (2 * TOKENS,), generator=generator)
    resets_T = torch.zeros(2 * TOKENS, dtype=torch.bool)
    resets_T[[0, TOKENS]] = True

    def hidden(ids_T: torch.Tensor, resets_T: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            return model(ids_T[None], packing=Packing(resets_T[None], 2), keep_state=False).hidden_BTD[0]

    both, second = hidden(ids_T, resets_T), hidden(ids_T[TOKENS:], resets_T[TOKENS:])
    torch.testing.assert_close(both[TOKENS:], second, rtol=1e-4, atol=1e-5)
    changed = ids_T.clone()
    changed[-1] = (changed[-1] + 1) % 512
    torch.testing.assert_close(hidden(changed, resets_T)[:-1], both[:-1], rtol=1e-4, atol=1e-5)
    assert not torch.equal(hidden(changed, resets_T)[-1], both[-1])
