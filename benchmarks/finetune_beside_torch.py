"""Teaching a packed model beside a plain MeZO loop in PyTorch: steps a second, and memory.

    python -m benchmarks.finetune_beside_torch                     the shipped model, 2 threads
    python -m benchmarks.finetune_beside_torch --words 60 --json

The loop in PyTorch is the usual one: normal numbers from a seed are added to all weights, the loss is
computed, they are taken away twice, the loss is computed, and they are added again with the step. Its model
quantises latent weights in each pass, as its training did. Both sides read the same sequences, and have to
agree on their loss before anything is timed. Steps are timed in one process, in turns; memory is the peak of
a process of its own for each side, which does the same steps.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from runtime.finetune.items import Words, read_data
from runtime.finetune.method import Item, Method, MethodOptions, load_method
from runtime.model_folder import DEMO
from runtime.system import peak_bytes

SIDES = ("scales", "torch")
LARGEST_DIFFERENCE = 0.02
"""Of the losses that both sides begin with, as a share: their sums are rounded otherwise."""
STEPS_FOR_MEMORY = 3
Step = Callable[[int], float]


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description="Teach a packed model, beside PyTorch.")
    parser.add_argument("--model", type=Path, default=DEMO)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--words", type=int, default=16, help="words of a prompt")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--only", choices=SIDES, help="do some steps of one side and print the peak in bytes")
    args = parser.parse_args()
    if args.only is not None:
        step = _side(args.only, args)[0]
        for number in range(STEPS_FOR_MEMORY):
            step(number)
        print(peak_bytes())
        return
    report = {**_times(args), **_memory(args)}
    report["speed_ratio"] = report["torch_s"] / report["scales_s"]
    report["memory_share"] = report["scales_peak_bytes"] / report["torch_peak_bytes"]
    if args.json:
        json.dump(report, sys.stdout, indent=2)
        print()
        return
    print(f"{args.batch} sequences of {report['tokens'] / args.batch:.0f} tokens, {args.threads} threads\n")
    print("side    s a step  tokens/s   peak MB")
    for side in SIDES:
        seconds, peak = report[f"{side}_s"], report[f"{side}_peak_bytes"]
        print(f"{side:<7} {seconds:8.3f}  {2 * report['tokens'] / seconds:8,.0f}  {peak / 1e6:8.0f}")
    print(f"\nsteps a second: {report['speed_ratio']:.2f} x (goal 3)")
    print(f"memory: {report['memory_share']:.2f} (goal 0.5)")


def _times(args: argparse.Namespace) -> dict[str, float]:
    sides = {side: _side(side, args) for side in SIDES}
    begins = {side: loss() for side, (_, loss, _) in sides.items()}
    difference = abs(begins["torch"] / begins["scales"] - 1)
    if difference > LARGEST_DIFFERENCE:
        raise SystemExit(f"the sides begin with the losses {begins}: they do not compute the same")
    times: dict[str, list[float]] = {side: [] for side in SIDES}
    for number in range(args.repeats + 1):
        for side, (step, _, _) in sides.items():
            begin = time.perf_counter()
            step(number)
            if number:  # the first time starts threads and touches memory
                times[side].append(time.perf_counter() - begin)
    found = {f"{side}_s": statistics.median(seconds) for side, seconds in times.items()}
    return {**found, "tokens": float(sides["scales"][2]), "loss_difference": difference}


def _memory(args: argparse.Namespace) -> dict[str, float]:
    found: dict[str, float] = {}
    for side in SIDES:
        words = ["--only", side, "--model", str(args.model), "--batch", str(args.batch)]
        words += ["--words", str(args.words), "--threads", str(args.threads)]
        command = [sys.executable, "-m", "benchmarks.finetune_beside_torch", *words]
        ended = subprocess.run(command, capture_output=True, text=True, check=True)
        found[f"{side}_peak_bytes"] = int(ended.stdout.split()[-1])
    return found


def _side(side: str, args: argparse.Namespace) -> tuple[Step, Callable[[], float], int]:
    """A step, the loss at the beginning, and the tokens of a batch."""
    if side == "torch":
        return _of_torch(args)
    method = load_method("scales").prepare(MethodOptions(model=args.model, seed=1, num_threads=args.threads))
    items = _items(method, args)

    def step(number: int) -> float:
        means: list[float] = []
        for sign in (1, -1):
            method.look(number, side=sign)
            means.append(float(method.losses(items).mean()))
        method.apply(number, [method.length(-1e-4 * method.slope(*means))])
        return means[0]

    def loss() -> float:
        method.look(0, side=0)
        return float(method.losses(items).mean())

    return step, loss, sum(len(item.ids_T) - 1 for item in items)


def _items(method: Method, args: argparse.Namespace) -> Sequence[Item]:
    """Prompts of so many words, with short answers."""
    nouns = ("dog", "table", "river", "lamp", "bird", "stone", "horse", "spoon")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "data.jsonl"
        lines = [
            {"prompt": " ".join(nouns[(number + at) % 8] for at in range(args.words)), "completion": "animal"}
            for number in range(args.batch)
        ]
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
        words = Words(tokenizer=method.tokenizer, template=method.template, longest=4096)
        return read_data([path], words).items


def _of_torch(args: argparse.Namespace) -> tuple[Step, Callable[[], float], int]:
    import torch

    from chimera.finetune.mezo import sequence_losses
    from exports.latents import latent_model
    from runtime.model_folder import open_model

    torch.set_num_threads(args.threads)
    model = latent_model(args.model).eval()
    opened = open_model(args.model)
    tokenizer = opened.tokenizer()

    class Reader:
        """What `_items` asks of a method."""

        def __init__(self) -> None:
            self.tokenizer = tokenizer
            self.template = opened.fitting_template(tokenizer)

    items = _items(Reader(), args)  # pyright: ignore
    longest = max(len(item.ids_T) for item in items)
    ids = np.zeros((len(items), longest - 1), dtype=np.int64)
    labels = np.full_like(ids, -100)
    for row, item in enumerate(items):
        count = len(item.ids_T) - 1
        ids[row, :count] = item.ids_T[:-1]
        labels[row, :count] = np.where(item.counted_T[1:], item.ids_T[1:], -100)
    ids_BT, labels_BT = torch.from_numpy(ids), torch.from_numpy(labels)
    parameters = [parameter for parameter in model.parameters() if parameter.is_floating_point()]

    @torch.no_grad()
    def move(seed: int, length: float) -> None:
        generator = torch.Generator().manual_seed(seed)
        for parameter in parameters:
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=length)

    def loss() -> float:
        return float(sequence_losses(model, ids_BT, labels_BT).mean())

    def step(number: int) -> float:
        epsilon = 1e-3
        move(number, epsilon)
        above = loss()
        move(number, -2 * epsilon)
        below = loss()
        move(number, epsilon - 1e-6 * (above - below) / (2 * epsilon))
        return above

    return step, loss, sum(len(item.ids_T) - 1 for item in items)


if __name__ == "__main__":
    main()
