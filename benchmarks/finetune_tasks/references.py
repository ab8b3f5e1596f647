"""What fine-tuning with gradients reaches: AdamW on all latent weights, peft's LoRA beside ternary ones.

python -m benchmarks.finetune_tasks.references adamw OUT --task mood --seed 0
"""

import argparse
import json
import math
import random
import re
import resource
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from benchmarks.finetune_tasks.answers import torch_accuracy
from benchmarks.finetune_tasks.tasks import Item, items
from chimera.cross_entropy import IGNORED
from chimera.data.conversations import Conversations
from chimera.model import ChimeraForCausalLM
from chimera.saving import save_model
from exports.b158 import export_b158
from exports.latents import latent_model
from exports.unpacked import torch_model
from quant.qat.linear import BitLinear
from runtime.model_folder import DEMO, open_model

RATE = {"adamw": 5e-4, "lora": 2e-3}
RANK = 16
CLIP = 1.0
WARMUP_SHARE = 0.1
HELD = "held"
"""The name of the float matrix that peft puts its own beside."""


def main() -> None:
    """Learn one task, and print what there is to know of it as JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("method", choices=sorted(RATE))
    parser.add_argument("out", type=Path)
    parser.add_argument("--task", required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rate", type=float)
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    batches = _batches(args.task, seed=args.seed, size=args.batch)
    rate = RATE[args.method] if args.rate is None else args.rate
    model = latent_model(DEMO) if args.method == "adamw" else with_lora(torch_model(DEMO), seed=args.seed)
    model.to(device)
    started = time.perf_counter()
    loss = learn(model, batches, num_steps=args.steps, rate=rate)
    found = {
        "loss": loss,
        "seconds": time.perf_counter() - started,
        "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }
    args.out.mkdir(parents=True, exist_ok=True)
    if args.method == "adamw":
        save_model(model.cpu(), args.out / "checkpoint")
        exported = export_b158(args.out / "checkpoint", args.out / "model", tokenizer=_tokenizer_file())
        found["file_bytes"] = exported.files[0].stat().st_size
    else:
        opened = open_model(DEMO)
        tokenizer = opened.tokenizer()
        held_out = items(args.task, part="test", seed=args.seed)
        found["file_bytes"] = sum(4 * part.numel() for part in model.parameters() if part.requires_grad)
        found["accuracy"] = torch_accuracy(
            model.eval(), held_out, tokenizer=tokenizer, template=opened.template(tokenizer)
        )
    print(json.dumps(found))


def learn(
    model: ChimeraForCausalLM, batches: Iterator[tuple[Tensor, Tensor]], *, num_steps: int, rate: float
) -> float:
    """AdamW with warm-up and a straight fall. The mean loss of the last tenth of the steps."""
    weights = [part for part in model.parameters() if part.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=rate, betas=(0.9, 0.95), weight_decay=0.0)
    model.train()
    losses: list[float] = []
    for step in range(num_steps):
        optimizer.param_groups[0]["lr"] = rate * _share(step, num_steps)
        ids_BT, labels_BT = (given.to(model.final_norm.weight.device) for given in next(batches))
        loss = model.loss(model(ids_BT, keep_state=False).hidden_BTD, labels_BT)
        loss.backward()
        nn.utils.clip_grad_norm_(weights, CLIP)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append(loss.item())
    last = losses[-max(1, num_steps // 10) :]
    return math.fsum(last) / len(last)


def with_lora(model: ChimeraForCausalLM, *, seed: int) -> ChimeraForCausalLM:
    """The packed model's weights as float matrices, with peft's LoRA beside each but the stacked experts."""
    from peft import LoraConfig, inject_adapter_in_model

    for module in model.modules():
        if isinstance(module, BitLinear):
            held = nn.Linear(*reversed(module.weight.shape), bias=False)
            held.weight = nn.Parameter(module.weight.detach(), requires_grad=False)
            module.add_module(HELD, held)
    names = [name for name, part in model.named_modules() if re.search(rf"\.{HELD}$", name)]
    config = LoraConfig(r=RANK, lora_alpha=2 * RANK, target_modules=names)
    torch.manual_seed(seed)
    inject_adapter_in_model(config, model)
    for module in model.modules():
        if isinstance(module, BitLinear):
            # Peft has put its own layer in the place of the matrix.
            setattr(module, "project", module.get_submodule(HELD).forward)  # noqa: B010
    return model


def encoded(some: Sequence[Item]) -> list[tuple[list[int], list[bool]]]:
    """Items as the ids of conversations, and which of them are the answer's."""
    opened = open_model(DEMO)
    tokenizer = opened.tokenizer()
    conversations = Conversations(opened.template(tokenizer), tokenizer)
    begin = tokenizer.eos if tokenizer.bos is None else tokenizer.bos
    assert begin is not None
    found: list[tuple[list[int], list[bool]]] = []
    for item in some:
        ids, is_answer = conversations.encode_answer(item.prompt, item.answer)
        found.append(([begin, *ids], [False, *is_answer]))
    return found


def _batches(task: str, *, seed: int, size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Ids and labels of batches, in an order of the seed's, pass after pass."""
    rows = encoded(items(task, part="train", seed=seed))
    draw = random.Random(seed)
    while True:
        draw.shuffle(rows)
        for first in range(0, len(rows) - size + 1, size):
            yield padded(rows[first : first + size])


def padded(rows: Sequence[tuple[list[int], list[bool]]]) -> tuple[Tensor, Tensor]:
    """Ids and labels of some conversations; no label but the answers'."""
    width = max(len(ids) for ids, _ in rows) - 1
    ids_BT = torch.zeros((len(rows), width), dtype=torch.int64)
    labels_BT = torch.full_like(ids_BT, IGNORED)
    for row, (ids, is_answer) in enumerate(rows):
        ids_BT[row, : len(ids) - 1] = torch.tensor(ids[:-1])
        following = torch.tensor(ids[1:])
        labels_BT[row, : len(ids) - 1] = torch.where(torch.tensor(is_answer[1:]), following, IGNORED)
    return ids_BT, labels_BT


def _share(step: int, num_steps: int) -> float:
    """The rate's share at a step."""
    warmup = max(1, round(WARMUP_SHARE * num_steps))
    return min((step + 1) / warmup, (num_steps - step) / max(1, num_steps - warmup))


def _tokenizer_file() -> Path:
    return Path(DEMO) / open_model(DEMO).config.files.tokenizer


if __name__ == "__main__":
    main()
