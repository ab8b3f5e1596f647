"""The model of a Hugging Face folder: our logits and our text, through the interface of `transformers`."""

import copy
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM

import exports.huggingface
from chimera.generation import generate
from chimera.model import ChimeraForCausalLM
from chimera.saving import load_model, save_model
from configs.errors import UsageError
from configs.load import build_config, preset
from exports.b158 import export_b158
from exports.handover.causal_lm import Chimera51ForCausalLM
from exports.handover.folder import export_huggingface
from exports.unpacked import torch_model
from tests.exports.conftest import learnt

GREEDY = {"do_sample": False, "repetition_penalty": 1.0, "max_new_tokens": 6}
ALL_ROUNDS = {**GREEDY, "exit_threshold": 0.0}
"""A token that may leave the loop is computed alone, which takes many times as long."""
FORMS = {
    "quantization": {"sherry_mode": {"enabled": True}, "hgf_correction": {"enabled": True, "rank": 6}},
    "preset": "micro",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, micro: Path) -> Path:
    out = tmp_path_factory.mktemp("huggingface") / "folder"
    export_huggingface(micro, out)
    return out


@pytest.fixture(scope="module")
def ours(micro: Path) -> ChimeraForCausalLM:
    return load_model(micro).eval()


@pytest.fixture(scope="module")
def theirs(folder: Path) -> Chimera51ForCausalLM:
    return AutoModelForCausalLM.from_pretrained(folder)


@pytest.fixture
def ids_BT() -> Tensor:
    return torch.randint(2, 512, (3, 14), generator=torch.Generator().manual_seed(5))


@torch.no_grad()
def logits_of(model: ChimeraForCausalLM, ids_BT: Tensor) -> Tensor:
    threshold = model.config.exit_threshold_default
    return model.logits(model(ids_BT, exit_threshold=threshold).hidden_BTD)


@torch.no_grad()
def test_logits_and_loss_are_ours(ours: ChimeraForCausalLM, theirs: Chimera51ForCausalLM, ids_BT: Tensor):
    assert torch.equal(theirs(ids_BT).logits, logits_of(ours, ids_BT))
    whole = theirs(ids_BT, labels=ids_BT, exit_threshold=0.0, rounds=3)
    out = ours(ids_BT, rounds=3)
    assert torch.equal(whole.logits, ours.logits(out.hidden_BTD))
    assert torch.equal(whole.loss, ours.loss(out.hidden_BTD[:, :-1], ids_BT[:, 1:]))
    last = theirs(ids_BT, logits_to_keep=1, return_dict=False)
    torch.testing.assert_close(last[0], theirs(ids_BT).logits[:, -1:], rtol=0, atol=1e-5)


@torch.no_grad()
def test_bfloat16_is_what_training_computes_in(ours: ChimeraForCausalLM, folder: Path, ids_BT: Tensor):
    half = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        expected = logits_of(ours, ids_BT)
    assert torch.equal(half(ids_BT).logits, expected)
    assert {value.dtype for value in half.parameters()} == {torch.float32}
    half.to(torch.bfloat16)
    with pytest.raises(UsageError, match="Load the model with that dtype instead"):
        half(ids_BT)


def test_its_text_is_ours(ours: ChimeraForCausalLM, theirs: Chimera51ForCausalLM, ids_BT: Tensor):
    for options, rows in ((ALL_ROUNDS, 3), (GREEDY, 1)):
        threshold = options.get("exit_threshold", ours.config.exit_threshold_default)
        made = theirs.generate(ids_BT[:rows], **options)[:, ids_BT.shape[1] :].tolist()
        for row, ids_T in zip(made, ids_BT[:rows].tolist(), strict=True):
            expected = list(generate(ours, ids_T, max_new_tokens=6, exit_threshold=float(threshold)))
            assert row[: len(expected)] == expected
    without = theirs.generate(ids_BT, **ALL_ROUNDS, use_cache=False)
    assert torch.equal(theirs.generate(ids_BT, **ALL_ROUNDS), without)


def test_padding_before_a_text_leaves_no_trace(theirs: Chimera51ForCausalLM, ids_BT: Tensor):
    mask_BT = torch.ones_like(ids_BT)
    mask_BT[1, :5], mask_BT[2, :11] = 0, 0
    made = theirs.generate(ids_BT, attention_mask=mask_BT, **ALL_ROUNDS)
    for row, padded in enumerate((0, 5, 11)):
        alone = theirs.generate(ids_BT[row : row + 1, padded:], **ALL_ROUNDS)
        assert alone[0].tolist() == made[row, padded : padded + alone.shape[1]].tolist()


@torch.no_grad()
def test_padding_behind_a_text_is_for_scoring_alone(theirs: Chimera51ForCausalLM, ids_BT: Tensor):
    mask_BT = torch.ones_like(ids_BT)
    mask_BT[0, 10:] = 0
    scored = theirs(ids_BT, attention_mask=mask_BT)
    assert scored.past_key_values is None
    alone = theirs(ids_BT[:1, :10]).logits
    torch.testing.assert_close(scored.logits[:1, :10], alone, rtol=0, atol=1e-5)
    with pytest.raises(UsageError, match="would become part of the recurrent state"):
        theirs.generate(ids_BT, attention_mask=mask_BT, **GREEDY)
    mask_BT[0, 12:] = 1
    with pytest.raises(UsageError, match="has a gap"):
        theirs(ids_BT, attention_mask=mask_BT)


def test_a_state_goes_on_branches_and_is_not_cut(theirs: Chimera51ForCausalLM, ids_BT: Tensor):
    first = theirs.generate(ids_BT, **ALL_ROUNDS, return_dict_in_generate=True)
    state = first.past_key_values
    assert state.get_seq_length() == first.sequences.shape[1] - 1
    kept = copy.deepcopy(state)
    whole = theirs.generate(ids_BT, **{**ALL_ROUNDS, "max_new_tokens": 12})
    for branch in (state, kept):
        assert torch.equal(theirs.generate(first.sequences, past_key_values=branch, **ALL_ROUNDS), whole)
    with pytest.raises(UsageError, match="cannot be cut to 3"):
        state.crop(3)
    mask_BT = torch.ones(3, first.sequences.shape[1] + 1, dtype=torch.int64)
    mask_BT[1, -1] = 0
    with pytest.raises(UsageError, match="would cut the text off"):
        theirs(ids_BT[:, :1], attention_mask=mask_BT, past_key_values=kept, use_cache=False)


def test_beams_carry_their_states(theirs: Chimera51ForCausalLM, ids_BT: Tensor):
    asked = {**ALL_ROUNDS, "num_beams": 3, "num_return_sequences": 2}
    made = theirs.generate(ids_BT, **asked)
    assert made.shape[0] == 6
    assert torch.equal(made, theirs.generate(ids_BT, **asked, use_cache=False))


def test_a_step_of_training_moves_the_latent_weights(folder: Path, ids_BT: Tensor):
    model = AutoModelForCausalLM.from_pretrained(folder).train()
    optimiser = torch.optim.SGD(model.parameters(), lr=0.5)
    first = model(ids_BT, labels=ids_BT)
    assert first.past_key_values is None
    first.loss.backward()
    assert all(value.grad is not None for name, value in model.named_parameters() if "proj.weight" in name)
    optimiser.step()
    assert model(ids_BT, labels=ids_BT).loss < first.loss


@pytest.mark.parametrize("raw", [{"preset": "micro"}, FORMS], ids=["ternary", "sherry with corrections"])
@torch.no_grad()
def test_a_packed_model_computes_with_its_own_weights(tmp_path: Path, raw: dict[str, object], ids_BT: Tensor):
    save_model(learnt(build_config(raw, source="test")), tmp_path / "checkpoint")
    export_b158(tmp_path / "checkpoint", tmp_path / "packed")
    export_huggingface(tmp_path / "packed", tmp_path / "folder")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "folder")
    packed = torch_model(tmp_path / "packed")
    assert torch.equal(model(ids_BT).logits, logits_of(packed, ids_BT))
    again = copy.deepcopy(model)
    again.get_input_embeddings().weight.zero_()
    assert torch.equal(model(ids_BT).logits, logits_of(packed, ids_BT))
    assert not again(ids_BT).logits.any()
    with pytest.raises(UsageError, match="chimera import huggingface"):
        model.train()(ids_BT, labels=ids_BT)


def test_a_config_comes_through_their_class_unchanged(tmp_path: Path):
    for name in ("micro", "demo", "chimera-5.1"):
        config = exports.huggingface.Chimera51Config(**_keys(name))
        config.save_pretrained(tmp_path / name)
        again = AutoConfig.from_pretrained(tmp_path / name)
        assert again.model_config() == preset(name)
        assert again.num_attention_heads == preset(name).num_heads


def _keys(name: str) -> dict[str, object]:
    from configs.codec import encode

    return encode(preset(name))
