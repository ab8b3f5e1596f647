"""What an export refuses, and what it leaves when the disk is full or the process is killed."""

import os
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from chimera.model import build
from chimera.saving import WEIGHTS_NAME, save_model
from configs.errors import ChimeraError, ModelError, TokenizerError, UsageError
from configs.load import build_config, to_json
from exports.b158 import export_b158
from quant.container import open_b158

ROOT = Path(__file__).resolve().parents[2]


@contextmanager
def no_file_longer_than(num_bytes: int) -> Generator[None]:
    """A real limit of the system: a write beyond it fails as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def copied(folder: Path, to: Path) -> Path:
    return Path(shutil.copytree(folder, to))


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_folder_that_is_not_there(tmp_path: Path):
    with pytest.raises(ModelError, match="there is no such folder"):
        export_b158(tmp_path / "nothing", tmp_path / "packed")
    assert not (tmp_path / "packed").exists()


def test_a_folder_without_weights(tmp_path: Path, micro: Path):
    checkpoint = copied(micro, tmp_path / "checkpoint")
    (checkpoint / WEIGHTS_NAME).unlink()
    with pytest.raises(ModelError, match="no such file"):
        export_b158(checkpoint, tmp_path / "packed")


def test_weights_of_another_config(tmp_path: Path, micro: Path, other: Path):
    checkpoint = copied(micro, tmp_path / "checkpoint")
    shutil.copy(other / WEIGHTS_NAME, checkpoint)
    with pytest.raises(ModelError, match=r"is \[192, 128\] in the file, \[256, 128\] by the config"):
        export_b158(checkpoint, tmp_path / "packed")


@pytest.mark.parametrize(
    "name", ["layers.0.mixer.q_proj.weight", "layers.3.ffn.experts.up_proj.weight", "embedding.weight"]
)
def test_weights_that_are_not_numbers_are_named(tmp_path: Path, micro: Path, name: str):
    checkpoint = copied(micro, tmp_path / "checkpoint")
    weights = load_file(checkpoint / WEIGHTS_NAME)
    weights[name].view(-1)[-1] = torch.nan
    save_file(weights, checkpoint / WEIGHTS_NAME)
    with pytest.raises(ModelError, match=r"must be finite, got nan") as caught:
        export_b158(checkpoint, tmp_path / "packed")
    shown = name.replace("experts.", "experts.3.")
    assert f"{checkpoint}: {shown}: " in caught.value.message
    assert list((tmp_path / "packed").iterdir()) == []


def test_the_checkpoints_own_folder_is_no_place_for_the_result(tmp_path: Path, micro: Path):
    checkpoint = copied(micro, tmp_path / "checkpoint")
    before = contents(checkpoint)
    for out in (checkpoint, checkpoint / "model.b158"):
        with pytest.raises(UsageError, match="holds a checkpoint"):
            export_b158(checkpoint, out, embedding_bits=4)
    assert contents(checkpoint) == before


def test_another_models_folder_is_left_alone(tmp_path: Path, micro: Path, other: Path):
    export_b158(micro, tmp_path / "packed")
    before = contents(tmp_path / "packed")
    with pytest.raises(UsageError, match="belongs to another model"):
        export_b158(other, tmp_path / "packed" / "second.b158")
    (tmp_path / "packed" / "config.json").write_text("{")
    with pytest.raises(UsageError, match="cannot be read"):
        export_b158(micro, tmp_path / "packed")
    (tmp_path / "packed" / "config.json").write_bytes(before["config.json"])
    assert contents(tmp_path / "packed") == before


def test_an_export_may_be_done_again_with_other_bits(tmp_path: Path, micro: Path):
    eight, four = (export_b158(micro, tmp_path, embedding_bits=bits) for bits in (8, 4))
    assert eight.files == four.files
    assert eight.digest != four.digest


def test_a_folder_of_the_files_name(tmp_path: Path, micro: Path):
    (tmp_path / "model.b158").mkdir()
    for out in (tmp_path, tmp_path / "model.b158"):
        with pytest.raises(UsageError, match="is a folder"):
            export_b158(micro, out)


def test_a_place_that_cannot_be_written(tmp_path: Path, micro: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ChimeraError, match="cannot write"):
        export_b158(micro, tmp_path / "file" / "packed")


def test_a_tokenizer_with_more_ids_than_words(tmp_path: Path, tokenizer_file: Path):
    save_model(build(build_config({"preset": "micro", "vocab_size": 300}, source="test")), tmp_path / "few")
    with pytest.raises(TokenizerError, match="has 400 ids, the model's vocabulary only 300"):
        export_b158(tmp_path / "few", tmp_path / "packed", tokenizer=tokenizer_file)


def test_a_template_without_a_tokenizer(tmp_path: Path, micro: Path):
    (tmp_path / "chat.jinja").write_text("{{ messages[0].content }}")
    with pytest.raises(TokenizerError, match="needs the tokenizer"):
        export_b158(micro, tmp_path / "packed", template=tmp_path / "chat.jinja")


def test_a_template_that_jinja_refuses(tmp_path: Path, micro: Path, tokenizer_file: Path):
    (tmp_path / "chat.jinja").write_text("{% if %}")
    with pytest.raises(TokenizerError, match=r"chat\.jinja"):
        export_b158(micro, tmp_path / "packed", tokenizer=tokenizer_file, template=tmp_path / "chat.jinja")
    assert not (tmp_path / "packed").exists()


@pytest.mark.parametrize("limit", [1000, 200_000])
def test_a_full_disk_leaves_the_old_model(tmp_path: Path, micro: Path, limit: int):
    export_b158(micro, tmp_path)
    before = contents(tmp_path)
    with (
        no_file_longer_than(limit),
        pytest.raises(ChimeraError, match=r"cannot write .*model\.b158: File too large"),
    ):
        export_b158(micro, tmp_path, embedding_bits=4)
    assert contents(tmp_path) == before


EXPORT_AND_WAIT = """
import sys
from exports.b158 import export_b158

def pause(done, total):
    if done > total // 2:
        print("half", flush=True)
        sys.stdin.read()

export_b158(sys.argv[1], sys.argv[2], embedding_bits=4, progress=pause)
"""


def test_a_killed_export_leaves_the_old_model(tmp_path: Path, micro: Path):
    export_b158(micro, tmp_path)
    before = contents(tmp_path)
    command = [sys.executable, "-c", EXPORT_AND_WAIT, str(micro), str(tmp_path)]
    with subprocess.Popen(
        command,
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": "."},
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"half\n"
        process.kill()
        process.communicate()
    assert process.returncode == -signal.SIGKILL
    after = contents(tmp_path)
    assert {name: after.pop(name) for name in before} == before
    assert [Path(name).suffix for name in after] == [".partial"]
    with open_b158(tmp_path / "model.b158") as file:
        assert file.verify() == ()
    export_b158(micro, tmp_path)
    assert contents(tmp_path) == before


def test_config_text_is_the_one_beside_it(tmp_path: Path, micro: Path):
    exported = export_b158(micro, tmp_path / "named.b158")
    with open_b158(tmp_path / "named.b158") as file:
        assert file.config == to_json(exported.config) == (tmp_path / "config.json").read_text()
    assert exported.config.files.weights == "named.b158"
