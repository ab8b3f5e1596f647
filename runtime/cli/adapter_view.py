"""What `chimera adapter` does, and how adapters are shown."""

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from configs.errors import EXIT_DONE, UsageError
from quant.adapter import SHOWN, read_adapter
from quant.whole_folder import check_free
from runtime.adapting.merging import apply, check_base, merge, undo
from runtime.cli.compiling import compiling_told
from runtime.cli.learning import shown, told
from runtime.cli.tables import of, plain, say, size
from runtime.finetune.method import is_of_latents, load_latent_method
from runtime.model_folder import open_model

LONGEST_SETTING = 60
"""Characters of a setting that are shown."""


def _apply(args: argparse.Namespace) -> int:
    folder, *paths = args.paths
    if not paths:
        raise UsageError("no adapter is named", hint="As in: chimera adapter apply MODEL answers.cza")
    found = [str(path) for path in apply(folder, paths)]
    return _answer(args, {"applied": found}, [f"applied: {plain(path)}" for path in found])


def _undo(args: argparse.Namespace) -> int:
    if len(args.paths) > 1:
        raise UsageError("undo takes the last adapter out of one folder", hint="Name the folder alone.")
    taken = str(undo(args.paths[0]))
    return _answer(args, {"taken_out": taken}, [f"taken out: {plain(taken)}"])


def _info(args: argparse.Namespace) -> int:
    reports = [told(read_adapter(path)) for path in args.paths]
    lines = [line for report in reports for line in (*_lines(report), "")]
    return _answer(args, {"adapters": reports}, lines[:-1])


def _merge(args: argparse.Namespace) -> int:
    if args.out is None:
        raise UsageError("merge writes a new model's folder", hint="Add --out FOLDER.")
    source, *paths = args.paths
    digest = _merged(source, paths, out=args.out)
    report = {"model": str(args.out), "digest": digest}
    return _answer(args, report, [f"{plain(str(args.out))}: the model {digest[:SHOWN]}…"])


def _merged(source: Path, paths: Sequence[Path], *, out: Path) -> str:
    """Latent weights are computed and packed by whoever learnt them, alone; others move a packed file's."""
    latent = [path for path in paths if is_of_latents(read_adapter(path).header.method)]
    if not latent:
        return merge(source, paths, out=out)
    if len(paths) > 1:
        raise UsageError(
            f"{latent[0]} moves latent weights, which no other adapter can share",
            hint="Merge it alone, then the others into what comes out.",
        )
    check_free(out)
    check_base(open_model(source))
    with compiling_told():
        return load_latent_method().merge(read_adapter(latent[0]), model=source, out=out)


DOINGS: Mapping[str, Callable[[argparse.Namespace], int]] = {
    "apply": _apply,
    "undo": _undo,
    "info": _info,
    "merge": _merge,
}


def _answer(args: argparse.Namespace, report: dict[str, Any], lines: list[str]) -> int:
    if args.json:
        json.dump(report, sys.stdout, indent=2, allow_nan=False)
        print()
    else:
        say(lines)
    return EXIT_DONE


def _lines(report: dict[str, Any]) -> list[str]:
    """An adapter for people."""
    settings = ", ".join(f"{name} {_short(value)}" for name, value in sorted(report["settings"].items()))
    lines = [
        f"{plain(report['file'])}: {plain(report['method'])}, {of(report['steps'], 'step')}, "
        f"{size(report['file_bytes'])}",
        f"  digest    {report['digest'][:SHOWN]}…",
        f"  base      {plain(report['base'])[:SHOWN]}…",
        *(f"  on top of {plain(digest)[:SHOWN]}…" for digest in report["beneath"]),
        f"  seed      {report['seed']}",
        f"  data      {plain(report['data'])[:SHOWN]}…",
        f"  settings  {settings}",
    ]
    if report["steps"]:
        lines.append(f"  loss      {shown(report['first_loss'])} > {shown(report['last_loss'])}")
    if report["looks"]:
        first, last = report["looks"][0], report["looks"][-1]
        looks = f"{shown(first['loss'])} > {shown(last['loss'])}"
        lines.append(f"  looked at {looks} in {of(len(report['looks']), 'look')}")
        if last["score"] is not None:
            lines.append(f"  score     {shown(first['score'])} > {shown(last['score'])}")
    if report["torn_bytes"]:
        lines.append(f"  torn      {report['torn_bytes']} bytes at the end, which nobody reads")
    return lines


def _short(value: object) -> str:
    text = plain(str(value))
    return text if len(text) <= LONGEST_SETTING else f"{text[:LONGEST_SETTING]}…"
