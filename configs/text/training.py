"""Training a SentencePiece model: the same texts and arguments give the same file, byte for byte.

The file is made to be lossless: no normalisation, no space put before a text, byte pieces for what the
vocabulary does not spell. Texts are learnt line by line, so that no piece crosses a newline; tabs, newlines
and U+2581 are always byte pieces.
"""

import io
import os
import random
import re
import secrets
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Literal, get_args

from configs.errors import TokenizerError
from configs.text.tokenizer import Tokenizer, open_tokenizer

ModelType = Literal["unigram", "bpe"]

PAD, UNKNOWN, END_OF_TEXT = "<|pad|>", "<|unk|>", "<|endoftext|>"
SYSTEM, USER, ASSISTANT, END_OF_TURN = "<|system|>", "<|user|>", "<|assistant|>", "<|im_end|>"
# The special tokens of a model that chats, in the order of their ids: padding, the end of a document, who
# speaks, and the end of what was said. o200k has them all by the same names, so one template serves both.
DEFAULT_SPECIALS = (PAD, END_OF_TEXT, SYSTEM, USER, ASSISTANT, END_OF_TURN)

MAX_LINE_CHARACTERS = 1024
MAX_LINE_BYTES = 4 * MAX_LINE_CHARACTERS
NUM_BYTE_PIECES = 256
MAX_VOCAB_SIZE = 1_000_000

_NOT_LEARNT = re.compile("[\n\r\t\0\u2581]+")
_BAD_IN_A_NAME = re.compile("[\\s\u2581\0]|^<0x[0-9A-F]{2}>$")


def train_sentencepiece(
    texts: Iterable[str],
    *,
    out: str | os.PathLike[str],
    vocab_size: int,
    model_type: ModelType = "unigram",
    byte_fallback: bool = True,
    specials: Sequence[str] = DEFAULT_SPECIALS,
    split_digits: bool = True,
    character_coverage: float = 0.9995,
    max_lines: int = 2_000_000,
    seed: int = 0,
    num_threads: int = 4,
) -> Tokenizer:
    """Train a tokenizer on `texts` and write it to `out`, which is replaced at the end or left as it was.

    The special tokens get the first ids in their order, then comes `<|unk|>`, then the 256 byte pieces.
    `specials` must name padding and the end of a document. Of more than `max_lines` lines, a sample is taken
    with `seed`. The sums of training depend on `num_threads`: another number may give another file.
    """
    import sentencepiece

    path = Path(out)
    _check(specials, model_type=model_type, vocab_size=vocab_size, byte_fallback=byte_fallback)
    if not path.parent.is_dir():
        raise TokenizerError(f"{path}: no such folder to write to", hint="Make the folder first.")
    lines = _Lines(texts, max_lines=max_lines, seed=seed)
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(lines),
            model_writer=model,
            vocab_size=vocab_size,
            model_type=model_type,
            byte_fallback=byte_fallback,
            normalization_rule_name="identity",
            add_dummy_prefix=False,
            remove_extra_whitespaces=False,
            allow_whitespace_only_pieces=True,
            split_digits=split_digits,
            character_coverage=character_coverage,
            max_sentence_length=MAX_LINE_BYTES,
            num_threads=num_threads,
            minloglevel=2,
            bos_id=-1,
            pad_id=specials.index(PAD),
            pad_piece=PAD,
            eos_id=specials.index(END_OF_TEXT),
            eos_piece=END_OF_TEXT,
            unk_id=len(specials),
            unk_piece=UNKNOWN,
            control_symbols=[name for name in specials if name not in (PAD, END_OF_TEXT)],
        )
    except (RuntimeError, OSError) as error:
        if lines.failure is not None:
            raise lines.failure from None
        reason = _reason(error) if lines.count else "the texts hold nothing to learn from"
        raise TokenizerError(
            f"cannot train a vocabulary of {vocab_size}: {reason}",
            hint="Give more text, or the vocabulary size that the message allows.",
        ) from None
    _write_whole(path, model.getvalue())
    return open_tokenizer(path)


def _check(specials: Sequence[str], *, model_type: str, vocab_size: int, byte_fallback: bool) -> None:
    if model_type not in get_args(ModelType):
        raise TokenizerError(f"model_type {model_type!r}; allowed: {', '.join(get_args(ModelType))}")
    for needed in (PAD, END_OF_TEXT):
        if needed not in specials:
            raise TokenizerError(f"special tokens {list(specials)}: {needed!r} must be among them")
    for name in specials:
        if not name or name == UNKNOWN or _BAD_IN_A_NAME.search(name):
            raise TokenizerError(
                f"{name!r} cannot name a special token; allowed: text without white space, not {UNKNOWN!r}"
            )
        if specials.count(name) > 1:
            raise TokenizerError(f"special token {name!r} is named twice")
    least = len(specials) + 1 + NUM_BYTE_PIECES * byte_fallback
    if not least < vocab_size <= MAX_VOCAB_SIZE:
        raise TokenizerError(
            f"vocab_size {vocab_size}; allowed: {least + 1} to {MAX_VOCAB_SIZE} "
            f"with {len(specials)} special tokens{' and byte pieces' if byte_fallback else ''}"
        )


class _Lines:
    """The texts as the trainer takes them, in short lines; remembers what went wrong in reading them."""

    def __init__(self, texts: Iterable[str], *, max_lines: int, seed: int) -> None:
        self._texts = texts
        self._max_lines = max_lines
        self._random = random.Random(seed)
        self.count = 0
        self.failure: Exception | None = None

    def __iter__(self) -> Iterator[str]:
        try:
            yield from self._sample()
        except Exception as error:  # the trainer would turn it into a message of its own
            self.failure = error
            raise

    def _sample(self) -> list[str]:
        """All lines, or a sample where each has the same chance; the trainer's own differs in every run."""
        kept: list[str] = []
        for line in self._all():
            self.count += 1
            if len(kept) < self._max_lines:
                kept.append(line)
            elif (place := int(self._random.random() * self.count)) < self._max_lines:
                kept[place] = line
        return kept

    def _all(self) -> Iterator[str]:
        for number, text in enumerate(self._texts, start=1):
            for line in _short_lines(text):
                if not _is_utf8(line):
                    raise TokenizerError(f"text {number} to train on holds half of a surrogate pair")
                yield line


def _short_lines(text: str) -> Iterator[str]:
    for line in _NOT_LEARNT.split(text):
        start = 0
        while len(line) - start > MAX_LINE_CHARACTERS:
            space = line.rfind(" ", start + 1, start + MAX_LINE_CHARACTERS)
            end = space if space > 0 else start + MAX_LINE_CHARACTERS
            yield line[start:end]
            start = end
        if start < len(line):
            yield line[start:]


def _is_utf8(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _reason(error: Exception) -> str:
    """The trainer's complaint without the place in its source."""
    return " ".join(re.sub(r"^[^:]*?: ?[\w./]+\.cc\(\d+\) \[.*?\]", "", str(error)).split())


def _write_whole(path: Path, data: bytes) -> None:
    """Write the file so that a reader, or a crash, sees the old one or the new one and never a part."""
    part = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        with part.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise TokenizerError(f"{path}: cannot be written: {error.strerror}") from None
