"""From data files to sequences whose answers are learnt.

A prompt and its completion are a chat of two turns, a conversation counts its replies; where the model has no
chat template, a completion follows its prompt as it stands. A plain text is counted whole.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from configs.errors import DataError, UsageError
from configs.text.records import ChatRecord, OnError, PromptRecord, ReadReport, Record, read_records
from configs.text.template import ChatTemplate
from configs.text.tokenizer import Tokenizer
from runtime.finetune.method import Item
from runtime.measuring.perplexity import data_files
from runtime.randomness import random_bits

_SPLIT = 0x53504C
"""The draw that parts data, among those of a seed."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Words:
    """How a model reads text."""

    tokenizer: Tokenizer
    template: ChatTemplate | None
    longest: int
    """Ids of a sequence, at most."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Data:
    """Sequences, in the order of the files, and what names them."""

    items: tuple[Item, ...]
    digest: str
    report: ReadReport


def read_data(paths: Sequence[Path], words: Words, *, on_error: OnError = "stop") -> Data:
    """All sequences of files and of folders of them. Malformed ones stop the reading, or are left out."""
    report = ReadReport()
    items: list[Item] = []
    for path in data_files(paths):
        for record in read_records(path, on_error=on_error, report=report):
            try:
                item = _item(record, words)
            except DataError as error:
                if on_error == "stop":
                    raise
                report.skipped += 1
                report.problems.append(error.message)
                continue
            items.append(item)
    if not items:
        raise DataError(
            f"there is nothing to learn in {', '.join(map(str, paths))}",
            hint="Name files with at least one record.",
        )
    return Data(items=tuple(items), digest=digest_of(items), report=report)


def digest_of(items: Sequence[Item]) -> str:
    """What names some sequences, in their order."""
    digest = hashlib.sha256()
    for item in items:
        digest.update(item.ids_T.tobytes() + item.counted_T.tobytes())
    return digest.hexdigest()


def parted(items: Sequence[Item], *, share: float, seed: int) -> tuple[list[Item], list[Item]]:
    """What is learnt from and what is only looked at: each item's part is drawn by its place."""
    if not 0 <= share < 1:
        raise UsageError(f"a validation share of {share:g}; allowed are 0 to less than 1")
    count = round(share * len(items))
    drawn = sorted(range(len(items)), key=lambda place: random_bits(seed=seed, position=place, draw=_SPLIT))
    chosen = set(drawn[:count])
    learnt = [item for place, item in enumerate(items) if place not in chosen]
    if not learnt:
        raise DataError(f"of {len(items)} records all are for validation", hint="Take a smaller share.")
    return learnt, [items[place] for place in sorted(chosen)]


def _item(record: Record, words: Words) -> Item:
    place = f"{record.file}:{record.line}"
    prompt, answer = _prompt_and_answer(record)
    ids, counted = _ids(record, words)
    if len(ids) > words.longest:
        raise DataError(
            f"{place}: {len(ids)} tokens; at most {words.longest} are allowed",
            hint="Shorten it, raise --longest, or leave such lines out by --skip-bad.",
        )
    counted[0] = False
    if not any(counted):
        raise DataError(f"{place}: there is no answer in it to learn", hint="Give it a reply with words.")
    return Item(
        ids_T=np.array(ids, dtype=np.int64),
        counted_T=np.array(counted, dtype=np.bool_),
        num_prompt=counted.index(True),
        prompt=prompt,
        answer=answer,
        file=record.file,
        line=record.line,
    )


def _ids(record: Record, words: Words) -> tuple[list[int], list[bool]]:
    tokenizer = words.tokenizer
    start = tokenizer.eos if tokenizer.bos is None else tokenizer.bos
    if isinstance(record, ChatRecord) or (isinstance(record, PromptRecord) and words.template is not None):
        if words.template is None:
            raise DataError(
                f"{record.file}:{record.line}: a conversation, and this model has no chat template",
                hint="Give prompts with completions, or texts.",
            )
        ids, counted = words.template.render(_turns(record), find_replies=True).encode(tokenizer)
    elif isinstance(record, PromptRecord):
        before, said = tokenizer.encode(record.prompt), tokenizer.encode(record.completion)
        end = [] if tokenizer.eos is None else [tokenizer.eos]
        ids, counted = [*before, *said, *end], [False] * len(before) + [True] * (len(said) + len(end))
    else:
        ids = tokenizer.encode(record.text)
        counted = [True] * len(ids)
    if start is not None and ids[:1] != [start]:
        ids, counted = [start, *ids], [False, *counted]
    return ids, counted


def _turns(record: PromptRecord | ChatRecord) -> list[dict[str, object]]:
    if isinstance(record, ChatRecord):
        return [dict(message) for message in record.messages]
    return [
        {"role": "user", "content": record.prompt},
        {"role": "assistant", "content": record.completion},
    ]


def _prompt_and_answer(record: Record) -> tuple[str, str]:
    """What a scorer is given: of a conversation, its messages before the last reply as JSON, and that."""
    if isinstance(record, PromptRecord):
        return record.prompt, record.completion
    if not isinstance(record, ChatRecord):
        return "", record.text
    replies = [at for at, message in enumerate(record.messages) if message["role"] == "assistant"]
    if not replies:
        raise DataError(f"{record.file}:{record.line}: a conversation without a reply of the assistant")
    before = record.messages[: replies[-1]]
    return json.dumps(before, ensure_ascii=False), str(record.messages[replies[-1]]["content"])
