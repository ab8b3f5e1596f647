"""How fast a model runs here: what `chimera bench` measures, and what its figures are beside.

Tests are named in the habit of llama-bench: `pp512` reads a prompt of 512 tokens, `tg128` gives 128 tokens
one by one, each with the head and the choice of the best word. Tokens are drawn at random, so that a model
which repeats itself does not keep visiting the same experts. A repetition begins with a new stream and goes
over all tests. Before and behind each one memory is read from end to end, so that the bandwidth beside which
bytes stand is that of the same moment.
"""

import statistics
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeAlias

from configs import accounting
from configs.errors import TokenizerError, UsageError
from configs.load import PRESETS, load_config
from configs.schema.model import ModelConfig
from configs.schema.quantization import EmbeddingBits
from quant import cpu
from quant.pool import check_threads
from quant.pool_threads import default_threads
from quant.selfcheck import chosen
from runtime import system
from runtime.building.states import check_runnable
from runtime.engine import Engine
from runtime.experts.asked import ExpertsAsked
from runtime.measuring.answering import Answering
from runtime.measuring.exit import check_exit_threshold, exit_threshold_of
from runtime.measuring.reading import Reading
from runtime.measuring.watched import watch
from runtime.model_folder import PackedModel, open_model
from runtime.random_model import random_b158
from runtime.sizing import state_bytes

Report: TypeAlias = dict[str, Any]
Progress: TypeAlias = Callable[[int, int], None]

CONFIG_SUFFIX = ".json"
_SEED = 11
_FIRST_WORDS = "Once upon a time"
_WATCHED_TOKENS = 16
"""Tokens of the answer of a watched process; the first may be half a character, which is not shown."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Asked:
    """What is to be measured."""

    prompt_tokens: tuple[int, ...] = (512,)
    answer_tokens: tuple[int, ...] = (128,)
    repeats: int = 5
    threads: tuple[int | None, ...] = (None,)
    """None is one a core."""
    rounds: tuple[int, ...] = ()
    """Rounds of the loop; none given are those of the model's config."""
    exit_threshold: float | None = None
    """The change below which a token leaves the loop; None is the config's."""
    adapters: tuple[str, ...] = ()
    """What the model has learnt since it was packed."""
    experts: ExpertsAsked | None = None
    """How experts on disk are kept and read."""

    def __post_init__(self) -> None:
        check_exit_threshold(self.exit_threshold)
        for number in self.threads:
            if number is not None:
                check_threads(number)
        if self.repeats < 1:
            raise UsageError(f"{self.repeats} repetitions; at least 1 is needed")
        if min((*self.prompt_tokens, *self.answer_tokens), default=0) < 0:
            raise UsageError("a test has no negative number of tokens", hint="0 leaves it out.")

    def tests(self) -> Iterator[tuple[str, int]]:
        """The tests of one engine at one depth: what they do and with how many tokens."""
        yield from (("pp", number) for number in self.prompt_tokens if number)
        yield from (("tg", number) for number in self.answer_tokens if number)


@dataclass(kw_only=True, slots=True, eq=False)
class _Trial:
    """A test and its times so far."""

    kind: str
    num_tokens: int
    rounds: int
    seconds: list[float] = field(default_factory=list[float])
    reading: list[float] = field(default_factory=list[float])
    """Bytes of memory that were read in a second around each of them."""


def is_to_be_made(source: str) -> bool:
    """Whether a source is a preset or a config, which has no weights."""
    return source in PRESETS or Path(source).suffix == CONFIG_SUFFIX


@contextmanager
def weights_of(
    source: str, *, embedding_bits: EmbeddingBits | None = None, progress: Progress | None = None
) -> Generator[Path]:
    """The packed model of a source. A preset or a config gets random weights, in a folder that goes."""
    if not is_to_be_made(source):
        if embedding_bits is not None:
            raise UsageError(
                f"{source} is packed already, and its embedding stays as it is",
                hint="--embedding-bits is for a preset or a config.json.",
            )
        yield Path(source)
        return
    config = load_config(source)
    check_runnable(config)
    with TemporaryDirectory(prefix="chimera-bench-") as folder:
        path = Path(folder) / "random.b158"
        random_b158(config, path, embedding_bits=embedding_bits, progress=progress)
        yield path


def bench_model(path: Path | str, asked: Asked, *, progress: Progress | None = None) -> Report:
    """Speeds of a packed model in every asked way; `progress` is given the tests done, and all."""
    model = open_model(path, adapters=asked.adapters)
    config, tests = model.config, list(asked.tests())
    exit_threshold = exit_threshold_of(config, asked.exit_threshold)
    depths = asked.rounds or (config.rounds_default,)
    check_rounds(config, depths)
    total, done = len(asked.threads) * len(depths) * len(tests) * (asked.repeats + 1), 0

    def one_more() -> None:
        nonlocal done
        done += 1
        if progress is not None:
            progress(done, total)

    found: list[Report] = []
    for threads in asked.threads:
        model = open_model(path, adapters=asked.adapters)
        with Engine(model, num_threads=threads, experts=asked.experts) as engine:
            trials = [
                _Trial(kind=kind, num_tokens=number, rounds=depth)
                for depth in depths
                for kind, number in tests
            ]
            runner = _Runner(engine, exit_threshold=exit_threshold)
            found += _measured(engine, runner, trials, repeats=asked.repeats, done=one_more)
    return {
        "machine": {
            "cpu": system.cpu_name(),
            "target": cpu.target().name,
            "form": chosen("ternary_matmul").form,
            "cache_bytes": system.cache_bytes() or None,
        },
        "model": {
            "name": config.name_or_path,
            "parameters": accounting.parameters(config),
            "embedding_bits": config.quantization.embedding_bits,
            "files_bytes": file_bytes(model),
        },
        "exit_threshold": exit_threshold,
        "tests": found,
    }


def check_rounds(config: ModelConfig, depths: Sequence[int]) -> None:
    """Refuse rounds that the model does not take."""
    least = config.looping.loop_range[0] if config.looping.enabled else 1
    for depth in depths:
        if not least <= depth <= config.rounds_most:
            raise UsageError(f"{depth} rounds of the loop; this model takes {least} to {config.rounds_most}")


def bench_process(
    path: Path | str,
    *,
    rounds: int | None = None,
    num_threads: int | None = None,
    starts: int = 3,
    adapters: tuple[str, ...] = (),
) -> Report:
    """From the start of a new process to its first answer, and the most memory it takes: medians of some."""
    model = open_model(path)
    config = model.config
    depth = config.rounds_default if rounds is None else rounds
    threads = default_threads().count if num_threads is None else num_threads
    if has_words(model):
        answer = ("run", "-m", str(path), "-p", _FIRST_WORDS, "-n", str(_WATCHED_TOKENS), "--temp", "0")
        answer = (*answer, *(word for adapter in adapters for word in ("--adapter", adapter)))
        arguments = (*answer, "-t", str(threads), "--loops", str(depth))
    else:
        arguments = ("engine", str(path), str(threads), str(depth), str(_WATCHED_TOKENS), *adapters)
    found = [watch(*arguments) for _ in range(starts)]
    files, state = file_bytes(model), state_bytes(config, depth)
    peak = max(process.peak_bytes for process in found)
    return {
        "answered_by": "chimera-run" if has_words(model) else "the engine alone",
        "threads": threads,
        "rounds": depth,
        "first_token_s": statistics.median(process.first_s for process in found),
        "samples_first_token_s": [process.first_s for process in found],
        "peak_bytes": peak,
        "files_bytes": files,
        "state_bytes": state,
        "beside_files_and_state_bytes": peak - files - state,
    }


def has_words(model: PackedModel) -> bool:
    """Whether a tokenizer lies beside the weights."""
    try:
        model.tokenizer()
    except TokenizerError:
        return False
    return True


def file_bytes(model: PackedModel) -> int:
    """The file of weights, and that of the experts where they have one."""
    experts = model.folder / model.config.files.moe
    apart = model.holding == "all but routed experts" and experts.is_file()
    return model.file.path.stat().st_size + (experts.stat().st_size if apart else 0)


def _measured(
    engine: Engine, runner: "_Runner", trials: Sequence[_Trial], *, repeats: int, done: Callable[[], None]
) -> list[Report]:
    """All trials in turn, again and again."""
    reading, fewest = Reading(engine.pool), engine.num_threads
    before = reading.speed().bytes_per_s
    for number in range(repeats + 1):
        for trial in trials:
            took, after = runner.seconds(trial), reading.speed().bytes_per_s
            # The first time touches memory, starts threads and compiles what was never run here.
            if number:
                trial.seconds.append(took)
                trial.reading.append((before + after) / 2)
            before, fewest = after, min(fewest, engine.usable_threads)
            done()
    return [_figures(trial, engine.config, threads=engine.num_threads, fewest=fewest) for trial in trials]


class _Runner:
    """Does tests with one engine."""

    def __init__(self, engine: Engine, *, exit_threshold: float) -> None:
        self._engine = engine
        self._answering = Answering(engine, exit_threshold=exit_threshold)
        self._seeds = count(_SEED)

    def seconds(self, trial: _Trial) -> float:
        """The time of one repetition; making the stream is not part of it."""
        state = self._engine.new_state(trial.rounds)
        ids = self._answering.drawn(next(self._seeds), trial.num_tokens)
        step = self._answering.step
        begin = time.perf_counter()
        if trial.kind == "pp":
            self._answering.read(state, ids)
        else:
            for token in ids:
                step(state, (token,))
        return time.perf_counter() - begin


def token_bytes(config: ModelConfig, *, rounds: int, position: int) -> int:
    """What a token at a position reads: weights, and the state without the part of windows still empty."""
    state = accounting.stream_state(config, rounds=rounds)
    window = config.titans.local_window_size
    read = state.total - state.window + state.window * min(position, window) // window
    return accounting.bytes_per_token(config, rounds=rounds) + read


def _figures(trial: _Trial, config: ModelConfig, *, threads: int, fewest: int) -> Report:
    rates = [trial.num_tokens / seconds for seconds in trial.seconds]
    figures: Report = {
        "test": f"{trial.kind}{trial.num_tokens}",
        "threads": threads,
        "fewest_threads": fewest,
        "rounds": trial.rounds,
        "tokens_per_s": statistics.fmean(rates),
        "sd_tokens_per_s": statistics.stdev(rates) if len(rates) > 1 else 0.0,
        "median_tokens_per_s": statistics.median(rates),
        "samples_tokens_per_s": rates,
        "read_bytes_per_s": statistics.median(trial.reading),
    }
    if trial.kind == "tg":
        num_bytes = token_bytes(config, rounds=trial.rounds, position=trial.num_tokens // 2)
        shares = [num_bytes * rate / read for rate, read in zip(rates, trial.reading, strict=True)]
        figures |= {
            "bytes_per_token": num_bytes,
            "bytes_per_s": num_bytes * figures["median_tokens_per_s"],
            "share_of_reading": statistics.median(shares),
            # What a cache can hold is not read from memory, whose speed is no bound then.
            "is_bound_by_memory": num_bytes > system.cache_bytes(),
        }
    return figures
