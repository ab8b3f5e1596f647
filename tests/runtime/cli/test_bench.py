"""`chimera bench` as people call it: processes of its own, every form of output, and what it refuses."""

import csv
import io
import json
import subprocess
import sys
from pathlib import Path

import pytest

from runtime.cli.main import main
from runtime.model_folder import DEMO
from tests.runtime.engine.models import make_model

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def micro(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("bench"))


def bench(*arguments: str, code: str = "") -> "subprocess.CompletedProcess[str]":
    """The command in a process of its own; `code` is what is run before it."""
    start = f"{code}\nfrom runtime.cli.main import main\nraise SystemExit(main())"
    command = [sys.executable, "-c", start, "bench", *arguments]
    return subprocess.run(command, cwd=ROOT, text=True, capture_output=True, check=False)


def test_the_shipped_model_in_a_table():
    done = bench("-p", "32", "-n", "8", "-r", "2", "-t", "1", "--loops", "1")
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]
    assert [row[5] for row in rows[2:]] == ["pp32", "tg8"]
    assert {len(row) for row in rows} == {9}
    assert all("±" in row[6] for row in rows[2:])
    assert any(line.startswith("- memory is read at ") for line in lines)
    assert any(line.startswith("- first token ") and line.endswith("(chimera-run)") for line in lines)
    assert any(line.startswith("- peak memory ") for line in lines)


def test_csv_of_a_preset_with_random_weights():
    asked = ("-p", "8,4", "-n", "0", "-r", "1", "-t", "1,2", "--embedding-bits", "4", "--no-start")
    done = bench("micro", *asked, "-o", "csv")
    assert (done.returncode, done.stderr) == (0, "")
    rows = list(csv.DictReader(io.StringIO(done.stdout)))
    found = [(row["test"], row["threads"], row["model_embedding_bits"]) for row in rows]
    assert found == [(test, threads, "4") for threads in "12" for test in ("pp8", "pp4")]
    assert all(float(row["tokens_per_s"]) > 0 and row["first_token_s"] == "" for row in rows)


def test_json_of_a_packed_model(micro: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["bench", str(micro), "-p", "4", "-n", "4", "-r", "1", "-t", "1", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert [test["test"] for test in report["tests"]] == ["pp4", "tg4"]
    assert report["process"]["first_token_s"] > 0


def test_a_long_text_is_plotted(micro: Path, tmp_path: Path):
    plot = tmp_path / "far.png"
    asked = ("--longctx", "--positions", "5,300", "--turns", "4", "-t", "1", "--plot", str(plot))
    done = bench(str(micro), *asked)
    assert (done.returncode, done.stderr) == (0, "")
    assert plot.read_bytes().startswith(b"\x89PNG")
    assert "- the slowest median is " in done.stdout
    assert f"- plot: {plot}" in done.stdout
    asked = ("--longctx", "--positions", "5,10000000", "--moving", "--turns", "4", "--plot", "none")
    done = bench(str(micro), *asked, "-o", "csv")
    rows = list(csv.DictReader(io.StringIO(done.stdout)))
    assert [(row["position"], row["reached_by"]) for row in rows] == [("5", "moving"), ("10000000", "moving")]
    assert [*tmp_path.iterdir()] == [plot]


def test_a_damaged_file_is_not_measured(micro: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    written = bytearray(micro.read_bytes())
    written[-1000] ^= 1
    damaged = tmp_path / "model.b158"
    damaged.write_bytes(written)
    assert main(["bench", str(damaged), "-p", "4", "-n", "4", "-r", "1", "--json"]) == 3
    told = capsys.readouterr()
    assert told.out == ""
    assert "is damaged" in json.loads(told.err)["error"]["message"]


def test_without_matplotlib_the_extra_is_named_before_anything_is_measured(micro: Path):
    done = bench(
        str(micro),
        "--longctx",
        "--positions",
        "1000000000",
        code="import sys; sys.modules['matplotlib'] = None",
    )
    assert done.returncode == 1
    assert "a plot needs the package 'matplotlib', which is not installed" in done.stderr
    assert 'pip install "chimera-edge[plot]"' in done.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["nothing.b158"], 3, "there is no file nothing.b158"),
        (["-p", "many"], 2, "--n-prompt 'many'; expected whole numbers with commas"),
        (["-n", "4,,5"], 2, "--n-gen '4,,5'; expected whole numbers"),
        (["-n", "-4"], 2, "--n-gen '-4'; expected whole numbers"),
        (["-r", "0"], 2, "0 repetitions; at least 1 is needed"),
        (["-t", "0"], 2, "1 to 256 are allowed"),
        (["--loops", "77"], 2, "77 rounds of the loop; this model takes"),
        (["--exit-threshold", "1.5"], 2, "an exit threshold of 1.5; allowed are 0 to 1"),
        (["--exit-threshold", "nan"], 2, "an exit threshold of nan"),
        (["--turns", "5"], 2, "--turns is of use with --longctx alone"),
        (["--plot", "x.png"], 2, "--plot is of use with --longctx alone"),
        (["--moving"], 2, "--moving is of use with --longctx alone"),
        (["--longctx", "--plot", "x.txt"], 2, "the plot x.txt; its name ends in .png"),
        (["--longctx", "--plot", "no/x.png"], 2, "there is no folder no"),
        (["--longctx", "--positions", "far", "--plot", "none"], 2, "--positions 'far'"),
        (["--longctx", "-t", "1,2", "--plot", "none"], 2, "one number of threads"),
        (["--longctx", "--turns", "0", "--plot", "none"], 2, "turns 1 or more"),
        (["--json", "-o", "csv"], 2, "two forms of output"),
        ([str(DEMO), "--embedding-bits", "4"], 2, "is packed already"),
    ],
)
def test_wrong_input_is_refused(
    arguments: list[str], code: int, message: str, capsys: pytest.CaptureFixture[str]
):
    assert main(["bench", *arguments]) == code
    told = capsys.readouterr().err
    assert message in told or message in json.loads(told)["error"]["message"]
