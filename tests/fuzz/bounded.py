"""A short search of every loader, the same in each run: `python -m tests.fuzz.bounded EXECUTIONS FOLDER`.

All loaders are imported once, and each is searched in a fork: libFuzzer ends the process that it runs in.
"""

import os
import sys
from pathlib import Path

from tests.fuzz.searcher import Findings, instrumented, search
from tests.fuzz.targets import TARGETS

SEED = 1


def main() -> int:
    executions, folder = int(sys.argv[1]), Path(sys.argv[2])
    targets = [instrumented(name) for name in TARGETS]
    failed: list[str] = []
    for target in targets:
        corpus = folder / target.name
        corpus.mkdir(parents=True)
        flags = [
            f"-runs={executions}",
            f"-seed={SEED}",
            "-timeout=60",
            f"-artifact_prefix={folder}/{target.name}-",
        ]
        child = os.fork()
        if not child:
            search(target, Findings(folder, name=target.name), flags=[*flags, str(corpus)])
        _, status = os.waitpid(child, 0)
        failed += [target.name] if status else []
    print(f"ended badly: {', '.join(failed) or 'none'}", flush=True)
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
