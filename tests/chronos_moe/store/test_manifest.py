"""Files of experts: what is written is read back, any tool can read it, and nothing else passes."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from chronos_moe.store.form import tensor_name
from chronos_moe.store.manifest import MANIFEST_NAME, read_manifest
from configs.errors import ClusterError
from quant.container import open_b158
from tests.chronos_moe.store.conftest import LAYERS, NUM_EXPERTS, Packed


def test_what_was_written_is_read_back(packed: Packed):
    assert packed.read() == packed.manifest
    assert packed.read().to_json() == (packed.folder / MANIFEST_NAME).read_bytes()


def test_every_block_holds_its_expert_as_the_model_had_it(packed: Packed):
    form = packed.manifest.form
    with open_b158(packed.source) as file:
        for (layer, expert), place in packed.manifest.places().items():
            path = packed.folder / packed.manifest.clusters[place.cluster].file
            block = np.fromfile(path, dtype=np.uint8, count=form.block_bytes, offset=place.offset)
            assert place.offset % 4096 == 0
            for name, tensor in form.view(block).items():
                original: Any = file.tensor(tensor_name(layer, expert, name))
                if isinstance(tensor, np.ndarray):
                    assert np.array_equal(tensor, original)
                else:
                    assert np.array_equal(tensor.codes, original.codes)
                    assert np.array_equal(tensor.scales, original.scales)


def test_any_tool_for_safetensors_opens_a_cluster(packed: Packed):
    cluster = packed.manifest.clusters[0]
    found = load_file(packed.folder / cluster.file)
    layer, expert = cluster.keys[1]
    with open_b158(packed.source) as file:
        original = file.ternary(tensor_name(layer, expert, "up_proj.weight"))
    assert np.array_equal(found[tensor_name(layer, expert, "up_proj.weight.codes")], original.codes)


def _edit(change: Callable[[dict[str, Any]], None]) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        path = folder / MANIFEST_NAME
        read = json.loads(path.read_text())
        change(read)
        path.write_text(json.dumps(read))

    return edit


def _cut(folder: Path) -> None:
    with (folder / "experts-002.ctsr").open("r+b") as file:
        file.truncate(9000)


def _longer(folder: Path) -> None:
    with (folder / "experts-000.ctsr").open("ab") as file:
        file.write(b"x")


def _header(folder: Path) -> None:
    with (folder / "experts-001.ctsr").open("r+b") as file:
        file.seek(20)
        file.write(b"?")


def _swap(folder: Path) -> None:
    one, other = folder / "experts-000.ctsr", folder / "experts-001.ctsr"
    held = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(held)


def _first(read: dict[str, Any]) -> list[Any]:
    return read["clusters"][0]["experts"]


HOSTILE: dict[str, tuple[Callable[[Path], object], str]] = {
    "a file is gone": (lambda folder: (folder / "experts-001.ctsr").unlink(), "there is no such file"),
    "a file is cut": (_cut, "has 9,000 bytes"),
    "a file is longer": (_longer, "bytes; the manifest tells of"),
    "a header is edited": (_header, "its header is another one"),
    "two files are swapped": (_swap, "experts-000.ctsr"),
    "no manifest of ours": (_edit(lambda read: read.update(format="x")), "its format is 'x'"),
    "another version": (_edit(lambda read: read.update(format_version=2)), "of version 2"),
    "an unknown key": (_edit(lambda read: read.update(extra=1)), "its keys are"),
    "experts of another size": (_edit(lambda read: read.update(block_bytes=1)), "an expert takes 1 bytes"),
    "a digest of an expert is edited": (
        _edit(lambda read: _first(read)[0].__setitem__(2, "0" * 64)),
        "not those that the weights beside it were packed with",
    ),
    "no digest": (_edit(lambda read: _first(read)[0].__setitem__(2, "x")), "hexadecimal digits"),
    "the joint digest is edited": (
        _edit(lambda read: read.update(experts_digest="0" * 64)),
        "not those that",
    ),
    "an expert is missing": (_edit(lambda read: _first(read).pop()), "is not listed, of 1 in all"),
    "an expert comes twice": (_edit(lambda read: _first(read).append(_first(read)[0])), "is listed twice"),
    "a foreign layer": (_edit(lambda read: _first(read).append([9, 0, "0" * 64])), "expert 0 of layer 9"),
    "no list": (_edit(lambda read: read.update(clusters=3)), "clusters is not a list"),
    "an empty cluster": (_edit(lambda read: read["clusters"][0].update(experts=[])), "lists no experts"),
    "an entry of another form": (_edit(lambda read: _first(read).append([1, 2])), "expected [layer, expert"),
    "a truth for a number": (_edit(lambda read: _first(read)[0].__setitem__(0, True)), "manifest"),
    "a path": (_edit(lambda read: read["clusters"][0].update(file="../experts-000.ctsr")), "plain name"),
    "a name that no file has": (
        _edit(lambda read: read["clusters"][0].update(file="experts\0.ctsr")),
        "plain name",
    ),
    "a file twice": (
        _edit(lambda read: read["clusters"][0].update(file="experts-001.ctsr")),
        "a file is listed twice",
    ),
    "no JSON": (lambda folder: (folder / MANIFEST_NAME).write_text("{"), MANIFEST_NAME),
    "no ASCII": (lambda folder: (folder / MANIFEST_NAME).write_bytes(b"\xff"), "is not ASCII"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_what_is_not_as_it_was_packed_is_refused(packed: Packed, name: str):
    edit, words = HOSTILE[name]
    edit(packed.folder)
    with pytest.raises(ClusterError) as refusal:
        packed.read()
    assert words in refusal.value.message
    assert str(packed.folder) in refusal.value.message


def test_experts_of_another_model_are_refused(packed: Packed):
    path = packed.folder / MANIFEST_NAME
    for digest in ("0" * 64, None):
        with pytest.raises(ClusterError, match="not those that the weights"):
            read_manifest(path, packed.config, experts_digest=digest)


def test_each_expert_has_one_place(packed: Packed):
    places = packed.manifest.places()
    assert set(places) == {(layer, expert) for layer in LAYERS for expert in range(NUM_EXPERTS)}
    assert len({(place.cluster, place.offset) for place in places.values()}) == len(places)
