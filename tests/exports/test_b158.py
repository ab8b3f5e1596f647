"""A packed checkpoint holds, tensor by tensor, what the torch forward computes with."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from chimera.model import ChimeraForCausalLM
from chimera.saving import load_model, save_model
from chimera.train.checkpoint import save as save_step
from chimera.train.run_folder import RunFolder
from chronos_moe.experts import ExpertLinear
from configs.errors import ModelError
from configs.inventory import packed_tensors
from configs.load import build_config, parse_config, preset, to_json
from exports.b158 import export_b158
from exports.checkpoint import open_checkpoint
from quant.container import B158File, open_b158
from quant.embedding import dequantize_rows
from quant.packing import unpack_rows, unpack_ternary
from quant.qat.correction import Correction
from quant.qat.embedding import QuantEmbedding
from quant.qat.linear import BitLinear
from quant.sherry_packing import unpack_sherry
from quant.ternary import dequantize_ternary
from runtime.packed_specs import with_embedding_bits
from tests.exports.conftest import learnt

VARIANTS = {
    "as it is": {},
    "a scale a row": {"quantization": {"weight_scale": "absmean_per_row"}},
    "a scale a tensor": {"quantization": {"weight_scale": "absmean_per_tensor"}},
    "odd widths": {"intermediate_size": 200, "vocab_size": 513},
    "no experts, no loop": {"backbone": {"moe": {"enabled": False}}, "looping": {"enabled": False}},
    "one zero in every four": {"quantization": {"sherry_mode": {"enabled": True}}, "intermediate_size": 198},
    "one zero in every four, a scale a tensor": {
        "quantization": {"sherry_mode": {"enabled": True}, "weight_scale": "absmean_per_tensor"}
    },
    "corrections": {"quantization": {"hgf_correction": {"enabled": True, "rank": 7}}},
    "output gates": {"gated_deltanet": {"use_output_gate": True}, "xlstm": {"use_output_gate": True}},
}


@torch.no_grad()
def forward_values(model: ChimeraForCausalLM) -> dict[str, torch.Tensor]:
    """Every tensor by its name in files, as the modules that use it see it."""
    values = dict(model.state_dict())
    for name, module in model.named_modules():
        if isinstance(module, BitLinear | ExpertLinear | QuantEmbedding):
            values[f"{name}.weight"] = module.quantized_weight()
        elif isinstance(module, Correction):
            values |= {f"{name}.down": module.down_weight(), f"{name}.up": module.up_weight()}
            del values[f"{name}.gate"]
    apart: dict[str, torch.Tensor] = {}
    for tensor in packed_tensors(model.config):
        whole = values.pop(tensor.name)
        pieces = whole.unbind(0) if tensor.experts else (whole,)
        apart |= {part.name: piece for part, piece in zip(tensor.apart(), pieces, strict=True)}
    assert values == {}
    return apart


def packed_values(file: B158File) -> dict[str, np.ndarray]:
    """Every tensor of a file, as its packed numbers say."""
    values: dict[str, np.ndarray] = {}
    for name, spec in file.tensors.items():
        if spec.kind == "ternary":
            values[name] = dequantize_ternary(unpack_ternary(file.ternary(name)))
        elif spec.kind == "sherry":
            values[name] = dequantize_ternary(unpack_sherry(file.sherry(name)))
        elif spec.kind == "float32":
            values[name] = file.floats(name)
        else:
            values[name] = dequantize_rows(unpack_rows(file.rows(name)))
    return values


def assert_equal_bits(path: Path, model: ChimeraForCausalLM) -> None:
    with open_b158(path) as file:
        assert file.verify() == ()
        assert parse_config(file.config, source="file") == model.config
        found, expected = packed_values(file), forward_values(model)
    assert list(found) == list(expected)
    differing = [name for name in found if found[name].tobytes() != expected[name].numpy().tobytes()]
    assert differing == []
    assert {name: found[name].shape for name in found} == {n: tuple(v.shape) for n, v in expected.items()}


@pytest.mark.parametrize("variant", VARIANTS.values(), ids=VARIANTS)
def test_a_packed_model_is_the_one_that_torch_computes_with(tmp_path: Path, variant: dict):
    model = learnt(build_config({"preset": "micro", **variant}, source="test"))
    save_model(model, tmp_path / "checkpoint")
    exported = export_b158(tmp_path / "checkpoint", tmp_path / "packed")
    assert exported.files[0] == tmp_path / "packed" / "model.b158"
    assert_equal_bits(exported.files[0], model)


def test_the_demo_models_too(tmp_path: Path):
    model = learnt(preset("demo"))
    save_model(model, tmp_path / "checkpoint")
    assert_equal_bits(export_b158(tmp_path / "checkpoint", tmp_path / "packed").files[0], model)


@pytest.mark.parametrize("bits", [8, 4, 2])
def test_the_embedding_takes_the_bits_asked_for(tmp_path: Path, micro: Path, bits: int):
    """The file is that of a model whose config has these bits, and its config says so."""
    exported = export_b158(micro, tmp_path, embedding_bits=bits)
    config = with_embedding_bits(preset("micro"), bits)
    assert exported.config == config
    assert_equal_bits(exported.files[0], learnt(config))
    assert (tmp_path / "config.json").read_text() == to_json(config)


def test_experts_and_buffers_stand_under_their_own_names(tmp_path: Path, micro: Path):
    with open_b158(export_b158(micro, tmp_path).files[0]) as file:
        assert file.tensors["layers.3.ffn.experts.2.gate_proj.weight"].shape == (64, 128)
        assert file.tensors["layers.3.ffn.experts.2.down_norm"].kind == "float32"
        bias = load_model(micro).state_dict()["layers.3.ffn.router_bias"]
        assert bias.abs().min() > 0
        assert file.floats("layers.3.ffn.router_bias").tolist() == bias.tolist()


def test_the_same_checkpoint_gives_the_same_bytes(tmp_path: Path, micro: Path):
    first, again = (export_b158(micro, tmp_path / name) for name in ("one", "two"))
    assert first.digest == again.digest
    assert first.files[0].read_bytes() == again.files[0].read_bytes()


def test_progress_ends_with_all_weights(tmp_path: Path, micro: Path):
    seen: list[tuple[int, int]] = []
    export_b158(micro, tmp_path, progress=lambda done, total: seen.append((done, total)))
    total = sum(tensor.size for tensor in packed_tensors(preset("micro")))
    assert seen[-1] == (total, total)
    assert all(one[0] < other[0] for one, other in pairwise(seen))


def run_folder(path: Path, *models: ChimeraForCausalLM) -> Path:
    """A training run that has saved these models, ten steps apart."""
    with RunFolder.open(path, config=models[0].config, settings={}) as run:
        for number, model in enumerate(models, start=1):
            state = {"model": model.state_dict(), "optimizer": {"m": torch.ones(3)}, "extra": {}}
            save_step(run.checkpoints, state, step=10 * number)
    return path


def test_a_run_gives_its_newest_step(tmp_path: Path):
    models = [learnt(preset("micro"), seed=seed) for seed in (1, 2)]
    exported = export_b158(run_folder(tmp_path / "run", *models), tmp_path / "packed")
    assert exported.step == 20
    assert_equal_bits(exported.files[0], models[-1])


def test_a_damaged_step_is_refused_and_the_older_one_named(tmp_path: Path):
    run = run_folder(tmp_path / "run", *(learnt(preset("micro"), seed=seed) for seed in (1, 2)))
    newest = run / "checkpoints" / "step-000000020.safetensors"
    data = bytearray(newest.read_bytes())
    data[-5] ^= 1
    newest.write_bytes(data)
    with pytest.raises(ModelError, match="has the digest") as caught:
        export_b158(run, tmp_path / "packed")
    assert caught.value.hint == "Remove it to take step 10."
    newest.unlink()
    assert export_b158(run, tmp_path / "packed").step == 10


def test_a_run_without_a_step_is_refused(tmp_path: Path):
    RunFolder.open(tmp_path / "run", config=preset("micro"), settings={}).close()
    with pytest.raises(ModelError, match="has saved no step yet"):
        export_b158(tmp_path / "run", tmp_path / "packed")


def test_memory_holds_some_rows_of_a_tensor(tmp_path: Path, micro: Path, monkeypatch: pytest.MonkeyPatch):
    """With pieces of a few rows, nothing larger is ever read, and the bytes are the same."""
    whole = export_b158(micro, tmp_path / "whole")
    sizes: list[int] = []
    monkeypatch.setattr("exports.b158._PIECE_BYTES", 4 * 256 * 32)
    monkeypatch.setattr(
        "exports.checkpoint._array", lambda values: sizes.append(values.numel()) or values.float().numpy()
    )
    pieces = export_b158(micro, tmp_path / "pieces")
    assert pieces.files[0].read_bytes() == whole.files[0].read_bytes()
    with open_checkpoint(micro) as source:
        most_floats = max(
            part.size for t in packed_tensors(source.config) for part in t.apart() if t.storage == "float32"
        )
    assert max(sizes) == max(most_floats, 256 * 32)
