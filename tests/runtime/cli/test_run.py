"""`chimera-run` with a prompt: what comes out, where, and with which exit code."""

import io
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from configs.load import preset, to_json
from configs.text.training import train_sentencepiece
from configs.version import VERSION
from runtime.cli import opening
from runtime.cli.choices import parsed_size
from runtime.cli.run import main
from tests.runtime.cli.talking import FOREVER, ROOT, chimera_run, make_model


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("model"))


@pytest.fixture
def run(model: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """The command in this process: exit code, stdout, stderr."""

    def command(*arguments: str) -> tuple[int, str, str]:
        code = main(["-m", str(model), "--seed", "7", *arguments])
        shown = capsys.readouterr()
        return code, shown.out, shown.err

    return command


Run = Callable[..., tuple[int, str, str]]


def piped(monkeypatch: pytest.MonkeyPatch, data: bytes) -> None:
    stdin = SimpleNamespace(buffer=io.BytesIO(data), isatty=lambda: False)
    monkeypatch.setattr(sys, "stdin", stdin)


def test_an_answer_is_all_that_stdout_holds(run: Run):
    code, out, err = run("-n", "12", "Hello")
    assert (code, err) == (0, "")
    assert out.endswith("\n")
    assert len(out) > 3
    assert run("-n", "12", "Hello") == (0, out, "")
    assert run("-n", "12", "-t", "1", "Hello") == (0, out, ""), "one thread gives the same text"
    assert run("-n", "12", "--seed", "8", "Hello")[1] != out


def test_a_prompt_comes_from_anywhere(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    direct = run("-n", "8", "Hello there")
    file = tmp_path / "prompt.txt"
    file.write_text("Hello there\n")
    assert run("-n", "8", "-p", "Hello there") == direct
    assert run("-n", "8", "-f", str(file)) == direct
    piped(monkeypatch, b"Hello there\n")
    assert run("-n", "8") == direct
    piped(monkeypatch, b"Hello there\n")
    assert run("-n", "8", "-f", "-") == direct
    joined = run("-n", "8", "Sum up:\n\nHello there")
    assert run("-n", "8", "-f", str(file), "Sum up:") == joined


def test_json_tells_all(run: Run):
    code, out, err = run("-n", "5", "--json", "--log-probs", "2", "Hello")
    assert (code, err) == (0, "")
    found = json.loads(out)
    assert out.isascii()
    assert found["finish"] == "length"
    assert len(found["ids"]) == len(found["log_probs"]) == 5
    assert all(len(token["best"]) == 2 and token["log_prob"] < 0 for token in found["log_probs"])
    assert found["stats"]["answer_tokens"] == 5
    assert found["stats"]["seed"] == 7
    assert found["stats"]["memory_mb"] > 10
    assert found["stats"]["state_norm_max"] > 0
    assert 0 < found["stats"]["moe_experts_met"] <= 1
    assert found["model"] == "micro"
    plain = run("-n", "5", "Hello")[1]
    assert found["text"] == plain.removesuffix("\n")


def test_stats_are_told_on_stderr(run: Run):
    code, out, err = run("-n", "5", "--stats", "Hello")
    assert code == 0
    assert "surface_tps" not in out
    for name in ("prompt_tokens", "first_token_ms", "surface_tps", "memory_mb", "loop_count_mean", "seed  "):
        assert name in err


def test_each_way_to_draw_counts(run: Run):
    greedy = run("-n", "12", "--temp", "0", "Hello")[1]
    assert run("-n", "12", "--temp", "0", "--seed", "9", "Hello")[1] == greedy
    assert run("-n", "12", "--top-k", "1", "Hello")[1] == greedy
    assert run("-n", "12", "--top-p", "0", "Hello")[1] == greedy
    assert run("-n", "12", "--min-p", "1", "Hello")[1] == greedy
    assert run("-n", "12", "--temp", "0", "--repeat-penalty", "100", "Hello")[1] != greedy
    of_rounds = [run("-n", "2", "--json", "--log-probs", "1", "--loops", n, "Hello")[1] for n in "124"]
    assert len({str(json.loads(out)["log_probs"]) for out in of_rounds}) == 3
    assert run("-n", "12", "--temp", "0", "--mode", "balanced", "Hello")[1] == greedy
    assert run("-n", "12", "--temp", "0", "--system", "Be kind.", "Hello")[1] != greedy
    assert run("-n", "12", "--temp", "0", "--raw", "Hello")[1] != greedy
    first = json.loads(run("-n", "1", "--temp", "0", "--json", "Hello")[1])["ids"][0]
    assert run("-n", "12", "--temp", "0", "--logit-bias", f"{first}=off", "Hello")[1] != greedy


def test_a_stop_string_ends_it(run: Run):
    text = run("-n", "40", *FOREVER[2:], "Hello")[1]
    stop = text[10:13]
    cut = text[: text.index(stop)]
    assert run("-n", "40", *FOREVER[2:], "--stop", stop, "Hello")[1].removesuffix("\n") == cut.removesuffix(
        "\n"
    )


REFUSED = [
    (["--temp", "-1", "Hi"], 2, "temperature -1.0; allowed"),
    (["--top-p", "1.5", "Hi"], 2, "top-p 1.5"),
    (["--seed", "-1", "Hi"], 2, "seed -1"),
    (["-n", "0", "Hi"], 2, "an answer of 0 tokens"),
    (["--stop", "", "Hi"], 2, "a stop string of 0 characters"),
    (["--logit-bias", "x", "Hi"], 2, "logit bias 'x'"),
    (["--logit-bias", "500=1", "Hi"], 2, "logit bias on token 500"),
    (["--mode", "slow", "Hi"], 2, "no mode 'slow'; it has fast, balanced, reasoning"),
    (["--loops", "9", "Hi"], 2, "9 rounds of the loop; this model takes 1 to 4"),
    (["--loops", "1", "--mode", "fast", "Hi"], 2, "--loops and --mode"),
    (["--log-probs", "2", "Hi"], 2, "told in JSON alone"),
    (["--memory-limit", "much", "Hi"], 2, "the size 'much'"),
    (["--memory-limit", "10M", "Hi"], 4, "MiB are needed"),
    (["--memory-limit", "9" * 400, "Hi"], 2, "expected a number and perhaps K"),
    (["--memory-limit", "9" * 24 + "G", "Hi"], 2, "no machine has so much memory"),
    (["--memory-limit", "1..5G", "Hi"], 2, "the size '1..5G'"),
    (["-t", "0", "Hi"], 2, "1 to 256 are allowed"),
    (["-t", "257", "Hi"], 2, "1 to 256 are allowed"),
    (["-m", "", "Hi"], 2, "the path after --model is empty"),
    (["-m", "x" * 5000, "Hi"], 3, "cannot be read: File name too long"),
    (["-m", "a\x1b[31mb", "Hi"], 3, "there is no file a\\x1b[31mb"),
    (["-p", "a", "b"], 2, "two prompts"),
    (["--raw", "--system", "a", "Hi"], 2, "--raw goes on with a text"),
    (["--tempt", "1", "Hi"], 2, "unrecognized arguments: --tempt Hi\nhint: Did you mean --temp?"),
    (["Hi", "there"], 2, "A text of several words stands in quotes"),
    ([""], 2, "the prompt holds no text"),
    (["-p", " \n"], 2, "the prompt holds no text"),
    (["--loops", "0", "Hi"], 2, "0 rounds of the loop; a model takes 1 at least"),
    (["--system", "Be \udcff", "Hi"], 2, "the system message is not UTF-8: byte 3 is 0xff"),
    (["--stop", "\udcff", "Hi"], 2, "a stop string is not UTF-8"),
    (["-f", "no/such/file"], 1, "No such file or directory: no/such/file"),
    (["-f", "."], 1, "Is a directory"),
    (["Hi \udcff"], 2, "the prompt is not UTF-8: byte 3 is 0xff"),
]


@pytest.mark.parametrize(
    ("arguments", "code", "message"), REFUSED, ids=[" ".join(row[0][:2]) for row in REFUSED]
)
def test_what_cannot_work_is_one_message(run: Run, arguments: list[str], code: int, message: str):
    found, out, err = run(*arguments)
    assert (found, out) == (code, "")
    assert err.startswith("chimera: error: ")
    assert message in err
    assert "Traceback" not in err


def test_a_refusal_is_json_where_an_answer_would_be(run: Run):
    code, out, err = run("--log-probs", "101", "--json", "Hi")
    assert (code, out) == (2, "")
    assert json.loads(err)["error"]["message"] == "101 log-probabilities; 0 … 100 is allowed"


def test_bad_prompts_are_refused(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    file = tmp_path / "prompt"
    file.write_bytes(b"abc\xff")
    assert "is not UTF-8: byte 3 is 0xff" in run("-f", str(file))[2]
    piped(monkeypatch, b" \n")
    assert run()[0] == 2
    file.write_bytes(b"x" * (10 * 2**20))
    code, _, err = run("-f", str(file))
    assert code == 2
    assert "a message of 10,485,760 characters; at most 4,000,000" in err
    assert "--raw" in err


def test_bad_models_are_refused(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    def error(path: Path) -> tuple[int, str]:
        return main(["-m", str(path), "Hi"]), capsys.readouterr().err

    missing = error(tmp_path / "nothing.b158")
    assert missing[0] == 3
    assert "there is no file" in missing[1]
    foreign = tmp_path / "foreign.b158"
    foreign.write_bytes(b"GGUF" + bytes(1000))
    assert error(foreign)[0] == 3
    cut = tmp_path / "cut.b158"
    data = (model / "model.b158").read_bytes()
    cut.write_bytes(data[: len(data) // 2])
    assert error(cut)[0] == 3
    (tmp_path / "model.gguf").write_bytes(b"GGUF" + bytes(1000))
    code, message = error(tmp_path / "model.gguf")
    assert code == 3
    assert "model.gguf is a GGUF file of llama.cpp, not packed weights" in message
    assert "is a JSON file" in error(Path("configs/presets/micro.json"))[1]
    alone = tmp_path / "alone"
    alone.mkdir()
    (alone / "model.b158").write_bytes(data)
    code, message = error(alone)
    assert code == 3
    assert "no tokenizer in this folder" in message
    texts = [Path(os.__file__).with_name("textwrap.py").read_text()]
    train_sentencepiece(texts, out=alone / "tokenizer.model", vocab_size=preset("micro").vocab_size + 1)
    code, message = error(alone)
    assert code == 3
    assert "ids, the model's vocabulary only" in message


def test_a_config_that_the_weights_were_not_packed_with_is_refused(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    for name in ("model.b158", "tokenizer.model"):
        shutil.copy(model / name, tmp_path)
    other = preset("micro")
    beside = tmp_path / "config.json"
    beside.write_text(to_json(other))
    assert main(["-m", str(tmp_path), "-n", "1", "Hi"]) == 0
    beside.write_text(to_json(replace(other, generation=replace(other.generation, temperature=0.25))))
    capsys.readouterr()
    assert main(["-m", str(tmp_path), "-n", "1", "Hi"]) == 3
    assert "packed with: it differs in generation.temperature" in capsys.readouterr().err
    assert main(["-m", str(tmp_path / "model.b158"), "-n", "1", "Hi"]) == 0
    beside.write_text("{")
    assert main(["-m", str(tmp_path), "-n", "1", "Hi"]) == 3


def test_what_is_said_wrong_is_told_before_anything_is_read(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    def read(most: int) -> bytes:
        raise AssertionError("nobody reads a prompt for a command that cannot work")

    stdin = SimpleNamespace(buffer=SimpleNamespace(read=read), isatty=lambda: False)
    monkeypatch.setattr(sys, "stdin", stdin)
    for wrong, message in (
        (["-t", "0"], "1 to 256 are allowed"),
        (["--temp", "-1"], "temperature -1.0"),
        (["-n", "0"], "an answer of 0 tokens"),
        (["--loops", "0"], "0 rounds of the loop"),
        (["--log-probs", "101", "--json"], "101 log-probabilities"),
        (["--memory-limit", "much"], "the size 'much'"),
        (["--system", "\udcff"], "the system message is not UTF-8"),
        (["--logit-bias", "1=nan"], "logit bias nan"),
    ):
        assert main(["-m", "no/such/model", *wrong]) == 2
        assert message in capsys.readouterr().err


def test_a_damaged_weight_is_found(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    for name in ("model.b158", "tokenizer.model"):
        shutil.copy(model / name, tmp_path)
    weights = tmp_path / "model.b158"
    data = bytearray(weights.read_bytes())
    assert main(["-m", str(tmp_path), "-n", "1", "Hi"]) == 0
    times = weights.stat()
    data[-100] ^= 1
    with weights.open("r+b") as file:
        file.write(data)
    capsys.readouterr()
    assert main(["-m", str(tmp_path), "-n", "1", "Hi"]) == 3
    assert "model.b158 is damaged: " in capsys.readouterr().err
    os.utime(weights, ns=(times.st_atime_ns, times.st_mtime_ns))
    # A disk that lies about a file that is known is caught by whoever asks.
    assert main(["-m", str(tmp_path), "-n", "1", "--verify", "Hi"]) == 3


def test_without_the_shipped_model_it_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(opening, "DEMO", tmp_path / "demo")
    assert main(["Hi"]) == 3
    assert "holds no model of its own" in capsys.readouterr().err


def test_the_shipped_model_is_the_default(
    model: Path, run: Run, monkeypatch: pytest.MonkeyPatch, capsys: Any
):
    monkeypatch.setattr(opening, "DEMO", model)
    assert main(["--seed", "7", "-n", "8", "Hello"]) == 0
    assert capsys.readouterr().out == run("-n", "8", "Hello")[1]


def test_a_size_is_read_in_powers_of_1024():
    assert parsed_size("800M") == 800 * 2**20
    assert parsed_size("1.5GiB") == 3 * 2**29
    assert parsed_size("64kb") == 64 * 2**10
    assert parsed_size("123") == 123


def test_a_reader_who_leaves_is_no_error(model: Path):
    with chimera_run("-m", str(model), *FOREVER, "Hello") as process:
        assert process.stdout is not None
        assert len(process.stdout.read(100)) == 100
        process.stdout.close()
        assert process.stderr is not None
        assert process.stderr.read() == b""
    assert process.returncode == 0


def test_an_interrupt_ends_the_answer_and_keeps_what_came(model: Path):
    with chimera_run("-m", str(model), *FOREVER, "Hello") as process:
        assert process.stdout is not None
        begun = process.stdout.read(100)
        process.send_signal(signal.SIGINT)
        rest, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert errors == b""
    assert (begun + rest).endswith(b"\n")


def test_an_answer_comes_as_it_is_made(model: Path):
    """The first bytes come while the last are not yet thought of."""
    with chimera_run("-m", str(model), *FOREVER, "Hello") as process:
        assert process.stdout is not None
        assert process.stdout.read(1)
        assert process.poll() is None
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)


def test_a_stream_that_cannot_show_a_character_still_gets_an_answer(model: Path):
    environment = os.environ | {"PYTHONIOENCODING": "ascii"}
    with chimera_run("-m", str(model), "-n", "30", "--seed", "7", "Hello", env=environment) as process:
        out, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (0, b"")
    assert out.isascii()


def test_a_model_begins_by_itself_where_it_is_given_nothing_to_go_on_with(run: Run):
    code, out, err = run("--raw", "-n", "8", *FOREVER[2:], "")
    assert (code, err) == (0, "")
    assert len(out) > 3


def test_the_version(capsys: pytest.CaptureFixture[str]):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"chimera-run {VERSION}\n"


def test_the_command_by_itself_is_the_verb(model: Path, capsys: pytest.CaptureFixture[str]):
    from runtime.cli.main import main as chimera

    arguments = ["-m", str(model), "--seed", "7", "-n", "8", "Hello"]
    assert main(arguments) == 0
    alone = capsys.readouterr().out
    assert chimera(["run", *arguments]) == 0
    assert capsys.readouterr().out == alone
    result = subprocess.run(
        [sys.executable, "-m", "runtime.cli.run", "--help"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert result.stdout.startswith("usage: chimera-run ")
