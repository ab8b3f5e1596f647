"""`chimera batch`: every line answered as if alone, in order, and a run that was broken off goes on."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from configs.errors import DataError, UsageError
from runtime.cli import main as command
from runtime.engine import Engine
from runtime.streams.batch import AHEAD, answer_all, lines_of
from runtime.streams.jobs import Defaults, parsed_job
from runtime.streams.scheduler import Scheduler
from tests.runtime.cli.talking import make_model

Run = Callable[..., tuple[int, str, str]]
LINES = [
    {"prompt": "Hello", "id": "first"},
    {"text": "Once upon a", "max_tokens": 3, "seed": 5},
    {
        "messages": [
            {"role": "user", "content": "Hi"},
            {"role": "assistant", "content": "Yes"},
            {"role": "user", "content": "Why?"},
        ]
    },
    {"promt": "Hello"},
    {"prompt": "long " * 60, "system": "Be brief.", "temperature": 0},
    {"prompt": "Hello", "temperature": -1, "id": [1]},
    {"prompt": "Hello", "id": 7},
]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("model"))


@pytest.fixture
def chimera(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Run:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "p.jsonl").write_text("\n".join(map(json.dumps, LINES)) + "\n\n{not json\n")

    def run(verb: str, *arguments: str) -> tuple[int, str, str]:
        code = command.main([verb, "-m", str(model), "-n", "8", *arguments])
        shown = capsys.readouterr()
        return code, shown.out, shown.err

    return run


def answers(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_each_answer_is_that_of_a_run_of_its_own(chimera: Run, tmp_path: Path) -> None:
    code, out, err = chimera("batch", "p.jsonl", "--seed", "4")
    assert (code, out) == (1, "")
    assert "5 answers, 3 failed" in err
    found = answers(tmp_path / "p.answers.jsonl")
    assert [answer["line"] for answer in found] == [1, 2, 3, 4, 5, 6, 7, 9]
    assert [answer.get("id") for answer in found] == ["first", None, None, None, None, [1], 7, None]
    assert 'did you mean "prompt"' in found[3]["error"]["message"]  # pyright: ignore
    assert "temperature -1" in found[5]["error"]["message"]  # pyright: ignore
    assert "p.jsonl:9" in found[7]["error"]["message"]  # pyright: ignore
    for number, words in (
        (0, ["Hello", "--seed", "4"]),
        (1, ["--raw", "Once upon a", "--seed", "5", "-n", "3"]),
        (4, [str(LINES[4]["prompt"]), "--system", "Be brief.", "--temp", "0"]),
    ):
        single = json.loads(chimera("run", *words, "--json")[1])
        assert (found[number]["text"], found[number]["finish"]) == (single["text"], single["finish"])


@pytest.mark.parametrize("first", [{"text": "Once", "max_tokens": 60}, {"promt": "no prompt"}])
def test_lines_behind_those_that_end_together_are_answered_too(
    chimera: Run, tmp_path: Path, first: dict[str, object]
) -> None:
    """A slow line holds back whatever is prepared; when it ends, nothing that was prepared is left to do."""
    jobs = [first, *({"text": "Once", "max_tokens": 1} for _ in range(10 * AHEAD))]
    (tmp_path / "p.jsonl").write_text("".join(json.dumps(job) + "\n" for job in jobs))
    chimera("batch", "p.jsonl", "--streams", "2")
    found = answers(tmp_path / "p.answers.jsonl")
    assert [answer["line"] for answer in found] == list(range(1, len(jobs) + 1))


def test_a_run_that_was_broken_off_goes_on(chimera: Run, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    assert chimera("batch", "p.jsonl", "--out", "out.jsonl", "--streams", "2")[0] == 1
    whole = out.read_bytes()
    ends = [place + 1 for place, byte in enumerate(whole) if byte == 10]
    for cut in (5, ends[2] + 30, len(whole)):
        out.write_bytes(whole[:cut])
        told = json.loads(chimera("batch", "p.jsonl", "--out", "out.jsonl", "--json")[1])
        assert told["found"] == sum(end <= cut for end in ends)
        assert out.read_bytes() == whole
    for change in (["--loops", "1"], ["--system", "Be"]):
        code, _, err = chimera("batch", "p.jsonl", "--out", "out.jsonl", *change)
        assert code == 2
        assert "out.jsonl:1 does not answer line 1 of this file" in err
    (tmp_path / "p.jsonl").write_text('{"prompt": "Hello", "id": "first"}\n')
    assert "does not answer a prompt" in chimera("batch", "p.jsonl", "--out", "out.jsonl")[2]
    assert out.read_bytes() == whole


def test_files_that_cannot_be_are_refused(chimera: Run, tmp_path: Path) -> None:
    for arguments, message in (
        (["none.jsonl"], "is no file of prompts"),
        (["p.jsonl", "--out", "p.jsonl"], "holds the prompts"),
        (["p.jsonl", "--out", "."], "cannot be written"),
        (["p.jsonl", "--out", "none/x"], "cannot be written"),
        (["p.jsonl", "--streams", "0"], "1 to 1024 are allowed"),
        (["p.jsonl", "--temp", "-3"], "temperature"),
    ):
        code, _, err = chimera("batch", *arguments)
        assert code == 2
        assert message in err


@pytest.fixture(scope="module")
def engine(model: Path) -> Iterator[Engine]:
    with Engine.open(model, num_threads=1, num_streams=2) as opened:
        yield opened


def test_an_interrupt_leaves_whole_lines_from_the_beginning(
    engine: Engine, model: Path, tmp_path: Path
) -> None:
    from configs.text.tokenizer import open_tokenizer
    from runtime.sampling import SamplingSettings
    from runtime.telling import Limits
    from runtime.turns import end_ids

    tokenizer = open_tokenizer(model)
    defaults = Defaults(
        tokenizer=tokenizer,
        template=None,
        settings=SamplingSettings(seed=1),
        limits=Limits(max_tokens=5),
        rounds=1,
        exit_threshold=0.0,
    )
    prompts, whole, cut = (tmp_path / name for name in ("p.jsonl", "whole.jsonl", "cut.jsonl"))
    prompts.write_text("".join(json.dumps({"text": f"Number {n}"}) + "\n" for n in range(12)))

    def run(out: Path, *, steps: int) -> int:
        left = iter(range(steps))
        scheduler = Scheduler(engine, tokenizer=tokenizer, ends=end_ids(tokenizer, None))
        seen: list[int] = []
        answer_all(
            scheduler,
            prompts,
            out,
            defaults=defaults,
            run="run",
            is_cancelled=lambda: next(left, None) is None,
            progress=lambda done, total: seen.append(done),
        )
        assert scheduler.num_running == 0
        assert seen == sorted(seen)
        return len(out.read_text().splitlines())

    assert run(whole, steps=10**6) == 12
    counts = [run(cut, steps=20) for _ in range(12)]
    assert counts == sorted(counts)
    assert 0 < counts[0] < 12
    assert cut.read_bytes() == whole.read_bytes()
    assert [line.number for line in lines_of(prompts)] == list(range(1, 13))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"[]", "object"),
        (b'{"prompt": 3}', "prompt"),
        (b'{"prompt": "a", "text": "b"}', "expected one of"),
        (b'{"id": 3}', "expected one of"),
        (b'{"messages": [{"role": "user"}]}', "content"),
        (b'{"prompt": "a", "seed": "b"}', "seed"),
    ],
)
def test_a_line_that_asks_for_nothing_says_what_is_wrong(line: bytes, message: str) -> None:
    with pytest.raises((DataError, UsageError), match=message):
        parsed_job(line, source="p.jsonl:1")
