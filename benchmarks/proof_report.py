"""The results of a proof: tables in Markdown, pictures, and one file of lines for another run to take up."""

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.proof_arms import ARMS
from benchmarks.proof_records import LAST, best_run, read_records, scores_of, write_lines
from chimera.train.plot import Curve, draw
from configs.errors import DataError
from quant.atomic import atomic_file

PAGE = "proof.md"
FAMILIES: Mapping[str, Sequence[str]] = {
    "peers": ("hybrid", "transformer", "hybrid_bf16", "transformer_bf16"),
    "parts": ("hybrid", "hybrid_no_loops", "hybrid_no_moe", "gated_delta", "delta_mlstm", "delta_titans"),
    "forms": ("gated_delta", "delta_sherry", "delta_correction"),
}
"""Arms of one picture: what the whole is compared with, what it is made of, other forms of weights."""
TWINS = (("hybrid", "hybrid_bf16"), ("transformer", "transformer_bf16"))
MOST_GAP = 0.08
"""That a ternary model may lie above its twin in bfloat16."""

Found = Mapping[str, Mapping[str, Any]]
"""The line of a kind of each arm's best run."""


def report(work: Path, out: Path) -> list[Path]:
    """Write all that is known so far into a folder; the files that were written."""
    records = read_records(work)
    if not records:
        raise DataError(f"{work} holds no results yet", hint="Run the proof first.")
    plans = {one["plan"] for one in records}
    if len(plans) > 1:
        raise DataError(
            f"{work} holds results of several proofs: {', '.join(sorted(plans))}",
            hint="Keep the files of one of them.",
        )
    lines = write_lines(records, out)
    drawn = pictures(records, out)
    with atomic_file(out / PAGE) as file:
        file.write(page(records, [path.name for path in drawn if path.suffix == ".svg"]).encode())
    return [out / PAGE, lines, *drawn]


def page(records: Sequence[Mapping[str, Any]], pictures: Sequence[str]) -> str:
    """All tables, and the pictures that lie beside them."""
    sizes, trained, evaluated = (_by_arm(records, kind) for kind in ("sizes", "trained", LAST))
    parts = [
        "Arms are ternary where their name says nothing else.\n",
        _findings(evaluated),
        _sizes(sizes, trained),
    ]
    if evaluated:
        parts += [_sources(evaluated), _recall(evaluated), _needles(evaluated)]
    parts.append(_rates(records))
    if pictures:
        parts.append("## Pictures\n\n" + "\n".join(f"![{name}]({name})" for name in pictures) + "\n")
    return "\n".join(part for part in parts if part)


def pictures(records: Sequence[Mapping[str, Any]], out: Path) -> list[Path]:
    """Draw validation by tokens, and recall by pairs, of each family of arms."""
    trained, evaluated = _by_arm(records, "trained"), _by_arm(records, LAST)
    made: list[Path] = []
    for family, names in FAMILIES.items():
        courses = [Curve(ARMS[name].title, trained[name]["validation"]) for name in names if name in trained]
        if courses:
            made += draw(
                out / f"proof-validation-{family}",
                courses,
                title="Validation",
                x_label="tokens",
                y_label="bits per byte",
            )
        recalls = [
            Curve(
                ARMS[name].title,
                [(float(pairs), 100 * share) for pairs, share in evaluated[name]["recall"].items()],
            )
            for name in names
            if name in evaluated
        ]
        if recalls:
            made += draw(
                out / f"proof-recall-{family}",
                recalls,
                title="Associative recall",
                x_label="pairs",
                y_label="recalled, %",
            )
    return made


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _sizes(sizes: Found, trained: Found) -> str:
    head = (
        "arm", "parameters", "active", "stored, MB", "FLOP a token", "of them mixing", "training FLOP",
        "rate", "tokens/s beside others", "memory, GB",
    )  # fmt: skip
    rows = [
        (
            ARMS[name].title,
            f"{one['parameters'] / 1e6:.2f} M",
            f"{one['active_parameters'] / 1e6:.2f} M",
            f"{one['stored_bytes'] / 1e6:.3f}",
            f"{one['flops'] / 1e6:.1f} M",
            f"{one['mixing_flops'] / 1e6:.1f} M",
            f"{one['training_flops'] / 1e6:.1f} M",
            f"{trained[name]['rate']:g}" if name in trained else "",
            f"{trained[name]['tokens_per_s']:,}" if name in trained else "",
            f"{trained[name]['memory_gb']:.1f}" if name in trained else "",
        )
        for name, one in sizes.items()
    ]
    return "## Sizes\n\n" + table(head, rows)


def _rates(records: Sequence[Mapping[str, Any]]) -> str:
    scores = {name: scores_of(records, name) for name in ARMS}
    rates = sorted({rate for found in scores.values() for rate in found})

    def cell(found: Mapping[float, float], rate: float) -> str:
        if rate not in found:
            return ""
        score = f"{found[rate]:.4f}" if math.isfinite(found[rate]) else "diverged"
        return f"**{score}**" if found[rate] == min(found.values()) else score

    if not rates:
        return ""
    rows = [
        (ARMS[name].title, *(cell(found, rate) for rate in rates)) for name, found in scores.items() if found
    ]
    return "## Bits per byte by learning rate\n\n" + table(("arm", *(f"{rate:g}" for rate in rates)), rows)


def _sources(evaluated: Found) -> str:
    names = list(evaluated)
    sources = list(evaluated[names[0]]["bits_per_byte"])
    rows = [
        (source, *(f"{evaluated[name]['bits_per_byte'][source]:.4f}" for name in names)) for source in sources
    ]
    return "## Bits per byte by source\n\n" + table(_head("source", names), rows)


def _recall(evaluated: Found) -> str:
    names = list(evaluated)
    rows = [
        (pairs, *(f"{100 * evaluated[name]['recall'][pairs]:.1f}" for name in names))
        for pairs in evaluated[names[0]]["recall"]
    ]
    return "## Associative recall by pairs, %\n\n" + table(_head("pairs", names), rows)


def _needles(evaluated: Found) -> str:
    names = list(evaluated)

    def cells(*path: str) -> list[str]:
        found: list[str] = []
        for name in names:
            one: Any = evaluated[name]["needles"]
            for key in path:
                one = one[key]
            found.append(f"{100 * one['exact']:.1f} / {100 * one['chosen']:.1f}")
        return found

    first = evaluated[names[0]]["needles"]
    rows = [("all", *cells())]
    rows += [(f"{length} tokens", *cells("by_length", length)) for length in first["by_length"]]
    rows += [(f"depth {depth}", *cells("by_depth", depth)) for depth in first["by_depth"]]
    return "## Needles, % said exactly / % preferred to a wrong word\n\n" + table(_head("", names), rows)


def _findings(evaluated: Found) -> str:
    """The ratios that have a goal."""
    score = {name: one["bits_per_byte"]["all"] for name, one in evaluated.items()}
    rows: list[Sequence[str]] = []
    if {"hybrid", "transformer"} <= score.keys():
        ratio = score["hybrid"] / score["transformer"]
        rows.append(("ternary hybrid / ternary transformer", "≤ 1", f"{ratio:.4f}", _met(ratio <= 1)))
    for name, twin in TWINS:
        if {name, twin} <= score.keys():
            gap = score[name] / score[twin] - 1
            text = f"{ARMS[name].title}, ternary above bfloat16"
            rows.append((text, f"≤ {MOST_GAP:.0%}", f"{gap:+.2%}", _met(gap <= MOST_GAP)))
    return "## Findings\n\n" + table(("bits per byte", "wanted", "found", ""), rows) if rows else ""


def _met(met: bool) -> str:
    return "met" if met else "missed"


def _head(corner: str, names: Sequence[str]) -> Sequence[str]:
    return (corner, *(ARMS[name].title for name in names))


def _by_arm(records: Sequence[Mapping[str, Any]], kind: str) -> dict[str, Mapping[str, Any]]:
    found = {name: best_run(records, name, kind) for name in ARMS}
    return {name: one for name, one in found.items() if one is not None and "diverged_at" not in one}
