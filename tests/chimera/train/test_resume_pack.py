"""Resume packs: what is kept, what a machine without moments goes on with, and parts on their way."""

from itertools import pairwise
from pathlib import Path

import pytest
import torch

from chimera.model import ChimeraForCausalLM, build
from chimera.train.pack_parts import LINE_BYTES
from chimera.train.resume_pack import PART_BYTES, load_pack, save_pack
from chimera.train.sealed import write_sealed
from configs.errors import ChimeraError, ModelError, UsageError
from configs.inventory import tensors
from configs.load import build_config, preset
from quant.atomic import atomic_file

DIGESTS = {"data": "d" * 64, "tokenizer": "t" * 64}
POSITION = {"phase": "pretrain", "batch": 41}
SMALL_PARTS = 500_000


@pytest.fixture(scope="module")
def model() -> ChimeraForCausalLM:
    """Weights as after training: none is a constant, none fits bf16."""
    torch.manual_seed(11)
    made = build(preset("micro"))
    with torch.no_grad():
        for value in made.state_dict().values():
            value.add_(torch.randn_like(value) * 0.01)
    return made


def pack(
    path: Path, model: ChimeraForCausalLM, *, step: int = 40, part_bytes: int | None = SMALL_PARTS
) -> tuple[Path, ...]:
    return save_pack(path, model, step=step, position=POSITION, digests=DIGESTS, part_bytes=part_bytes)


@pytest.mark.parametrize("part_bytes", [None, PART_BYTES, SMALL_PARTS, 2 * LINE_BYTES * 8])
def test_a_pack_comes_back(tmp_path: Path, model: ChimeraForCausalLM, part_bytes: int | None):
    paths = pack(tmp_path / "demo.pack", model, part_bytes=part_bytes)
    assert sorted(tmp_path.iterdir()) == sorted(paths)
    assert all(path.stat().st_size <= (part_bytes or 2**40) for path in paths)
    for name in (tmp_path / "demo.pack", paths[-1]):
        found = load_pack(name)
        assert (found.step, found.position, found.digests) == (40, POSITION, DIGESTS)
        assert found.config == model.config
    storage = {tensor.name: tensor.storage for tensor in tensors(model.config)}
    state = model.state_dict()
    assert set(found.weights) == set(state)
    for name, value in found.weights.items():
        stored = state[name] if storage[name] == "float32" else state[name].bfloat16().float()
        assert torch.equal(value, stored), name


def test_names_of_parts(tmp_path: Path, model: ChimeraForCausalLM):
    assert [path.name for path in pack(tmp_path / "demo.pack", model)] == [
        f"demo.pack.0{part}-of-04" for part in range(4)
    ]
    many = pack(tmp_path / "many.pack", model, part_bytes=16_384)
    assert len(many) > 100
    assert many[7].name == f"many.pack.007-of-{len(many)}"
    assert load_pack(many[7]).step == 40


def test_a_pack_is_near_two_bytes_a_weight(tmp_path: Path, model: ChimeraForCausalLM):
    (path,) = pack(tmp_path / "demo.pack", model, part_bytes=None)
    num_weights = sum(value.numel() for value in model.state_dict().values())
    assert 2.0 * num_weights < path.stat().st_size < 2.2 * num_weights


def test_what_small_errors_would_hurt_stays_float32(tmp_path: Path, model: ChimeraForCausalLM):
    pack(tmp_path / "demo.pack", model)
    weights, state = load_pack(tmp_path / "demo.pack").weights, model.state_dict()
    exact = {name for name in state if torch.equal(weights[name], state[name])}
    assert {name for name, _ in model.named_buffers()} <= exact
    for part in ("A_log", "norm", "router", "router_bias", "i_bias", "loop.B", "conv", "alpha_proj"):
        assert all(name in exact for name in state if part in name.split(".", 1)[-1]), part
    for part in ("embedding.weight", "o_proj.weight", "experts.up_proj.weight"):
        assert all(name not in exact for name in state if name.endswith(part)), part


@torch.no_grad()
def test_the_model_goes_on_nearly_where_it_was(tmp_path: Path, model: ChimeraForCausalLM):
    pack(tmp_path / "demo.pack", model)
    torch.manual_seed(12)
    other = build(preset("micro"))
    ids_BT = torch.randint(512, (2, 24), generator=torch.Generator().manual_seed(0))
    labels_BT = ids_BT.roll(-1, dims=1)

    def loss(of: ChimeraForCausalLM) -> float:
        return float(of.loss(of(ids_BT).hidden_BTD, labels_BT))

    fresh = loss(other)
    load_pack(tmp_path / "demo.pack").load_into(other)
    assert abs(loss(other) - loss(model)) < 0.1 * abs(fresh - loss(model))


def test_another_config_data_or_tokenizer_is_refused(tmp_path: Path, model: ChimeraForCausalLM):
    pack(tmp_path / "demo.pack", model)
    found = load_pack(tmp_path / "demo.pack")
    found.check(config=preset("micro"), digests=DIGESTS)
    other = build_config({"preset": "micro", "intermediate_size": 192}, source="test")
    with pytest.raises(UsageError, match=r"\n  config.intermediate_size: 256 in the run, 192 now"):
        found.check(config=other, digests=DIGESTS)
    with pytest.raises(UsageError, match=r"\n  config.intermediate_size: 256 in the run, 192 now"):
        found.load_into(build(other))
    with pytest.raises(UsageError, match=r'\n  digests.data: "d+…" in the run, "e+…" now\n'):
        found.check(config=preset("micro"), digests={**DIGESTS, "data": "e" * 64})


def test_a_missing_part_is_named(tmp_path: Path, model: ChimeraForCausalLM):
    paths = pack(tmp_path / "demo.pack", model)
    paths[1].unlink()
    paths[3].unlink()
    with pytest.raises(ModelError, match=r"missing: demo\.pack\.01-of-04, demo\.pack\.03-of-04"):
        load_pack(tmp_path / "demo.pack")
    for path in (paths[0], paths[2]):
        path.unlink()
    with pytest.raises(ModelError, match=r"demo.pack cannot be read: No such file"):
        load_pack(tmp_path / "demo.pack")
    with pytest.raises(ModelError, match=r"demo.pack cannot be read: No such file"):
        load_pack(tmp_path / "none" / "demo.pack")


@pytest.mark.parametrize("left", [0, 10, 300, 1000, -1])
def test_a_truncated_part_is_named(tmp_path: Path, model: ChimeraForCausalLM, left: int):
    part = pack(tmp_path / "demo.pack", model)[2]
    part.write_bytes(part.read_bytes()[:left])
    with pytest.raises(ModelError, match=r"demo\.pack\.02-of-04: it is truncated"):
        load_pack(tmp_path / "demo.pack")


def test_a_part_with_more_or_other_bytes_is_named(tmp_path: Path, model: ChimeraForCausalLM):
    part = pack(tmp_path / "demo.pack", model)[0]
    content = part.read_bytes()
    part.write_bytes(content + b"\0")
    with pytest.raises(ModelError, match=r"00-of-04: it is truncated or too long"):
        load_pack(tmp_path / "demo.pack")
    part.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(ModelError, match=r"00-of-04: it is damaged"):
        load_pack(tmp_path / "demo.pack")


def test_swapped_parts_are_named(tmp_path: Path, model: ChimeraForCausalLM):
    first, second, *_ = pack(tmp_path / "demo.pack", model)
    held = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(held)
    with pytest.raises(ModelError, match=r"00-of-04: it holds part 1, which is not what its name says"):
        load_pack(tmp_path / "demo.pack")


def test_parts_of_different_packs_are_named(tmp_path: Path, model: ChimeraForCausalLM):
    ours = pack(tmp_path / "demo.pack", model)
    (tmp_path / "other").mkdir()
    theirs = pack(tmp_path / "other" / "demo.pack", model, step=41)
    ours[2].write_bytes(theirs[2].read_bytes())
    with pytest.raises(
        ModelError,
        match=r"together: demo.pack.00-of-04, demo.pack.01-of-04, demo.pack.03-of-04; demo.pack.02-",
    ):
        load_pack(tmp_path / "demo.pack")
    for one, other in pairwise(pack(tmp_path / "other" / "demo.pack", model, part_bytes=200_000)):
        assert one.name < other.name
        one.rename(tmp_path / one.name)
    with pytest.raises(ModelError, match="parts of several files: of 04 and of 09"):
        load_pack(tmp_path / "demo.pack")


def test_the_whole_beside_its_parts_is_refused(tmp_path: Path, model: ChimeraForCausalLM):
    pack(tmp_path / "demo.pack", model)
    (tmp_path / "demo.pack").touch()
    with pytest.raises(ModelError, match=r"there is the whole and beside it demo.pack.00-of-04, "):
        load_pack(tmp_path / "demo.pack")


def test_a_damaged_whole_and_foreign_files_are_refused(tmp_path: Path, model: ChimeraForCausalLM):
    (path,) = pack(tmp_path / "demo.pack", model, part_bytes=None)
    content = path.read_bytes()
    path.write_bytes(content[:-1])
    with pytest.raises(ModelError, match="it is truncated"):
        load_pack(path)
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(ModelError, match="its content has the digest"):
        load_pack(path)
    with atomic_file(path) as file:
        write_sealed(file, {"weight": torch.ones(3)}, metadata={"format": "other"})
    with pytest.raises(ModelError, match="not a resume pack that this version reads: format 'other'"):
        load_pack(path)


def test_a_new_pack_takes_the_place_of_an_older_one(tmp_path: Path, model: ChimeraForCausalLM):
    path = tmp_path / "demo.pack"
    for step, part_bytes in enumerate([SMALL_PARTS, 200_000, None, 1_000_000]):
        paths = pack(path, model, step=step, part_bytes=part_bytes)
        assert sorted(tmp_path.iterdir()) == sorted(paths)
        assert load_pack(path).step == step


def test_a_pack_that_fails_leaves_the_older_one(tmp_path: Path, model: ChimeraForCausalLM):
    paths = pack(tmp_path / "demo.pack", model)
    with pytest.raises(UsageError, match="parts of 100 bytes"):
        pack(tmp_path / "demo.pack", model, part_bytes=100)
    assert sorted(tmp_path.iterdir()) == sorted(paths)
    assert load_pack(tmp_path / "demo.pack").step == 40


def test_names_and_folders_that_cannot_be(tmp_path: Path, model: ChimeraForCausalLM):
    with pytest.raises(UsageError, match="is the name of a part"):
        pack(tmp_path / "demo.pack.00-of-03", model)
    with pytest.raises(ChimeraError, match=r"cannot save .*: No such file or directory"):
        pack(tmp_path / "none" / "demo.pack", model)
