"""What goes beside packed weights so that a model can read and write text: tokenizer and chat template."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from configs.errors import TokenizerError
from configs.schema.model import ModelConfig
from configs.text.tokenizer import FILES_OF_A_FOLDER, Tokenizer, TokenizerKind, open_tokenizer
from runtime.model_folder import (
    BUILT_IN_TOKENIZER,
    TEMPLATE_DIGEST_KEY,
    TEMPLATE_NAME,
    TOKENIZER_DIGEST_KEY,
    TOKENIZER_KEY,
    check_vocabulary,
    read_template,
    template_digest,
)

SIDE_NAME = "tokenizer_config.json"
NAMES: dict[TokenizerKind, str] = {"sentencepiece": "tokenizer.model", "huggingface": "tokenizer.json"}
"""What a tokenizer's file is called where the config's own name has another form's ending."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Words:
    """The words of a model: what to write, and what the weights' file records of it."""

    tokenizer: Tokenizer | None = None
    tokenizer_name: str = ""
    """The name of its file; empty where there is none."""
    metadata: dict[str, str] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)
    """Name → content."""

    @property
    def has_template(self) -> bool:
        """Whether the model brings a chat template of its own."""
        return TEMPLATE_NAME in self.files


def collect_words(
    config: ModelConfig, *, folders: Sequence[Path], tokenizer: Path | str | None, template: Path | None
) -> Words:
    """The words named, else those of the checkpoint's `folders`; none where nothing is named or found."""
    source = find_tokenizer(config, *folders) if tokenizer is None else tokenizer
    if source is None:
        if template is not None:
            raise TokenizerError(
                f"{template}: a chat template needs the tokenizer whose special tokens it names",
                hint="Name the tokenizer as well: --tokenizer FILE.",
            )
        return Words()
    opened = open_tokenizer(source)
    check_vocabulary(opened, config)
    metadata = {TOKENIZER_KEY: opened.kind, TOKENIZER_DIGEST_KEY: opened.digest}
    files: dict[str, bytes] = {}
    name = ""
    if opened.kind != BUILT_IN_TOKENIZER:
        path = Path(opened.source)
        name = _name_of(config, opened.kind)
        files[name] = path.read_bytes()
        if path.with_name(SIDE_NAME).is_file():
            files[SIDE_NAME] = path.with_name(SIDE_NAME).read_bytes()
    if template is None:
        template = next((found for folder in folders if (found := folder / TEMPLATE_NAME).is_file()), None)
    if template is not None:
        text = read_template(template, opened).source
        files[TEMPLATE_NAME] = text.encode()
        metadata[TEMPLATE_DIGEST_KEY] = template_digest(text)
    return Words(tokenizer=opened, tokenizer_name=name, metadata=metadata, files=files)


def find_tokenizer(config: ModelConfig, *folders: Path) -> Path | None:
    """The tokenizer in a checkpoint's folders, by the config's name for it or a usual one."""
    names = (config.files.tokenizer, *FILES_OF_A_FOLDER)
    places = (folder / name for folder in folders for name in names)
    return next((file for file in places if file.is_file()), None)


def _name_of(config: ModelConfig, kind: TokenizerKind) -> str:
    """The config's name for the file, unless it would call one form by the other's ending."""
    named = config.files.tokenizer
    return named if Path(named).suffix == Path(NAMES[kind]).suffix else NAMES[kind]
