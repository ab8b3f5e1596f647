"""What the kernels cost in instructions, read from their assembly for CPUs that this machine need not be.

    python -m benchmarks.instructions [--levels aarch64,aarch64-dotprod] [--forms neon,plain]
                                      [--only NAME,NAME] [--json FILE]

A product's row: instructions for a block of 64 inputs, 16 rows and one token, its share of the float sums
and of unpacking with it, where so many tokens are read at once; those of them that multiply; those that use
the stack for want of registers. Other operations: instructions for 16 numbers in the dearest loop that
writes some. A count is no time: how many instructions a CPU does at once is its own affair.
"""

import argparse
import importlib
import json
import multiprocessing
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.assembly_loops import Assembly, cheapest
from quant import cpu
from quant.ahead.levels import LEVEL_NAMES, LEVELS, Level, level_named
from quant.ahead.make import target_of
from quant.cpu import Form
from quant.kernels.table import OPERATIONS


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One operation by one form on one level; for products also by one number of tokens."""

    level: str
    operation: str
    form: Form
    tokens: int
    instructions: float
    products: float
    stack: float
    fused: int
    """Instructions of the whole kernel that multiply and add with one rounding: there must be none."""
    code: int
    """Instructions of the whole kernel."""


def assembly_at(level: Level, name: str) -> str:
    """A kernel's assembly; only for a process that `stands_for` the level."""
    from quant.ahead import back, front

    module, _, function = name.rpartition(".")
    text = front.text_of(getattr(importlib.import_module(module), function))
    return back.assembly_of(text, name=name, level=level)


def stand_for(level: str) -> None:
    """From here on this process makes code for a level and nothing else."""
    from quant.ahead import front

    front.take_over()
    cpu.stand_for(front.questioned(target_of(level_named(level))))


def rows_of(level: str, operation: str, form: Form) -> list[Row]:
    """The rows of an operation, in a process that stands for the level."""
    kernel = str(OPERATIONS[operation].forms[form])
    assembly = Assembly(assembly_at(level_named(level), kernel))
    fused = assembly.named(r"fml[as]|fn?m(?:add|sub)|vfn?m(?:add|sub).*")

    def row(tokens: int, instructions: float, products: float = 0.0, stack: float = 0.0) -> Row:
        return Row(
            level=level,
            operation=operation,
            form=form,
            tokens=tokens,
            instructions=instructions,
            products=products,
            stack=stack,
            fused=fused,
            code=assembly.count(),
        )

    if operation.endswith(("_matmul", "_selected")):
        costs = cheapest(assembly.block_costs(by_tables=operation == "lookup_matmul"))
        return [row(cost.tokens, cost.instructions, cost.products, cost.stack) for cost in costs]
    steps = assembly.step_costs()
    return [row(0, max(steps))] if steps else []


def forms_at(level: str, operation: str, wanted: Sequence[str]) -> list[Form]:
    """The wanted forms that a level allows; the best where none is named."""
    target, forms = target_of(level_named(level)), OPERATIONS[operation].forms
    allowed = [form for form in forms if target.allows(form)]
    return [form for form in allowed if form in wanted] if wanted else allowed[:1]


def count(levels: Sequence[str], operations: Sequence[str], forms: Sequence[str]) -> list[Row]:
    """All rows; each level in a process of its own, which does nothing else."""
    spawned = multiprocessing.get_context("spawn")
    rows: list[Row] = []
    for level in levels:
        asked = [(name, form) for name in operations for form in forms_at(level, name, forms)]
        with ProcessPoolExecutor(1, spawned, initializer=stand_for, initargs=(level,)) as pool:
            for found in pool.map(rows_of, [level] * len(asked), *zip(*asked, strict=True)):
                rows += found
    return rows


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.instructions")
    parser.add_argument("--levels", default=",".join(level.name for level in LEVELS), help="default: all")
    parser.add_argument("--forms", default="", help="default: the best of each level")
    parser.add_argument("--only", default=",".join(OPERATIONS), help="operations; default: all")
    parser.add_argument("--json", type=Path, metavar="FILE")
    args = parser.parse_args(argv)
    levels, only = args.levels.split(","), args.only.split(",")
    for name, known in ((levels, LEVEL_NAMES), (only, tuple(OPERATIONS))):
        unknown = [one for one in name if one not in known]
        if unknown:
            parser.error(f"{unknown[0]} is not known; there are {', '.join(known)}")
    rows = count(levels, only, list(filter(None, args.forms.split(","))))
    if args.json:
        args.json.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n")
    Console(width=110).print(_table(rows))
    return 0


def _table(rows: Sequence[Row]) -> Table:
    table = Table(title="Instructions for 16 rows × 64 inputs × 1 token, or for 16 numbers")
    for heading in ("level", "operation", "form", "tokens", "instructions", "multiply", "stack", "whole"):
        table.add_column(heading, justify="left" if heading in ("level", "operation", "form") else "right")
    for row in rows:
        counts = (f"{row.instructions:.0f}", f"{row.products:.0f}", f"{row.stack:.0f}")
        if not row.tokens:
            counts = (counts[0], "", "")
        table.add_row(row.level, row.operation, row.form, str(row.tokens or ""), *counts, str(row.code))
    return table


if __name__ == "__main__":
    raise SystemExit(main())
