"""MeZO on a packed model: from the weights of the file to those that a log makes of them, packed again."""

from dataclasses import replace
from math import inf, nan
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from chimera.model import build
from chimera.saving import save_model
from configs.errors import AdapterError, UsageError
from configs.load import build_config, preset
from exports.b158 import export_b158
from exports.latents import latent_model
from exports.mezo import LONGEST, merge, options_of, prepare, settings_of
from quant.adapter import Adapter, read_adapter
from quant.adapter_log import write_adapter
from quant.packing import PackedRows, PackedTernary
from runtime.cli.main import main
from runtime.finetune.method import MethodOptions
from runtime.model_folder import open_model
from runtime.random_model import random_b158
from tests.chimera.finetune.models import config
from tests.exports.finetune_worker import SEED, items, take_part
from tests.runtime.finetune.forging import forged
from tests.runtime.finetune.learning import make


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("packed") / "model.b158"
    random_b158(config(), path, seed=1)
    return path


def options(model: Path, **settings: str) -> MethodOptions:
    return MethodOptions(model=model, seed=SEED, settings=settings)


@pytest.mark.parametrize("size", ["absmean_per_group", "absmean_per_row", "absmean_per_tensor"])
def test_latent_weights_are_those_of_the_file_when_they_are_packed_again(tmp_path: Path, size: str):
    """With experts and short groups."""
    shape = build_config(
        {
            "preset": "micro",
            "hidden_size": 144,
            "num_heads": 3,
            "head_dim": 48,
            "vocab_size": 64,
            "num_hidden_layers": 2,
            "backbone": {"layer_pattern": "GD XM", "moe": {"enabled": True, "layers": [1]}},
            "looping": {"enabled": False},
            "quantization": {"weight_scale": size},
        },
        source="test",
    )
    torch.manual_seed(0)
    save_model(build(shape), tmp_path / "learnt")
    export_b158(tmp_path / "learnt", tmp_path / "model.b158")
    save_model(latent_model(tmp_path / "model.b158"), tmp_path / "checkpoint")
    export_b158(tmp_path / "checkpoint", tmp_path / "again.b158")
    before, after = (open_model(tmp_path / name).file for name in ("model.b158", "again.b158"))
    different = [name for name in before.tensors if not _equal(before.tensor(name), after.tensor(name))]
    assert not different


def _equal(one: object, other: object) -> bool:
    if isinstance(one, PackedTernary | PackedRows):
        assert type(one) is type(other)
        return all(np.array_equal(getattr(one, name), getattr(other, name)) for name in ("codes", "scales"))
    return np.array_equal(np.asarray(one), np.asarray(other))


def test_a_merged_log_is_the_model_that_was_learnt(packed: Path, tmp_path: Path):
    method = prepare(options(packed, sparse="yes", sparse_period="2"))
    take_part(method, tmp_path / "log.cza", steps=3)
    losses = method.losses(items())
    digest = merge(read_adapter(tmp_path / "log.cza"), model=packed, out=tmp_path / "merged")
    method.save(tmp_path / "live")
    assert export_b158(tmp_path / "live", tmp_path / "exported").digest == digest
    learnt = prepare(options(tmp_path / "merged")).losses(items())
    np.testing.assert_allclose(learnt, losses, rtol=1e-5)
    assert np.abs(learnt - prepare(options(packed)).losses(items())).max() > 1e-3


def test_what_stays_as_it_is_is_packed_as_it_was(tmp_path: Path):
    """A light run quantises it beforehand, and no scale may shrink by that."""
    packed = tmp_path / "model.b158"
    torch.manual_seed(0)
    save_model(build(config()), tmp_path / "learnt")
    export_b158(tmp_path / "learnt", packed)
    method = prepare(options(packed, trained="light"))
    take_part(method, tmp_path / "log.cza", steps=2)
    merge(read_adapter(tmp_path / "log.cza"), model=packed, out=tmp_path / "merged")
    before, after = (open_model(path).file for path in (packed, tmp_path / "merged"))
    moved = {held.name for held in method.mezo.tensors}
    changed = {name for name in before.tensors if not _equal(before.tensor(name), after.tensor(name))}
    assert changed
    assert changed <= moved
    assert moved < set(before.tensors)


def test_the_rounds_of_a_run_are_told(tmp_path: Path):
    """Looks of other rounds have other losses: who goes on, or helps, must take the same."""
    random_b158(preset("micro"), tmp_path / "model.b158", seed=1)
    asked = MethodOptions(model=tmp_path / "model.b158", seed=SEED, rounds=1)
    one, usual = prepare(asked), prepare(replace(asked, rounds=None))
    assert options_of(one.settings).rounds == 1
    assert options_of(usual.settings).rounds == preset("micro").rounds_default > 1
    assert (one.losses(items()) != usual.losses(items())).any()


def test_the_verb_merges_it_and_nothing_runs_with_the_log_itself(
    packed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    log = tmp_path / "log.cza"
    take_part(prepare(options(packed, trained="light")), log, steps=1)
    assert main(["adapter", "merge", str(packed), str(log), "--out", str(tmp_path / "new")]) == 0
    assert (tmp_path / "new" / "model.b158").is_file()
    with pytest.raises(AdapterError, match="moves no packed weights"):
        open_model(packed, adapters=[log])
    capsys.readouterr()
    assert main(["adapter", "merge", str(packed), str(log), str(log), "--out", str(tmp_path / "two")]) == 2
    assert "which no other adapter can share" in capsys.readouterr().err
    assert main(["adapter", "merge", str(packed), str(log), "--out", str(tmp_path / "new")]) == 2
    assert "is there already" in capsys.readouterr().err


def test_a_log_of_another_model_is_refused(packed: Path, tmp_path: Path):
    take_part(prepare(options(packed)), tmp_path / "log.cza", steps=1)
    adapter = read_adapter(tmp_path / "log.cza")
    write_adapter(tmp_path / "other.cza", replace(adapter, header=replace(adapter.header, base="0" * 64)))
    with pytest.raises(AdapterError, match=r"was learnt on the model 000000000000…, and this is"):
        merge(read_adapter(tmp_path / "other.cza"), model=packed, out=tmp_path / "out")


def test_a_log_says_what_it_was_told(packed: Path):
    told = {"distribution": "gaussian", "trained": "all", "sparse": "yes", "sparse_period": "4"}
    method = prepare(options(packed, **told))
    own = options_of(method.settings)
    assert own.settings == told
    assert own.epsilon == 0.05


@pytest.fixture(scope="module")
def honest(packed: Path, tmp_path_factory: pytest.TempPathFactory) -> Adapter:
    """A log of two steps."""
    path = tmp_path_factory.mktemp("honest") / "a.cza"
    take_part(prepare(options(packed)), path, steps=2)
    return read_adapter(path)


def test_lengths_are_bounded(packed: Path):
    method = prepare(options(packed))
    assert method.length(1e300) == -method.length(-1e300) == method.length(inf) == LONGEST
    assert method.length(0.012) == float(np.float32(0.012))
    for length in (nan, inf, -1.5):
        with pytest.raises(AdapterError, match="step 0 of the log goes"):
            method.apply(0, [length])


HOSTILE: list[tuple[dict[str, Any], str]] = [
    ({"numbers": [inf]}, "record 0 holds what is no number"),
    ({"numbers": [nan]}, "record 0 holds what is no number"),
    ({"numbers": [1e30]}, "step 0 of the log goes 1e+30 far"),
    ({"numbers": [-1.01]}, "step 0 of the log goes -1.01 far"),
    ({"settings": {"decay": 0.5}, "rate": nan}, "gives up nan of what was learnt"),
    ({"settings": {"epsilon": "nan"}}, "says epsilon 'nan'"),
    ({"settings": {"epsilon": 0}}, "epsilon 0; allowed"),
    ({"settings": {"epsilon": -0.05}}, "epsilon -0.05; allowed"),
    ({"settings": {"epsilon": 1e-9}}, "epsilon 1e-09; allowed"),
    ({"settings": {"epsilon": 10**390}}, "a number is needed"),
    ({"settings": {"rounds": 10**9}}, "1000000000 rounds, but this model takes 1 to 1"),
    ({"settings": {"rounds": 10**30}}, "a whole number is needed"),
    ({"settings": {"distribution": "cauchy"}}, "distribution is 'cauchy'"),
    ({"settings": {"distribution": 5}}, "distribution is '5'"),
    ({"settings": {"trained": "none"}}, "trained is 'none'"),
    ({"settings": {"sparse": "no"}}, "sparse is 'no'"),
    ({"settings": {"sparse_period": 0}}, "a period of 0 steps"),
    ({"settings": {"sparse_period": 2.5}}, "says sparse_period '2.5'"),
    ({"settings": {"sparse_period": None}}, "lacks a setting of the method mezo: 'sparse_period'"),
    ({"settings": {"spread": 0, "epsilon": None}}, "lacks a setting"),
    ({"base": "ab" * 32}, "was learnt on the model abababababab"),
]


@pytest.mark.parametrize(("forgery", "words"), HOSTILE)
def test_what_no_run_writes_is_not_merged(
    packed: Path,
    honest: Adapter,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    forgery: dict[str, Any],
    words: str,
):
    bad, out = forged(honest, tmp_path / "bad.cza", **forgery), tmp_path / "out"
    assert main(["adapter", "merge", str(packed), str(bad), "--out", str(out)]) == 3
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "bad.cza" in shown.err
    assert words in shown.err
    assert not out.exists()


@pytest.fixture(scope="module")
def readable(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model that can read, data, and a log of one step."""
    folder = make(tmp_path_factory.mktemp("readable"))
    mezo = ["--method", "mezo", "--steps", "1", "--batch", "1", "--set", "trained=light"]
    assert main([*asked(folder), "--out", str(folder / "a.cza"), *mezo]) == 0
    return folder


def asked(folder: Path) -> list[str]:
    return ["finetune", "-m", str(folder / "model"), "--data", str(folder / "data.jsonl"), "-t", "1"]


@pytest.mark.parametrize(
    ("forgery", "words"),
    [
        ({"numbers": [1e30]}, "bad.cza: step 0 of the log goes 1e+30 far"),
        ({"settings": {"epsilon": 0}}, "bad.cza: it says what no run is told: epsilon 0; allowed"),
        ({"settings": {"rounds": 7}}, "bad.cza cannot be gone on with: 7 rounds"),
        ({"settings": {"distribution": "cauchy"}}, "distribution is 'cauchy'"),
    ],
)
def test_what_no_run_writes_is_not_gone_on_with(
    readable: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    forgery: dict[str, Any],
    words: str,
):
    bad = forged(read_adapter(readable / "a.cza"), tmp_path / "bad.cza", **forgery)
    before = bad.read_bytes()
    capsys.readouterr()
    assert main([*asked(readable), "--resume", str(bad), "--steps", "2"]) == 3
    shown = capsys.readouterr()
    assert (shown.out, words in shown.err) == ("", True), shown.err
    assert bad.read_bytes() == before


def test_the_sign_of_no_move_changes_nothing(packed: Path, honest: Adapter, tmp_path: Path):
    digests = [
        merge(
            read_adapter(forged(honest, tmp_path / f"{zero}.cza", numbers=[zero])),
            model=packed,
            out=tmp_path / str(zero),
        )
        for zero in (0.0, -0.0)
    ]
    whole = merge(honest, model=packed, out=tmp_path / "whole")
    assert digests[0] == digests[1] != whole


def test_the_config_may_ask_for_sparse_moves(packed: Path):
    raw = {
        "preset": "micro",
        "P3_ternary_compute": {
            "implemented_optimizations": {"ternary_mezo_sparse": {"status": "IMPLEMENTED"}}
        },
    }
    asked = build_config(raw, source="test")
    assert settings_of(options(packed), asked).sparse
    assert not settings_of(options(packed, sparse="no"), asked).sparse
    assert not settings_of(options(packed), config()).sparse


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sparse": "maybe"}, "allowed are yes, no"),
        ({"trained": "some"}, "allowed are all, ternary, light"),
        ({"sparse_period": "x"}, "sparse_period is 'x'"),
        ({"sparse_period": "0"}, "a period of 0 steps"),
        ({"speed": "1"}, "mezo has no setting 'speed'"),
    ],
)
def test_settings_that_mean_nothing_are_refused(packed: Path, settings: dict[str, str], message: str):
    with pytest.raises(UsageError, match=message):
        prepare(options(packed, **settings))


def test_adapters_beneath_and_other_forms_of_weights_are_refused(packed: Path, tmp_path: Path):
    with pytest.raises(UsageError, match="knows no adapters beneath"):
        prepare(replace(options(packed), adapters=(tmp_path / "one.cza",)))
    sherry = build_config(
        {"preset": "micro", "quantization": {"sherry_mode": {"enabled": True}}}, source="test"
    )
    random_b158(sherry, tmp_path / "sherry.b158")
    with pytest.raises(UsageError, match="keep no latent ones"):
        latent_model(tmp_path / "sherry.b158")
