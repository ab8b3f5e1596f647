"""`chimera inspect` of a packed file: what it holds, whether it fits its config, whether it is sound."""

import json
import os
import pty
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from configs.load import build_config, preset, to_json
from configs.schema.model import ModelConfig
from quant.container_format import TensorSpec
from quant.container_writer import B158Writer
from quant.embedding import quantize_rows
from quant.ternary import quantize_ternary
from runtime.cli.main import main
from runtime.inspection import inspect_model
from runtime.packed_inspection import expected_tensors, routed_tensors

ROOT = Path(__file__).resolve().parents[2]
MICRO = preset("micro")


def pack(
    path: Path, *, config: ModelConfig = MICRO, names: Iterable[str] | None = None, text: str = ""
) -> Path:
    """A packed file with random weights, of all tensors or of some."""
    expected = expected_tensors(config)
    chosen = expected if names is None else {name: expected[name] for name in expected if name in set(names)}
    specs = [TensorSpec(name=name, kind=kind, shape=shape) for name, (kind, shape) in chosen.items()]
    rng = np.random.default_rng(0)
    with B158Writer(path, tensors=specs, config=text or to_json(config), metadata={}) as writer:
        for spec in specs:
            values = rng.standard_normal(spec.shape, dtype=np.float32)
            if spec.kind == "ternary":
                writer.write(spec.name, quantize_ternary(values))
            elif spec.kind == "float32":
                writer.write(spec.name, values)
            else:
                writer.write(spec.name, quantize_rows(values, bits=config.quantization.embedding_bits))
    return path


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pack(tmp_path_factory.mktemp("packed") / "micro.b158")


@pytest.fixture
def shown(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    def run(*arguments: str) -> str:
        assert main(["inspect", *arguments]) == 0
        captured = capsys.readouterr()
        assert captured.err == ""
        return captured.out

    return run


def refusal(path: Path, capsys: pytest.CaptureFixture[str], *options: str) -> str:
    assert main(["inspect", str(path), *options]) == 3
    captured = capsys.readouterr()
    assert captured.out == ""
    return captured.err


def test_a_packed_file_is_listed_and_verified(packed: Path, shown: Callable[..., str]):
    text = shown(str(packed), "--verify")
    assert text.startswith(f"{packed}  ")
    assert "format version 1, digest " in text
    assert ", all tensors\n" in text
    assert "every digest agrees, every value is allowed" in text
    assert "\nmicro (schema 5.1.2)\n" in text
    report = json.loads(shown(str(packed), "--json"))
    file = report["file"]
    assert (file["verified"], file["holds"], file["path"]) == (False, "all tensors", str(packed))
    assert file["file_bytes"] == packed.stat().st_size
    assert set(file["kinds"]) == {"ternary", "int8", "float32"}
    assert sum(row["count"] for row in file["kinds"].values()) == len(expected_tensors(MICRO))


def test_accounting_agrees_with_the_file_to_the_byte(packed: Path, shown: Callable[..., str]):
    report = json.loads(shown(str(packed), "--json"))
    stored = sum(row["bytes"] for row in report["file"]["kinds"].values())
    assert stored == report["bytes"]["2-bit ternary, 8-bit embedding"]["total"]


def test_experts_may_lie_in_a_file_of_their_own(tmp_path: Path, shown: Callable[..., str]):
    config = build_config(
        {"preset": "micro", "files": {"weights": "w.b158", "moe": "e.b158", "tokenizer": "t"}}, source="test"
    )
    routed = routed_tensors(config)
    weights = pack(tmp_path / "w.b158", config=config, names=expected_tensors(config).keys() - routed)
    experts = pack(tmp_path / "e.b158", config=config, names=routed)
    reports = {path: json.loads(shown(str(path), "--json")) for path in (weights, experts)}
    assert [report["file"]["holds"] for report in reports.values()] == [
        "all but routed experts",
        "routed experts",
    ]
    for report in reports.values():
        found = {row["key"]: row["verdict"] for row in report["files"]}
        assert (found["weights"], found["moe"], found["tokenizer"]) == ("holds", "holds", "missing")


@pytest.mark.parametrize("bits", [4, 2])
def test_other_embeddings(bits: int, tmp_path: Path, shown: Callable[..., str]):
    config = build_config({"preset": "micro", "quantization": {"embedding_bits": bits}}, source="test")
    path = pack(tmp_path / "other.b158", config=config)
    assert f"int{bits}" in json.loads(shown(str(path), "--json"))["file"]["kinds"]


def test_verifying_tells_how_far_it_is(packed: Path):
    pieces: list[int] = []
    report = inspect_model(str(packed), verify=True, progress=pieces.append)
    assert sum(pieces) == sum(row["bytes"] for row in report["file"]["kinds"].values())


def test_people_see_a_bar_while_a_file_is_verified(packed: Path):
    main_end, other_end = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-m", "runtime.cli.main", "inspect", str(packed), "--verify"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=other_end,
        env=os.environ | {"TERM": "xterm-256color"},
    ) as command:
        os.close(other_end)
        shown = command.communicate(timeout=120)[0].decode()
        bar = os.read(main_end, 100_000).decode()
        os.close(main_end)
    assert command.returncode == 0
    assert "every digest agrees" in shown
    assert "verifying" in bar


def test_a_damaged_file_fails_verification(packed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    data = bytearray(packed.read_bytes())
    data[-100] ^= 1
    path = tmp_path / "damaged.b158"
    path.write_bytes(data)
    assert main(["inspect", str(path)]) == 0
    capsys.readouterr()
    error = refusal(path, capsys, "--verify")
    assert f"{path} is damaged: " in error
    assert "hint: Copy it again" in error


def missing_and_strange(config: dict[str, Any]) -> None:
    config["num_hidden_layers"] = 4
    config["backbone"]["moe"]["layers"] = [3]


def wider(config: dict[str, Any]) -> None:
    config["intermediate_size"] = 512


def finer(config: dict[str, Any]) -> None:
    config["quantization"]["embedding_bits"] = 4


@pytest.mark.parametrize(
    ("change", "phrases"),
    [
        (missing_and_strange, ("layers.2.ffn.gate_proj.weight is missing", "more\n")),
        (wider, ("layers.0.ffn.gate_proj.weight is ternary [256, 128], not ternary [512, 128]",)),
        (finer, ("embedding.weight is int8 [512, 128], not int4 [512, 128]",)),
    ],
)
def test_a_file_of_other_tensors_is_refused(
    change: Callable[[dict[str, Any]], None],
    phrases: tuple[str, ...],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
):
    other = json.loads(to_json(MICRO))
    change(other)
    error = refusal(pack(tmp_path / "other.b158", text=json.dumps(other)), capsys)
    assert "its tensors are not those of its config: " in error
    for phrase in phrases:
        assert phrase in error


def test_a_tensor_that_no_model_of_the_config_has_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    config = build_config({"preset": "micro", "num_hidden_layers": 5}, source="test")
    error = refusal(pack(tmp_path / "deep.b158", config=config, text=to_json(MICRO)), capsys)
    assert "layers.4.mixer.norm.weight is not of this model" in error


def test_a_few_of_the_tensors_are_not_a_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    path = pack(tmp_path / "few.b158", names=["final_norm.weight"])
    error = refusal(path, capsys)
    assert "embedding.weight is missing" in error


def test_a_config_that_is_none_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    path = pack(tmp_path / "bad.b158", text='{"preset": "micro", "hiden_size": 3}')
    assert f"{path}: config: hiden_size: unknown key" in refusal(path, capsys)


def test_a_file_that_is_no_container_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    path = tmp_path / "text.b158"
    path.write_text("hello")
    assert str(path) in refusal(path, capsys)
    (tmp_path / "folder.b158").mkdir()
    assert "is not a file" in refusal(tmp_path / "folder.b158", capsys)
