"""A model's folder, opened with one path: packed weights, tokenizer, chat template.

    model/
      config.json           the same text as inside the weights' file, for people and for its `files` section
      model.b158            `files.weights`: weights and config; the one file that cannot be missing
      tokenizer.model       `files.tokenizer`: SentencePiece, or tokenizer.json of Hugging Face's form
      tokenizer_config.json beside a tokenizer.json that came with one
      chat_template.jinja   only where the model has a template of its own
      adapters/*.cza        what was learnt since, in the order of their names

What the weights' file says is true: its config is the one that counts, and its metadata holds the tokenizer's
digest, so that a foreign one is noticed. How text is drawn stands in the config's `generation` section; a
file of its own would be a second truth.
"""

import hashlib
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from configs.codec import encode
from configs.errors import ContainerError, ModelError, TokenizerError
from configs.leaves import leaves
from configs.load import load_config, parse_config
from configs.schema.model import ModelConfig
from configs.text.template import DEFAULT_TEMPLATE, MAX_SOURCE_CHARACTERS, ChatTemplate
from configs.text.tokenizer import FILES_OF_A_FOLDER, Tokenizer, open_tokenizer
from quant.container import B158File, open_b158
from runtime.packed_inspection import Holding, check_tensors

if TYPE_CHECKING:
    from quant.adapter import Adapter

DEMO = Path(__file__).resolve().parent / "models" / "demo"
"""The model that comes with an installation."""
CONFIG_NAME = "config.json"
TEMPLATE_NAME = "chat_template.jinja"
ADAPTERS_NAME = "adapters"
PACKED_SUFFIX = ".b158"
TOKENIZER_KEY = "tokenizer"
TOKENIZER_DIGEST_KEY = "tokenizer_digest"
TEMPLATE_DIGEST_KEY = "chat_template_digest"
"""Keys of the weights' metadata: the tokenizer's kind and digest; a template's digest if it has its own."""
BUILT_IN_TOKENIZER = "o200k"
DEFAULT_MARKERS = {"<|system|>", "<|user|>", "<|assistant|>", "<|im_end|>"}
"""What the usual template puts round messages."""
LONGEST_PATH = 200
"""What is shown of a path that no system takes."""
FOREIGN: dict[bytes, str] = {
    b"GGUF": "a GGUF file of llama.cpp",
    b"PK\x03\x04": "an archive, such as a PyTorch checkpoint",
    b"{": "a JSON file",
    b"\x0a": "a protocol buffer, such as a tokenizer.model or ONNX",
    b"\x08": "a protocol buffer, such as a tokenizer.model or ONNX",
}
"""What other files begin with that may be named by mistake."""
LONGEST_MARK = 4


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class PackedModel:
    """An open packed model and the folder that its other files lie in."""

    file: B158File
    config: ModelConfig
    holding: Holding
    adapters: "tuple[Adapter, ...]" = ()
    """What was learnt beside the file, in order. The weights have it; streams get theirs by an engine."""
    moves_codes: bool = False
    """Whether codes are to be moved where they lie, so that no copy of them may be made."""

    @property
    def digest(self) -> str:
        """The model's name, with its adapters: states carry it."""
        if not self.adapters:
            return self.file.digest
        # Here and not above, as below: a model without adapters does not pay for them at its start.
        from quant.adapter import composed_digest

        return composed_digest(self.file.digest, [adapter.digest for adapter in self.adapters])

    @property
    def folder(self) -> Path:
        """Where the model's other files lie."""
        return self.file.path.parent

    def tokenizer(self) -> Tokenizer:
        """The model's tokenizer; another one than it was exported with is refused."""
        tokenizer = open_tokenizer(self._tokenizer_source())
        expected = self.file.metadata.get(TOKENIZER_DIGEST_KEY)
        if expected is not None and tokenizer.digest != expected:
            raise TokenizerError(
                f"{tokenizer.source} is not this model's tokenizer: its digest is {tokenizer.digest[:16]}…, "
                f"{self.file.path} was exported with {expected[:16]}…",
                hint="Copy the tokenizer that came with the model, or export the model again with this one.",
            )
        check_vocabulary(tokenizer, self.config)
        return tokenizer

    def template(self, tokenizer: Tokenizer) -> ChatTemplate:
        """The model's chat template, its own or the usual one."""
        path = self.folder / TEMPLATE_NAME
        expected = self.file.metadata.get(TEMPLATE_DIGEST_KEY)
        if path.is_file():
            self._check_template(path, expected)
            return read_template(path, tokenizer)
        if expected is not None:
            raise TokenizerError(
                f"{path}: there is no such file, but the model was exported with a chat template of its own",
                hint="Copy it from where the model came, or export the model again.",
            )
        return ChatTemplate.of_tokenizer(tokenizer)

    def fitting_template(self, tokenizer: Tokenizer) -> ChatTemplate | None:
        """The same; None where the usual one meets a tokenizer without its words."""
        template = self.template(tokenizer)
        fits = template.source != DEFAULT_TEMPLATE or tokenizer.specials.keys() >= DEFAULT_MARKERS
        return template if fits else None

    def _check_template(self, path: Path, expected: str | None) -> None:
        """Refuse another template than the one the model was exported with, if it was with any."""
        if expected is not None and (found := template_digest(template_text(path))) != expected:
            raise TokenizerError(
                f"{path} is not this model's chat template: its digest is {found[:16]}…, "
                f"{self.file.path} was exported with {expected[:16]}…",
                hint="Copy the template that came with the model, or export the model again with this one.",
            )

    def _tokenizer_source(self) -> Path | str:
        names = (self.config.files.tokenizer, *FILES_OF_A_FOLDER)
        for name in names:
            if (self.folder / name).is_file():
                return self.folder / name
        if self.file.metadata.get(TOKENIZER_KEY) == BUILT_IN_TOKENIZER:
            return BUILT_IN_TOKENIZER
        raise TokenizerError(
            f"{self.folder}: no tokenizer in this folder; expected {' or '.join(dict.fromkeys(names))}",
            hint="Copy the model's tokenizer there, or export the model with --tokenizer.",
        )


def open_model(
    path: Path | str,
    *,
    adapters: Sequence[Path | str] = (),
    is_learning: bool = False,
    moves_codes: bool = False,
) -> PackedModel:
    """The model of a folder or of a `.b158` file. Its header is checked, its data is not read.

    A folder's own adapters come first, then those that are named. `is_learning` is for whoever moves weights,
    and `moves_codes` for whoever moves codes.
    """
    weights = find_weights(path)
    _check_kind(weights)
    named = [*own_adapters(Path(path)), *map(Path, adapters)]
    file = open_b158(weights, is_own=is_learning or bool(named))
    source = f"{file.path}: config"
    config = parse_config(file.config, source=source, error=ContainerError)
    if Path(path).is_dir():
        _check_beside(file, config)
    holding = check_tensors(file, config)
    if holding == "routed experts":
        raise ModelError(
            f"{file.path} holds a model's routed experts alone",
            hint=f"Name the model's folder or its file of weights, {config.files.weights}.",
        )
    return PackedModel(
        file=file,
        config=config,
        holding=holding,
        adapters=_learnt(file, named) if named else (),
        moves_codes=moves_codes,
    )


def own_adapters(path: Path) -> list[Path]:
    """The adapters that a model's folder holds, in their order."""
    folder = path / ADAPTERS_NAME
    if not folder.is_dir():
        return []
    from quant.adapter import SUFFIX

    return sorted(folder.glob(f"*{SUFFIX}"))


def _learnt(file: B158File, paths: Sequence[Path]) -> "tuple[Adapter, ...]":
    """Adapters that were read, and whose weights the file's map has from here on."""
    from quant.adapter import read_adapter
    from runtime.adapting.replay import check_adapters, learn_weights

    adapters = tuple(read_adapter(path) for path in paths)
    check_adapters(adapters, base=file.digest)
    learn_weights(file, adapters)
    return adapters


def find_weights(path: Path | str) -> Path:
    """The packed weights that a path means: itself, or those of a folder."""
    folder = Path(path)
    try:
        return _weights_of(folder) if folder.is_dir() else folder
    except OSError as error:
        raise ModelError(
            f"{str(folder)[:LONGEST_PATH]} cannot be read: {error.strerror or error}", hint="Check the path."
        ) from error


def _weights_of(folder: Path) -> Path:
    packed = sorted(file for file in folder.iterdir() if file.suffix == PACKED_SUFFIX and file.is_file())
    if (folder / CONFIG_NAME).is_file():
        files = load_config(folder).files
        if (folder / files.weights).is_file():
            return folder / files.weights
        packed = [file for file in packed if file.name != files.moe]
    if len(packed) == 1:
        return packed[0]
    found = ", ".join(file.name for file in packed) or "none"
    raise ModelError(
        f"{folder}: expected one {PACKED_SUFFIX} file of weights in this folder, found {found}",
        hint=f"Name the file itself: {folder}/{packed[0].name}"
        if packed
        else f"Pack a trained model with: chimera export b158 CHECKPOINT {folder}",
    )


def _check_kind(path: Path) -> None:
    """Refuse a file that is plainly something else by what it is. What cannot be read is refused later.

    Packed weights begin with the length of a padded header, whose lowest byte is none of those.
    """
    begin = b""
    with suppress(OSError):
        if path.is_file():
            with path.open("rb") as file:
                begin = file.read(LONGEST_MARK)
    kind = next((kind for mark, kind in FOREIGN.items() if begin.startswith(mark)), None)
    if kind is not None:
        raise ModelError(
            f"{path} is {kind}, not packed weights",
            hint=f"Name a {PACKED_SUFFIX} file or its folder. A trained model is packed with: "
            "chimera export b158 CHECKPOINT FOLDER",
        )


def _check_beside(file: B158File, config: ModelConfig) -> None:
    """Refuse a config.json that says another thing than the weights' own: an edit of it would do nothing."""
    path = file.path.parent / CONFIG_NAME
    if not path.is_file() or path.read_bytes().strip() == file.config.encode().strip():
        return
    beside = load_config(path)
    # Which name a file has is for the folder to say.
    if replace(beside, files=config.files) == config:
        return
    there, within = _by_path(beside), _by_path(config)
    unlike = [name for name in {**within, **there} if there.get(name) != within.get(name)]
    raise ModelError(
        f"{path} is not the config that {file.path.name} was packed with: it differs in "
        f"{', '.join(unlike[:4])}{f' and {len(unlike) - 4} more' if len(unlike) > 4 else ''}",
        hint=f"The one inside counts. Put the right one there, or name the weights alone: {file.path}",
    )


def _by_path(config: ModelConfig) -> dict[str, object]:
    return {leaf.path: leaf.value for leaf in leaves(encode(config)) if not leaf.path.startswith("files.")}


def check_vocabulary(tokenizer: Tokenizer, config: ModelConfig) -> None:
    """Refuse a tokenizer with ids that the model has no words for."""
    if tokenizer.vocab_size > config.vocab_size:
        raise TokenizerError(
            f"{tokenizer.source} has {tokenizer.vocab_size:,} ids, the model's vocabulary only "
            f"{config.vocab_size:,}",
            hint="Use the tokenizer that the model was trained with.",
        )


def read_template(path: Path, tokenizer: Tokenizer) -> ChatTemplate:
    """The chat template of a file, with the special tokens of a tokenizer."""
    return ChatTemplate.of_tokenizer(tokenizer, template_text(path), name=str(path))


def template_text(path: Path) -> str:
    """The text of a template's file."""
    try:
        with path.open(encoding="utf-8", newline="") as file:
            return file.read(MAX_SOURCE_CHARACTERS + 1)
    except UnicodeDecodeError as error:
        raise TokenizerError(f"{path}: not UTF-8 at byte {error.start}") from None
    except OSError as error:
        raise TokenizerError(f"{path}: cannot be read: {error.strerror or error}") from None


def template_digest(text: str) -> str:
    """The name of a template: SHA-256 of its text."""
    return hashlib.sha256(text.encode()).hexdigest()
