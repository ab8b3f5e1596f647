"""What a run leaves can be exported: its folder, and the resume pack that is made of it."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from chimera.model import build
from chimera.saving import save_model
from chimera.train.checkpoint import save as save_step
from chimera.train.pack_of_run import pack_of_run
from chimera.train.resume_pack import load_pack, save_pack
from chimera.train.run_folder import RunFolder
from configs.errors import ModelError, UsageError
from configs.load import preset
from configs.text.tokenizer import open_tokenizer
from configs.text.training import train_sentencepiece
from exports.b158 import export_b158
from runtime.cli.main import main
from runtime.model_folder import open_model
from tests.exports.conftest import WORDS, learnt


@pytest.fixture(scope="module")
def run(tokenizer_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that was killed after its first checkpoint."""
    path = tmp_path_factory.mktemp("run") / "run"
    model = learnt(preset("micro"))
    settings = {"data": "d" * 64, "tokenizer": open_tokenizer(tokenizer_file).digest}
    with RunFolder.open(path, config=model.config, settings=settings) as folder:
        state = {"model": model.state_dict(), "optimizer": {"m": torch.ones(3)}, "extra": {"tokens": 640}}
        save_step(folder.checkpoints, state, step=10)
    (path / "model").mkdir()
    shutil.copyfile(tokenizer_file, path / "model" / "tokenizer.model")
    return path


def test_a_run_is_exported_with_its_words(run: Path, tokenizer_file: Path, tmp_path: Path):
    exported = export_b158(run, tmp_path / "packed")
    assert exported.step == 10
    assert open_model(tmp_path / "packed").tokenizer().digest == open_tokenizer(tokenizer_file).digest


@pytest.mark.parametrize("part_bytes", [None, 500_000])
def test_a_pack_is_exported_as_its_rounded_weights_are(
    run: Path, tokenizer_file: Path, tmp_path: Path, part_bytes: int | None
):
    pack = pack_of_run(run, tmp_path / "run.pack")
    assert (pack.files, pack.step, pack.tokens) == ((tmp_path / "run.pack",), 10, 640)
    held = load_pack(tmp_path / "run.pack")
    model = build(held.config)
    held.load_into(model)
    if part_bytes is not None:
        parts = save_pack(
            tmp_path / "run.pack", model, step=10, position={"tokens": 640}, digests=held.digests,
            part_bytes=part_bytes,
        )  # fmt: skip
        assert len(parts) > 1
    shutil.copyfile(tokenizer_file, tmp_path / "tokenizer.model")
    exported = export_b158(tmp_path / "run.pack", tmp_path / "packed")
    save_model(model, tmp_path / "model")
    expected = export_b158(tmp_path / "model", tmp_path / "expected", tokenizer=tokenizer_file)
    assert exported.digest == expected.digest
    assert exported.step == 10
    assert exported.words.metadata == expected.words.metadata
    # Beside the pack is room for the model.
    assert export_b158(tmp_path / "run.pack", tmp_path / "model.b158").digest == exported.digest


def test_a_pack_is_exported_with_the_words_of_its_training_alone(run: Path, tmp_path: Path):
    pack_of_run(run, tmp_path / "run.pack")
    train_sentencepiece([WORDS[::-1]] * 10, out=tmp_path / "tokenizer.model", vocab_size=288, num_threads=1)
    with pytest.raises(UsageError, match="was trained with another tokenizer"):
        export_b158(tmp_path / "run.pack", tmp_path / "packed")
    assert not (tmp_path / "packed").exists()


def test_what_holds_no_run_gives_no_pack(run: Path, micro: Path, tmp_path: Path):
    with pytest.raises(ModelError, match="is no run's folder"):
        pack_of_run(micro, tmp_path / "run.pack")
    RunFolder.open(tmp_path / "run", config=preset("micro"), settings={}).close()
    with pytest.raises(ModelError, match="has saved no step yet"):
        pack_of_run(tmp_path / "run", tmp_path / "run.pack")
    assert not (tmp_path / "run.pack").exists()


def test_a_pack_from_the_command_line(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    out = tmp_path / "run.pack"
    assert main(["export", "pack", str(run), str(out)]) == 0
    assert f"{out.stat().st_size:,} bytes, step 10 of the run, 640 tokens" in capsys.readouterr().out
    assert main(["export", "pack", str(run), str(out), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {
        "files": [str(out)],
        "file_bytes": out.stat().st_size,
        "step": 10,
        "tokens": 640,
    }
    assert main(["export", "pack", str(run), str(out), "--embedding-bits", "4"]) == 2
    assert "--embedding-bits has no meaning for a resume pack" in capsys.readouterr().err
