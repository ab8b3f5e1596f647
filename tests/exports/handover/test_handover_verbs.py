"""`chimera export huggingface`, `export gguf` and `import huggingface`: what they print and refuse."""

import json
from pathlib import Path

import pytest

from runtime.cli.main import main


def test_a_model_goes_out_and_comes_in(
    tmp_path: Path, micro: Path, tokenizer_file: Path, capsys: pytest.CaptureFixture[str]
):
    folder, back = tmp_path / "folder", tmp_path / "back"
    words = ["--tokenizer", str(tokenizer_file)]
    assert (
        main(["export", "huggingface", str(micro), str(folder), *words, "--dtype", "bfloat16", "--json"]) == 0
    )
    out = json.loads(capsys.readouterr().out)
    assert (out["dtype"], out["weight_form"]) == ("bfloat16", "latent")
    assert out["file_bytes"] == sum(path.stat().st_size for path in folder.iterdir())
    assert main(["import", "huggingface", str(folder), str(back)]) == 0
    shown = capsys.readouterr().out
    assert "model.safetensors" in shown
    assert "tokenizer.model" in shown
    assert main(["export", "b158", str(back), str(tmp_path / "packed")]) == 0
    assert main(["export", "huggingface", str(tmp_path / "packed"), str(tmp_path / "held")]) == 0
    assert "scale × code of a packed model" in capsys.readouterr().out
    assert main(["import", "huggingface", str(tmp_path / "held"), str(tmp_path / "again")]) == 0
    assert "latent weights are drawn" in capsys.readouterr().out


def test_a_gguf_file_tells_its_error(tmp_path: Path, micro: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["export", "gguf", str(micro), str(tmp_path / "a.gguf")]) == 0
    shown = capsys.readouterr().out
    assert "NAME.scales; error none" in shown
    assert "no tokenizer" in shown
    assert "llama.cpp has no graph" in shown
    options = ["--ternary", "tq1_0", "--embedding", "q8_0", "--allow-loss", "--json"]
    assert main(["export", "gguf", str(micro), str(tmp_path / "b.gguf"), *options]) == 0
    out = json.loads(capsys.readouterr().out)
    assert (out["ternary"], out["embedding"], out["scales"]) == ("tq1_0", "q8_0", "block")
    assert out["ternary_loss"] > 0
    assert out["file_bytes"] == (tmp_path / "b.gguf").stat().st_size


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["export", "huggingface", "{micro}", "{micro}"], 2, "is there already"),
        (["export", "huggingface", "nothing", "{out}"], 3, "there is no such folder"),
        (["export", "huggingface", "{micro}", "{out}", "--ternary", "tq1_0"], 2, "chimera export gguf"),
        (["export", "gguf", "{micro}", "{out}", "--dtype", "bfloat16"], 2, "chimera export huggingface"),
        (["export", "b158", "{micro}", "{out}", "--allow-loss"], 2, "chimera export gguf"),
        (["export", "gguf", "{micro}", "{out}", "--embedding-bits", "4"], 2, "has no meaning"),
        (["export", "gguf", "{micro}", "{out}", "--ternary", "q4"], 2, "invalid choice: 'q4'"),
        (["export", "gguf", "{micro}", "{out}", "--tokenizer", "nothing.model"], 3, "nothing.model"),
        (["import", "huggingface", "nothing", "{out}"], 3, "nothing/config.json cannot be read"),
        (["import", "gguf", "nothing", "{out}"], 2, "invalid choice: 'gguf'"),
        (["import", "huggingface", "{micro}", "{micro}"], 2, "is there already"),
    ],
)
def test_what_cannot_work_is_said(
    tmp_path: Path,
    micro: Path,
    arguments: list[str],
    code: int,
    words: str,
    capsys: pytest.CaptureFixture[str],
):
    filled = [one.format(micro=micro, out=tmp_path / "out") for one in arguments]
    assert main(filled) == code
    shown = capsys.readouterr()
    assert shown.out == ""
    assert words in shown.err
    assert not (tmp_path / "out").exists()
