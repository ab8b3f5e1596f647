"""GGUF files as the reader of the format's own package sees them."""

from pathlib import Path

import gguf
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from chimera.saving import save_model
from configs.errors import UsageError
from configs.inventory import packed_tensors
from configs.load import build_config, load_config, parse_config
from configs.text.tokenizer import open_tokenizer
from exports.b158 import export_b158
from exports.handover.gguf import TernaryType, export_gguf
from exports.handover.gguf_blocks import byte_blocks, ternary_blocks
from exports.handover.gguf_file import GgufType
from exports.unpacked import torch_model
from tests.exports.conftest import learnt

pytestmark = pytest.mark.oracle
KINDS: dict[GgufType, gguf.GGMLQuantizationType] = {
    "TQ2_0": gguf.GGMLQuantizationType.TQ2_0,
    "TQ1_0": gguf.GGMLQuantizationType.TQ1_0,
    "Q8_0": gguf.GGMLQuantizationType.Q8_0,
}


def opened(path: Path) -> tuple[gguf.GGUFReader, dict[str, NDArray[np.float32]]]:
    """The file, and the values of every tensor, outermost dimension first."""
    reader = gguf.GGUFReader(path)
    return reader, {
        tensor.name: gguf.dequantize(tensor.data, tensor.tensor_type)
        .astype(np.float32)
        .reshape(tuple(int(size) for size in tensor.shape[::-1]))
        for tensor in reader.tensors
    }


def told(reader: gguf.GGUFReader, key: str) -> object:
    return reader.fields[key].contents()


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), rows=st.integers(1, 5), blocks=st.integers(1, 3))
def test_blocks_are_those_of_the_package(seed: int, rows: int, blocks: int):
    rng = np.random.default_rng(seed)
    codes = rng.integers(-1, 2, (rows, 256 * blocks), dtype=np.int8)
    scales = rng.uniform(1e-5, 8, (rows, blocks)).astype(np.float16)
    values = codes * np.repeat(scales.astype(np.float32), 256, axis=1)
    for kind in ("TQ2_0", "TQ1_0"):
        made = ternary_blocks(codes, scales, kind=kind)
        assert np.array_equal(gguf.dequantize(made, KINDS[kind]), values)
        # Their own writer finds the same bytes where every block has a weight that is not zero.
        if codes.reshape(rows, blocks, 256).any(axis=2).all():
            assert np.array_equal(made, gguf.quantize(values, KINDS[kind]))
    table = rng.integers(-127, 128, (rows, 256), dtype=np.int8)
    of_rows = rng.uniform(1e-4, 1, rows).astype(np.float16).astype(np.float32)
    found = gguf.dequantize(byte_blocks(table, of_rows), KINDS["Q8_0"])
    assert np.array_equal(found, table * of_rows[:, None])


@pytest.mark.parametrize("ternary", ["tq2_0", "tq1_0"])
def test_a_file_holds_every_value(tmp_path: Path, micro: Path, tokenizer_file: Path, ternary: TernaryType):
    """Codes times the scales beside them are the weights that the packed model computes with."""
    export_b158(micro, tmp_path / "packed", tokenizer=tokenizer_file)
    expected = torch_model(tmp_path / "packed").state_dict()
    done = export_gguf(tmp_path / "packed", tmp_path / "packed.gguf", ternary=ternary)
    export_gguf(micro, tmp_path / "checkpoint.gguf", ternary=ternary, tokenizer=tokenizer_file)
    assert (done.scales, done.ternary_loss, done.embedding_loss) == ("tensor", 0.0, 0.0)
    reader, values = opened(tmp_path / "packed.gguf")
    assert opened(tmp_path / "checkpoint.gguf")[1].keys() == values.keys()
    assert (tmp_path / "checkpoint.gguf").read_bytes() == (tmp_path / "packed.gguf").read_bytes()
    shorter = dict(
        zip(told(reader, "chimera51.padded.names"), told(reader, "chimera51.padded.columns"), strict=True)
    )
    group = told(reader, "chimera51.ternary.group_size")
    for name, tensor in expected.items():
        value = values.pop(name)
        scales = values.pop(f"{name.removesuffix('weight')}scales", None)
        if scales is not None:
            assert not value[..., tensor.shape[-1] :].any()
            value = value[..., : shorter.get(name, value.shape[-1])]
            value = value * np.repeat(scales, group, axis=-1)[..., : value.shape[-1]]
        assert np.array_equal(value, tensor.numpy()), name
    assert not values


def test_its_metadata_tells_all_of_the_model(tmp_path: Path, micro: Path, tokenizer_file: Path):
    export_gguf(micro, tmp_path / "model.gguf", tokenizer=tokenizer_file)
    reader, _ = opened(tmp_path / "model.gguf")
    config, ours = load_config(micro), open_tokenizer(tokenizer_file)
    assert told(reader, "general.architecture") == "chimera51"
    assert parse_config(str(told(reader, "chimera51.config")), source="metadata") == config
    assert told(reader, "chimera51.block_count") == config.num_hidden_layers
    assert told(reader, "chimera51.expert_count") == config.backbone.moe.n_routed_experts
    tokens, kinds = told(reader, "tokenizer.ggml.tokens"), told(reader, "tokenizer.ggml.token_type")
    assert len(tokens) == len(kinds) == len(told(reader, "tokenizer.ggml.scores")) == ours.vocab_size
    spelled = {token: text for text, token in ours.specials.items()}
    assert [tokens[token] for token in spelled] == list(spelled.values())
    assert {kinds[token] for token in spelled} == {int(gguf.TokenType.CONTROL)}
    assert tokens[ours.encode("\n")[0]] == "<0x0A>"
    assert told(reader, "tokenizer.ggml.eos_token_id") == ours.eos
    assert told(reader, "tokenizer.ggml.model") == "t5"
    assert "<|assistant|>" in str(told(reader, "tokenizer.chat_template"))


def test_one_scale_a_block_errs_as_it_says(tmp_path: Path, micro: Path):
    done = export_gguf(micro, tmp_path / "model.gguf", allow_loss=True, embedding="q8_0")
    export_b158(micro, tmp_path / "packed")
    expected = torch_model(tmp_path / "packed").state_dict()
    _, values = opened(tmp_path / "model.gguf")
    assert values.keys() == {tensor.name for tensor in packed_tensors(done.config)}
    error = size = 0.0
    for tensor in packed_tensors(done.config):
        exact = expected[tensor.name].double().numpy()
        value = values[tensor.name][..., : tensor.shape[-1]]
        if tensor.storage == "ternary":
            error, size = error + ((value - exact) ** 2).sum(), size + (exact**2).sum()
            assert np.array_equal(np.sign(value), np.sign(exact))
    assert done.scales == "block"
    assert 0 < done.ternary_loss < 0.2
    assert done.ternary_loss == pytest.approx(np.sqrt(error / size), rel=1e-6)
    assert 0 < done.embedding_loss < 2**-11


def test_scales_of_whole_rows_need_no_tensor_of_their_own(tmp_path: Path):
    raw = {"preset": "micro", "quantization": {"weight_scale": "absmean_per_row"}}
    save_model(learnt(build_config(raw, source="test")), tmp_path / "checkpoint")
    export_b158(tmp_path / "checkpoint", tmp_path / "packed")
    done = export_gguf(tmp_path / "packed", tmp_path / "model.gguf", embedding="f16")
    assert (done.scales, done.ternary_loss) == ("block", 0.0)
    assert 0 < done.embedding_loss < 2**-11
    _, values = opened(tmp_path / "model.gguf")
    for name, tensor in torch_model(tmp_path / "packed").state_dict().items():
        if name.endswith("proj.weight"):
            assert np.array_equal(values[name][..., : tensor.shape[-1]], tensor.numpy()), name


def test_what_cannot_be_written_is_said(tmp_path: Path, micro: Path):
    (tmp_path / "there.gguf").write_text("mine")
    with pytest.raises(UsageError, match="is there already"):
        export_gguf(micro, tmp_path / "there.gguf")
    assert (tmp_path / "there.gguf").read_text() == "mine"
    raw = {"preset": "micro", "hidden_size": 144, "num_heads": 2, "head_dim": 72}
    save_model(learnt(build_config(raw, source="test")), tmp_path / "odd")
    with pytest.raises(UsageError, match="--embedding f32"):
        export_gguf(tmp_path / "odd", tmp_path / "odd.gguf", embedding="q8_0")
    assert not (tmp_path / "odd.gguf").exists()
