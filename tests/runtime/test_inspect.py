"""`chimera inspect` as a user meets it."""

import json
import os
import pty
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from rich.text import Text

from configs.load import PRESETS, preset
from runtime.cli import inspect_view
from runtime.cli.main import main
from runtime.inspection import inspect_model

ROOT = Path(__file__).resolve().parents[2]
PUBLISHED = ROOT / "tests" / "configs" / "published" / "config.json"


@pytest.fixture
def shown(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """What the command prints."""

    def run(*arguments: str) -> str:
        assert main(["inspect", *arguments]) == 0
        captured = capsys.readouterr()
        assert captured.err == ""
        return captured.out

    return run


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., str]:
    """A config.json of these keys."""

    def config(**keys: Any) -> str:
        path = tmp_path / "config.json"
        path.write_text(json.dumps(keys))
        return str(path)

    return config


def process(*arguments: str, env: dict[str, str] | None = None) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "runtime.cli.main", "inspect", *arguments],
        cwd=ROOT,
        env=os.environ | (env or {}),
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


@pytest.mark.parametrize("name", [*PRESETS, str(PUBLISHED)])
def test_piped_text_is_plain_and_as_wide_as_a_terminal(name: str, shown: Callable[..., str]):
    text = shown(name)
    title = "chimera-5.1-final" if name.endswith(".json") else name
    assert text.startswith(f"{title} (schema 5.1.2)\n")
    assert "\x1b" not in text
    for line in text.splitlines():
        assert line == line.rstrip()
        assert len(line) <= 80


def words_at(width: int, name: str, monkeypatch: pytest.MonkeyPatch, shown: Callable[..., str]) -> list[str]:
    """The words that a terminal of some width shows, without their colours."""

    def terminal(**options: Any) -> Console:
        return Console(force_terminal=True, color_system="truecolor", width=width, **options)

    monkeypatch.setattr(inspect_view, "Console", terminal)
    text = shown(name)
    assert "\x1b[" in text
    return without_colours(text).split()


def without_colours(text: str) -> str:
    return Text.from_ansi(text).plain


@pytest.mark.parametrize("name", PRESETS)
def test_no_terminal_is_too_narrow_for_a_word(
    name: str, monkeypatch: pytest.MonkeyPatch, shown: Callable[..., str]
):
    piped = shown(name).split()
    for width in (20, 80, 200):
        found = words_at(width, name, monkeypatch, shown)
        # In a narrow terminal the map has more lines, and the loop more pieces; all else is the same.
        assert {word for word in set(piped) ^ set(found) if "─" not in word} == set()


def test_a_real_terminal_gets_colours_and_no_line_is_wrapped():
    main_end, other_end = pty.openpty()
    environment = os.environ | {"TERM": "xterm-256color", "COLUMNS": "80"}
    environment.pop("NO_COLOR", None)
    with subprocess.Popen(
        [sys.executable, "-m", "runtime.cli.main", "inspect", "chimera-5.1"],
        cwd=ROOT,
        env=environment,
        stdout=other_end,
    ) as command:
        os.close(other_end)
        text = b""
        # On Linux the end of a terminal is an error of reading.
        try:
            while piece := os.read(main_end, 4096):
                text += piece
        except OSError:
            pass
        os.close(main_end)
    assert command.returncode == 0
    assert b"\x1b[32mholds" in text
    lines = without_colours(text.decode()).splitlines()
    assert max(len(line) for line in lines) <= 80


def test_json_holds_everything(shown: Callable[..., str]):
    text = shown("chimera-5.1", "--json")
    report = json.loads(text)
    assert text.isascii()
    assert report == json.loads(json.dumps(inspect_model("chimera-5.1")))
    assert report["parameters"]["projections"] == 2_360_957_440
    layer = {name: report["layers"][3][name] for name in ("index", "alias", "kind", "experts", "looped")}
    assert layer == {"index": 3, "alias": "TM", "kind": "titans_mac", "experts": True, "looped": False}
    assert len(report["claims"]) > 40
    assert [row["rounds"] for row in report["stream"]] == [1, 2, 3, 4, 6]
    for row in report["stream"]:
        assert row["state_bytes"] == sum(row["state"].values())
        assert row["bytes_per_token"] == row["weight_bytes_per_token"] + row["state_bytes"]
        assert row["all_streams_bytes"] == 16 * row["state_bytes"]
    assert set(report["bytes"]) == {
        f"{form} ternary, {bits}-bit embedding"
        for form in ("2-bit", "1.6-bit", "1.25-bit")
        for bits in (8, 4, 2)
    }
    for row in report["bytes"].values():
        assert row["in_memory"] == row["total"] + report["stream"][1]["state_bytes"]


def test_json_lists_what_is_inert(shown: Callable[..., str], write: Callable[..., str]):
    inert = json.loads(shown(str(PUBLISHED), "--json"))["inert"]
    assert "span_inference.bank_entries" in inert
    assert "training.phases[0].data" in inert
    assert "hidden_size" not in inert
    path = write(preset="demo", generation={"stream": False}, titans={"rope_theta": 5e4})
    named = json.loads(shown(path, "--json"))["inert"]
    assert set(named) <= {"generation.stream", "titans.rope_theta"}
    assert "generation.stream" in named


def test_people_see_inert_keys_by_section(shown: Callable[..., str], write: Callable[..., str]):
    assert shown("demo").endswith("\n  every key that is named does something\n")
    text = shown(
        write(preset="demo", generation={"stream": False}, diagnostics={"telemetry": False, "metrics": []})
    )
    assert text.endswith("\n  checked but inert for now: generation (1), diagnostics (1)\n")


def lines_after(text: str, start: str) -> list[str]:
    lines = text.splitlines()
    return lines[next(index for index, line in enumerate(lines) if line.startswith(start)) :]


def test_the_map_marks_experts_and_the_loop(shown: Callable[..., str]):
    lines = lines_after(shown("demo"), "          0")
    assert lines[:4] == [
        "          0   1   2   3   4   5   6   7",
        "  layer   GD  XM  GD  TM  GD  XM  GD  SK",
        "  experts ·   ·   ·   ◆   ·   ·   ·   ◆",
        "  loop            ╰────────────╯",
    ]


def test_a_line_of_the_map_holds_the_pattern_whole(shown: Callable[..., str]):
    lines = [line for line in shown("chimera-5.1").splitlines() if line.startswith("  layer ")]
    assert [len(line.split()) - 1 for line in lines] == [16, 12]
    loops = [line for line in shown("chimera-5.1").splitlines() if line.startswith("  loop  ")]
    assert [line.count("╰") + line.count("╯") for line in loops] == [1, 1]


def test_a_model_without_loop_or_experts(shown: Callable[..., str], write: Callable[..., str]):
    text = shown(
        write(hidden_size=128, vocab_size=300, num_hidden_layers=120, backbone={"layer_pattern": "GD"})
    )
    assert "\n  loop " not in text
    assert "experts" not in text
    assert "99  100 101\n" in text
    assert "119" in text


def test_a_model_of_one_layer_with_a_long_name(shown: Callable[..., str], write: Callable[..., str]):
    backbone = {"layer_pattern": "attention", "layer_aliases": {"attention": "gqa"}}
    text = shown(write(hidden_size=64, vocab_size=100, num_hidden_layers=1, backbone=backbone))
    assert "\n          0\n  layer   attention\n" in text
    assert "each token adds 512 B to the cache" in text


def test_a_loop_of_one_layer(shown: Callable[..., str], write: Callable[..., str]):
    text = shown(write(preset="micro", num_hidden_layers=3, looping={"loop": [1, 1]}))
    assert "\n  loop        ╰╯\n" in text


def test_a_model_of_two_hundred_layers(shown: Callable[..., str], write: Callable[..., str]):
    looping = {"enabled": True}
    text = shown(write(hidden_size=64, vocab_size=100, num_hidden_layers=200, looping=looping))
    assert "  200 layers of width 64" in text


def test_names_from_a_file_cannot_command_the_terminal(shown: Callable[..., str], write: Callable[..., str]):
    text = shown(write(preset="micro", _name_or_path="\x1b[2J[red]\n" + "x" * 500))
    assert text.startswith("\\x1b[2J[red]\\n" + "x" * 50 + "… (schema 5.1.2)\n")


def test_claims_stand_beside_the_truth(shown: Callable[..., str]):
    lines = lines_after(shown("chimera-5.1"), "the file states")
    assert lines[2].split() == ["params.moe_total", "350M", "1.58B", "differs"]
    assert lines[4:6] == [
        "params.effective_2loops                       4.2B         4.69B  differs",
        "    4.19B without experts",
    ]


def test_files_are_looked_for_beside_the_config(
    tmp_path: Path, shown: Callable[..., str], write: Callable[..., str]
):
    path = write(
        preset="micro", files={"weights": "w.b158", "moe": "e.b158", "tokenizer": "t.model", "spans": "s"}
    )
    expected = {row["key"]: row for row in json.loads(shown(path, "--json"))["files"]}
    assert {key: row["verdict"] for key, row in expected.items()} == {
        "weights": "missing", "moe": "missing", "tokenizer": "missing", "spans": "not used",
    }  # fmt: skip
    (tmp_path / "w.b158").write_bytes(bytes(expected["weights"]["computed_bytes"] + 1000))
    (tmp_path / "e.b158").write_bytes(bytes(100))
    (tmp_path / "t.model").write_bytes(b"x")
    for source in (path, str(tmp_path)):
        found = json.loads(shown(source, "--json"))["files"]
        assert [row["verdict"] for row in found] == ["holds", "differs", "not used", "holds"]
    assert "\nmoe        e.b158" in shown(path)
    assert {row["verdict"] for row in json.loads(shown("chimera-5.1", "--json"))["files"]} == {
        "not used",
        "not looked for",
    }


def test_a_file_name_that_no_system_holds_is_missing(shown: Callable[..., str], write: Callable[..., str]):
    report = json.loads(shown(write(preset="micro", files={"tokenizer": "ü" * 200}), "--json"))
    assert report["files"][0]["verdict"] == "missing"


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_any_stream_can_carry_the_report(encoding: str):
    done = process("demo", env={"PYTHONIOENCODING": encoding})
    assert (done.returncode, done.stderr) == (0, "")
    loop = {"utf-8": "╰────────────╯"}.get(encoding, "\\------------/")
    assert f"  loop            {loop}\n" in done.stdout


def test_a_closed_pipe_is_quiet():
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "runtime.cli.main", "inspect", "chimera-5.1", "--json"]
    with subprocess.Popen(command, cwd=ROOT, stdout=writer, stderr=subprocess.PIPE, text=True) as running:
        os.close(writer)
        assert running.communicate(timeout=120) == (None, "")
    assert running.returncode == 0


@pytest.mark.parametrize(
    ("arguments", "code", "phrase"),
    [
        (["nowhere.json"], 3, "nowhere.json: there is no such file, and no preset of that name"),
        (["demmo"], 3, "Did you mean the preset demo?"),
        (["nowhere.b158"], 3, "there is no file nowhere.b158"),
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


def test_problems_of_a_config_are_all_shown(write: Callable[..., str], capsys: pytest.CaptureFixture[str]):
    path = write(preset="demo", hiden_size=3, vocab_size="x")
    assert main(["inspect", path]) == 3
    assert capsys.readouterr().err == (
        f"chimera: error: {path}: 2 problems\n"
        '  vocab_size: expected an integer, got "x"\n'
        '  hiden_size: unknown key; did you mean "hidden_size"?\n'
        f"hint: docs/config.md lists every key. Presets: {', '.join(PRESETS)}\n"
    )
    assert main(["inspect", path, "--json"]) == 3
    error = json.loads(capsys.readouterr().err)["error"]
    assert (error["kind"], error["exit_code"]) == ("ConfigError", 3)


BROKEN = {
    "truncated": b'{"preset": "demo",\n "vocab_size"',
    "brackets": b'{"a":\n' + b"[" * 200_000,
    "not UTF-8": b'{"preset":\n"\xff"}',
    "duplicate": b'{"preset": "demo",\n "preset": "tiny"}',
    "not an object": b"\n[1, 2]",
    "empty": b"\n",
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_json_is_one_line_with_its_place(
    case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    path = tmp_path / "config.json"
    path.write_bytes(BROKEN[case])
    assert main(["inspect", str(path)]) == 3
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith(f"chimera: error: {path}:2:")
    assert shown.err.count("\n") == 1


def test_broken_json_in_a_real_process(tmp_path: Path):
    path = tmp_path / "config.json"
    path.write_text('{"preset": "demo",\n "vocab_size": }')
    done = process(str(path))
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr.startswith(f"chimera: error: {path}:2:16: ")
    assert done.stderr.count("\n") == 1


def test_the_smallest_file_that_builds_on_a_preset(shown: Callable[..., str], write: Callable[..., str]):
    text = shown(write(preset="tiny", hidden_size=512))
    assert "12 layers of width 512, 8 heads of 64, feed-forward 1,344\n" in text
    assert preset("tiny").hidden_size == 384
