"""`chimera export onnx` and `verify` from the command line, and what they refuse."""

import json
import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

from configs.errors import EXIT_DONE, EXIT_FAILED, EXIT_MODEL, EXIT_USAGE, ChimeraError
from configs.text.tokenizer import open_tokenizer
from exports.onnx.export import check_space, export_onnx
from runtime.cli.main import main
from runtime.model_folder import DEMO
from tests.exports.onnx.conftest import MakeModel
from tests.house.files import ROOT

EDGE_STRINGS = (
    "", " ", "  two  spaces ", "\n\n\ta\r\n", "▁ a▁b", "<0x41>", "<<0x0A>",
    "naïve café — 数学 🙂‍↔️", "a" * 300,
    "1234567890", "<|endoftext|>", "\u0000\u200b\ufeff", "Once upon a time, there was a cat.",
)  # fmt: skip


def test_the_demo_goes_out_and_is_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    out = tmp_path / "edge"
    assert main(["export", "onnx", str(DEMO), str(out), "--profile", "reference", "--json"]) == EXIT_DONE
    told = json.loads(capsys.readouterr().out)
    assert {path.name for path in out.iterdir()} == set(told["files"])
    assert told["file_bytes"] == sum(path.stat().st_size for path in out.iterdir())
    graph = sum(path.stat().st_size for path in out.glob("model.onnx*"))
    assert graph < 1.1 * told["packed_bytes"]
    assert "titans_mac" in told["onnxruntime_genai"]
    text = str(ROOT / "README.md")
    command = ["export", "verify", str(DEMO), str(out), "--tokens", "12", "--threads", "1", "--text", text]
    assert main([*command, "--json"]) == EXIT_DONE
    verdict = json.loads(capsys.readouterr().out)
    assert verdict["step_median"] < 3e-6
    assert verdict["step_agreement"] == 1
    assert verdict["source"] == text

    ours, theirs = open_tokenizer(DEMO), open_tokenizer(out / "tokenizer.json")
    for text in EDGE_STRINGS:
        assert theirs.encode(text) == ours.encode(text), text
        assert theirs.decode(theirs.encode(text)) == text


def test_another_model_is_noticed(make_model: MakeModel, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    # The same digest, other weights: a file that was damaged on its way.
    model, out = make_model(), tmp_path / "edge"
    export_onnx(model, out)
    data = bytearray((out / "model.onnx.data").read_bytes())
    data[: len(data) // 2] = bytes(reversed(data[: len(data) // 2]))
    (out / "model.onnx.data").write_bytes(data)
    assert main(["export", "verify", str(model), str(out), "--tokens", "8", "--threads", "1"]) == EXIT_FAILED
    assert "does not compute what the engine does" in capsys.readouterr().err


@pytest.mark.parametrize("factor", [2.0, float("nan")])
def test_a_graph_that_keeps_other_states_is_noticed(
    recurrent: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], factor: float
):
    """What a step says is right; what the next one would begin with is not."""
    out = tmp_path / "edge"
    export_onnx(recurrent, out, profile="reference")
    model = onnx.load(out / "model.onnx", load_external_data=False)
    kept = next(one.name for one in model.graph.output if one.name.endswith("recurrent_state"))
    maker = next(node for node in model.graph.node if kept in node.output)
    maker.output[list(maker.output).index(kept)] = "right"
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array(factor, dtype=np.float32), "factor"))
    model.graph.node.append(onnx.helper.make_node("Mul", ["right", "factor"], [kept]))
    onnx.save(model, out / "model.onnx")
    command = ["export", "verify", str(recurrent), str(out), "--tokens", "8", "--threads", "1", "--json"]
    assert main(command) == EXIT_FAILED
    verdict = json.loads(capsys.readouterr().out)
    assert verdict["step_median"] < 3e-6
    assert verdict["state_median"] is None or verdict["state_median"] > 0.5
    assert main(command[:-1]) == EXIT_FAILED
    assert "does not keep what the engine does" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["onnx", "MODEL", "OUT", "--loops", "9"], EXIT_USAGE, "this model allows 1 to 4"),
        (["onnx", "MODEL", "OUT", "--loops", "0"], EXIT_USAGE, "a whole number from 1"),
        (["onnx", "MODEL", "OUT", "--nodes"], EXIT_USAGE, "goes with: chimera export verify"),
        (["verify", "MODEL", "OUT", "--profile", "native"], EXIT_USAGE, "goes with: chimera export onnx"),
        (["onnx", "MODEL", "OUT", "--embedding-bits", "4"], EXIT_USAGE, "no meaning for an ONNX export"),
        (["b158", "MODEL", "OUT", "--loops", "2"], EXIT_USAGE, "no meaning for `chimera export b158`"),
        (["verify", "MODEL", "OUT"], EXIT_MODEL, "state_contract.json: cannot be read"),
        (["onnx", "OUT/none", "OUT"], EXIT_MODEL, "no file"),
        (["onnx", "MODEL", "MODEL"], EXIT_USAGE, "is there already"),
        (["onnx", "MODEL", "."], EXIT_USAGE, "is no name for a new folder"),
        (["huggingface", "MODEL", "OUT/none/.."], EXIT_USAGE, "is no name for a new folder"),
    ],
)
def test_refusals(
    make_model: MakeModel,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    code: int,
    words: str,
):
    names = {"MODEL": str(make_model()), "OUT": str(tmp_path / "out"), "OUT/none": str(tmp_path / "none")}
    names["OUT/none/.."] = f"{tmp_path}/none/.."
    assert main(["export", *(names.get(word, word) for word in arguments)]) == code
    assert words in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_layer_that_cannot_go_out_is_named(
    make_model: MakeModel, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    model = make_model({"backbone": {"type": "hybrid", "kv_cache": "window", "layer_pattern": "GD SW GD SK",
        "layer_aliases": {"GD": "gated_deltanet", "SW": "swa", "SK": "tsp_span_knot"}}})  # fmt: skip
    assert main(["export", "onnx", str(model), str(tmp_path / "out")]) == EXIT_MODEL
    assert "layer 1 is of the kind swa" in capsys.readouterr().err


def test_a_full_disk_leaves_nothing(tmp_path: Path):
    def no_large_files() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))

    command = [sys.executable, "-m", "runtime.cli.main", "export", "onnx", str(DEMO), str(tmp_path / "out")]
    done = subprocess.run(
        command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True,
        timeout=300, preexec_fn=no_large_files, check=False,
    )  # fmt: skip
    assert done.returncode == EXIT_FAILED, done.stderr
    assert "cannot write" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_is_too_small_is_known_before(tmp_path: Path):
    free = shutil.disk_usage(tmp_path).free
    with pytest.raises(ChimeraError, match=r"takes [\d,]+ bytes, and [\d,]+ are free"):
        check_space(tmp_path, free + 2**40)
