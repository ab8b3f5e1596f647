"""Forms of ternary weights, trained alike: free ternary, one zero in four, either with a correction.

    python -m benchmarks.weight_forms WORK --tokens 50M --seconds 560 --out OUT

WORK holds the token shards `train` and `val`, as `chimera.train.lent shards` makes them and `unpack` brings
them. Each form is a process, on the next of the GPUs in turn; all learn the same tokens in the same order, at
one rate. What is over when the time is goes on with the same call. PyTorch, NumPy and safetensors are enough.
A line of JSON for each form goes to OUT/weight_forms.jsonl, and a table to the terminal. Bits per byte are
those of the weights that a file would hold.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from configs import accounting
from configs.load import build_config
from configs.schema.model import ModelConfig

FORMS: Mapping[str, Mapping[str, Any]] = {
    "ternary": {},
    "sherry": {"sherry_mode": {"enabled": True}},
    "correction": {"hgf_correction": {"enabled": True}},
    "sherry+correction": {"sherry_mode": {"enabled": True}, "hgf_correction": {"enabled": True}},
}
"""Name: what is laid over the preset's section `quantization`."""
RESULTS_NAME = "weight_forms.jsonl"


def config_of(preset: str, form: str, *, vocab_size: int) -> ModelConfig:
    """The config of a form."""
    raw = {"preset": preset, "vocab_size": vocab_size, "quantization": dict(FORMS[form])}
    return build_config(raw, source=form)


def train_form(args: argparse.Namespace) -> None:
    """Train one form, or go on with it, and write its line."""
    from chimera.data.shards import open_shards
    from chimera.train.lent import Lines
    from chimera.train.loop import train
    from chimera.train.settings import Wishes, settings_of

    config = config_of(args.preset, args.one, vocab_size=len(open_shards(args.work / "train").id_bytes))
    on_gpu = args.device == "cuda"
    wishes = Wishes(
        seq_len=args.seq_len, rows=args.rows, accumulate=1, tokens=tokens_of(args.tokens), lr=args.lr,
        bf16=on_gpu, compile=on_gpu, device=args.device, save_every=500, validate_every=1000,
    )  # fmt: skip
    outcome = train(
        config,
        settings=settings_of(config, wishes=wishes),
        data=[args.work / "train"],
        validation=[args.work / "val"],
        out=args.work / "forms" / args.one,
        resume=True,
        time_limit_s=args.seconds,
        display=Lines(),
    )
    line = {
        "form": args.one,
        "preset": args.preset,
        "parameters": accounting.parameters(config),
        "ternary_bytes": ternary_bytes(config),
        "file_bytes": accounting.file_bytes(config),
        "lr": args.lr,
        **outcome.as_json(),
    }
    path = args.work / "forms" / f"{args.one}.json"
    path.write_text(json.dumps(line) + "\n")


def run(args: argparse.Namespace) -> int:
    """All forms at once, then the table."""
    import torch

    names = list(FORMS) if args.forms is None else args.forms.split(",")
    if unknown := [name for name in names if name not in FORMS]:
        raise SystemExit(f"no form {unknown[0]!r}; allowed: {', '.join(FORMS)}")
    device = args.device or ("cuda" if torch.cuda.is_available() else "cpu")
    num_gpus = max(1, torch.cuda.device_count()) if device == "cuda" else 1
    (args.work / "forms").mkdir(parents=True, exist_ok=True)
    started, children = time.monotonic(), dict[str, subprocess.Popen[bytes]]()
    for place, name in enumerate(names):
        environment = {**os.environ, "TORCHINDUCTOR_CACHE_DIR": str(args.work / "compiled")}
        if device == "cuda":
            environment["CUDA_VISIBLE_DEVICES"] = str(place % num_gpus)
        command = [sys.executable, "-m", "benchmarks.weight_forms", str(args.work), "--one", name]
        command += ["--device", device, "--tokens", args.tokens, "--seconds", f"{args.seconds - 20:g}"]
        command += ["--preset", args.preset, "--rows", str(args.rows), "--seq-len", str(args.seq_len)]
        with (args.work / "forms" / f"{name}.log").open("wb") as log:
            children[name] = subprocess.Popen(
                [*command, "--lr", str(args.lr)], env=environment, stdout=log, stderr=subprocess.STDOUT
            )
    failed = [name for name, child in children.items() if child.wait() != 0]
    for name in failed:
        print(f"{name} failed:\n{(args.work / 'forms' / f'{name}.log').read_text()[-3000:]}")
    lines = [
        json.loads(path.read_text())
        for name in names
        if name not in failed and (path := args.work / "forms" / f"{name}.json").exists()
    ]
    if args.out is not None:
        args.out.mkdir(parents=True, exist_ok=True)
        (args.out / RESULTS_NAME).write_text("".join(json.dumps(line) + "\n" for line in lines))
    print("\n".join(table(lines)))
    print(f"{time.monotonic() - started:.0f} seconds in all")
    return 1 if failed else 0


def table(lines: list[Mapping[str, Any]]) -> list[str]:
    """What was found, in Markdown."""
    rows = [
        "| form | bits per byte | ternary layers | packed file | loss of the last step | steps |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for line in lines:
        score = line["validation"]
        rows.append(
            f"| {line['form']} | {'' if score is None else format(score['bits_per_byte'], '.4f')}"
            f" | {line['ternary_bytes'] / 1e6:.2f} MB | {line['file_bytes'] / 1e6:.2f} MB"
            f" | {format(line['loss'], '.4f') if line['loss'] else ''}"
            f" | {line['step']:,} of {line['num_steps']:,} |"
        )
    return rows


def ternary_bytes(config: ModelConfig) -> int:
    """Bytes of the ternary matrices and of what corrects them."""
    from configs.inventory import tensors

    return sum(
        accounting.tensor_bytes(config, tensor)
        for tensor in tensors(config)
        if tensor.storage in ("ternary", "int8")
    )


def tokens_of(quantity: str) -> int:
    """The number that 50M stands for."""
    from configs.schema.keys import parse_quantity

    return round(parse_quantity(quantity))


def main() -> int:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("work", type=Path)
    parser.add_argument("--forms", help=f"some of {','.join(FORMS)}")
    parser.add_argument("--one", choices=list(FORMS), help=argparse.SUPPRESS)
    parser.add_argument("--preset", default="demo")
    parser.add_argument("--tokens", default="50M")
    parser.add_argument("--rows", type=int, default=32)
    parser.add_argument("--seq-len", type=int, default=1024)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--seconds", type=float, default=560)
    parser.add_argument("--device", choices=("cuda", "cpu"))
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    if args.one is None:
        return run(args)
    train_form(args)
    return 0


if __name__ == "__main__":
    sys.exit(main())
