"""Models with random weights: sound files, the same everywhere, of sane scales."""

import hashlib
from pathlib import Path

import numpy as np
import pytest

from configs.errors import UsageError
from configs.load import build_config, parse_config, preset, to_json
from quant.container import open_b158
from quant.packing import unpack_rows, unpack_ternary
from runtime.inspection import inspect_model
from runtime.packed_inspection import check_tensors
from runtime.random_model import random_b158

# Widths that no tile divides, so that padding lies in every kind of tensor.
ODD = build_config(
    {
        "preset": "micro",
        "intermediate_size": 200,
        "vocab_size": 500,
        "backbone": {"moe": {"moe_intermediate_size": 72}},
    },
    source="test",
)


@pytest.mark.parametrize("bits", [8, 4, 2])
@pytest.mark.parametrize("config", [preset("micro"), ODD], ids=["micro", "odd"])
def test_the_file_is_sound_and_its_configs_own(tmp_path: Path, config, bits: int):
    path = tmp_path / "random.b158"
    digest = random_b158(config, path, seed=3, embedding_bits=bits)
    with open_b158(path) as file:
        assert file.verify() == ()
        inside = parse_config(file.config, source="file")
        assert check_tensors(file, inside) == "all tensors"
        assert inside.quantization.embedding_bits == bits
        assert file.digest == digest
        assert file.metadata == {"random_weights_seed": "3"}
    assert inspect_model(str(path), verify=True)["file"]["holds"] == "all tensors"


def test_seeds_give_files_and_every_tensor_draws_its_own(tmp_path: Path):
    paths = [tmp_path / name for name in ("one", "again", "other")]
    for path, seed in zip(paths, (1, 1, 2), strict=True):
        random_b158(preset("micro"), path, seed=seed)
    one, again, other = (path.read_bytes() for path in paths)
    assert one == again
    with open_b158(paths[0]) as file, open_b158(paths[2]) as of_other:
        seen: set[bytes] = set()
        for name, spec in file.tensors.items():
            values = file.floats(name) if spec.kind == "float32" else file.tensor(name).codes
            others = of_other.floats(name) if spec.kind == "float32" else of_other.tensor(name).codes
            assert not np.array_equal(values, others)
            seen.add(values.tobytes())
        assert len(seen) == len(file.tensors)
    assert one != other


def test_the_bytes_are_the_same_on_every_machine(tmp_path: Path):
    random_b158(preset("micro"), tmp_path / "micro", seed=0)
    file = (tmp_path / "micro").read_bytes()
    weights = file[8 + int.from_bytes(file[:8], "little") :]
    assert (
        hashlib.sha256(weights).hexdigest()
        == "4cdc5aa07f6a62e10e18e26c42d713a851e6201a188102bb053a5faa425444d3"
    )


def test_every_code_is_drawn_equally_often(tmp_path: Path):
    random_b158(preset("demo"), tmp_path / "demo")
    with open_b158(tmp_path / "demo") as file:
        ternary = unpack_ternary(file.ternary("layers.0.ffn.up_proj.weight")).codes
        rows = unpack_rows(file.rows("embedding.weight")).codes
    shares = np.bincount(ternary.reshape(-1) + 1, minlength=3) / ternary.size
    # Six deviations of a share of a third.
    assert np.abs(shares - 1 / 3).max() < 6 * (2 / 9 / ternary.size) ** 0.5 + 2**-16 * 81
    counts = np.bincount(rows.reshape(-1).astype(np.int64) + 127, minlength=255)
    assert len(counts) == 255
    assert counts.min() > 0.9 * rows.size / 255


def test_weights_written_in_pieces_are_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("runtime.random_model._PIECE_BYTES", 2048)
    random_b158(ODD, tmp_path / "odd")
    with open_b158(tmp_path / "odd") as file:
        assert file.verify() == ()


def test_progress_ends_with_all_weights(tmp_path: Path):
    seen: list[tuple[int, int]] = []
    random_b158(preset("micro"), tmp_path / "m", progress=lambda done, total: seen.append((done, total)))
    assert seen[-1][0] == seen[-1][1] > seen[0][0] > 0


def test_a_seed_below_zero_is_refused(tmp_path: Path):
    with pytest.raises(UsageError, match="from 0, got -1"):
        random_b158(preset("micro"), tmp_path / "m", seed=-1)


def test_the_config_without_bits_is_kept(tmp_path: Path):
    random_b158(ODD, tmp_path / "odd")
    with open_b158(tmp_path / "odd") as file:
        assert file.config == to_json(ODD)
