"""One process of a search: `python -m tests.fuzz.searcher TARGET FINDINGS [flags of libFuzzer] CORPUS`.

What a loader does wrong is written down once for each place where it happens, and the search goes on; a crash
or a hang of native code ends the process, and libFuzzer leaves the input in the findings too.
"""

import hashlib
import importlib
import random
import sys
import time
import traceback
import warnings
from pathlib import Path

import atheris

from tests.fuzz.target import Target, limit_memory, refusal
from tests.fuzz.targets import TARGETS

# Of processor time, with every branch counted; a loader takes a small part of it.
SLOW_SECONDS = 20.0
INSTRUMENTED = (
    *("configs", "jinja2", "chimera.data"),
    *("quant.container", "quant.container_check", "quant.container_format"),
    *("runtime.model_folder", "runtime.packed_inspection"),
    *("runtime.streams.sections", "runtime.streams.state_file", "runtime.streams.about"),
    *("chronos_moe.checked_file", "chronos_moe.visit_log", "chronos_moe.intent_file"),
    *("chimera.train.sealed", "chimera.train.tree_codec", "chimera.train.checkpoint"),
)


class Findings:
    """Inputs that a loader failed on, one for each place."""

    def __init__(self, folder: Path, *, name: str) -> None:
        self._folder = folder
        self._name = name
        self._seen: set[str] = set()

    def add(self, data: bytes, error: BaseException) -> None:
        """Keep an input, unless another one failed in the same place."""
        frames = traceback.extract_tb(error.__traceback__)
        place = f"{type(error).__name__} " + " ".join(
            f"{frame.filename}:{frame.lineno}" for frame in frames[-2:]
        )
        if place in self._seen:
            return
        self._seen.add(place)
        path = self._folder / f"{self._name}-{hashlib.sha256(place.encode()).hexdigest()[:12]}"
        path.write_bytes(data)
        path.with_suffix(".txt").write_text("".join(traceback.format_exception(error)))
        print(f"FINDING {path.name}: {place}: {str(error)[:200]}", file=sys.stderr, flush=True)


class TooSlow(Exception):
    """An input took more processor time than any may."""


def search(target: Target, findings: Findings, *, flags: list[str]) -> None:
    """Look for inputs that the loader fails on; the last flag is the corpus. libFuzzer ends the process."""
    warnings.simplefilter("error")

    def one(data: bytes) -> None:
        begun = time.process_time()
        try:
            refusal(target, data)
            if time.process_time() - begun > SLOW_SECONDS:
                raise TooSlow(f"{time.process_time() - begun:.1f} s")
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:
            findings.add(data, error)

    def change(data: bytes, max_size: int, seed: int) -> bytes:
        rng = random.Random(seed)
        changed = atheris.Mutate(data, max_size) if rng.random() < 0.2 else target.mutate(data, rng)
        return changed[:max_size]

    for number, seed in enumerate(target.seeds()):
        (Path(flags[-1]) / f"seed-{number}").write_bytes(seed)
    # Libraries load what they load late before the limit stands.
    refusal(target, target.seeds()[0])
    limit_memory()
    atheris.Setup([sys.argv[0], f"-max_len={target.max_bytes}", *flags], one, custom_mutator=change)
    atheris.Fuzz()


def instrumented(name: str) -> Target:
    """A loader whose branches are counted, if nobody imported it before."""
    with atheris.instrument_imports(include=list(INSTRUMENTED)):
        target = TARGETS[name]()
        # Some are imported late by the loaders, where nothing would count their branches.
        for source in target.sources:
            importlib.import_module(source)
    return target


def main() -> None:
    name, folder, *flags = sys.argv[1:]
    search(instrumented(name), Findings(Path(folder), name=name), flags=flags)


if __name__ == "__main__":
    main()
