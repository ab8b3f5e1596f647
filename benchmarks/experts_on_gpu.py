"""Experts behind a GPU's memory: a model whose experts come over the bus, or from disk, beside a whole one.

    python -m benchmarks.experts_on_gpu [--tokens N] [--repetitions N]

Models with random weights, whose choices nobody can foresee, and the same with experts decided two layers
ahead. They read a text of random words, token by token: what such a model writes by itself soon repeats, and
with it the experts. Whatever there is room for, they expect the same words next, or the run fails; sides
take turns, and medians are told. The matrices of the whole model are multiplied by another routine, which
rounds otherwise. It needs CUDA.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

import torch

from benchmarks.experts import made
from chimera.model import ChimeraForCausalLM
from chronos_moe.store.cluster_file import SUFFIX
from configs.errors import UsageError
from exports.streamed import Streamed, streamed_model
from exports.unpacked import torch_model
from runtime.cli.tables import table

WHOLE = "all in one file"


def main(argv: Sequence[str] | None = None) -> None:
    """Make the models and print the tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--tokens", type=int, default=100, metavar="N")
    parser.add_argument("--repetitions", type=int, default=3, metavar="N")
    args = parser.parse_args(argv)
    if not torch.cuda.is_available():
        raise UsageError("there is no CUDA device here", hint="Run it on a machine that has one.")
    for name, ahead in (("nothing is foreseen", 0), ("decided ahead", 2)):
        with tempfile.TemporaryDirectory() as folder:
            whole, packed = made(Path(folder), scale=1, ahead=ahead)
            rows = compared(whole, packed, tokens=args.tokens, turns=args.repetitions)
        print(f"\n{name}\n", *table(HEADER, rows, indent=0), sep="\n")


HEADER = (
    "<experts",
    "ms a token",
    "of resident",
    "on the device",
    "copies a token",
    "disk reads",
    "stall ms",
)


def compared(whole: Path, packed: Path, *, tokens: int, turns: int) -> list[tuple[str, ...]]:
    """A row for each side."""
    size = sum(path.stat().st_size for path in packed.glob(f"*{SUFFIX}"))
    shares = {"device 100 %": (1.1, 1.1), "device 25 %, host 100 %": (0.25, 1.1), "both 25 %": (0.25, 0.25)}
    times: dict[str, list[float]] = {WHOLE: [], **{name: [] for name in shares}}
    told: dict[str, tuple[str, ...]] = {}
    with ExitStack() as stack:
        resident = torch_model(whole).cuda()
        expected: list[int] | None = None
        opened = {
            name: stack.enter_context(
                streamed_model(
                    packed,
                    device_bytes=int(size * on_device),
                    memory_bytes=int(size * on_host),
                    predictor="none",
                )
            )
            for name, (on_device, on_host) in shares.items()
        }
        for turn in range(-1, turns):
            for name in times:
                side = opened.get(name)
                model = resident if side is None else side.model
                before = counts(side)
                seconds, said = timed(lambda model=model: expected_words(model, tokens))
                if side is not None:
                    expected = said if expected is None else expected
                    if said != expected:
                        raise SystemExit(f"{name} expects other words")
                if turn >= 0:
                    times[name].append(seconds)
                told[name] = spent(before, counts(side), tokens=tokens)
    usual = statistics.median(times[WHOLE])
    return [
        (
            name,
            f"{statistics.median(found) / tokens * 1e3:.2f}",
            f"{usual / statistics.median(found):.0%}",
            *told[name],
        )
        for name, found in times.items()
    ]


@torch.no_grad()
def expected_words(model: ChimeraForCausalLM, tokens: int) -> list[int]:
    """The best next word behind each of some random ones, chosen on the device and looked at in the end."""
    draws = torch.Generator().manual_seed(0)
    ids_T = torch.randint(model.config.vocab_size, (tokens,), generator=draws).cuda()
    state, best = None, list[torch.Tensor]()
    for token in range(tokens):
        out = model(ids_T[None, token : token + 1], state=state)
        best.append(model.logits(out.hidden_BTD[:, -1]).argmax(dim=-1))
        state = out.state
    return torch.cat(best).tolist()


def timed(act: Callable[[], list[int]]) -> tuple[float, list[int]]:
    """Seconds, and what came out."""
    torch.cuda.synchronize()
    begin = time.perf_counter()
    found = act()
    return time.perf_counter() - begin, found


def counts(side: Streamed | None) -> tuple[float, float, float, float, float]:
    """Visits, hits on the device, copies, reads and seconds of waiting so far."""
    if side is None:
        return 0, 0, 0, 0, 0
    store = side.tier.store
    store.settle()
    visits = float(store.ledger.visits.sum())
    return visits, side.tier.num_hits, side.tier.num_copies, store.meter.reads, store.meter.stall_s


def spent(before: Sequence[float], after: Sequence[float], *, tokens: int) -> tuple[str, ...]:
    """The last columns of a row."""
    visits, hits, copies, reads, stall = (now - then for then, now in zip(before, after, strict=True))
    if not visits:
        return "all", "", "", ""
    return (
        f"{hits / visits:.0%}",
        f"{copies / tokens:.1f}",
        f"{reads / tokens:.1f}",
        f"{stall / tokens * 1e3:.2f}",
    )


if __name__ == "__main__":
    main()
