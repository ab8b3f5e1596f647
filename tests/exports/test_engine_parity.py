"""The engine beside the torch model that a packed file came from: operation, layer, whole model.

Both compute with the same int8 codes, each in float32 with roundings of its own, until a value lies so near
the middle between two codes that the roundings decide. From there on the texts' states differ by the size of
a code, not of a rounding. So what is compared is: most tokens agree as floats do, all agree as codes do.
"""

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from chimera.block import Block
from chimera.looping import LoopInjection
from chimera.model import ChimeraForCausalLM, build
from chimera.saving import save_model
from chronos_moe.router import route
from configs.inventory import layers
from configs.load import build_config, preset
from configs.schema.model import ModelConfig
from exports.b158 import export_b158
from quant.kernels.experts.reference import choose
from quant.kernels.residual.reference import norm_both
from quant.kernels.rounds.reference import decay_and_gain, mix_rounds, scale_rows
from quant.qat.activations import RMSNorm, fake_quantize_activations
from runtime.building.states import FIELDS
from runtime.building.tensors import Tensors
from runtime.engine import Engine
from runtime.model_folder import open_model
from runtime.reference.feed_forward import feed_forward
from runtime.reference.mixers import LayerState, mixer
from runtime.reference.weights import ReferenceWeights
from tests.exports.conftest import learnt

VARIANTS = {
    "as it is": {},
    "no loop, exact flow": {
        "looping": {"enabled": False},
        "efla": {"enabled": True, "target_layers": "GD SK"},
    },
    "one zero in every four, corrections": {
        "quantization": {"sherry_mode": {"enabled": True}, "hgf_correction": {"enabled": True, "rank": 12}}
    },
    "experts decided a layer ahead": {
        "backbone": {"moe": {"enabled": True, "layers": [1, 2, 3], "route_ahead": 1}},
    },
    "dense loop, output gates, experts by softmax": {
        "looping": {"injection": "dense", "zoh_input": "euler"},
        "gated_deltanet": {"use_output_gate": True},
        "xlstm": {"use_output_gate": True, "exponential_gating": False},
        "backbone": {"moe": {"routing": "softmax"}},
    },
}
AS_FLOATS = 5e-6
"""Relative distance of what differs by roundings of float32 alone, a few layers deep."""
AS_CODES = 0.1
"""The same where some codes differ by one."""


def distance(found: NDArray[np.float32], right: torch.Tensor) -> NDArray[np.float64]:
    """‖found − right‖ / ‖right‖ of each row."""
    wanted = right.detach().double().numpy()
    return np.linalg.norm(found - wanted, axis=-1) / np.linalg.norm(wanted, axis=-1)


def packed(folder: Path, config: ModelConfig, model: ChimeraForCausalLM) -> Path:
    save_model(model, folder / "checkpoint")
    export_b158(folder / "checkpoint", folder / "packed")
    return folder / "packed"


@pytest.mark.parametrize("routing", ["noaux_bias", "softmax"])
def test_routing_is_the_layers(routing: str) -> None:
    torch.manual_seed(0)
    u, router, bias = torch.randn(500, 64), torch.randn(16, 64) / 8, torch.randn(16) / 50
    record = route(u, router, num_chosen=3, routing=routing, bias_E=bias)
    chosen, weights = choose(record.logits.numpy(), bias.numpy(), 3, routing == "softmax")
    same = (chosen == record.chosen.numpy()).all(axis=1)
    assert same.mean() > 0.998, "others are ties up to rounding"
    np.testing.assert_allclose(weights[same], record.weights.numpy()[same], rtol=2e-6)


def test_the_residual_streams_norm_is_the_layers() -> None:
    torch.manual_seed(0)
    norm, x = RMSNorm(200), 3 * torch.randn(400, 200)
    torch.nn.init.normal_(norm.weight)
    normed, codes, scales, _ = norm_both(x.numpy(), norm.weight.detach().numpy(), np.float32(norm.eps))
    right = norm(x)
    np.testing.assert_allclose(normed, right.detach().numpy(), rtol=2e-6, atol=1e-6)
    values = (codes.reshape(400, -1, 64) * scales[:, :, None]).reshape(400, -1)[:, :200]
    same = np.isclose(values, fake_quantize_activations(right).detach().numpy(), rtol=2e-6, atol=1e-6)
    assert same.mean() > 0.9999, "others lie between two codes"


@pytest.mark.parametrize("zoh_input", ["exact", "euler"])
def test_the_loops_input_is_the_layers(zoh_input: str) -> None:
    torch.manual_seed(0)
    loop = LoopInjection(width=96, zoh_input=zoh_input)
    with torch.no_grad():
        for value in loop.parameters():
            value.add_(0.3 * torch.randn_like(value))
    arrays = {name: value.detach().numpy() for name, value in loop.named_parameters()}
    decay, gain = decay_and_gain(arrays["A_log"], arrays["dt_bias"], exact=zoh_input == "exact")
    np.testing.assert_allclose(decay, loop.decay_and_gain()[0].detach().numpy(), rtol=1e-6)
    np.testing.assert_allclose(gain, loop.decay_and_gain()[1].detach().numpy(), rtol=2e-6)
    x, h = torch.randn(1, 30, 96), torch.randn(1, 30, 96)
    normed, *_ = norm_both(x[0].numpy(), arrays["prelude_norm.weight"], np.float32(loop.prelude_norm.eps))
    fed = scale_rows(normed, arrays["B"], gain)
    assert distance(fed, loop.enter(x)[0]).max() < 1e-6
    mixed = mix_rounds(h[0].numpy(), fed, decay, np.arange(30), 1)
    assert distance(mixed, loop.mix(h, loop.enter(x))[0]).max() < 1e-6
    assert distance(scale_rows(mixed, arrays["C"]), loop.leave(torch.from_numpy(mixed))).max() < 1e-6


@pytest.mark.parametrize("variant", VARIANTS)
@torch.no_grad()
def test_layers_agree_on_equal_inputs(tmp_path: Path, variant: str) -> None:
    config = build_config({"preset": "micro", **VARIANTS[variant]}, source="test")
    model = learnt(config)
    opened = open_model(packed(tmp_path, config, model))
    tensors = Tensors(opened)
    weights = ReferenceWeights(config, tensors)
    for layer in layers(config):
        block = model.layers[layer.index]
        assert isinstance(block, Block)
        near = 0
        for seed in range(6):
            x = torch.randn(1, 24, config.hidden_size, generator=torch.Generator().manual_seed(seed))
            state: LayerState = {}
            for each in FIELDS[layer.kind](config, layer, tensors):
                state[each.name] = np.zeros(each.shape, dtype=each.dtype)
                state[each.name][...] = 0 if each.initial is None else each.initial
            mixed = np.concatenate(
                [mixer(weights, layer, row[None], state) for row in x[0].numpy()], dtype=np.float32
            )
            right = block.mixer(x, block.mixer.initial_state(1))[0][0]
            apart = distance(mixed, right)
            assert apart.max() < AS_CODES
            near += int((apart < AS_FLOATS).sum())
            fed = feed_forward(weights, layer, x[0].numpy())
            right = block.ffn(x)[0][0] if layer.experts else block.ffn(x)[0]
            apart = distance(fed, right)
            assert apart.max() < AS_CODES
            near += int((apart < AS_FLOATS).sum())
        assert near > 0.8 * 6 * 2 * 24, f"layer {layer.index}: {near} tokens agree as floats do"


@pytest.mark.parametrize("variant", VARIANTS)
@torch.no_grad()
def test_short_texts_agree_as_floats_do(tmp_path: Path, variant: str) -> None:
    config = build_config({"preset": "micro", **VARIANTS[variant]}, source="test")
    model = learnt(config)
    near = total = 0
    with Engine.open(packed(tmp_path, config, model), num_threads=1) as engine:
        for rounds in sorted({1, config.rounds_most}):
            for seed in range(8):
                ids = np.random.default_rng(seed).integers(0, config.vocab_size, 16)
                output = model(torch.from_numpy(ids)[None], rounds=rounds)
                right = model.logits(output.hidden_BTD)[0]
                state, rows = engine.new_state(rounds), list[NDArray[np.float32]]()
                for token in ids:
                    engine.step(state, int(token))
                    rows.append(engine.logits().copy())
                apart = distance(np.array(rows), right)
                assert apart.max() < AS_CODES
                near, total = near + int((apart < AS_FLOATS).sum()), total + len(ids)
    assert near > 0.5 * total


@pytest.mark.parametrize("variant", ["as it is", "experts decided a layer ahead"])
@torch.no_grad()
def test_tokens_leave_the_loop_where_they_leave_it_in_training(tmp_path: Path, variant: str) -> None:
    config = build_config({"preset": "micro", **VARIANTS[variant]}, source="test")
    model = learnt(config)
    ids = np.random.default_rng(0).integers(0, config.vocab_size, 32)
    with Engine.open(packed(tmp_path, config, model), num_threads=1) as engine:
        for threshold in (0.05, 0.2, 0.3, 0.5):
            output = model(torch.from_numpy(ids)[None], rounds=4, exit_threshold=threshold)
            state, taken = engine.new_state(4), list[int]()
            for token in ids:
                engine.step(state, int(token), exit_threshold=threshold)
                taken.append(int(engine.rounds_taken()[0]))
            assert np.mean(np.array(taken) == output.rounds_BT[0].numpy()) > 0.9


@pytest.mark.slow
def test_a_model_that_has_learnt_foresees_the_same(tmp_path: Path) -> None:
    config = preset("micro")
    model, texts = trained(config)
    disagreeing: list[float] = []
    log_probs: list[tuple[float, float]] = []
    agreeing = 0
    with Engine.open(packed(tmp_path, config, model), num_threads=1) as engine:
        for ids in texts:
            with torch.no_grad():
                logits = model.logits(model(torch.from_numpy(ids)[None]).hidden_BTD)[0].double()
            right = logits.log_softmax(dim=-1)[torch.arange(len(ids) - 1), ids[1:]].numpy()
            log_probs.append((engine.scores(engine.new_state(), ids).mean(), right.mean()))
            state = engine.new_state()
            for token, row in zip(ids, logits.numpy(), strict=True):
                engine.step(state, int(token))
                best = int(engine.logits().argmax())
                if best == row.argmax():
                    agreeing += 1
                else:
                    disagreeing.append(float((row.max() - row[best]) / row.std()))
    found, right = np.mean(log_probs, axis=0)
    assert abs(found - right) / np.log(2) < 1e-3, "bits a token, which is never shorter than a byte"
    assert agreeing >= 0.995 * (agreeing + len(disagreeing))
    assert max(disagreeing, default=0.0) < 0.05, "every disagreement is a near tie"


def trained(config: ModelConfig) -> tuple[ChimeraForCausalLM, NDArray[np.int64]]:
    """A model after some steps on texts in which each word mostly says the next, and texts of that kind."""
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    follows = rng.permutation(config.vocab_size)

    def texts(count: int, length: int) -> NDArray[np.int64]:
        rows = rng.integers(0, config.vocab_size, (count, length))
        for place in range(1, length):
            known = rng.random(count) < 0.9
            rows[known, place] = follows[rows[known, place - 1]]
        return rows

    model = build(config)
    optimiser = torch.optim.AdamW(model.parameters(), lr=4e-3)
    for _ in range(60):
        ids = torch.from_numpy(texts(16, 49))
        loss = model.loss(model(ids[:, :-1]).hidden_BTD, ids[:, 1:].contiguous())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return model.eval(), texts(20, 64)
