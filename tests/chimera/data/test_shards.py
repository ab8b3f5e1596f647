"""Token shards: what is written is read, damage is refused, a killed build leaves nothing that opens."""

import dataclasses
import errno
import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from chimera.data import shards as shards_module
from chimera.data.shard_index import DATA_NAMES, INDEX_NAME, digest_of
from chimera.data.shards import Shards, build_shards, open_shards
from chimera.data.sources import documents_of, sources_of
from chimera.data.vocabulary import train_tokenizer
from configs.errors import DataError, UsageError
from configs.text.template import ChatTemplate
from configs.text.tokenizer import Tokenizer
from tests.chimera.data.samples import NUM_WORDS, made_shards, sentence, written
from tests.chimera.train.processes import started


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    records: list[dict[str, Any]] = [{"text": sentence(n), "kind": "story"} for n in range(60)]
    records += [{"prompt": f"Write {n}.", "completion": sentence(n)} for n in range(40)]
    return written(tmp_path_factory.mktemp("texts") / "data.jsonl", records)


@pytest.fixture(scope="module")
def built(data: Path, tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Shards:
    return build_shards(sources_of([data]), tokenizer, tmp_path_factory.mktemp("built") / "shards")


@pytest.fixture
def copied(built: Shards, tmp_path: Path) -> Path:
    return shutil.copytree(built.folder, tmp_path / "shards")


def test_what_is_written_is_read(built: Shards, data: Path, tokenizer: Tokenizer):
    template = ChatTemplate.of_tokenizer(tokenizer)
    documents = list(documents_of(sources_of([data])[0], tokenizer, template=template))
    assert built.tokens.tolist() == [token for document in documents for token in document.ids]
    assert built.answers.tolist() == [answer for document in documents for answer in document.answers]
    assert built.lengths_N.tolist() == [len(document.ids) for document in documents]
    assert [built.sources[number] for number in built.source_N] == [d.source for d in documents]
    assert built.sources == ("data/story", "data")
    assert built.tokenizer_digest == tokenizer.digest
    assert built.tokens.dtype == np.uint16


def test_bytes_and_answers_of_each_document_are_those_of_its_text(built: Shards, monkeypatch: Any):
    texts = [sentence(n) for n in range(60)] + [f"Write {n}." + sentence(n) for n in range(40)]
    expected = [len(text.encode()) for text in texts]
    for piece in (7, 64, 1 << 20):
        monkeypatch.setattr(shards_module, "PIECE", piece)
        assert built.bytes_N().tolist() == expected
        answers = np.split(built.answers, built.starts_N[1:])
        assert built.answers_N().tolist() == [int(some.sum()) for some in answers]
    assert built.num_bytes() == sum(expected)


def test_the_same_texts_give_the_same_digest_wherever_they_lie(
    built: Shards, data: Path, tokenizer: Tokenizer, tmp_path: Path
):
    elsewhere = shutil.copy(data, tmp_path / "data.jsonl")
    other = build_shards(sources_of([elsewhere]), tokenizer, tmp_path / "shards")
    assert other.digest == built.digest
    with elsewhere.open("a") as file:
        file.write('{"text": "One more."}\n')
    assert build_shards(sources_of([elsewhere]), tokenizer, tmp_path / "more").digest != built.digest


def test_shards_of_the_same_files_are_not_made_again(
    data: Path, tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    build_shards(sources_of([data]), tokenizer, tmp_path / "shards")

    def never(*_: object, **__: object) -> None:
        raise AssertionError("built again")

    with monkeypatch.context() as patch:
        patch.setattr(shards_module, "_write", never)
        build_shards(sources_of([data]), tokenizer, tmp_path / "shards")
        for change in ({"chat_share": 0.5}, {"sources": sources_of([f"{data}*2"])}):
            with pytest.raises(AssertionError, match="built again"):
                build_shards(**{"sources": sources_of([data]), "tokenizer": tokenizer, **change},
                             folder=tmp_path / "shards")  # fmt: skip
        os.utime(data)
        with pytest.raises(AssertionError, match="built again"):
            build_shards(sources_of([data]), tokenizer, tmp_path / "shards")
    # The old shards stand until the new ones are whole.
    assert open_shards(tmp_path / "shards").num_documents == 100
    twice = build_shards(sources_of([f"{data}*2"]), tokenizer, tmp_path / "shards")
    assert twice.num_documents == 200
    assert [path.name for path in tmp_path.iterdir()] == ["shards"]


def test_a_large_vocabulary_takes_four_bytes(data: Path, tokenizer: Tokenizer, tmp_path: Path):
    more = (b"word",) * 2**16
    large = dataclasses.replace(tokenizer, token_bytes=(*tokenizer.token_bytes, *more), digest="large")
    shards = build_shards(sources_of([data]), large, tmp_path / "shards")
    assert shards.tokens.dtype == np.uint32
    assert len(shards.id_bytes) == NUM_WORDS + 2**16
    assert shards.bytes_N()[0] == len(sentence(0).encode())


def test_progress_is_told(data: Path, tokenizer: Tokenizer, tmp_path: Path):
    told: list[tuple[str, int]] = []
    shards = build_shards(
        sources_of([f"{data}*30"]), tokenizer, tmp_path / "s", progress=lambda *now: told.append(now)
    )
    assert len(told) == 4
    assert told[-1] == ("data", shards.num_tokens)


def rewritten(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    index = json.loads((folder / INDEX_NAME).read_text())
    change(index)
    (folder / INDEX_NAME).write_text(json.dumps(index))


def resealed(folder: Path, name: str, values: np.ndarray) -> None:
    """Another table with its right size and digest."""
    with (folder / name).open("wb") as file:
        np.save(file, values)
    entry = [(folder / name).stat().st_size, digest_of(folder / name)]
    rewritten(folder, lambda index: index["files"].update({name: entry}))


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-2])


def flipped(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "no index": (lambda at: (at / INDEX_NAME).unlink(), "no token shards are there"),
    "an index that is no JSON": (lambda at: (at / INDEX_NAME).write_text("{"), r"index\.json:1"),
    "another program's index": (
        lambda at: (at / INDEX_NAME).write_text('{"weight_map": {}}'),
        "not an index of token shards",
    ),
    "another version": (lambda at: rewritten(at, lambda i: i.update(version=99)), "version 99"),
    "a value of another type": (lambda at: rewritten(at, lambda i: i.update(sources=7)), "damaged"),
    "a name that is none": (lambda at: rewritten(at, lambda i: i.update(sources=[7])), "damaged"),
    "another type of tokens": (lambda at: rewritten(at, lambda i: i.update(dtype="float64")), "damaged"),
    "a file unknown": (lambda at: rewritten(at, lambda i: i["files"].update({"../x": [1, ""]})), "damaged"),
    "a file without size": (
        lambda at: rewritten(at, lambda i: i["files"].update({"tokens.bin": 3})), "damaged"
    ),
    **{f"no {name}": (lambda at, name=name: (at / name).unlink(), "missing") for name in DATA_NAMES},
    **{f"short {name}": (lambda at, name=name: truncated(at / name), "bytes; index") for name in DATA_NAMES},
    **{f"changed {name}": (lambda at, name=name: flipped(at / name), "digest") for name in DATA_NAMES},
    "no table": (lambda at: resealed(at, "lengths.npy", np.array(["x"], dtype=object)), "cannot be read"),
    "too few documents": (lambda at: resealed(at, "lengths.npy", np.array([3], np.int32)), "do not fit"),
    "a length below 1": (
        lambda at: resealed(at, "lengths.npy", np.load(at / "lengths.npy") * np.int32(-1)), "do not fit"
    ),
    "a source unknown": (
        lambda at: resealed(at, "sources.npy", np.full(100, 9, dtype=np.uint16)), "do not fit"
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", DAMAGE)
def test_damaged_shards_are_refused_and_made_anew(name: str, copied: Path, data: Path, tokenizer: Tokenizer):
    damage, words = DAMAGE[name]
    damage(copied)
    with pytest.raises(DataError, match=words) as error:
        open_shards(copied)
    assert str(copied) in error.value.message
    if (copied / INDEX_NAME).exists():
        assert build_shards(sources_of([data]), tokenizer, copied).num_documents == 100
        assert open_shards(copied).num_documents == 100


def test_what_is_no_folder_of_shards_is_refused(tmp_path: Path):
    (tmp_path / "file").touch()
    for path in (tmp_path, tmp_path / "file", tmp_path / "missing"):
        with pytest.raises(DataError, match="no token shards are there"):
            open_shards(path)


@pytest.mark.parametrize("name", ["thesis.txt", INDEX_NAME])
def test_a_folder_of_other_things_is_left_alone(name: str, data: Path, tokenizer: Tokenizer, tmp_path: Path):
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / name).write_text("{}")
    (folder / "other.txt").write_text("dear")
    with pytest.raises(UsageError, match="holds no token shards"):
        build_shards(sources_of([data]), tokenizer, folder)
    assert (folder / "other.txt").read_text() == "dear"


def test_texts_without_text_are_refused(tokenizer: Tokenizer, tmp_path: Path):
    (tmp_path / "a.txt").write_text("\n\n")
    with pytest.raises(DataError, match="no text"):
        build_shards(sources_of([tmp_path / "a.txt"]), tokenizer, tmp_path / "shards")
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]


def test_a_full_disk_is_said_and_leaves_nothing(
    data: Path, tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def full(_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(shards_module, "_sync", full)
    with pytest.raises(DataError, match="No space left on device"):
        build_shards(sources_of([data]), tokenizer, tmp_path / "shards")
    assert list(tmp_path.iterdir()) == []


def test_a_killed_build_leaves_nothing_that_opens_and_the_next_one_sweeps(
    tokenizer: Tokenizer, tmp_path: Path
):
    data = written(tmp_path / "data.jsonl", [{"text": sentence(n)} for n in range(2500)])
    folder = tmp_path / "made" / "shards"
    for steps in (1, 2, 3):  # amid the documents, and when all are written
        process = started("-m", "tests.chimera.data.killed_builder", tokenizer.source, data, folder)
        assert process.stdin is not None
        assert process.stdout is not None
        for step in range(steps):
            assert process.stdout.readline().startswith("data")
            if step < steps - 1:
                process.stdin.write("\n")
                process.stdin.flush()
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        process.stdin.close()
        process.stdout.close()
        with pytest.raises(DataError, match="no token shards"):
            open_shards(folder)
        left = list(folder.parent.iterdir())
        assert len(left) == 1
        # Even what was left by itself does not open.
        with pytest.raises(DataError):
            open_shards(left[0])
    assert build_shards(sources_of([data]), tokenizer, folder).num_documents == 2500
    assert list(folder.parent.iterdir()) == [folder]


def test_a_build_that_goes_on_is_not_swept_by_another(data: Path, tokenizer: Tokenizer, tmp_path: Path):
    folder = tmp_path / "shards"
    inner: list[Shards] = []

    def progress(*_: object) -> None:
        if not inner:
            inner.append(build_shards(sources_of([data]), tokenizer, folder))

    outer = build_shards(sources_of([f"{data}*2"]), tokenizer, folder, progress=progress)
    assert (inner[0].num_documents, outer.num_documents) == (100, 200)
    assert inner[0].bytes_N().sum() * 2 == outer.num_bytes()  # who has the old ones mapped keeps them


def test_many_kinds_are_refused(tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(shards_module, "MOST_SOURCES", 3)
    path = written(tmp_path / "a.jsonl", [{"text": "One.", "kind": str(n)} for n in range(4)])
    with pytest.raises(DataError, match="more than 3 sources"):
        build_shards(sources_of([path]), tokenizer, tmp_path / "shards")


def test_a_vocabulary_is_learnt_from_all_sources_alike(tmp_path: Path):
    one = written(tmp_path / "a.jsonl", [{"text": sentence(n)} for n in range(300)])
    other = written(tmp_path / "b.jsonl", [{"prompt": "Zebra?", "completion": "Zebra."} for _ in range(300)])
    sources = sources_of([one, other])
    learnt, again = (
        train_tokenizer(sources, vocab_size=316, path=tmp_path / name, most_lines=400)
        for name in ("one.model", "other.model")
    )
    assert learnt.digest == again.digest
    assert learnt.vocab_size == 316
    assert len(learnt.encode("Zebra")) < 5


def test_starts_of_documents():
    assert made_shards([3, 4, 2]).starts_N.tolist() == [0, 3, 7]
