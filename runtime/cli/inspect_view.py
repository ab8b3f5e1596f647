"""The report of `chimera inspect` for a reader: tables and the map of layers; plain text when piped."""

from collections.abc import Iterable
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

Report = dict[str, Any]

LAYERS_A_LINE = 14
CELL = 4
MARGIN = 10
PIPED_WIDTH = 200
"""What reads a pipe has no edge to wrap at."""
PART_WORDS = {
    "embedding": "embedding and head",
    "mixer": "mixers",
    "feed_forward": "dense feed-forward",
    "experts": "experts and routers",
    "loop": "loop",
    "lookahead": "lookahead router",
    "final_norm": "final norm",
}
KIND_STYLES = {
    "gated_deltanet": "cyan",
    "xlstm_m": "green",
    "titans_mac": "magenta",
    "tsp_span_knot": "yellow",
}
VERDICT_STYLES = {"holds": "green", "differs": "red", "not computed": "dim"}


def print_report(report: Report) -> None:
    """The whole report."""
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = PIPED_WIDTH
    if "file" in report:
        _print_file(console, report["file"])
    _print_head(console, report)
    _print_map(console, report["layers"], report["loop"])
    _print_parameters(console, report)
    _print_bytes(console, report)
    _print_stream(console, report["stream"])
    if report["claims"]:
        _print_claims(console, report["claims"])
    _print_inert(console, report["inert"])


def _print_file(console: Console, file: Report) -> None:
    console.print(Text(f"{file['path']}  {_size(file['file_bytes'])}", style="bold"))
    console.print(f"  format version {file['format_version']}, digest {file['digest'][:16]}")
    table = _table("tensors", "number", "bytes")
    for kind, row in file["kinds"].items():
        table.add_row(kind, f"{row['count']:,}", _size(row["bytes"]))
    _print_table(console, table)
    if file["verified"]:
        console.print(Text("  every digest agrees, every value is allowed", style="green"))
    console.print()


def _print_head(console: Console, report: Report) -> None:
    model, parameters = report["model"], report["parameters"]
    console.print(Text(report["name"] or report["source"], style="bold"), f"(schema {report['schema']})")
    console.print(
        f"  {_count(parameters['total'])} parameters, {_count(parameters['active'])} met by a token; "
        f"{model['num_hidden_layers']} layers of width {model['hidden_size']}, {model['num_heads']} heads of "
        f"{model['head_dim']}, feed-forward {model['intermediate_size']}, vocabulary {model['vocab_size']:,}"
    )
    if model["experts"]:
        console.print(
            f"  {model['experts']} routed experts of width {model['expert_width']} in a layer, "
            f"{model['experts_per_token']} for a token beside the shared one"
        )
    console.print()


def _print_map(console: Console, layers: list[Report], loop: Report | None) -> None:
    for start in range(0, len(layers), LAYERS_A_LINE):
        row = layers[start : start + LAYERS_A_LINE]
        lines = [
            Text(" " * MARGIN).append(_cells(str(layer["index"]) for layer in row), style="dim"),
            Text("  layer".ljust(MARGIN)),
        ]
        for layer in row:
            lines[1].append(layer["alias"].ljust(CELL), style=KIND_STYLES.get(layer["kind"], "white"))
        if any(layer["experts"] for layer in layers):
            marks = _cells("◆" if layer["experts"] else "·" for layer in row)
            lines.append(Text("  experts".ljust(MARGIN) + marks))
        if loop is not None:
            lines.append(Text("  loop".ljust(MARGIN) + "".join(_loop_cell(layer, loop) for layer in row)))
        for line in lines:
            line.rstrip()
            console.print(line)
        console.print()
    if loop is not None:
        console.print(
            f"  layers {loop['first']}–{loop['last']} run {loop['default']} times, "
            f"{loop['least']} to {loop['most']} on request\n"
        )


def _cells(words: Iterable[str]) -> str:
    return "".join(word.ljust(CELL) for word in words)


def _loop_cell(layer: Report, loop: Report) -> str:
    if not layer["looped"]:
        return " " * CELL
    left = "╰" if layer["index"] == loop["first"] else "─"
    if layer["index"] == loop["last"]:
        return f"{left}╯".ljust(CELL)
    return left + "─" * (CELL - 1)


def _print_parameters(console: Console, report: Report) -> None:
    parameters, layers = report["parameters"], report["layers"]
    table = _table("parameters", "number", "share")
    for part, number in parameters["by_part"].items():
        if not number:
            continue
        _add_share(table, PART_WORDS[part], number, parameters["total"])
        if part == "mixer":
            for alias, inner in parameters["by_mixer"].items():
                of_kind = sum(layer["alias"] == alias for layer in layers)
                _add_share(table, f"  {alias} × {of_kind}", inner, parameters["total"])
    _add_share(table, "all", parameters["total"], parameters["total"])
    _print_table(console, table)
    applied = parameters["applied_by_rounds"]
    if len(applied) > 1:
        text = ", ".join(f"{rounds} → {_count(number)}" for rounds, number in applied.items())
        console.print(f"  applied to a token by rounds, head counted again: {text}")
    console.print()


def _print_bytes(console: Console, report: Report) -> None:
    routed = any(row["routed_experts"] for row in report["bytes"].values())
    table = _table("packed tensors", "size", *(["routed experts in it"] if routed else []))
    for form, row in report["bytes"].items():
        table.add_row(form, _size(row["total"]), *([_size(row["routed_experts"])] if routed else []))
    _print_table(console, table)
    console.print()


def _print_stream(console: Console, rows: list[Report]) -> None:
    table = _table("rounds", "stream", "recurrent", "window", "with weights", "read a token")
    for row in rows:
        state = row["state"]
        table.add_row(
            str(row["rounds"]),
            _size(row["state_bytes"]),
            _size(state["recurrent"]),
            _size(state["window"]),
            _size(row["memory_bytes"]),
            _size(row["bytes_per_token"]),
        )
    _print_table(console, table)
    console.print("  bytes that a stream holds and a token reads, 2-bit weights; none grows with the text\n")


def _print_claims(console: Console, claims: list[Report]) -> None:
    table = _table("the file states", "stated", "computed", "verdict", "")
    for claim in claims:
        table.add_row(
            claim["path"],
            _figure(claim["stated"], claim["unit"]),
            "" if claim["computed"] is None else _figure(claim["computed"], claim["unit"]),
            Text(claim["verdict"], style=VERDICT_STYLES[claim["verdict"]]),
            claim["note"],
        )
    _print_table(console, table)
    console.print()


def _print_inert(console: Console, paths: list[str]) -> None:
    if not paths:
        console.print("  every key that is named does something")
        return
    sections: dict[str, list[str]] = {}
    for path in paths:
        section, _, rest = path.partition(".")
        sections.setdefault(section.partition("[")[0], []).append(rest or section)
    text = ", ".join(
        name if names == [name] else f"{name} ({len(names)})" for name, names in sections.items()
    )
    console.print(f"  checked but inert for now: {text}", soft_wrap=not console.is_terminal)


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for index, column in enumerate(columns):
        words = index == 0 or column in ("verdict", "")
        table.add_column(column, justify="left" if words else "right", overflow="fold", no_wrap=not words)
    return table


def _print_table(console: Console, table: Table) -> None:
    """The table without the spaces that fill up its last column."""
    for line in console.render_lines(table, pad=False):
        text = Text.assemble(*((segment.text, segment.style or "") for segment in line))
        text.rstrip()
        console.print(text)


def _add_share(table: Table, name: str, number: int, total: int) -> None:
    table.add_row(name, f"{number:,}", f"{number / total:.1%}")


def _figure(value: float, unit: str) -> str:
    return (
        _count(value)
        if unit == "parameters"
        else f"{value:,.4g} {unit}"
        if value < 1e4
        else f"{value:,.0f} {unit}"
    )


def _count(number: float) -> str:
    for name, size in (("B", 1e9), ("M", 1e6), ("K", 1e3)):
        if number >= size:
            return f"{number / size:.3g}{name}" if number < 100 * size else f"{number / size:.0f}{name}"
    return f"{number:.0f}"


def _size(number: float) -> str:
    for name, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if number >= size:
            return f"{number / size:,.2f} {name}" if number < 100 * size else f"{number / size:,.0f} {name}"
    return f"{number:.0f} B"
