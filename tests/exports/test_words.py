"""A packed model's folder is opened with one path, and knows its tokenizer and template."""

import shutil
from pathlib import Path

import pytest
from tokenizers import Tokenizer as Library
from tokenizers import decoders, models, pre_tokenizers

from chimera.saving import save_model
from configs.errors import ModelError, TokenizerError
from configs.load import build_config, to_json
from configs.text.template import DEFAULT_TEMPLATE
from configs.text.tokenizer import Special
from exports.b158 import export_b158
from runtime.model_folder import find_weights, open_model
from runtime.random_model import random_b158
from tests.exports.conftest import learnt

OWN_TEMPLATE = "{% for message in messages %}<|user|>{{ message.content }}<|endoftext|>{% endfor %}"
HELLO = [{"role": "user", "content": "hello"}]


@pytest.fixture
def json_tokenizer(tmp_path: Path) -> Path:
    """A tokenizer.json of 256 bytes and two special tokens, with the file beside it that names them."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    library = Library(models.BPE(vocab={char: number for number, char in enumerate(alphabet)}, merges=[]))
    library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    library.decoder = decoders.ByteLevel()
    library.add_special_tokens(["<begin>", "<end>"])
    folder = tmp_path / "words"
    folder.mkdir()
    library.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text('{"bos_token": "<begin>", "eos_token": "<end>"}')
    return folder / "tokenizer.json"


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_folder_with_a_sentencepiece_model(tmp_path: Path, micro: Path, tokenizer_file: Path):
    export_b158(micro, tmp_path, tokenizer=tokenizer_file)
    assert names(tmp_path) == ["config.json", "model.b158", "tokenizer.model"]
    model = open_model(tmp_path)
    assert model.holding == "all tensors"
    tokenizer = model.tokenizer()
    assert tokenizer.decode(tokenizer.encode("a river")) == "a river"
    template = model.template(tokenizer)
    assert template.source == DEFAULT_TEMPLATE
    assert Special("<|user|>") in template.render(HELLO).pieces


def test_the_configs_own_names_are_used(tmp_path: Path, micro: Path, tokenizer_file: Path):
    checkpoint = Path(shutil.copytree(micro, tmp_path / "checkpoint"))
    named = build_config(
        {"preset": "micro", "files": {"weights": "cat.b158", "tokenizer": "cat_words.model"}}, source="test"
    )
    (checkpoint / "config.json").write_text(to_json(named))
    shutil.copy(tokenizer_file, checkpoint / "cat_words.model")
    exported = export_b158(checkpoint, tmp_path / "packed")
    assert names(tmp_path / "packed") == ["cat.b158", "cat_words.model", "config.json"]
    assert exported.config == named
    assert open_model(tmp_path / "packed").tokenizer().digest == exported.words.metadata["tokenizer_digest"]


def test_a_tokenizer_json_takes_its_own_ending_and_its_companion(
    tmp_path: Path, micro: Path, json_tokenizer: Path
):
    exported = export_b158(micro, tmp_path / "packed", tokenizer=json_tokenizer)
    assert names(tmp_path / "packed") == [
        "config.json",
        "model.b158",
        "tokenizer.json",
        "tokenizer_config.json",
    ]
    assert exported.config.files.tokenizer == "tokenizer.json"
    tokenizer = open_model(tmp_path / "packed").tokenizer()
    assert (tokenizer.kind, tokenizer.bos, tokenizer.eos) == ("huggingface", 256, 257)


def test_o200k_needs_no_file(tmp_path: Path):
    """Its words come with a package; the weights' file records which they were."""
    config = build_config({"preset": "micro", "hidden_size": 64, "vocab_size": 200_073}, source="test")
    save_model(learnt(config), tmp_path / "checkpoint")
    export_b158(tmp_path / "checkpoint", tmp_path / "packed", tokenizer="o200k")
    assert names(tmp_path / "packed") == ["config.json", "model.b158"]
    assert open_model(tmp_path / "packed").tokenizer().kind == "o200k"


def test_a_foreign_tokenizer_is_noticed(
    tmp_path: Path, micro: Path, tokenizer_file: Path, json_tokenizer: Path
):
    export_b158(micro, tmp_path / "packed", tokenizer=tokenizer_file)
    shutil.copy(json_tokenizer, tmp_path / "packed" / "tokenizer.model")
    with pytest.raises(TokenizerError, match="is not this model's tokenizer"):
        open_model(tmp_path / "packed").tokenizer()
    (tmp_path / "packed" / "tokenizer.model").unlink()
    with pytest.raises(TokenizerError, match=r"expected tokenizer\.model or tokenizer\.json"):
        open_model(tmp_path / "packed").tokenizer()


def test_a_template_of_its_own(tmp_path: Path, micro: Path, tokenizer_file: Path):
    checkpoint = Path(shutil.copytree(micro, tmp_path / "checkpoint"))
    shutil.copy(tokenizer_file, checkpoint / "tokenizer.model")
    (checkpoint / "chat_template.jinja").write_text(OWN_TEMPLATE)
    export_b158(checkpoint, tmp_path / "packed")
    model = open_model(tmp_path / "packed" / "model.b158")
    assert model.template(model.tokenizer()).source == OWN_TEMPLATE
    beside = tmp_path / "packed" / "chat_template.jinja"
    beside.write_text(OWN_TEMPLATE + " ")
    with pytest.raises(TokenizerError, match="is not this model's chat template: its digest is"):
        model.template(model.tokenizer())
    beside.unlink()
    with pytest.raises(TokenizerError, match="exported with a chat template of its own"):
        model.template(model.tokenizer())


def test_a_named_template_wins_over_the_checkpoints(tmp_path: Path, micro: Path, tokenizer_file: Path):
    (tmp_path / "mine.jinja").write_text(OWN_TEMPLATE + "\n")
    exported = export_b158(
        micro, tmp_path / "packed", tokenizer=tokenizer_file, template=tmp_path / "mine.jinja"
    )
    assert exported.files[2:] == (
        tmp_path / "packed" / "chat_template.jinja",
        tmp_path / "packed" / "config.json",
    )
    model = open_model(tmp_path / "packed")
    assert model.template(model.tokenizer()).source == OWN_TEMPLATE + "\n"


def test_which_file_of_a_folder_is_meant(tmp_path: Path):
    config = build_config({"preset": "micro", "files": {"weights": "main.b158"}}, source="test")
    with pytest.raises(ModelError, match="found none") as caught:
        find_weights(tmp_path)
    assert "chimera export b158" in caught.value.hint
    random_b158(config, tmp_path / "first.b158")
    assert find_weights(tmp_path) == tmp_path / "first.b158"
    random_b158(config, tmp_path / "main.b158")
    with pytest.raises(ModelError, match=r"found first\.b158, main\.b158"):
        find_weights(tmp_path)
    (tmp_path / "config.json").write_text(to_json(config))
    assert find_weights(tmp_path) == tmp_path / "main.b158"
    assert find_weights(tmp_path / "first.b158") == tmp_path / "first.b158"


def test_a_config_that_names_another_file_leaves_the_experts_out(tmp_path: Path):
    config = build_config({"preset": "micro"}, source="test")
    (tmp_path / "config.json").write_text(to_json(config))
    random_b158(config, tmp_path / config.files.moe)
    with pytest.raises(ModelError, match="found none"):
        find_weights(tmp_path)
    random_b158(config, tmp_path / "renamed.b158")
    assert find_weights(tmp_path) == tmp_path / "renamed.b158"


def test_a_model_without_a_recorded_tokenizer_takes_one_that_fits(tmp_path: Path, tokenizer_file: Path):
    random_b158(build_config({"preset": "micro"}, source="test"), tmp_path / "model.b158")
    shutil.copy(tokenizer_file, tmp_path / "tokenizer.model")
    assert open_model(tmp_path).tokenizer().vocab_size == 400
    random_b158(build_config({"preset": "micro", "vocab_size": 300}, source="test"), tmp_path / "model.b158")
    with pytest.raises(TokenizerError, match="400 ids"):
        open_model(tmp_path).tokenizer()
