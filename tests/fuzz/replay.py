"""Give every loader its hostile inputs, in little memory and time: `python -m tests.fuzz.replay`.

One line of JSON comes out before each input and one after it, so that a crash tells which input it was.
"""

import json
import resource
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.fuzz.hostile import HOSTILE
from tests.fuzz.target import Target, limit_memory, refusal
from tests.fuzz.targets import TARGETS

FINDINGS = Path(__file__).parent / "findings"
# All inputs together take a small part of it; then the system ends the process.
CPU_SECONDS = 400


def names(target: str) -> list[str]:
    """The hostile inputs of a loader: those that are made, then those that a search found."""
    return [*HOSTILE.get(target, {}), *(path.name for path in sorted(FINDINGS.glob(f"{target}-*")))]


def inputs(target: str) -> Iterator[tuple[str, Callable[[], bytes]]]:
    """The same with what makes or reads each."""
    made = HOSTILE.get(target, {})
    for name in names(target):
        yield name, made[name][0] if name in made else (FINDINGS / name).read_bytes


def outcome(target: Target, data: bytes) -> dict[str, object]:
    """What a loader did: words of its refusal, none if it took the input, or how it failed."""
    begun = time.process_time()
    try:
        done: dict[str, object] = {"words": refusal(target, data)}
    except BaseException as error:
        done = {"failed": "".join(traceback.format_exception(error))[-2000:]}
    return {**done, "seconds": time.process_time() - begun}


def main() -> None:
    warnings.simplefilter("error")
    targets = {name: TARGETS[name]() for name in TARGETS}
    for target in targets.values():
        # Libraries load what they load late before the limits stand.
        refusal(target, target.seeds()[0])
    limit_memory()
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS))
    for target in targets.values():
        for name, data in inputs(target.name):
            print(json.dumps({"target": target.name, "name": name}), flush=True)
            line = {"target": target.name, "name": name, **outcome(target, data())}
            print(json.dumps(line), flush=True)


if __name__ == "__main__":
    sys.exit(main())
