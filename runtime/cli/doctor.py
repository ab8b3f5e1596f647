"""`chimera doctor`: what this machine and this installation can do, and what is broken."""

import argparse
import json
import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any

from configs.errors import EXIT_DONE, EXIT_FAILED
from runtime.cli.tables import plain, say, size, table

EXTRA_WORDS = {"": "always", "none": "not ours"}
"""What stands where a package has no extra."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What is not to be taken from memory."""
    parser.add_argument(
        "--fresh", action="store_true", help="import every package, also those that are remembered to work"
    )


def run(args: argparse.Namespace) -> int:
    """Print the diagnosis; 1 where something is broken."""
    from runtime.diagnosis import diagnose

    with _told() as progress:
        report = diagnose(fresh=args.fresh, progress=progress)
    if args.json:
        json.dump(report, sys.stdout, indent=2, allow_nan=False)
        print()
    else:
        say(_lines(report))
    return EXIT_FAILED if report["broken"] else EXIT_DONE


@contextmanager
def _told() -> Generator[Callable[[str], None] | None]:
    """At a terminal, the line at the bottom says what is being looked at."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console

    with Console(stderr=True).status("looking") as status:
        yield lambda what: status.update(f"looking at {what}")


def _lines(report: dict[str, Any]) -> list[str]:
    parts = (
        _versions,
        _cpu,
        _threads,
        _memory,
        _kernels,
        _layouts,
        _caches,
        _model,
        _packages,
        _environment,
        _verdict,
    )
    return [line for part in parts for line in part(report)]


def _versions(report: dict[str, Any]) -> list[str]:
    found = report["versions"]
    if found is None:
        return []
    first = f"chimera {found['chimera']} on {found['system']}"
    rest = ", ".join(f"{name} {found[name]}" for name in ("python", "numpy", "numba", "llvmlite"))
    return [first, f"  {rest}", f"  {found['executable']}"]


def _cpu(report: dict[str, Any]) -> list[str]:
    found = report["cpu"]
    if found is None:
        return []
    caches = f", caches of {size(found['cache_bytes'])}" if found["cache_bytes"] else ""
    lines = [
        f"CPU: {plain(found['name'])}, {found['architecture']}{caches}",
        f"  can: {' '.join(found['features']) or 'nothing that kernels ask for'}",
        f"  code is generated for {found['target']}, from {found['target_from']}",
    ]
    for form, lacks in found["forms"].items():
        lines.append(f"  {form}: " + (f"cannot run, for lack of {lacks}" if lacks else "can run"))
    return lines


def _threads(report: dict[str, Any]) -> list[str]:
    found = report["threads"]
    if found is None:
        return []
    return [f"threads: {found['count']}, for {found['reason']}; they wait by {found['wait_by']}"]


def _memory(report: dict[str, Any]) -> list[str]:
    found = report["memory"]
    if found is None:
        return []
    lines = [
        f"memory: {size(found['total_bytes'])}, of which {size(found['available_bytes'])} can be had: "
        f"{found['available_is']}"
    ]
    group = found["group"]
    if group is not None:
        used, limit = size(group["used_bytes"]), size(group["limit_bytes"])
        lines.append(f"  {plain(group['origin'])}: {used} of {limit} are taken")
    return lines


def _kernels(report: dict[str, Any]) -> list[str]:
    check = report["self_check"]
    if check is None:
        return []
    reasons: dict[tuple[str, str], list[str]] = {}
    for kernel in report["kernels"]:
        reasons.setdefault((kernel["form"], kernel["reason"]), []).append(kernel["operation"])
    sound = check["checked"] - len(check["failed"])
    lines = [
        f"kernels: {sound} of {check['checked']} give the reference's bits; checked now, "
        f"in {check['took_s']:.1f} s"
    ]
    for (form, reason), operations in reasons.items():
        lines += [f"  {form}, since: {reason}", *_wrapped(", ".join(operations), indent=4)]
    codes: dict[tuple[str, str], list[str]] = {}
    for kernel in report["kernels"]:
        codes.setdefault((kernel["code"], kernel["code_from"]), []).append(kernel["operation"])
    for (code, source), operations in codes.items():
        whole = len(operations) == len(report["kernels"])
        which = "all" if whole else f"{len(operations)}"
        if code == "object":
            lines.append(f"  {which} from objects made ahead of time for {source}")
        else:
            lines.append(f"  {which} compiled on this machine, since: {plain(source)}")
        lines += [] if whole or code == "object" else _wrapped(", ".join(operations), indent=4)
    return lines


def _layouts(report: dict[str, Any]) -> list[str]:
    places = {"cache": "where they fit the caches", "memory": "where they do not"}
    lines = [
        line
        for found in report["layouts"]
        for line in (f"  {places[found['place']]}: {found['layout']}", *_wrapped(found["reason"], indent=4))
    ]
    return ["ternary weights lie in", *lines] if lines else []


def _caches(report: dict[str, Any]) -> list[str]:
    found = report["caches"]
    if found is None:
        return []
    writable = "writable" if found["writable"] else "not writable"
    return [
        f"cache: {plain(found['folder'])}, {size(found['bytes'])}, {writable}",
        f"  {found['kernels']} kernels for this target and these compilers ({found['digest']}), "
        f"{found['checks']} checks remembered",
    ]


def _model(report: dict[str, Any]) -> list[str]:
    found = report["model"]
    if found is None:
        return []
    sound = "every digest agrees" if found["is_sound"] else "damaged"
    return [f"model: {plain(found['path'])}, {size(found['bytes'])}, {found['digest'][:16]}, {sound}"]


def _packages(report: dict[str, Any]) -> list[str]:
    rows = [
        (
            EXTRA_WORDS.get(found["extra"], f"[{found['extra']}]"),
            found["name"],
            found["version"],
            found["state"],
            found["why"] or found["install"],
        )
        for found in report["packages"]
    ]
    if not rows:
        return []
    remembered = sum(found["tried"] == "before" for found in report["packages"])
    when = (
        f"packages: {remembered} worked before, and nothing was installed since; --fresh imports them again"
        if remembered
        else "packages: each was imported now"
    )
    return [when, *table(("<", "<", "<", "<", "<"), rows)]


def _environment(report: dict[str, Any]) -> list[str]:
    found = report["environment"]
    return ["environment", *(f"  {name}={plain(value)}" for name, value in found.items())] if found else []


def _verdict(report: dict[str, Any]) -> list[str]:
    lines = [f"remark: {plain(remark)}" for remark in report["remarks"]]
    lines += [f"broken: {plain(problem)}" for problem in report["broken"]]
    return [*lines, "something is broken" if report["broken"] else "nothing is broken"]


def _wrapped(words: str, *, indent: int) -> list[str]:
    import textwrap

    pad = " " * indent
    return textwrap.wrap(words, width=80, initial_indent=pad, subsequent_indent=pad, break_on_hyphens=False)
