"""`chimera plan` as it is typed."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from configs.load import preset
from runtime.model_folder import DEMO
from runtime.random_model import random_b158

ROOT = Path(__file__).resolve().parents[3]


def plan(*arguments: str, encoding: str = "utf-8") -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-X", "utf8=0", "-m", "runtime.cli.main", "plan", *arguments],
        cwd=ROOT,
        env={"PATH": "", "HOME": str(Path.home()), "PYTHONIOENCODING": encoding},
        capture_output=True,
        encoding=encoding,
        timeout=200,
    )


def test_the_shipped_model_fits_here():
    done = plan(str(DEMO))
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[0] == "demo: 20.5M parameters, embedding of 8 bits; it fits"
    weights = (DEMO / "model.b158").stat().st_size
    assert re.search(rf"files +{weights / 1e6:.1f} MB +mapped, as they are", done.stdout)
    for mode, rounds in (("fast", 1), ("balanced", 2), ("reasoning", 4)):
        assert re.search(rf"^  {mode} +{rounds} +\d+ MB( +[\d,.]+){{3}}", done.stdout, re.MULTILINE)
    assert max(map(len, lines)) <= 120


def test_a_program_gets_json():
    done = plan("micro", "--json", "-t", "1", "--streams", "3", "--embedding-bits", "4")
    assert (done.returncode, done.stderr) == (0, "")
    report = json.loads(done.stdout)
    assert report["fits"]
    assert report["embedding_bits"] == 4
    assert report["machine"]["threads"] == 1
    assert report["memory"]["streams"] == 3
    assert [mode["name"] for mode in report["modes"]] == ["fast", "balanced", "reasoning"]
    assert all(mode["decode_tokens_per_s"] > 0 for mode in report["modes"])


def test_what_does_not_fit_ends_with_4_and_what_would():
    done = plan("chimera-5.1", "--memory-limit", "1G")
    assert done.returncode == 4
    assert "it does not fit" in done.stdout
    assert re.search(r"chimera: error: chimera-5.1 needs [\d.]+ GB; there are 1.1 GB: the limit", done.stderr)
    assert "hint: What fits: the preset small" in done.stderr


def test_a_program_is_told_the_same():
    done = plan("small", "--memory-limit", "100M", "--json")
    assert done.returncode == 4
    assert not json.loads(done.stdout)["fits"]
    error = json.loads(done.stderr)["error"]
    assert (error["kind"], error["exit_code"]) == ("NotEnoughMemory", 4)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("nothing.b158", None, "there is no file"),
        ("nothing", None, "no such file, and no preset of that name"),
        ("foreign.b158", b"\x89PNG\r\n\x1a\n" + bytes(500), "the header's length is"),
        ("empty.b158", b"", "the file has 0 bytes"),
        ("cut.json", b'{"preset": ', "expected a JSON value"),
        ("wrong.json", b'{"preset": "tiny", "hiden_size": 3}', 'did you mean "hidden_size"?'),
    ],
)
def test_what_is_no_model_is_refused(tmp_path: Path, name: str, content: bytes | None, words: str):
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    done = plan(str(path))
    assert (done.returncode, done.stdout) == (3, "")
    assert words in done.stderr
    assert done.stderr.startswith("chimera: error: ")


def test_a_truncated_model_is_refused(tmp_path: Path):
    path = tmp_path / "model.b158"
    random_b158(preset("micro"), path)
    whole = path.read_bytes()
    for length in (len(whole) - 1, 1000):
        path.write_bytes(whole[:length])
        done = plan(str(path))
        assert (done.returncode, done.stdout) == (3, "")
        assert str(path) in done.stderr


def test_a_preset_that_is_nearly_right_is_named():
    done = plan("tinny")
    assert done.returncode == 3
    assert "Did you mean the preset tiny?" in done.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["micro", "--threads", "0"],
        ["micro", "--streams", "0"],
        ["micro", "--memory-limit", "much"],
        ["micro", "--embedding-bits", "3"],
        ["micro", "--colour", "blue"],
    ],
)
def test_arguments_that_mean_nothing_are_refused(arguments: list[str]):
    done = plan(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("chimera: error: ")


def test_a_stream_without_our_signs_gets_others():
    done = plan("micro", "-t", "1", encoding="ascii")
    assert (done.returncode, done.stderr) == (0, "")
    assert "a stream x 1" in done.stdout


def test_the_page_shows_what_is_printed():
    """All but what is of one machine and one moment."""
    page = (ROOT / "docs" / "plan.md").read_text()
    lines = plan("runtime/models/demo").stdout.splitlines()
    same = [
        line for line in lines if line.startswith(("demo:", "  files ", "  states ", "  buffers ", "  mode "))
    ]
    assert len(same) == 5
    for line in (*same, *lines[-3:]):
        assert f"\n{line}\n" in page
