"""The peak memory of teaching a packed model, beside that of reading the same data, and what was foretold.

    python -m benchmarks.finetune_memory            the shipped model

Every figure is the largest resident size of a process of its own, as the system tells it.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from runtime.model_folder import DEMO

METHODS = ("scales", "codes", "state")
MOST = 1.15
WITHIN = 0.1
_CHILD = """
import sys
from runtime.cli.main import main
from runtime.system import peak_bytes
code = main(sys.argv[1:])
print(peak_bytes(), file=sys.stderr)
sys.exit(code)
"""


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description="Memory of fine-tuning.")
    parser.add_argument("--model", type=Path, default=DEMO)
    parser.add_argument("--records", type=int, default=16)
    parser.add_argument("--words", type=int, default=40, help="words of a prompt")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "data.jsonl"
        lines = [
            {"prompt": " ".join(["dog", "table", "river"][(row + at) % 3] for at in range(args.words)),
             "completion": "it is"}
            for row in range(args.records)
        ]  # fmt: skip
        data.write_text("".join(json.dumps(line) + "\n" for line in lines))
        read = _peak("perplexity", str(args.model), "--data", str(data), "--chat", "--json")
        print(f"chimera perplexity   {read / 1e6:6.1f} MB\n")
        print("method    peak MB   of perplexity   foretold MB   off by")
        for method in METHODS:
            out = str(Path(folder) / f"{method}.cza")
            words = ("-m", str(args.model), "--data", str(data), "--method", method, "--steps", "4")
            peak = _peak("finetune", *words, "--batch", str(args.records), "--out", out, "--json")
            foretold = _foretold(str(args.model), method)
            off = foretold / peak - 1
            verdict = "" if peak <= MOST * read and abs(off) <= WITHIN else "   beyond the goal"
            share = peak / read
            print(f"{method:<9} {peak / 1e6:7.1f}  {share:14.3f} {foretold / 1e6:13.1f} {off:+8.1%}{verdict}")


def _peak(*words: str) -> int:
    command = [sys.executable, "-c", _CHILD, *words]
    ended = subprocess.run(command, capture_output=True, text=True, check=True)
    return int(ended.stderr.split()[-1])


def _foretold(model: str, method: str) -> int:
    command = [sys.executable, "-m", "runtime.cli.main", "plan", model, "--finetune", method, "--json"]
    ended = subprocess.run(command, capture_output=True, text=True, check=True)
    return int(json.loads(ended.stdout)["needed_bytes"])


if __name__ == "__main__":
    main()
