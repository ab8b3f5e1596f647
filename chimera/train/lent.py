"""Training the demo model on a lent machine with GPUs: data goes in by parcels, a run goes on in legs.

    python -m chimera.train.lent shards WORK --train TEXTS… --val TEXTS…   here: token shards, in parcels
    python -m chimera.train.lent unpack WORK PARCEL…                       there: the shards again
    torchrun --nproc-per-node N -m chimera.train.lent leg WORK --seconds 500
    python -m chimera.train.lent take WORK OUT                             there: the run in files of 15 MB
    python -m chimera.train.lent model WORK OUT                            here: the model of those in WORK

A leg saves and stops when its time is over; the next one goes on, bit for bit on the same machine, and from
the files of `take` on another. The machine needs PyTorch, safetensors, and nothing else.
"""

import argparse
import itertools
import json
import lzma
import os
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

from chimera.train.meter import Reading
from chimera.train.telling import line_of

CONFIG = "demo"
PARCEL_BYTES = 40_000_000
TOKENS = 510_000_000
VALIDATION_TASKS = 1_500
TRAINING_TASKS = 150_000


def shards(work: Path, train: list[Path], validation: list[Path]) -> None:
    """Tokenizer, shards and parcels from texts."""
    from chimera.data.generated import main as generate
    from chimera.data.shards import build_shards
    from chimera.data.sources import sources_of, texts_of
    from configs.load import preset
    from configs.text.tokenizer import open_tokenizer
    from configs.text.training import train_sentencepiece

    work.mkdir(parents=True, exist_ok=True)
    for name, count, seed in (("tasks", TRAINING_TASKS, 0), ("tasks_val", VALIDATION_TASKS, 1)):
        if not (work / f"{name}.jsonl").exists():
            sys.argv[1:] = [str(work / f"{name}.jsonl"), "--count", str(count), "--seed", str(seed)]
            generate()
    sources = sources_of([*train, work / "tasks.jsonl"])
    words = work / "tokenizer.model"
    if not words.exists():
        # Every fourth text: a vocabulary does not get better from more.
        sample = itertools.islice(texts_of(sources), 0, None, 4)
        train_sentencepiece(sample, out=words, vocab_size=preset(CONFIG).vocab_size)
    tokenizer = open_tokenizer(words)
    for name, paths in (("train", train), ("val", validation)):
        task_file = work / ("tasks.jsonl" if name == "train" else "tasks_val.jsonl")
        made = build_shards(sources_of([*paths, task_file]), tokenizer, work / name, chat_share=0.5)
        print(f"{name}: {made.num_tokens:,} tokens in {made.num_documents:,} documents")
    parcels(work)


def parcels(work: Path) -> None:
    """The shards, compressed and cut into parcels that a transfer takes."""
    folder = work / "parcels"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    compressor = lzma.LZMACompressor(preset=1)
    pieces = itertools.chain((compressor.compress(block) for block in _bundle(work)), _last(compressor))
    waiting = bytearray()
    count = 0
    for piece in pieces:
        waiting += piece
        while len(waiting) > PARCEL_BYTES:
            (folder / f"{count:02}.xz").write_bytes(waiting[:PARCEL_BYTES])
            del waiting[:PARCEL_BYTES]
            count += 1
    (folder / f"{count:02}.xz").write_bytes(waiting)
    print(f"{count + 1} parcels in {folder}")


def unpack(work: Path, found: list[Path]) -> None:
    """Keep the parcels that came; once all are there, write the shards."""
    kept = work / "parcels"
    kept.mkdir(parents=True, exist_ok=True)
    for parcel in found:
        shutil.copyfile(parcel, kept / parcel.name)
    decompressor = lzma.LZMADecompressor()
    bundle = decompressor.decompress(b"".join(parcel.read_bytes() for parcel in sorted(kept.glob("*.xz"))))
    if not decompressor.eof:
        print("more parcels are needed")
        return
    at = 0
    while at < len(bundle):
        end = bundle.index(b"\n", at)
        head = json.loads(bundle[at:end])
        at = end + 1 + head["size"]
        path = work / head["name"]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bundle[end + 1 : at])
    print("complete")


def leg(work: Path, *, seconds: float, rows: int, accumulate: int, lr: float, tokens: int) -> None:
    """Train until the time is over, from the newest checkpoint or pack that is there."""
    from chimera.train.loop import train
    from chimera.train.settings import Wishes, settings_of
    from configs.load import preset

    # Compiled kernels stay on the machine's disk from leg to leg.
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(work / "compiled"))
    config = preset(CONFIG)
    wishes = Wishes(
        seq_len=1024, rows=rows, accumulate=accumulate, tokens=tokens, lr=lr, warmup=200, bf16=True,
        compile=True, device="cuda", save_every=500, validate_every=1000,
    )  # fmt: skip
    packs = sorted(work.glob("demo-*.pack*"))
    outcome = train(
        config,
        settings=settings_of(config, wishes=wishes),
        data=[work / "train"],
        validation=[work / "val"],
        out=work / "run",
        resume=True,
        pack=packs[-1] if packs else None,
        time_limit_s=seconds,
        display=Lines(),
    )
    if os.environ.get("RANK", "0") == "0":
        print(json.dumps(outcome.as_json()), flush=True)


def take(work: Path, out: Path) -> None:
    """Write a resume pack and the log of the run."""
    from chimera.data.shards import open_shards
    from chimera.model import build
    from chimera.train import checkpoint
    from chimera.train.resume_pack import save_pack
    from configs.load import preset

    found = checkpoint.load_latest(work / "run" / "checkpoints")
    assert found is not None
    model = build(preset(CONFIG))
    model.load_state_dict(found.state["model"])
    data = open_shards(work / "train")
    digests = {"data": data.digest, "tokenizer": data.tokenizer_digest}
    position = {"tokens": found.state["extra"]["tokens"]}
    path = out / f"demo-{found.step:06}.pack"
    print(save_pack(path, model, step=found.step, position=position, digests=digests))
    shutil.copyfile(work / "run" / "log.jsonl", out / "log.jsonl")


def model(work: Path, out: Path) -> None:
    """The model folder of the newest resume pack, with its tokenizer."""
    from chimera.model import build
    from chimera.saving import save_model
    from chimera.train.resume_pack import load_pack

    pack = load_pack(sorted(work.glob("demo-*.pack*"))[-1])
    made = build(pack.config)
    pack.load_into(made)
    save_model(made, out)
    shutil.copyfile(work / "tokenizer.model", out / "tokenizer.model")
    print(f"{out}: step {pack.step:,}, {pack.position['tokens']:,} tokens")


class Lines:
    """Progress as plain lines, for a machine without a terminal."""

    def __init__(self) -> None:
        self._shown = 0.0

    def update(self, reading: Reading) -> None:
        if time.monotonic() - self._shown > 15:
            self._shown = time.monotonic()
            print(line_of(reading), flush=True)

    def say(self, text: str) -> None:
        print(text, flush=True)

    def __enter__(self) -> "Lines":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


def _bundle(work: Path) -> Iterator[bytes]:
    """The files of the shards end to end, each after a line with its name and size."""
    for path in sorted(path for name in ("train", "val") for path in (work / name).iterdir()):
        head = {"name": str(path.relative_to(work)), "size": path.stat().st_size}
        yield json.dumps(head).encode() + b"\n"
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                yield block


def _last(compressor: lzma.LZMACompressor) -> Iterator[bytes]:
    yield compressor.flush()


def main() -> None:
    """Read the command line and do one part."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parts = parser.add_subparsers(dest="part", required=True)
    for name in ("shards", "unpack", "leg", "take", "model"):
        part = parts.add_parser(name)
        part.add_argument("work", type=Path)
        if name == "shards":
            part.add_argument("--train", type=Path, nargs="+", required=True)
            part.add_argument("--val", type=Path, nargs="+", required=True)
        elif name == "unpack":
            part.add_argument("parcels", type=Path, nargs="+")
        elif name == "leg":
            part.add_argument("--seconds", type=float, default=500)
            part.add_argument("--rows", type=int, default=64)
            part.add_argument("--accumulate", type=int, default=2)
            part.add_argument("--lr", type=float, default=2e-3)
            part.add_argument("--tokens", type=int, default=TOKENS)
        elif name in ("take", "model"):
            part.add_argument("out", type=Path)
    args = parser.parse_args()
    if args.part == "shards":
        shards(args.work, args.train, args.val)
    elif args.part == "unpack":
        unpack(args.work, args.parcels)
    elif args.part == "leg":
        leg(
            args.work, seconds=args.seconds, rows=args.rows, accumulate=args.accumulate, lr=args.lr,
            tokens=args.tokens,
        )  # fmt: skip
    else:
        {"take": take, "model": model}[args.part](args.work, args.out)


if __name__ == "__main__":
    main()
