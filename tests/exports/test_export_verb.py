"""`chimera export`: what it prints, and that what it wrote is a model."""

import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from quant.container import open_b158
from runtime.cli.main import main
from runtime.inspection import inspect_model

ROOT = Path(__file__).resolve().parents[2]


def test_an_export_says_what_it_wrote(
    tmp_path: Path, micro: Path, tokenizer_file: Path, capsys: pytest.CaptureFixture[str]
):
    out = tmp_path / "packed" / "cat.b158"
    options = ["--embedding-bits", "4", "--tokenizer", str(tokenizer_file), "--json"]
    assert main(["export", "b158", str(micro), str(out), *options]) == 0
    answer = json.loads(capsys.readouterr().out)
    with open_b158(out) as file:
        assert file.verify() == ()
        assert answer["digest"] == file.digest
        assert answer["tokenizer"] == {
            "kind": "sentencepiece",
            "digest": file.metadata["tokenizer_digest"],
        }
    assert answer["file_bytes"] == out.stat().st_size
    assert answer["embedding_bits"] == 4
    assert sorted(answer["files"]) == sorted(str(path) for path in out.parent.iterdir())


def test_inspect_shows_a_whole_model(
    tmp_path: Path, micro: Path, tokenizer_file: Path, capsys: pytest.CaptureFixture[str]
):
    assert main(["export", "b158", str(micro), str(tmp_path), "--tokenizer", str(tokenizer_file)]) == 0
    shown = capsys.readouterr().out
    assert "model.b158" in shown
    assert "embedding and head of 8 bits" in shown
    report = inspect_model(str(tmp_path / "model.b158"), verify=True)
    assert report["file"]["holds"] == "all tensors"
    assert report["file"]["verified"]
    verdicts = {file["key"]: file["verdict"] for file in report["files"]}
    assert (verdicts["weights"], verdicts["tokenizer"], verdicts["moe"]) == ("holds", "holds", "not used")


def test_a_model_without_words_says_so(tmp_path: Path, micro: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["export", "b158", str(micro), str(tmp_path)]) == 0
    assert "no tokenizer: --tokenizer FILE adds one" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["exe", "a", "b"], 2, "invalid choice: 'exe'"),
        (["b158", "a"], 2, "OUT"),
        (["b158", "nothing", "out"], 3, "there is no such folder"),
        (["b158", "a", "b", "--embedding-bits", "3"], 2, "invalid choice: 3"),
        (["b158", "{micro}", "{out}", "--tokenizer", "nothing.model"], 3, "nothing.model"),
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
    assert main(["export", *filled]) == code
    shown = capsys.readouterr()
    assert shown.out == ""
    assert words in shown.err
    assert not (tmp_path / "out").exists()


def test_a_terminal_sees_a_bar(tmp_path: Path, micro: Path):
    """On a real terminal; what is piped out stays the answer alone."""
    leader, follower = pty.openpty()
    command = [
        sys.executable,
        "-m",
        "runtime.cli.main",
        "export",
        "b158",
        str(micro),
        str(tmp_path),
        "--json",
    ]
    process = subprocess.Popen(
        command, cwd=ROOT, env={**os.environ, "TERM": "xterm"}, stdout=subprocess.PIPE, stderr=follower
    )
    os.close(follower)
    shown = b""
    while process.poll() is None or shown == b"":
        try:
            shown += os.read(leader, 4096)
        except OSError:
            break
    answer, _ = process.communicate()
    os.close(leader)
    assert json.loads(answer)["embedding_bits"] == 8
    assert b"packing" in shown
