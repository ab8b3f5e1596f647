"""What streams cost and bring: the next token of a saved talk, several streams in a step, flat memory.

    python -m benchmarks.streams restore                       the shipped model, 15,000 tokens
    python -m benchmarks.streams together tiny                 1 stream beside 8, in turns
    python -m benchmarks.streams together chimera-5.1-sum --embedding-bits 4
    python -m benchmarks.streams soak --minutes 20             16 streams of the shipped model
    python -m benchmarks.kills --count 1000

Texts are compared before anything is timed. A preset gets random weights. `together` takes the single stream
as `chimera-run` runs it and the others as a scheduler does, with greedy draws, one loop and short texts.
"""

import argparse
import hashlib
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from configs.schema.quantization import EmbeddingBits
from configs.text.tokenizer import Tokenizer
from runtime.binding import Part
from runtime.engine import Engine
from runtime.head import Speaker
from runtime.measuring.benching import weights_of
from runtime.model_folder import DEMO, open_model
from runtime.sampling import SamplingSettings
from runtime.session import Session
from runtime.streams.about import Identity
from runtime.streams.request import Request, Ticket
from runtime.streams.scheduler import Scheduler
from runtime.streams.state_file import open_state, restored_talk, save_talk
from runtime.telling import Limits

SETTINGS = SamplingSettings(temperature=0.7, top_p=0.92, repetition_penalty=1.08, seed=1)
ROUNDS = 1


def main() -> None:
    """Measure what is asked for."""
    parser = argparse.ArgumentParser(description="Measure streams.")
    parts = parser.add_subparsers(dest="part", required=True)
    restore = parts.add_parser("restore")
    restore.add_argument("--tokens", type=int, default=15_000)
    restore.add_argument("--repeats", type=int, default=11)
    together = parts.add_parser("together")
    together.add_argument("model")
    together.add_argument("--embedding-bits", type=int, choices=(8, 4, 2))
    together.add_argument("--streams", type=int, default=8)
    together.add_argument("--steps", type=int, default=32)
    together.add_argument("--repeats", type=int, default=7)
    together.add_argument("--threads", type=int)
    soak = parts.add_parser("soak")
    soak.add_argument("--minutes", type=float, default=1.0)
    soak.add_argument("--streams", type=int, default=16)
    soak.add_argument("--compare", type=int, metavar="N", help="so many texts (default: all)")
    args = parser.parse_args()
    {"restore": measure_restore, "together": measure_together, "soak": run_soak}[args.part](args)


def measure_restore(args: argparse.Namespace) -> None:
    """From the file of a long talk to its next token: in this process, and beside the start of a new one."""
    tokenizer = open_model(DEMO).tokenizer()
    ids = tokenizer.encode(" ".join(f"word{number}" for number in range(args.tokens)))
    words = tokenizer.decode(ids[: args.tokens])
    with tempfile.TemporaryDirectory() as folder, Engine.open(DEMO) as engine:
        path = Path(folder) / "long.state"
        identity = Identity(name="demo", model=engine.digest, tokenizer=tokenizer.digest)
        session = _session(engine, tokenizer)
        list(session.complete(words))
        rest = "".join(session.complete(""))
        session.undo()
        save_talk(path, session.talk(), identity=identity)

        def go_on() -> Session:
            other = _session(engine, tokenizer)
            other.resume(restored_talk(open_state(path), engine, identity=identity))
            assert "".join(other.complete("")) == rest
            return other

        position = go_on().position
        here = _milliseconds(go_on, args.repeats)
        own = _milliseconds(go_on, args.repeats, clock=time.process_time)
        command = [sys.executable, "-m", "runtime.cli.run", "--raw", "-n", "1", "--seed", "1"]
        saved = str(Path(folder) / "cli.state")
        subprocess.run([*command, "-p", words, "--save", saved], check=True, capture_output=True)
        fresh, loaded = [*command, "-p", "Once"], [*command, "--load", saved, "-p", ""]
        waited, worked = list[tuple[float, float]](), list[tuple[float, float]]()
        for _ in range(args.repeats):
            for found, clock in ((waited, time.perf_counter), (worked, _time_of_children)):
                found.append(
                    (
                        _milliseconds(lambda: _run(fresh), 1, clock=clock)[0],
                        _milliseconds(lambda: _run(loaded), 1, clock=clock)[0],
                    )
                )
    print(f"{position:,} tokens, {engine.state_bytes():,} bytes of state")
    print(f"in process: {_spread(here)}; its own time, of all threads: {_spread(own)}")
    for what, pairs in (("by the clock", waited), ("its own time", worked)):
        without, with_talk = ([pair[side] for pair in pairs] for side in (0, 1))
        more = statistics.median(with_talk) - statistics.median(without)
        print(f"new process, {what}: {_spread(with_talk)}; without a talk {_spread(without)}")
        print(f"  {more:.0f} ms more")


def measure_together(args: argparse.Namespace) -> None:
    """Tokens a second of one stream, and of several in one step."""
    bits: EmbeddingBits | None = args.embedding_bits
    with (
        weights_of(args.model, embedding_bits=bits) as path,
        Engine.open(path, num_threads=args.threads) as one,
        Engine.open(path, num_threads=args.threads, num_streams=args.streams) as many,
    ):
        prompts = [
            np.random.default_rng(number).integers(0, one.config.vocab_size, 16)
            for number in range(args.streams)
        ]
        texts = [_alone(one, ids, args.steps)[0] for ids in prompts]
        assert _together(many, prompts, args.steps)[0] == texts, "a stream notices its neighbours"
        alone, beside, half = list[float](), list[float](), list[float]()
        for _ in range(args.repeats):
            alone.append(_alone(one, prompts[0], args.steps)[1])
            beside.append(_together(many, prompts, args.steps)[1])
            half.append(_together(many, prompts[: args.streams // 2], args.steps)[1])
    ratios = [b / a for a, b in zip(alone, beside, strict=True)]
    threads = "the thread's own time" if args.threads == 1 else f"{args.threads or 'all'} threads"
    print(f"{args.model}, {threads}: one stream {statistics.median(alone):,.1f} tokens/s")
    print(f"  {args.streams // 2} streams {statistics.median(half):,.1f} together")
    print(
        f"  {args.streams} streams {statistics.median(beside):,.1f} together, "
        f"{statistics.median(ratios):.2f} times one (turns {min(ratios):.2f} to {max(ratios):.2f})"
    )


def run_soak(args: argparse.Namespace) -> None:
    """Streams that come and go for so many minutes: memory at the beginning and the end, and every text."""
    tokenizer = open_model(DEMO).tokenizer()
    assert tokenizer.eos is not None
    ends = frozenset({tokenizer.eos})
    rng, started, number = np.random.default_rng(0), time.perf_counter(), 0
    # Digests alone: whole texts would be memory that grows.
    found: dict[int, bytes] = {}
    wanted: dict[int, tuple[int, int]] = {}
    tokens = 0
    marks: list[int] = []
    with Engine.open(DEMO, num_streams=args.streams) as engine:
        scheduler = Scheduler(engine, tokenizer=tokenizer, ends=ends)
        running: dict[int, Ticket] = {}
        while time.perf_counter() - started < args.minutes * 60:
            while len(running) < args.streams + 4:
                length, most = int(rng.integers(1, 200)), int(rng.integers(1, 400))
                wanted[number] = length, most
                running[number] = scheduler.submit(_request(tokenizer, number, *wanted[number]))
                number += 1
            scheduler.step()
            for name in [name for name, ticket in running.items() if ticket.is_done]:
                ticket = running.pop(name)
                tokens += len(ticket.request.ids) + len(ticket.result().ids)
                found[name] = _digest(ticket.result().ids)
            if len(found) > len(marks) * 20:
                marks.append(_resident_bytes())
        scheduler.close()
        seconds, peak = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        state_bytes = engine.state_bytes(ROUNDS)
    compared = list(found)[: args.compare]
    with Engine.open(DEMO) as alone:
        scheduler = Scheduler(alone, tokenizer=tokenizer, ends=ends)
        for name in compared:
            ticket = scheduler.submit(_request(tokenizer, name, *wanted[name]))
            scheduler.run()
            if _digest(ticket.result().ids) != found[name]:
                raise SystemExit(f"text {name} is not that of a single run")
    warm = marks[len(marks) // 4 :]
    print(
        f"{args.streams} streams for {seconds:.0f} s: {len(found):,} texts, {tokens:,} tokens; "
        f"{len(compared):,} compared with single runs, all equal"
    )
    print(f"resident after the first quarter {warm[0] / 1e6:.1f} MB, at the end {warm[-1] / 1e6:.1f} MB")
    print(f"peak {peak / 1e3:.1f} MB; a state {state_bytes / 1e6:.2f} MB")


def _request(tokenizer: Tokenizer, number: int, length: int, most: int) -> Request:
    return Request(
        ids=_ids(tokenizer, length, seed=number),
        settings=SamplingSettings(temperature=0.8, top_p=0.95, seed=number),
        limits=Limits(max_tokens=most),
        rounds=ROUNDS,
    )


def _digest(ids: Sequence[int]) -> bytes:
    return hashlib.sha256(np.array(ids, dtype=np.int64).tobytes()).digest()


def _alone(
    engine: Engine, ids: "np.ndarray[tuple[int], np.dtype[np.int64]]", steps: int
) -> tuple[list[int], float]:
    """As a talk does it: the best token after each step."""
    speaker = Speaker(engine)
    state, said = engine.new_state(ROUNDS), list[int]()
    speaker.expect(all_logits=False)
    speaker.read(state, ids.tolist(), exit_threshold=0.0)
    clock = _clock(engine)
    started = clock()
    for _ in range(steps):
        said.append(int(speaker.logits().argmax()))
        speaker.read(state, said[-1:], exit_threshold=0.0)
    return said, steps / (clock() - started)


def _together(
    engine: Engine, prompts: "list[np.ndarray[tuple[int], np.dtype[np.int64]]]", steps: int
) -> tuple[list[list[int]], float]:
    """The same for several in each step."""
    states = [engine.new_state(ROUNDS) for _ in prompts]
    said: list[list[int]] = [[] for _ in prompts]
    for state, ids in zip(states, prompts, strict=True):
        engine.prefill(state, ids[:-1])
    logits = engine.step_together(
        [Part(state=state, ids=ids[-1:]) for state, ids in zip(states, prompts, strict=True)]
    )
    clock = _clock(engine)
    started = clock()
    for _ in range(steps):
        for text, row in zip(said, logits, strict=True):
            text.append(int(row.argmax()))
        logits = engine.step_together(
            [Part(state=state, ids=text[-1:]) for state, text in zip(states, said, strict=True)]
        )
    return said, len(prompts) * steps / (clock() - started)


def _clock(engine: Engine) -> Callable[[], float]:
    """Of one thread, its own time can be taken, whoever else wants its core."""
    return time.thread_time if engine.num_threads == 1 else time.perf_counter


def _session(engine: Engine, tokenizer: Tokenizer) -> Session:
    speaker = Speaker(engine, num_ids=tokenizer.vocab_size)
    limits = Limits(max_tokens=1)
    return Session(speaker, head=speaker, tokenizer=tokenizer, settings=SETTINGS, limits=limits)


def _ids(tokenizer: Tokenizer, count: int, *, seed: int = 0) -> list[int]:
    plain = np.array(sorted(set(range(tokenizer.vocab_size)) - tokenizer.special_ids - tokenizer.masked_ids))
    return np.random.default_rng(seed).choice(plain, count).tolist()


def _time_of_children() -> float:
    found = os.times()
    return found.children_user + found.children_system


def _run(command: list[str]) -> None:
    subprocess.run(command, check=True, capture_output=True)


def _milliseconds(
    act: Callable[[], object], repeats: int, *, clock: Callable[[], float] = time.perf_counter
) -> list[float]:
    found: list[float] = []
    for _ in range(repeats):
        started = clock()
        act()
        found.append((clock() - started) * 1e3)
    return found


def _resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


def _spread(found: list[float]) -> str:
    return f"{statistics.median(found):.1f} ms ({min(found):.1f} to {max(found):.1f})"


if __name__ == "__main__":
    main()
