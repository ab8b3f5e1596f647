"""A proof at toy size: its data, its command line, and processes that lack what a lent machine lacks."""

import os
import subprocess
import sys
from pathlib import Path

from benchmarks.proof import main
from chimera.data.generated import task
from chimera.data.shards import build_shards
from chimera.data.sources import sources_of
from configs.text.training import train_sentencepiece
from tests.chimera.data.samples import sentence, written

ROOT = Path(__file__).parents[2]
SEQ_LEN, ROWS = 256, 6
SETTINGS = (
    *("--size=micro", f"--seq-len={SEQ_LEN}", f"--rows={ROWS}", "--recall-rows=1", "--needle-rows=1"),
    *("--questions=2", "--rates=4e-3", "--no-compile"),
)
ABSENT = ("matplotlib", "numba", "psutil", "rich", "sentencepiece", "zstandard")
"""Packages that no part of a proof may need where it is run."""


def made_work(work: Path) -> Path:
    """Shards, and needles made as a user makes them."""
    work.mkdir(parents=True)
    asked = [task(number, seed=5, kind="needle") for number in range(300)]
    texts = [*map(sentence, range(300)), *(f"{one.prompt} {one.answer}" for one in asked)]
    words = train_sentencepiece(texts, out=work / "tokenizer.model", vocab_size=448, num_threads=1)
    paths: list[str] = []
    for name, numbers in (("train", range(1500)), ("val", range(1500, 1508))):
        records = [
            {"kind": ("even", "odd")[number % 2], "text": " ".join(map(sentence, range(number, number + 5)))}
            for number in numbers
        ]
        paths.append(str(written(work / f"{name}.jsonl", records)))
        build_shards(sources_of([paths[-1]]), words, work / name)
    command = ["needles", str(work), f"--tokenizer={work / 'tokenizer.model'}", f"--train={paths[0]}"]
    size = [f"--seq-len={SEQ_LEN}", "--practice-rows=20", "--questions=1"]
    assert main([*command, f"--val={paths[1]}", *size]) == 0
    return work


def environment(folder: Path) -> dict[str, str]:
    """That of a process in which the absent packages are not there."""
    folder.mkdir(exist_ok=True)
    for name in ABSENT:
        (folder / f"{name}.py").write_text(f'raise ModuleNotFoundError("no {name} here", name="{name}")\n')
    return {**os.environ, "PYTHONPATH": f"{folder}{os.pathsep}{ROOT}", "OMP_NUM_THREADS": "1"}


def started(work: Path, *words: str, blocked: Path) -> subprocess.Popen[bytes]:
    """`proof run`, in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.proof", "run", str(work), "--gpus=0", "--per-gpu=2"]
    return subprocess.Popen([*command, *words, *SETTINGS], cwd=ROOT, env=environment(blocked))
