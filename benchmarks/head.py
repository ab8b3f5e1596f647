"""The head by all its rows, and by a screen: time of one greedy choice, on this machine.

    python -m benchmarks.head [--size 32768x384] [--quick] [--json FILE]

Rows of normal noise in 8 bits, and a token whose best row stands so many deviations above the others; every
screened choice passes its gate, the full head's. `4 bits` is a full head of half the bytes, for comparison.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import numpy as np
from numpy.typing import NDArray

from benchmarks.harness import Report, Side, gate, machine
from quant.activations import quantize_activations
from quant.embedding import RowBits, quantize_rows
from quant.packing import PackedRows, num_pairs, pack_rows
from quant.pool import Pool
from runtime.building.steps import head_product
from runtime.building.workspace import Int8Rows, Rows
from runtime.engine import Engine
from runtime.head import ScreenUse, Speaker
from runtime.program import Count, ProgramBuilder, Step
from runtime.sampler import Sampler
from runtime.sampling import SamplingSettings
from runtime.state import State
from runtime.worker import run_records

SIZES = ("32768x384", "200073x2560")
DEVIATIONS = (4.5, 6.0, 8.0, 10.0, 12.0)
PIECE_ROWS = 8192
GREEDY = SamplingSettings(temperature=0)


class HeadAlone:
    """An engine of which nothing is left but the head, with a token that can be changed."""

    def __init__(self, rows: PackedRows, pool: Pool) -> None:
        self.config = SimpleNamespace(vocab_size=rows.num_rows)
        self.head_rows, self._pool = rows, pool
        acts = quantize_activations(np.ones((1, rows.num_inputs), dtype=np.float32))
        self.hidden = Int8Rows(
            codes=acts.codes, scales=acts.scales, neg_sums=acts.neg_sums, width=acts.num_inputs
        )
        self._one = Count(cell=np.ones(1, dtype=np.int64))
        self._program = ProgramBuilder().build(tokens=Count(cell=np.zeros(1, dtype=np.int64)))
        self._logits = np.zeros(num_pairs(rows.num_rows) * 32, dtype=np.float32)
        y = Rows(array=self._logits[None], width=self._logits.size)
        self._full = head_product(rows, acts=self.hidden, y=y, num_tokens=1)
        self.set_head(None)

    def read(self, token: NDArray[np.float32]) -> None:
        acts = quantize_activations(token[None])
        self.hidden.codes[:], self.hidden.scales[:] = acts.codes, acts.scales
        self.hidden.neg_sums[:] = acts.neg_sums

    def set_head(self, groups: Sequence[Sequence[Step]] | None) -> None:
        chosen = ((self._full,),) if groups is None else groups
        self._program.set_tail(tuple((self._one, group) for group in chosen))
        self._is_full = groups is None

    def step(self, state: State, token: int, *, exit_threshold: float) -> None:
        self.run_head()

    def run_head(self) -> None:
        self._pool.run(self._program.job_of_tail)

    def logits(self) -> NDArray[np.float32]:
        if not self._is_full:
            raise SystemExit("the screen stepped aside, so it is not what would be measured")
        return self._logits


def noise(num_rows: int, num_inputs: int, *, bits: RowBits) -> PackedRows:
    """Rows of normal noise, made in pieces."""
    rng = np.random.default_rng(0)
    pieces: list[PackedRows] = []
    for first in range(0, num_rows, PIECE_ROWS):
        shape = (min(PIECE_ROWS, num_rows - first), num_inputs)
        pieces.append(pack_rows(quantize_rows(rng.standard_normal(shape, dtype=np.float32), bits=bits)))
    codes = np.concatenate([piece.codes.view(np.uint8) for piece in pieces])
    return PackedRows(
        codes=codes.view(np.int8) if bits == 8 else codes,
        scales=np.concatenate([piece.scales for piece in pieces]),
        num_rows=num_rows,
        num_inputs=num_inputs,
        bits=bits,
    )


def token(num_inputs: int, *, deviations: float) -> NDArray[np.float32]:
    """Noise and so much of the first row that its logit stands out by so many deviations of the others."""
    row = np.random.default_rng(0).standard_normal(num_inputs, dtype=np.float32)
    share = deviations / num_inputs**0.5
    other = np.random.default_rng(1).standard_normal(num_inputs, dtype=np.float32)
    return (share * row + max(0.0, 1 - share * share) ** 0.5 * other).astype(np.float32)


def choosing(name: str, engine: HeadAlone, *, screen: ScreenUse, right: int | None) -> Side:
    """One greedy choice after a step that is nothing but the head."""
    speaker = Speaker(cast(Engine, engine), screen=screen)
    sampler = Sampler(GREEDY, num_ids=engine.head_rows.num_rows)
    state = State(np.zeros(64, dtype=np.uint8), rounds=1, digest="")
    speaker.expect(all_logits=False)

    def run() -> int:
        speaker.read(state, [0], exit_threshold=0.0)
        return sampler.choose(speaker, recent=(), position=0).token

    found = run()
    gate(name, "" if right in (None, found) else f"it chooses {found} in place of {right}")
    return Side(name=name, run=run, num_bytes=engine.head_rows.codes.nbytes)


def measure(report: Report, size: str, *, turns: int) -> None:
    """One size of a head: all rows in 8 and 4 bits, and the screen for each token."""
    num_rows, num_inputs = (int(number) for number in size.split("x"))
    with Pool(run_records) as pool:
        whole, half = (HeadAlone(noise(num_rows, num_inputs, bits=bits), pool) for bits in (8, 4))
        screened = HeadAlone(whole.head_rows, pool)
        by_screen = choosing("screened", screened, screen="always", right=None).run
        for deviations in DEVIATIONS:
            for engine in (whole, half, screened):
                engine.read(token(num_inputs, deviations=deviations))
            all_rows = choosing("all rows", whole, screen="off", right=None)
            gate("screened", "" if by_screen() == all_rows.run() else "another token")
            sides = [
                all_rows,
                Side(name="screened", run=by_screen),
                choosing("all rows, 4 bits", half, screen="off", right=None),
            ]
            part = f"head {size}, the best {deviations} deviations out"
            rows = report.measure(part, sides, turns=turns)
            report.compare(f"{part}: all rows / screened", found=rows[0].us / rows[1].us, target=1.0)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--size", action="append", choices=SIZES)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    report = Report(machine=machine())
    for size in args.size or SIZES:
        measure(report, size, turns=20 if args.quick else 100)
    report.show(path=args.json)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
