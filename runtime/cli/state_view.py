"""What `chimera state` does, by action."""

import argparse
import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from configs.errors import EXIT_DONE, EXIT_MODEL, ChimeraError, StateError, UsageError
from runtime.cli.tables import plain, say, size, table
from runtime.model_folder import DEMO, open_model
from runtime.streams.comparing import Difference, compared
from runtime.streams.sections import is_state_file
from runtime.streams.state_file import DIGEST_SHOWN, SUFFIX, SavedState, open_state

SHOWN = 40


def _list(args: argparse.Namespace) -> int:
    rows, found, all_whole = list[Sequence[str]](), list[Mapping[str, object]](), True
    for path in _files([Path(word) for word in args.paths or ["."]]):
        try:
            saved = open_state(path)
        except ChimeraError as error:
            all_whole = False
            rows.append((plain(str(path)), "", "", "", "", plain(error.message)))
            found.append({"path": str(path), "error": error.message})
            continue
        about, moment = saved.about, path.stat().st_mtime
        last = plain(" ".join(about.turns[-1].message.split())) if about.turns else ""
        when = time.strftime("%Y-%m-%d %H:%M", time.localtime(moment))
        name = plain(about.identity.name)
        rows.append(
            (plain(str(path)), name, f"{about.position:,}", size(saved.num_bytes), when, last[:SHOWN])
        )
        found.append(_summary(saved) | {"saved_at": moment})
    if args.json:
        print(json.dumps(found))
    elif rows:
        say(table(("<file", "<model", "tokens", "size", "<saved", "<last message"), rows, indent=0))
    else:
        print("no saved talks here", file=sys.stderr)
    return EXIT_DONE if all_whole else EXIT_MODEL


def _show(args: argparse.Namespace) -> int:
    saved = open_state(_only(args, 1)[0])
    if args.json:
        print(json.dumps(_summary(saved) | {"about": asdict(saved.about)}))
        return EXIT_DONE
    about = saved.about
    identity, sampling = about.identity, about.sampling
    lines = [
        plain(str(saved.path)),
        f"  model      {plain(identity.name)}, {identity.model[:DIGEST_SHOWN]}…",
        f"  tokenizer  {identity.tokenizer[:DIGEST_SHOWN]}…",
        f"  template   {identity.template[:DIGEST_SHOWN] + '…' if identity.template else 'none'}",
        f"  adapters   {', '.join(digest[:DIGEST_SHOWN] for digest in identity.adapters) or 'none'}",
        f"  position   {about.position:,} tokens, {about.position - about.num_read} of them to be read",
        f"  loop       {about.rounds} rounds, left below a change of {about.exit_threshold:g}",
        f"  state      {size(len(saved.state))}",
        f"  draws      temperature {sampling.temperature:g}, top-k {sampling.top_k}, "
        f"top-p {sampling.top_p:g}, min-p {sampling.min_p:g}, "
        f"penalty {sampling.repetition_penalty:g}, seed {plain(sampling.seed)}",
    ]
    lines += [f"  system     {plain(about.system)}"] if about.system else []
    for turn in about.turns:
        lines += ["", f"> {plain(turn.message)}", *map(plain, turn.reply.split("\n"))]
    say(lines)
    return EXIT_DONE


def _remove(args: argparse.Namespace) -> int:
    paths = _only(args, 1, most=None)
    for path in paths:
        # Before any is removed: a wrong word on the line removes nothing.
        if not path.is_file():
            raise StateError(f"there is no file {path}", hint="Saved talks: chimera state ls")
        if not is_state_file(path):
            raise UsageError(f"{path} is no saved talk, and is not removed", hint="Remove it with rm.")
    for path in paths:
        path.unlink()
    if args.json:
        print(json.dumps({"removed": [str(path) for path in paths]}))
    return EXIT_DONE


def _diff(args: argparse.Namespace) -> int:
    one, other = (open_state(path) for path in _only(args, 2))
    found = compared(one, other)
    texts = _texts(args, one, found)
    if args.json:
        answer: dict[str, object] = {
            "common": found.num_common,
            "ids": [list(ids) for ids in found.rests],
            "unlike": list(found.unlike),
        }
        print(json.dumps(answer | ({"texts": texts} if texts else {})))
        return EXIT_DONE
    lines = [f"{found.num_common:,} tokens in common"]
    lines += [f"unlike: {', '.join(found.unlike)}"] if found.unlike else []
    for number, saved in enumerate((one, other)):
        rest = found.rests[number]
        lines.append(f"{'-+'[number]} {plain(str(saved.path))}: {len(rest):,} more")
        spelled = texts[number].split("\n") if texts else [" ".join(map(str, rest))]
        lines += [f"  {plain(line)}" for line in spelled if rest]
    say(lines)
    return EXIT_DONE


DOINGS: dict[str, Callable[[argparse.Namespace], int]] = {
    "ls": _list,
    "show": _show,
    "rm": _remove,
    "diff": _diff,
}


def _texts(args: argparse.Namespace, saved: SavedState, found: Difference) -> list[str] | None:
    """The continuations in words, if there is a tokenizer that wrote them."""
    if args.model is None and not DEMO.is_dir():
        return None
    tokenizer = open_model(DEMO if args.model is None else Path(args.model)).tokenizer()
    theirs = saved.about.identity.tokenizer
    if tokenizer.digest != theirs:
        if args.model is not None:
            raise StateError(
                f"{saved.path} was written with the tokenizer {theirs[:DIGEST_SHOWN]}…, and "
                f"{args.model} has {tokenizer.digest[:DIGEST_SHOWN]}…",
                hint="Name the model that it was written with.",
            )
        return None
    return [tokenizer.decode(ids) for ids in found.rests]


def _files(places: Sequence[Path]) -> list[Path]:
    found: list[Path] = []
    for place in places:
        if not place.exists():
            raise StateError(f"there is no {place}", hint="Name a folder or a file.")
        found += sorted(place.glob(f"*{SUFFIX}")) if place.is_dir() else [place]
    return found


def _summary(saved: SavedState) -> dict[str, object]:
    about = saved.about
    return {
        "path": str(saved.path),
        "model": about.identity.name,
        "position": about.position,
        "num_bytes": saved.num_bytes,
        "messages": len(about.turns),
    }


def _only(args: argparse.Namespace, least: int, *, most: int | None = 0) -> list[Path]:
    """The files that were named, as many as there have to be."""
    most = least if most == 0 else most
    if len(args.paths) < least or (most is not None and len(args.paths) > most):
        wanted = f"{least}" if most == least else f"{least} or more"
        raise UsageError(f"chimera state {args.action} takes {wanted} files, got {len(args.paths)}")
    return [Path(word) for word in args.paths]
