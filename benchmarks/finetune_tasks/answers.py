"""How many held-out questions a fine-tuned model answers rightly, with its best token each time."""

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor

from benchmarks.finetune_tasks.tasks import Item
from chimera.model import ChimeraForCausalLM
from configs.text.template import ChatTemplate
from configs.text.tokenizer import Tokenizer
from runtime.turns import begun, end_ids, opening

MOST_TOKENS = 24
PLACES = 16


def packed_accuracy(model: Path, items: Sequence[Item], *, adapter: Path | None = None) -> float:
    """The share of right answers of a packed model, perhaps with an adapter, by `chimera batch`."""
    with TemporaryDirectory() as folder:
        prompts, answers = Path(folder, "prompts.jsonl"), Path(folder, "answers.jsonl")
        lines = ({"prompt": item.prompt, "temperature": 0, "max_tokens": MOST_TOKENS} for item in items)
        prompts.write_text("".join(json.dumps(line) + "\n" for line in lines))
        command = [sys.executable, "-m", "runtime.cli.main", "batch", str(prompts), "-m", str(model)]
        command += ["--out", str(answers), "--streams", str(PLACES)]
        command += [] if adapter is None else ["--adapter", str(adapter)]
        subprocess.run(command, check=True, capture_output=True)
        replies = [json.loads(line)["text"] for line in answers.read_text().splitlines()]
    return sum(item.check(reply) for item, reply in zip(items, replies, strict=True)) / len(items)


@torch.no_grad()
def torch_accuracy(
    model: ChimeraForCausalLM, items: Sequence[Item], *, tokenizer: Tokenizer, template: ChatTemplate
) -> float:
    """The same in PyTorch, for what no packed file can hold. Prompts of one length go together."""
    by_length: dict[int, list[tuple[list[int], Item]]] = {}
    for item in items:
        pieces = opening(template, [{"role": "user", "content": item.prompt}])
        ids = begun(tokenizer, tokenizer.encode_pieces(pieces))
        by_length.setdefault(len(ids), []).append((ids, item))
    right = 0
    for same in by_length.values():
        for some in _parts(same):
            replies = _greedy(model, torch.tensor([ids for ids, _ in some]), tokenizer, template)
            right += sum(item.check(reply) for (_, item), reply in zip(some, replies, strict=True))
    return right / len(items)


def _parts(questions: list[tuple[list[int], Item]]) -> list[list[tuple[list[int], Item]]]:
    return [questions[first : first + PLACES] for first in range(0, len(questions), PLACES)]


def _greedy(
    model: ChimeraForCausalLM, ids_BT: Tensor, tokenizer: Tokenizer, template: ChatTemplate
) -> list[str]:
    ends = end_ids(tokenizer, template)
    device = model.final_norm.weight.device
    allowed = torch.ones(model.config.vocab_size, dtype=torch.bool)
    allowed[list(tokenizer.masked_ids - ends)] = False
    allowed = allowed.to(device)
    said: list[list[int]] = [[] for _ in ids_BT]
    over = [False] * len(said)
    out = model(ids_BT.to(device))
    for _ in range(MOST_TOKENS):
        logits_BV = model.logits(out.hidden_BTD[:, -1]).masked_fill(~allowed, -torch.inf)
        chosen = logits_BV.argmax(dim=-1)
        for row, token in enumerate(chosen.tolist()):
            over[row] = over[row] or token in ends
            if not over[row]:
                said[row].append(token)
        if all(over):
            break
        out = model(chosen[:, None], state=out.state)
    return [tokenizer.decode(ids) for ids in said]
