"""`chimera adapter`: what was learnt is put in, taken out and merged; what is refused changes nothing."""

import json
import re
import shutil
from pathlib import Path

import pytest

from configs.errors import AdapterError, ChimeraError
from quant.adapter import Adapter, AdapterHeader, Record, Setting
from quant.adapter_log import AdapterLog, write_adapter
from quant.container import open_b158
from runtime.adapting import merging
from runtime.adapting.scales import grouped_names
from runtime.cli.main import main
from runtime.model_folder import open_model
from tests.runtime.finetune.learning import Finetune, make_other


def test_adapters_are_applied_taken_out_and_merged(
    finetune: Finetune, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    far = ["--steps", 4, "--batch", 4, "--move", 0.05, "--schedule", "constant"]
    assert finetune(*far, out="s.cza")[0] == 0
    scales = tmp_path / "s.cza"
    assert finetune(*far, "--method", "codes", "--set", "spread=64", "--adapter", scales, out="c.cza")[0] == 0
    assert finetune(*far, "--method", "state", out="b.cza")[0] == 0
    codes, state = tmp_path / "c.cza", tmp_path / "b.cza"

    def bits(model: Path, *adapters: Path) -> float:
        options = [str(word) for adapter in adapters for word in ("--adapter", adapter)]
        data = ["--data", str(folder / "data.jsonl"), "--chat", "--threads", "1", "--json"]
        assert main(["perplexity", str(model), *data, *options]) == 0
        return json.loads(capsys.readouterr().out)["sources"][-1]["bits_per_byte"]

    copy = tmp_path / "copy"
    shutil.copytree(folder / "model", copy)
    plain, both, three = bits(copy), bits(copy, scales, codes), bits(copy, scales, codes, state)
    assert len({plain, bits(copy, scales), both, three}) == 4
    assert finetune("apply", copy, scales, codes, verb="adapter")[0] == 0
    assert bits(copy) == both
    assert finetune("apply", copy, state, verb="adapter")[0] == 0
    assert bits(copy) == three
    code, out, _ = finetune("undo", copy, verb="adapter")
    assert (code, "003-b.cza" in out, bits(copy)) == (0, True, both)
    assert finetune("merge", copy, "--out", tmp_path / "merged", verb="adapter")[0] == 0
    assert bits(tmp_path / "merged") == both
    for _ in range(2):
        assert finetune("undo", copy, verb="adapter")[0] == 0
    assert bits(copy) == plain
    assert sorted(file.name for file in copy.iterdir()) == ["model.b158", "tokenizer.model"]
    _check_refusals(finetune, tmp_path, copy=copy, codes=codes, state=state)


def _check_refusals(finetune: Finetune, tmp_path: Path, *, copy: Path, codes: Path, state: Path) -> None:
    refused: list[tuple[list[object], int, str]] = [
        (["undo", copy], 2, "no adapter to take out"),
        (["apply", copy], 2, "no adapter is named"),
        (["apply", copy, codes], 3, "was learnt on top of"),
        (["apply", copy / "model.b158", codes], 2, "is no folder"),
        (["apply", make_other(tmp_path / "other"), state], 3, "was learnt on the model"),
        (["merge", copy, state, "--out", tmp_path / "n"], 3, "no file of weights holds"),
        (["merge", copy, "--out", tmp_path / "n"], 2, "nothing to merge"),
        (["merge", copy, state], 2, "--out"),
        (["info", copy / "model.b158"], 3, "is no adapter"),
        (["show", copy], 2, "show"),
    ]
    for arguments, code, words in refused:
        found, out, err = finetune(*arguments, verb="adapter")
        assert (found, out, words in err) == (code, "", True), err
    assert not (copy / "adapters").exists()
    code, out, _ = finetune("info", codes, "--json", verb="adapter")
    (shown,) = json.loads(out)["adapters"]
    assert (code, shown["method"], shown["steps"], len(shown["beneath"])) == (0, "codes", 4, 1)
    assert "codes, 4 steps" in finetune("info", codes, verb="adapter")[1]


def test_an_adapter_is_applied_once_and_last_or_not_at_all(
    finetune: Finetune, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    far = ["--steps", 1, "--batch", 1]
    assert finetune(*far, out="a.cza")[0] == 0
    assert finetune(*far, "--seed", 2, out="b.cza")[0] == 0
    a, b, copy = tmp_path / "a.cza", tmp_path / "b.cza", tmp_path / "copy"
    shutil.copytree(folder / "model", copy)

    def write(path: Path, adapter: Adapter) -> None:
        if path.name.endswith("b.cza"):
            raise ChimeraError("the disk is full")
        write_adapter(path, adapter)

    with monkeypatch.context() as patched:
        patched.setattr(merging, "write_adapter", write)
        assert "the disk is full" in finetune("apply", copy, a, b, verb="adapter")[2]
    assert not (copy / "adapters").exists()
    assert "is the same adapter as" in finetune("apply", copy, a, a, verb="adapter")[2]
    assert finetune("apply", copy, a, verb="adapter")[0] == 0
    code, _, err = finetune("apply", copy, b, a, verb="adapter")
    assert (code, "is the same adapter as" in err) == (3, True)
    (copy / "adapters" / "001-a.cza").rename(copy / "adapters" / "persona.cza")
    code, _, err = finetune("apply", copy, b, verb="adapter")
    assert (code, "002-b.cza would come before persona.cza" in err) == (2, True)
    (copy / "adapters" / "persona.cza").rename(copy / "adapters" / "999-a.cza")
    code, _, err = finetune("apply", copy, b, verb="adapter")
    assert (code, "1000-b.cza would come before 999-a.cza" in err) == (2, True)
    assert [path.name for path in (copy / "adapters").iterdir()] == ["999-a.cza"]


def test_what_is_merged_is_whole_and_has_its_own_files_alone(
    finetune: Finetune, folder: Path, tmp_path: Path
) -> None:
    assert finetune("--steps", 1, "--batch", 1)[0] == 0
    adapter, models = tmp_path / "a.cza", tmp_path / "models"
    shutil.copytree(folder / "model", models)
    weights = (models / "model.b158").rename(models / "one.b158")
    shutil.copyfile(make_other(tmp_path / "other") / "model.b158", models / "two.b158")
    (models / "notes.txt").write_text("mine")
    (tmp_path / ".new.1-ab.partial").mkdir()
    assert finetune("merge", weights, adapter, "--out", tmp_path / "new", verb="adapter")[0] == 0
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["one.b158", "tokenizer.model"]
    open_model(tmp_path / "new").file.close()
    assert not (tmp_path / ".new.1-ab.partial").exists()
    with open_b158(weights) as file:
        (name, *_) = grouped_names(file)
        scales = file.ternary(name).scales
        at = weights.read_bytes().index(scales.tobytes())
    data = bytearray(weights.read_bytes())
    data[at] ^= 1
    weights.write_bytes(data)
    code, _, err = finetune("merge", weights, adapter, "--out", tmp_path / "next", verb="adapter")
    assert (code, "one.b158 is damaged" in err, (tmp_path / "next").exists()) == (3, True, False), err


HOSTILE: list[tuple[str, dict[str, Setting], float, str]] = [
    ("scales", {"epsilon": 0.02}, 1e30, "goes 1e+30 far"),
    ("codes", {"spread": 512}, 65537.0, "goes 65537 far"),
    ("scales", {"epsilon": 0.02, "decay": "x", "rate": 1.0}, 1.0, "says decay 'x'"),
    ("scales", {"epsilon": 0.02, "decay": 10**390, "rate": 1.0}, 1.0, "says decay '1000"),
    ("scales", {"epsilon": 0.02, "decay": 0.5, "rate": 1e-30}, 1.0, "gives up"),
    ("scales", {"epsilon": 10**390}, 1.0, "epsilon|lacks a setting"),
    ("scales", {"epsilon": 7}, 1.0, "says what no run is told"),
    ("codes", {"spread": 5}, 1.0, "says what no run is told"),
]


@pytest.mark.parametrize(("method", "settings", "length", "words"), HOSTILE)
def test_what_no_run_writes_is_refused(
    folder: Path, tmp_path: Path, method: str, settings: dict[str, Setting], length: float, words: str
) -> None:
    with open_b158(folder / "model" / "model.b158") as file:
        header = AdapterHeader(method=method, base=file.digest, seed=1, settings=settings)
    with AdapterLog.begin(tmp_path / "bad.cza", header) as log:
        log.append(Record(step=0, rate=1.0, numbers=(length,)))
    with pytest.raises(AdapterError, match=f"bad.cza.*({re.escape(words) if '|' not in words else words})"):
        open_model(folder / "model", adapters=[tmp_path / "bad.cza"])
