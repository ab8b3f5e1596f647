"""Where workers meet, and that those of one machine have a log each."""

from pathlib import Path

import pytest

from configs.errors import UsageError
from runtime.cli.main import main
from runtime.finetune.workers import check_place, worker_path


def test_each_of_torchruns_processes_has_its_own_log():
    path = Path("here/answers.cza")
    assert worker_path(path, {}) == path
    assert worker_path(path, {"RANK": "0"}) == path
    assert worker_path(path, {"RANK": "3"}) == Path("here/answers.worker3.cza")


@pytest.mark.parametrize("where", ["here", "host", "host:", "host:port", ":70000", ""])
def test_a_place_that_is_none_is_refused(where: str):
    with pytest.raises(UsageError, match="expected torchrun, :PORT or HOST:PORT"):
        check_place(where, {})


@pytest.mark.parametrize("where", [":0", "host:29500", "::1:29500"])
def test_a_place_is_a_port_with_or_without_a_host(where: str):
    check_place(where, {})


def test_workers_nowhere_are_a_mistake_of_usage(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    data = tmp_path / "data.jsonl"
    data.write_text('{"prompt": "a", "completion": "b"}\n')
    told = ["finetune", "--data", str(data), "--out", str(tmp_path / "log.cza"), "--workers"]
    assert main(told) == 2
    assert "torchrun has not started this process" in capsys.readouterr().err
    assert main([*told, "nowhere"]) == 2
    assert "expected torchrun, :PORT or HOST:PORT" in capsys.readouterr().err
    assert not (tmp_path / "log.cza").exists()
