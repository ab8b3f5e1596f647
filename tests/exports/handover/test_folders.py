"""Hugging Face folders: what is in them, where they come from, and back to a checkpoint byte for byte."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

import exports.huggingface  # noqa: F401
from chimera.saving import load_model, save_model
from configs.errors import ChimeraError, ClusterError, ModelError, UsageError
from configs.load import build_config, load_config, to_json
from configs.text.template import DEFAULT_TEMPLATE
from configs.text.tokenizer import open_tokenizer
from exports.b158 import export_b158
from exports.handover.folder import export_huggingface
from exports.handover.intake import import_huggingface
from exports.handover.safetensors_file import to_bfloat16
from exports.pack_experts import pack_experts
from quant.whole_folder import whole_folder
from runtime.model_folder import open_model
from tests.exports.conftest import learnt

ROOT = Path(__file__).resolve().parents[3]
TALK = [{"role": "user", "content": "hello"}]


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory, micro: Path, tokenizer_file: Path) -> Path:
    out = tmp_path_factory.mktemp("packed") / "model"
    export_b158(micro, out, tokenizer=tokenizer_file)
    return out


def weights_of(folder: Path) -> bytes:
    return (folder / "model.b158").read_bytes()


def tensors_of(folder: Path) -> bytes:
    data = weights_of(folder)
    return data[8 + int.from_bytes(data[:8], "little") :]


def test_a_folder_holds_all_that_they_ask_for(tmp_path: Path, micro: Path, tokenizer_file: Path):
    done = export_huggingface(micro, tmp_path / "folder", tokenizer=tokenizer_file)
    assert sorted(done.files) == sorted(path.name for path in (tmp_path / "folder").iterdir())
    ours = open_tokenizer(tokenizer_file)
    theirs = AutoTokenizer.from_pretrained(tmp_path / "folder")
    assert theirs.encode("the river sang to the cat") == ours.encode("the river sang to the cat")
    assert (theirs.eos_token_id, theirs.pad_token_id) == (ours.eos, ours.pad)
    asked = theirs.apply_chat_template(TALK, add_generation_prompt=True, return_dict=True)["input_ids"]
    names = ours.specials
    assert asked == [names["<|user|>"], *ours.encode("hello"), names["<|im_end|>"], names["<|assistant|>"]]
    drawn = AutoModelForCausalLM.from_pretrained(tmp_path / "folder").generation_config
    kept = load_config(micro).generation
    assert (drawn.temperature, drawn.top_p, drawn.repetition_penalty) == (
        kept.temperature,
        kept.top_p,
        kept.repetition_penalty,
    )
    assert drawn.eos_token_id == sorted({ours.eos, names["<|im_end|>"]})
    assert set(drawn.suppress_tokens) == {ours.unk, *range(ours.vocab_size, 512)}


def test_a_checkpoint_comes_back_as_it_was(tmp_path: Path, micro: Path, tokenizer_file: Path):
    checkpoint = Path(shutil.copytree(micro, tmp_path / "checkpoint"))
    shutil.copy(tokenizer_file, checkpoint / "tokenizer.model")
    export_b158(checkpoint, tmp_path / "packed")
    export_huggingface(checkpoint, tmp_path / "folder")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "folder")
    model.save_pretrained(tmp_path / "saved", max_shard_size="500KB")
    shutil.copy(tokenizer_file, tmp_path / "saved" / "tokenizer.model")
    assert len(list((tmp_path / "saved").glob("*.safetensors"))) > 1
    for folder in ("folder", "saved"):
        import_huggingface(tmp_path / folder, tmp_path / f"{folder} back")
        export_b158(tmp_path / f"{folder} back", tmp_path / f"{folder} packed")
        assert open_model(tmp_path / f"{folder} packed").config == load_config(micro)
    assert weights_of(tmp_path / "folder packed") == weights_of(tmp_path / "packed")
    # Their writer sorts the keys of config.json, names of modes and layers among them.
    assert tensors_of(tmp_path / "saved packed") == tensors_of(tmp_path / "packed")
    assert (tmp_path / "folder back" / "config.json").read_text() == to_json(load_config(micro))
    assert load_model(tmp_path / "saved back").config == load_config(micro)


def test_a_packed_model_comes_back_as_it_was(tmp_path: Path, packed: Path):
    done = export_huggingface(packed, tmp_path / "folder")
    assert done.form == "held"
    back = import_huggingface(tmp_path / "folder", tmp_path / "back")
    assert back.files == ("model.safetensors", "config.json", "tokenizer.model")
    export_b158(tmp_path / "back", tmp_path / "packed")
    assert weights_of(tmp_path / "packed") == weights_of(packed)


def test_half_the_bytes_and_one_scale_for_a_tensor(tmp_path: Path, micro: Path):
    config = build_config(
        {"preset": "micro", "quantization": {"weight_scale": "absmean_per_tensor"}}, source="test"
    )
    save_model(learnt(config), tmp_path / "checkpoint")
    export_huggingface(tmp_path / "checkpoint", tmp_path / "folder", dtype="bfloat16")
    found = load_file(tmp_path / "folder" / "model.safetensors")
    latent = load_file(tmp_path / "checkpoint" / "model.safetensors")
    assert {value.dtype for value in found.values()} == {torch.bfloat16}
    assert all(torch.equal(found[f"model.{name}"], value.bfloat16()) for name, value in latent.items())
    import_huggingface(tmp_path / "folder", tmp_path / "back")
    export_b158(tmp_path / "checkpoint", tmp_path / "packed")
    export_huggingface(tmp_path / "packed", tmp_path / "held")
    import_huggingface(tmp_path / "held", tmp_path / "held back")
    export_b158(tmp_path / "held back", tmp_path / "again")
    assert weights_of(tmp_path / "again") == weights_of(tmp_path / "packed")


def test_halves_are_rounded_to_even():
    bits = np.random.default_rng(0).integers(0, 0x7F000000, 20_000, dtype=np.uint32)
    bits[:1000] = bits[:1000] & 0xFFFF0000 | 0x8000
    values = bits.view(np.float32)
    expected = torch.from_numpy(values).bfloat16().view(torch.int16).numpy()
    assert (to_bfloat16(values).view(np.int16) == expected).all()


def test_experts_in_clusters_are_read_and_their_manifest_goes_along(tmp_path: Path, packed: Path):
    pack_experts(packed, tmp_path / "clusters")
    done = export_huggingface(tmp_path / "clusters", tmp_path / "folder")
    export_huggingface(packed, tmp_path / "whole")
    name = "cluster_manifest.json"
    assert name in done.files
    assert (tmp_path / "folder" / name).read_bytes() == (tmp_path / "clusters" / name).read_bytes()
    found, expected = (load_file(tmp_path / one / "model.safetensors") for one in ("folder", "whole"))
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[key], value) for key, value in expected.items())
    cluster = next((tmp_path / "clusters").glob("*.ctsr"))
    data = bytearray(cluster.read_bytes())
    data[-5000] ^= 1
    cluster.write_bytes(data)
    with pytest.raises(ClusterError, match="is damaged"):
        export_huggingface(tmp_path / "clusters", tmp_path / "damaged")
    assert not (tmp_path / "damaged").exists()


def test_a_template_of_its_own_goes_both_ways(tmp_path: Path, micro: Path, tokenizer_file: Path):
    own = tmp_path / "own.jinja"
    own.write_text("{% for message in messages %}<|user|>{{ message.content }}<|im_end|>{% endfor %}")
    export_huggingface(micro, tmp_path / "folder", tokenizer=tokenizer_file, template=own)
    done = import_huggingface(tmp_path / "folder", tmp_path / "back")
    assert (tmp_path / "back" / "chat_template.jinja").read_text() == own.read_text()
    assert "chat_template.jinja" in done.files
    export_huggingface(micro, tmp_path / "usual", tokenizer=tokenizer_file)
    assert (tmp_path / "usual" / "chat_template.jinja").read_text() == DEFAULT_TEMPLATE


def test_what_cannot_be_handed_over_is_said(tmp_path: Path, micro: Path):
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "mine.txt").write_text("mine")
    with pytest.raises(UsageError, match="is there already"):
        export_huggingface(micro, tmp_path / "there")
    (tmp_path / "empty").mkdir()
    export_huggingface(micro, tmp_path / "empty")
    config = build_config(
        {
            "preset": "micro",
            "backbone": {"layer_pattern": "GD GA", "layer_aliases": {"GD": "gated_deltanet", "GA": "gqa"}},
        },
        source="test",
    )
    (tmp_path / "attention").mkdir()
    (tmp_path / "attention" / "config.json").write_text(to_json(config))
    from configs.inventory import tensors

    values = {tensor.name: torch.zeros(tensor.shape) for tensor in tensors(config)}
    save_file(values, tmp_path / "attention" / "model.safetensors")
    with pytest.raises(UsageError, match=r"layer 1 \(GA\) is gqa"):
        export_huggingface(tmp_path / "attention", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def changed(folder: Path, **values: torch.Tensor | None) -> None:
    """Replace or remove tensors of a folder."""
    held = load_file(folder / "model.safetensors")
    made = {**held, **values}
    save_file(
        {name: value for name, value in made.items() if value is not None}, folder / "model.safetensors"
    )


def test_what_cannot_be_taken_in_is_said(tmp_path: Path, packed: Path):
    export_huggingface(packed, tmp_path / "folder")
    folder, out = tmp_path / "folder", tmp_path / "out"
    name = "model.layers.0.mixer.q_proj.weight"
    values = load_file(folder / "model.safetensors")[name]
    moved = values.clone()
    moved[0, 0] = 0.123
    for value, error, words in (
        (moved, ModelError, "more than one magnitude"),
        (values.double(), ModelError, "is of type F64"),
        (values[:5], ModelError, r"is \[5, 128\] in the file"),
        (None, ModelError, "q_proj.weight is missing"),
    ):
        changed(folder, **{name: value})
        with pytest.raises(error, match=words):
            import_huggingface(folder, out)
        assert not out.exists()
    save_file({name: values, name.removeprefix("model."): moved}, folder / "model.safetensors")
    with pytest.raises(ModelError, match=r"the tensor layers\.0\.mixer\.q_proj\.weight is there twice"):
        import_huggingface(folder, out)
    (folder / "model.safetensors").write_bytes(b"not tensors at all")
    with pytest.raises(ModelError, match="not a readable safetensors file"):
        import_huggingface(folder, out)
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelError, match="save_pretrained"):
        import_huggingface(folder, out)
    for named in ('"../../etc/passwd"', '["a", "b"]', "7", '""'):
        (folder / "model.safetensors.index.json").write_text(f'{{"weight_map": {{"a": {named}}}}}')
        with pytest.raises(ModelError, match="a plain name is expected"):
            import_huggingface(folder, out)
    raw = json.loads((folder / "config.json").read_text())
    raw["_chimera"]["weight_form"] = "lost"
    (folder / "config.json").write_text(json.dumps(raw))
    with pytest.raises(ModelError, match="allowed are latent, held"):
        import_huggingface(folder, out)
    (folder / "config.json").write_text("{")
    with pytest.raises(ModelError, match=r"config\.json:1:2"):
        import_huggingface(folder, out)
    with pytest.raises(ModelError, match="No such file"):
        import_huggingface(tmp_path / "nowhere", out)
    assert not out.exists()


def test_corrections_cannot_be_drawn(tmp_path: Path):
    config = build_config(
        {"preset": "micro", "quantization": {"hgf_correction": {"enabled": True, "rank": 4}}}, source="test"
    )
    save_model(learnt(config), tmp_path / "checkpoint")
    export_b158(tmp_path / "checkpoint", tmp_path / "packed")
    export_huggingface(tmp_path / "packed", tmp_path / "held")
    with pytest.raises(UsageError, match="no latent weights can be drawn"):
        import_huggingface(tmp_path / "held", tmp_path / "out")
    export_huggingface(tmp_path / "checkpoint", tmp_path / "latent")
    import_huggingface(tmp_path / "latent", tmp_path / "back")
    export_b158(tmp_path / "back", tmp_path / "again")
    assert weights_of(tmp_path / "again") == weights_of(tmp_path / "packed")


def test_a_full_disk_leaves_nothing(tmp_path: Path, micro: Path):
    """The system refuses the file at a size, as it does when no space is left."""
    out = tmp_path / "made" / "folder"
    program = (
        "import resource, sys; from runtime.cli.main import main; "
        "resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000)); "
        f"sys.exit(main(['export', 'huggingface', {str(micro)!r}, {str(out)!r}]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 1
    assert f"cannot write {out}: File too large" in done.stderr
    assert list(out.parent.iterdir()) == []


def test_a_file_that_cannot_be_read_is_named_itself(tmp_path: Path):
    out, missing = tmp_path / "folder", tmp_path / "missing"
    with pytest.raises(ChimeraError, match=f"^cannot read {missing}: No such file"), whole_folder(out):
        missing.read_bytes()
    with pytest.raises(ChimeraError, match=f"^cannot write {out}: No such file"), whole_folder(out) as made:
        (made / "none" / "file").write_bytes(b"")
    assert list(tmp_path.iterdir()) == []


def test_a_killed_writer_leaves_no_folder_and_the_next_one_cleans_up(tmp_path: Path):
    out = tmp_path / "folder"
    program = (
        "from pathlib import Path; from quant.whole_folder import whole_folder\n"
        f"with whole_folder(Path({str(out)!r})) as folder:\n"
        "    (folder / 'half.txt').write_text('half'); print('in', flush=True); input()\n"
    )
    started = [
        subprocess.Popen(
            [sys.executable, "-c", program], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        for _ in range(2)
    ]
    for process in started:
        assert process.stdout is not None
        assert process.stdout.readline() == b"in\n"
    killed, living = started
    os.kill(killed.pid, signal.SIGKILL)
    killed.wait(timeout=60)
    assert not out.exists()
    assert len(list(tmp_path.iterdir())) == 2
    with pytest.raises(ChimeraError, match="my own"), whole_folder(out) as folder:
        raise ChimeraError("my own")
    # That of the process that lives is still there, that of the dead one is gone.
    (left,) = tmp_path.iterdir()
    assert str(living.pid) in left.name
    assert not folder.exists()
    living.communicate(b"\n", timeout=60)
    assert (out / "half.txt").read_text() == "half"
    killed.communicate()
