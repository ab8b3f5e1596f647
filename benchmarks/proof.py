"""The first proof: a ternary hybrid beside a ternary transformer, twins in bfloat16, and the hybrid's parts.

    python -m chimera.train.lent shards WORK --train DATA… --val DATA…               here: token shards
    python -m benchmarks.proof needles WORK --tokenizer T --train DATA… --val DATA…  here: needles
    python -m chimera.train.lent unpack WORK PARCEL…                                 where the GPUs are
    python -m benchmarks.proof run WORK --seconds 540 --out OUT                      there, until all is done
    python -m benchmarks.proof report WORK OUT                                       here: tables, pictures

WORK holds the token shards `train` and `val`, and `needles.npz`. Each arm is trained at each learning rate,
by a process of its own; as many run at once as there are GPUs, times `--per-gpu`. A run stops by the clock
and goes on with the next call: what is done, steps up to the last checkpoint, and measures are kept. Results
are lines of JSON in WORK/results; `proof.jsonl` of OUT, put there on another machine, spares it what is
finished. The commands in full, and how long they take, stand in docs/proof/method.md.
"""

import argparse
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from benchmarks.proof_arms import ARMS, SIZES
from benchmarks.proof_records import Records, Settings, read_records, scores_of, write_lines
from benchmarks.proof_report import report
from benchmarks.proof_train import RATES, Machine, next_rate, plan_of, run_arm
from configs.errors import EXIT_FAILED, ChimeraError, UsageError

LEAST_SECONDS = 45
"""Under which no arm is begun: it would not come to its first step."""
GRACE_SECONDS = 20
"""After the time is over, for a step, a checkpoint and a line; a compiler still at work is ended then."""
MOST_TRIES = 2
"""Of an arm that fails: beside fewer others there may be room for it."""
POLL_SECONDS, COPY_SECONDS = 0.2, 5.0


Run = tuple[str, float]
"""An arm and its learning rate."""


def run(args: argparse.Namespace) -> int:
    """Do the runs that are left, so many at once, until all are done or the time is over."""
    deadline = time.time() + args.seconds
    names = list(ARMS) if args.arms is None else args.arms.split(",")
    unknown = [name for name in names if name not in ARMS]
    if unknown:
        raise UsageError(f"no arm {unknown[0]!r}; allowed: {', '.join(ARMS)}")
    plan, rates = plan_of(args.work, _settings(args)), _rates(args)
    for name in names:
        Records(args.work, name, rate=rates[0], plan=plan)  # a folder of another proof is refused
    waiting, slots = _left(args.work, names, rates), max(1, args.gpus) * args.per_gpu
    running: dict[int, tuple[Run, subprocess.Popen[bytes]]] = {}
    failures: Counter[Run] = Counter()
    copied = 0.0
    try:
        while running or (waiting and time.time() + LEAST_SECONDS < deadline):
            for slot in range(slots):
                if slot not in running and waiting and time.time() + LEAST_SECONDS < deadline:
                    one = waiting.pop(0)
                    running[slot] = (one, _started(args, one, slot=slot, slots=slots, deadline=deadline))
            time.sleep(POLL_SECONDS)
            for slot, (one, process) in list(running.items()):
                if process.poll() is not None:
                    del running[slot]
                    failures[one] += bool(process.returncode)
                    under_way = {other for other, _ in running.values()}
                    waiting = [
                        other
                        for other in _left(args.work, names, rates)
                        if other not in under_way and failures[other] < MOST_TRIES
                    ]
            if args.out is not None and time.time() - copied > COPY_SECONDS:
                copied = time.time()
                write_lines(read_records(args.work), args.out)
            if time.time() > deadline + GRACE_SECONDS:
                break
    finally:
        for _, process in running.values():
            process.kill()
            process.wait()
        if args.out is not None:
            write_lines(read_records(args.work), args.out)
    rest = _left(args.work, names, rates)
    failed = [one for one in rest if failures[one]]
    print(f"left: {_words(rest) or 'nothing'}" + (f"; failed: {_words(failed)}" if failed else ""))
    return EXIT_FAILED if failed else 0


def arm(args: argparse.Namespace) -> int:
    """One arm at one rate, in this process."""
    machine = Machine(device=args.device, compile=args.compile, deadline=args.deadline)
    run_arm(args.work, args.name, rate=_rates(args)[0], settings=_settings(args), machine=machine)
    return 0


def _left(work: Path, names: Sequence[str], rates: Sequence[float]) -> list[Run]:
    """What is not finished, by rate; an arm goes on beyond the rates where its best is at their edge."""
    records = read_records(work)
    scores = {name: scores_of(records, name) for name in names}
    found = [(name, rate) for rate in rates for name in names if rate not in scores[name]]
    for name in names:
        further = next_rate(scores[name], rates)
        if further is not None and further not in rates:
            found.append((name, further))
    return found


def _words(runs: Sequence[Run]) -> str:
    return ", ".join(f"{name} at {rate:g}" for name, rate in runs)


def _rates(args: argparse.Namespace) -> list[float]:
    return [float(rate) for rate in args.rates.split(",")]


def needles(args: argparse.Namespace) -> int:
    """The needles, where a tokenizer is."""
    # They need a tokenizer's packages, which the machine that trains may lack.
    from benchmarks.proof_needles import make_needles
    from configs.text.tokenizer import open_tokenizer

    path = make_needles(
        args.work,
        open_tokenizer(args.tokenizer),
        train=args.train,
        validation=args.val,
        seq_len=args.seq_len,
        practice_rows=args.practice_rows,
        questions=args.questions,
    )
    print(f"{path}: {path.stat().st_size:,} bytes")
    return 0


def write_report(args: argparse.Namespace) -> int:
    """Tables and pictures of what is there."""
    for path in report(args.work, args.out):
        print(path)
    return 0


def _started(
    args: argparse.Namespace, one: Run, *, slot: int, slots: int, deadline: float
) -> subprocess.Popen[bytes]:
    """The process of an arm at a rate, on the GPU of its slot."""
    name, rate = one
    options: Mapping[str, object] = {
        "size": args.size,
        "tokens": args.tokens,
        "rows": args.rows,
        "seq-len": args.seq_len,
        "recall-rows": args.recall_rows,
        "needle-rows": args.needle_rows,
        "questions": args.questions,
        "seed": args.seed,
        "rates": rate,
        "device": "cuda" if args.gpus else "cpu",
        "deadline": deadline,
    }
    command = [sys.executable, "-u", "-m", "benchmarks.proof", "arm", str(args.work), name]
    command += [f"--{key}={value}" for key, value in options.items()]
    command += [] if args.compile else ["--no-compile"]
    threads = max(1, (os.cpu_count() or 1) // slots)
    environment = {
        # Compiled kernels stay on the disk from call to call, and are shared by the arms.
        "TORCHINDUCTOR_CACHE_DIR": str((args.work / "compiled").absolute()),
        "TORCHINDUCTOR_COMPILE_THREADS": str(threads),
        "OMP_NUM_THREADS": str(threads),
        **os.environ,
    }
    if args.gpus:
        environment["CUDA_VISIBLE_DEVICES"] = str(slot % args.gpus)
    return subprocess.Popen(command, env=environment)


def _settings(args: argparse.Namespace) -> Settings:
    return Settings(
        size=args.size,
        tokens=args.tokens,
        rows=args.rows,
        seq_len=args.seq_len,
        recall_rows=args.recall_rows,
        needle_rows=args.needle_rows,
        questions=args.questions,
        seed=args.seed,
    )


def _add_settings(part: argparse.ArgumentParser) -> None:
    part.add_argument("--size", default="full", choices=tuple(SIZES))
    part.add_argument("--tokens", type=int, default=60_000_000, help="of an arm")
    part.add_argument("--rows", type=int, default=32, help="of a step")
    part.add_argument("--seq-len", type=int, default=1024)
    part.add_argument("--recall-rows", type=int, default=2, help="of a step's rows")
    part.add_argument("--needle-rows", type=int, default=2, help="of a step's rows")
    part.add_argument("--questions", type=int, default=64, help="rows of recall for each number of pairs")
    part.add_argument("--seed", type=int, default=0)
    part.add_argument(
        "--rates", default=",".join(f"{rate:g}" for rate in RATES), help="learning rates that are tried"
    )
    part.add_argument("--no-compile", dest="compile", action="store_false")


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parts = made.add_subparsers(dest="part", required=True)
    words = parts.add_parser("needles", help="make needles.npz, where a tokenizer is")
    words.add_argument("work", type=Path)
    words.add_argument("--tokenizer", required=True)
    words.add_argument("--train", type=Path, nargs="+", required=True)
    words.add_argument("--val", type=Path, nargs="+", required=True)
    words.add_argument("--seq-len", type=int, default=1024)
    words.add_argument("--practice-rows", type=int, default=1200)
    words.add_argument("--questions", type=int, default=40, help="for each length and depth")
    words.set_defaults(call=needles)
    all_arms = parts.add_parser("run", help="run the arms that are left")
    all_arms.add_argument("work", type=Path)
    all_arms.add_argument(
        "--gpus", type=int, default=torch.cuda.device_count(), help="all of them unless named; 0: the CPU"
    )
    all_arms.add_argument("--per-gpu", type=int, default=4, help="arms at once on one GPU, or on the CPU")
    all_arms.add_argument("--seconds", type=float, default=540.0)
    all_arms.add_argument("--out", type=Path, help="folder where the lines found so far are kept up to date")
    all_arms.add_argument("--arms", help="names with commas; all of them unless named")
    _add_settings(all_arms)
    all_arms.set_defaults(call=run)
    one = parts.add_parser("arm", help="run one arm in this process")
    one.add_argument("work", type=Path)
    one.add_argument("name")
    one.add_argument("--device", default="cuda")
    one.add_argument("--deadline", type=float, default=float("inf"), help="seconds since 1970")
    _add_settings(one)
    one.set_defaults(call=arm)
    pages = parts.add_parser("report", help="tables and pictures")
    pages.add_argument("work", type=Path)
    pages.add_argument("out", type=Path)
    pages.set_defaults(call=write_report)
    return made


def main(words: Sequence[str] | None = None) -> int:
    """Read the command line and do one part."""
    args = parser().parse_args(words)
    try:
        return int(args.call(args))
    except ChimeraError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code


if __name__ == "__main__":
    sys.exit(main())
