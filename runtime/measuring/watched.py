"""A process that is watched: an answer of `chimera-run`, or of an engine alone, and how much memory it took.

    python -m runtime.measuring.watched run ARGUMENTS…                      as chimera-run
    python -m runtime.measuring.watched engine MODEL THREADS ROUNDS TOKENS  where a model has no words: ids
                                                                            are written

The last line on stderr is the most memory that the process had, in bytes. `watch` starts such a process and
says when the first byte of its answer came.
"""

import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from configs.errors import ChimeraError

_PEAK = "peak_bytes="
_IDS_OF_PROMPT = 8
_SEED = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Watched:
    """What a process did."""

    first_s: float
    """From its start to the first byte of its answer."""
    peak_bytes: int


def watch(*arguments: str) -> Watched:
    """Start a process of this module with these arguments, and wait for its end."""
    home = str(Path(__file__).resolve().parents[2])
    others = os.environ.get("PYTHONPATH")
    paths = os.pathsep.join([home, others] if others else [home])
    command = [sys.executable, "-P", "-m", "runtime.measuring.watched", *arguments]
    begin = time.perf_counter()
    with subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": paths},
    ) as process:
        assert process.stdout is not None, "it is a pipe"
        first = os.read(process.stdout.fileno(), 1)
        first_s = time.perf_counter() - begin
        _, told = process.communicate()
    lines = told.decode(errors="replace").splitlines()
    if process.returncode or not first or not lines or not lines[-1].startswith(_PEAK):
        raise ChimeraError(
            f"`{' '.join(command[1:])}` ended with {process.returncode} and "
            f"{'an' if first else 'no'} answer: {' '.join(lines[-3:])}",
            hint="Run the same command by hand.",
        )
    return Watched(first_s=first_s, peak_bytes=int(lines[-1].removeprefix(_PEAK)))


def _engine(model: str, threads: str, rounds: str, tokens: str, *adapters: str) -> None:
    from runtime.engine import Engine
    from runtime.measuring.answering import Answering
    from runtime.model_folder import open_model

    with Engine(open_model(model, adapters=adapters), num_threads=int(threads)) as engine:
        answering = Answering(engine, exit_threshold=engine.config.exit_threshold_default)
        state = engine.new_state(int(rounds))
        ids = answering.drawn(_SEED, _IDS_OF_PROMPT)
        for _ in range(int(tokens)):
            ids = [answering.step(state, ids)]
            print(ids[0], flush=True)


def main(arguments: list[str]) -> int:
    """Answer, and tell the memory."""
    from runtime.system import peak_bytes

    kind, *rest = arguments
    code = 0
    if kind == "run":
        from runtime.cli.run import main as chimera_run

        code = chimera_run(rest)
    else:
        _engine(*rest)
    sys.stdout.flush()
    print(f"{_PEAK}{peak_bytes()}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
