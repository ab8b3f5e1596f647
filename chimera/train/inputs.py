"""What a run reads: a tokenizer, and the token shards of its data, made in the run's folder when need be."""

import hashlib
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from chimera.data.shards import INDEX_NAME, Shards, build_shards, open_shards
from chimera.data.sources import sources_of
from chimera.data.vocabulary import train_tokenizer
from configs.errors import UsageError
from configs.schema.model import ModelConfig
from configs.text.tokenizer import FILES_OF_A_FOLDER, Tokenizer, open_tokenizer

TOKENIZER_NAME = "tokenizer.model"
SIDE_NAME = "tokenizer_config.json"
"""Names the special tokens of a tokenizer.json."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Inputs:
    """The shards to learn from and to look at, and where their tokenizer is."""

    train: Shards
    validation: Shards | None
    tokenizer: Path | None
    """The tokenizer's file; None where shards were given without one."""

    def digests(self) -> dict[str, str]:
        """What a run that goes on must find again."""
        return {"data": self.train.digest, "tokenizer": self.train.tokenizer_digest}

    def copy_tokenizer(self, folder: Path) -> None:
        """Put the tokenizer beside a model, under the name by which it is looked for there."""
        if self.tokenizer is None:
            return
        is_json = self.tokenizer.suffix == ".json"
        shutil.copyfile(self.tokenizer, folder / ("tokenizer.json" if is_json else TOKENIZER_NAME))
        side = self.tokenizer.with_name(SIDE_NAME)
        if is_json and side.is_file():
            shutil.copyfile(side, folder / SIDE_NAME)


def open_inputs(
    config: ModelConfig,
    *,
    data: Sequence[Path],
    validation: Sequence[Path],
    out: Path,
    tokenizer: str | None,
    train_tokenizer: int | None,
    beside: Path | None,
    chat_share: float,
    say: Callable[[str], None],
) -> Inputs:
    """Open the shards that the paths are, or make them of the texts that they are."""
    if _are_shards(data):
        found = open_shards(data[0])
        _check_vocabulary(len(found.id_bytes), config)
        seen = open_shards(validation[0]) if validation else None
        if seen is not None and seen.tokenizer_digest != found.tokenizer_digest:
            raise UsageError("the shards to learn from and to look at were made with different tokenizers")
        file = _file_of(tokenizer, found) if tokenizer is not None else _file_near(found, beside)
        if file is None and tokenizer is None:
            say("no tokenizer of these shards was found, so the model will lie without one: see --tokenizer")
        return Inputs(train=found, validation=seen, tokenizer=file)
    path = _tokenizer(data, out=out, named=tokenizer, vocabulary=train_tokenizer, beside=beside, say=say)
    words = open_tokenizer(path)
    _check_vocabulary(words.vocab_size, config)

    def built(paths: Sequence[Path], name: str) -> Shards:
        return _built(paths, words, data_folder(out) / name, chat_share=chat_share, say=say)

    found = built(data, "train")
    seen = built(validation, "validation") if validation else None
    return Inputs(train=found, validation=seen, tokenizer=_file_of(path, found))


def data_folder(out: Path) -> Path:
    """Where the shards of a run lie: beside its folder, as they can be made again and the run can not."""
    return out.with_name(f"{out.name}.data")


def _built(
    paths: Sequence[Path], words: Tokenizer, folder: Path, *, chat_share: float, say: Callable[[str], None]
) -> Shards:
    sources = sources_of(paths)
    say(f"reading {', '.join(source.path.name for source in sources)}")
    shards = build_shards(sources, words, folder, chat_share=chat_share)
    say(f"{shards.num_tokens:,} tokens in {shards.num_documents:,} documents")
    return shards


def _tokenizer(
    data: Sequence[Path],
    *,
    out: Path,
    named: str | None,
    vocabulary: int | None,
    beside: Path | None,
    say: Callable[[str], None],
) -> str | Path:
    """The tokenizer that is named, or learnt, or lies beside the config."""
    if named is not None:
        return named
    learnt = data_folder(out) / TOKENIZER_NAME
    if vocabulary is not None:
        if not learnt.is_file():
            say(f"learning a vocabulary of {vocabulary:,}")
            learnt.parent.mkdir(parents=True, exist_ok=True)
            train_tokenizer(sources_of(data), vocab_size=vocabulary, path=learnt)
        elif (found := open_tokenizer(learnt).vocab_size) != vocabulary:
            raise UsageError(
                f"{learnt} was learnt before, with {found:,} words instead of {vocabulary:,}",
                hint="Name another --out, or remove that file if no run needs it.",
            )
        return learnt
    if beside is not None and beside.exists():
        folder = beside if beside.is_dir() else beside.parent
        for name in FILES_OF_A_FOLDER:
            if (folder / name).is_file():
                return folder / name
    raise UsageError(
        "no tokenizer is named, and none lies beside the config",
        hint="Name one with --tokenizer, or learn one from the data with --train-tokenizer 8192.",
    )


def _file_of(named: str | Path, shards: Shards) -> Path | None:
    """The file behind a tokenizer's name; None for one that is known by its name alone."""
    if open_tokenizer(named).digest != shards.tokenizer_digest:
        raise UsageError(
            f"{shards.folder} was made with another tokenizer than {named}",
            hint="Name the one that it was made with, or give the texts, to have it made anew.",
        )
    path = Path(named)
    files = [path / name for name in FILES_OF_A_FOLDER] if path.is_dir() else [path]
    return next((file for file in files if file.is_file()), None)


def _file_near(shards: Shards, beside: Path | None) -> Path | None:
    """The tokenizer of some shards, if it lies beside them or beside the config. It is not opened."""
    places = [shards.folder, shards.folder.parent]
    if beside is not None and beside.exists():
        places.append(beside if beside.is_dir() else beside.parent)
    for file in (place / name for place in places for name in FILES_OF_A_FOLDER):
        if file.is_file() and hashlib.sha256(file.read_bytes()).hexdigest() == shards.tokenizer_digest:
            return file
    return None


def _are_shards(paths: Sequence[Path]) -> bool:
    held = [path for path in paths if (Path(path) / INDEX_NAME).is_file()]
    if held and len(paths) > 1:
        raise UsageError(
            f"{held[0]} is a folder of token shards, which stands alone", hint="Give it by itself."
        )
    return bool(held)


def _check_vocabulary(size: int, config: ModelConfig) -> None:
    if size > config.vocab_size:
        raise UsageError(
            f"the tokenizer has {size:,} words, the config's vocab_size is {config.vocab_size:,}",
            hint="Learn a smaller vocabulary, or raise vocab_size.",
        )
