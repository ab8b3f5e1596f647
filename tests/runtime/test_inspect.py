"""`chimera inspect` as a user meets it."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from configs.load import PRESETS, preset, to_json
from quant.container_format import TensorSpec
from quant.container_writer import B158Writer
from quant.embedding import quantize_rows
from quant.ternary import quantize_ternary
from runtime.cli import inspect_view
from runtime.cli.main import main
from runtime.inspection import inspect_model
from runtime.packed_inspection import expected_tensors


def shown(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(["inspect", *arguments]) == 0
    return capsys.readouterr().out


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A packed file of the micro preset with random weights."""
    path = tmp_path_factory.mktemp("packed") / "micro.b158"
    config = preset("micro")
    specs = [
        TensorSpec(name=name, kind=kind, shape=shape)
        for name, (kind, shape) in expected_tensors(config).items()
    ]
    rng = np.random.default_rng(0)
    with B158Writer(path, tensors=specs, config=to_json(config), metadata={}) as writer:
        for spec in specs:
            values = rng.standard_normal(spec.shape, dtype=np.float32)
            if spec.kind == "ternary":
                writer.write(spec.name, quantize_ternary(values))
            elif spec.kind == "float32":
                writer.write(spec.name, values)
            else:
                writer.write(spec.name, quantize_rows(values, bits=8))
    return path


@pytest.mark.parametrize("name", PRESETS)
def test_piped_text_is_plain_and_whole(name: str, capsys: pytest.CaptureFixture[str]):
    text = shown(capsys, name)
    assert text.startswith(f"{name} (schema 5.1.2)\n")
    assert "\x1b" not in text
    assert "…" not in text.replace("1…", "")
    assert all(line == line.rstrip() for line in text.splitlines())


@pytest.mark.parametrize("width", [60, 80, 120])
def test_a_narrow_terminal_loses_no_words(
    width: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    def terminal(**options: object) -> Console:
        return Console(force_terminal=True, width=width, highlight=False)

    monkeypatch.setattr(inspect_view, "Console", terminal)
    text = shown(capsys, "chimera-5.1")
    assert "…" not in text
    assert "\x1b[" in text


def test_json_holds_everything(capsys: pytest.CaptureFixture[str]):
    report = json.loads(shown(capsys, "chimera-5.1", "--json"))
    assert report == json.loads(json.dumps(inspect_model("chimera-5.1")))
    assert report["parameters"]["projections"] == 2_360_957_440
    assert report["layers"][3] | {"parameters": 0, "state_bytes": 0} == {
        "index": 3, "alias": "TM", "kind": "titans_mac", "experts": True, "looped": False,
        "parameters": 0, "state_bytes": 0,
    }  # fmt: skip
    assert "span_inference.bank_entries" in report["inert"]
    assert "hidden_size" not in report["inert"]
    assert len(report["claims"]) > 30


def test_the_map_marks_experts_and_the_loop(capsys: pytest.CaptureFixture[str]):
    lines = shown(capsys, "demo").splitlines()
    start = next(index for index, line in enumerate(lines) if line.startswith("  layer"))
    assert lines[start].split() == ["layer", "GD", "XM", "GD", "TM", "GD", "XM", "GD", "SK"]
    assert lines[start + 1].split() == ["experts", "·", "·", "·", "◆", "·", "·", "·", "◆"]
    assert lines[start + 2].strip() == "loop            ╰────────────╯"


def test_models_without_loop_or_experts(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    path = tmp_path / "plain.json"
    path.write_text(
        '{"hidden_size": 128, "vocab_size": 300, "num_hidden_layers": 100, '
        '"backbone": {"layer_pattern": "GD"}}'
    )
    text = shown(capsys, str(path))
    assert "loop" not in text.replace("loop_", "")
    assert "experts" not in text
    assert " 99" in text


def test_a_packed_file_is_listed_and_verified(packed: Path, capsys: pytest.CaptureFixture[str]):
    text = shown(capsys, str(packed), "--verify")
    assert "every digest agrees" in text
    report = json.loads(shown(capsys, str(packed), "--json"))
    assert set(report["file"]["kinds"]) == {"ternary", "int8", "float32"}
    assert report["file"]["verified"] is False
    stored = sum(row["bytes"] for row in report["file"]["kinds"].values())
    form = report["bytes"]["2-bit ternary, 8-bit embedding"]
    # Accounting speaks of stacked float32 norms; apart, each expert's norm is padded by itself.
    assert stored == pytest.approx(form["total"], rel=2e-3)


def test_a_damaged_file_fails_verification(packed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    data = bytearray(packed.read_bytes())
    data[-100] ^= 1
    path = tmp_path / "damaged.b158"
    path.write_bytes(data)
    assert main(["inspect", str(path)]) == 0
    assert main(["inspect", str(path), "--verify"]) == 3
    assert "is damaged" in capsys.readouterr().err


def test_a_file_of_other_tensors_is_refused(packed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    path = tmp_path / "other.b158"
    spec = TensorSpec(name="final_norm.weight", kind="float32", shape=(64,))
    with B158Writer(path, tensors=[spec], config=to_json(preset("micro")), metadata={}) as writer:
        writer.write(spec.name, np.ones(64, np.float32))
    assert main(["inspect", str(path)]) == 3
    error = capsys.readouterr().err
    assert "embedding.weight is missing" in error
    assert "more" in error


@pytest.mark.parametrize(
    ("arguments", "code", "phrase"),
    [
        (["nowhere.json"], 3, "no such file"),
        (["nowhere.b158"], 3, "no file"),
        (["demo", "--verify"], 2, "--verify reads a packed file"),
        ([], 2, "required"),
        (["demo", "--frobnicate"], 2, "unrecognized"),
    ],
)
def test_mistakes_have_their_exit_codes(
    arguments: list[str], code: int, phrase: str, capsys: pytest.CaptureFixture[str]
):
    assert main(["inspect", *arguments]) == code
    captured = capsys.readouterr()
    assert phrase in captured.err
    assert captured.out == ""


def test_broken_json_is_one_line_with_its_place_in_a_real_process(tmp_path: Path):
    path = tmp_path / "config.json"
    path.write_text('{"preset": "demo",\n "vocab_size": }')
    done = subprocess.run(
        [sys.executable, "-m", "runtime.cli.main", "inspect", str(path)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 3
    assert f"{path}:2:16:" in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
