"""The report of `chimera inspect` for a reader: tables and the map of layers; plain text when piped."""

import sys
import textwrap
from collections.abc import Iterable, Sequence

from rich.console import Console
from rich.text import Text

from runtime.inspection import Report

PAGE_WIDTH = 80
"""What reads a pipe has no edge, but its text is as wide as a terminal's."""
INDENT = 2
MARGIN = 10
LONGEST_NAME = 60
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
SHOWN_OF_DIGEST = 16
VERDICT_STYLES = {"holds": "green", "differs": "red", "missing": "red", "refused": "red"}
ASCII_FORMS = str.maketrans(
    {"×": "x", "·": ".", "◆": "#", "╰": "\\", "╯": "/", "─": "-", "–": "-", "→": ">", "…": "~"}
)
"""For a stream that cannot carry the signs of the map."""

Cell = str | Text


def print_report(report: Report) -> None:
    """The whole report."""
    console = Console(highlight=False, markup=False, emoji=False)
    if not console.is_terminal:
        console.width = PAGE_WIDTH
    with console.capture() as captured:
        if "file" in report:
            _print_file(console, report["file"])
        _print_head(console, report)
        _print_map(console, report)
        _print_parameters(console, report)
        _print_bytes(console, report)
        _print_stream(console, report)
        _print_claims(console, report["claims"])
        _print_files(console, report["files"])
        _print_adapters(console, report.get("adapters", []))
        _print_inert(console, report["inert"])
    text = captured.get()
    encoding = sys.stdout.encoding or "utf-8"
    if text.encode(encoding, "replace").decode(encoding) != text:
        text = text.translate(ASCII_FORMS).encode(encoding, "backslashreplace").decode(encoding)
    print(text, end="")


def _print_file(console: Console, file: Report) -> None:
    _say(console, Text(f"{_plain(file['path'])}  {_size(file['file_bytes'])}", style="bold"))
    _say(
        console,
        f"  format version {file['format_version']}, digest {file['digest'][:SHOWN_OF_DIGEST]}, "
        f"{file['holds']}",
    )
    rows = [(kind, f"{row['count']:,}", _size(row["bytes"])) for kind, row in file["kinds"].items()]
    _print_table(console, ("<tensors", "number", "bytes"), rows)
    if file["verified"]:
        _say(console, Text("  every digest agrees, every value is allowed", style="green"))
    _say(console)


def _print_head(console: Console, report: Report) -> None:
    model, parameters = report["model"], report["parameters"]
    name = _plain(report["name"], longest=LONGEST_NAME) or _plain(report["source"])
    _say(console, Text(name, style="bold").append(f" (schema {report['schema']})", style="not bold"))
    _say(
        console,
        f"  {_count(parameters['total'])} parameters, {_count(parameters['active'])} met by a token; "
        f"vocabulary {model['vocab_size']:,}",
    )
    _say(
        console,
        f"  {_of(model['num_hidden_layers'], 'layer')} of width {model['hidden_size']:,}, "
        f"{_of(model['num_heads'], 'head')} of {model['head_dim']}, "
        f"feed-forward {model['intermediate_size']:,}",
    )
    if model["experts"]:
        held = sum(layer["experts"] for layer in report["layers"])
        shared = (
            "the shared one" if model["experts_shared"] == 1 else f"{model['experts_shared']} shared ones"
        )
        _say(
            console,
            f"  {_of(held, 'layer')} with {model['experts']} experts of width {model['expert_width']:,}, "
            f"{model['experts_per_token']} for a token beside {shared}",
        )
    _say(console)


def _print_map(console: Console, report: Report) -> None:
    layers, loop = report["layers"], report["loop"]
    longest = max(len(word) for layer in layers for word in (layer["alias"], str(layer["index"])))
    cell = max(4, longest + 1)
    for row in _map_rows(layers, pattern=report["model"]["layer_pattern"], width=console.width, cell=cell):
        _say(console, Text(" " * MARGIN + _cells([layer["index"] for layer in row], cell), style="dim"))
        kinds = Text("  layer".ljust(MARGIN))
        for layer in row:
            kinds.append(layer["alias"].ljust(cell), style=KIND_STYLES.get(layer["kind"], "white"))
        _say(console, kinds)
        if any(layer["experts"] for layer in layers):
            marks = _cells(["◆" if layer["experts"] else "·" for layer in row], cell)
            _say(console, "  experts".ljust(MARGIN) + marks)
        if loop is not None and any(layer["looped"] for layer in row):
            _say(console, "  loop".ljust(MARGIN) + "".join(_loop_cell(layer, loop, cell) for layer in row))
        _say(console)
    kinds = dict.fromkeys((layer["alias"], layer["kind"]) for layer in layers)
    _say_wrapped(console, ", ".join(f"{alias} is {kind}" for alias, kind in kinds))
    if loop is not None:
        _say(
            console,
            f"  layers {loop['first']}–{loop['last']} run {_of(loop['default'], 'time')}, "
            f"{loop['least']} to {loop['most']} on request",
        )
    _say(console)


def _map_rows(layers: list[Report], *, pattern: str, width: int, cell: int) -> list[list[Report]]:
    """The layers by lines; where it fits, a line holds the pattern a whole number of times."""
    room = max(1, (min(width, PAGE_WIDTH) - MARGIN) // cell)
    step = len(pattern.split())
    a_line = room - room % step if step <= room else room
    return [layers[start : start + a_line] for start in range(0, len(layers), a_line)]


def _cells(words: Iterable[object], cell: int) -> str:
    return "".join(str(word).ljust(cell) for word in words)


def _loop_cell(layer: Report, loop: Report, cell: int) -> str:
    if not layer["looped"]:
        return " " * cell
    left = "╰" if layer["index"] == loop["first"] else "─"
    if layer["index"] == loop["last"]:
        return f"{left}╯".ljust(cell)
    return left + "─" * (cell - 1)


def _print_parameters(console: Console, report: Report) -> None:
    parameters, layers = report["parameters"], report["layers"]
    rounds, total = list(parameters["applied_by_rounds"]), parameters["total"]
    rows: list[tuple[Cell, ...]] = []
    for share in parameters["by_part"]:
        name = PART_WORDS[share["part"]]
        if share["alias"]:
            name = f"  {share['alias']} × {sum(layer['alias'] == share['alias'] for layer in layers)}"
        applied = (_count(number) for number in share["applied_by_rounds"].values())
        rows.append((name, f"{share['stored']:,}", f"{share['stored'] / total:.1%}", *applied))
    applied = (_count(number) for number in parameters["applied_by_rounds"].values())
    rows.append(("all", f"{total:,}", "100.0%", *applied))
    _print_table(console, ("<parameters", "stored", "share", *(f"×{number}" for number in rounds)), rows)
    _say(console, "  ×n: applied to a token in n rounds; the head is a second use of the embedding")
    _say(console)


def _print_bytes(console: Console, report: Report) -> None:
    routed = any(row["routed_experts"] for row in report["bytes"].values())
    header = ("<packed tensors", "on disk", "of it experts" if routed else "", "in memory")
    rows = [
        (
            form,
            _size(row["total"]),
            _size(row["routed_experts"]) if routed else "",
            _size(row["in_memory"]),
        )
        for form, row in report["bytes"].items()
    ]
    _print_table(console, header, rows)
    rounds = 1 if report["loop"] is None else report["loop"]["default"]
    _say(console, f"  in memory: with the state of one stream at {_of(rounds, 'round')}")
    _say(console)


def _print_stream(console: Console, report: Report) -> None:
    header = ("<rounds", "stream", "recurrent", "conv", "chunk", "window", "", "read")
    streams = _of(report["streams"], "stream")
    rows = [
        (
            str(row["rounds"]),
            _size(row["state_bytes"]),
            *(_size(row["state"][part]) for part in ("recurrent", "convolution", "chunk", "window")),
            _size(row["all_streams_bytes"]),
            _size(row["bytes_per_token"]),
        )
        for row in report["stream"]
    ]
    _print_table(console, (*header[:6], streams, header[7]), rows)
    growth, bits = (report["stream"][0][name] for name in ("growth_bytes_per_token", "ternary_bits"))
    _say(console, f"  stream: its state, by parts; read: weights in {bits:g} bits and state, for one token")
    grows = f"each token adds {_size(growth)} to the cache" if growth else "no state grows with the text"
    _say(console, f"  {grows}")
    _say(console)


def _print_claims(console: Console, claims: list[Report]) -> None:
    if not claims:
        return
    rows = [
        (
            claim["path"],
            _figure(claim["stated"], claim),
            "" if claim["computed"] is None else _figure(claim["computed"], claim),
            Text(claim["verdict"], style=VERDICT_STYLES.get(claim["verdict"], "dim")),
        )
        for claim in claims
    ]
    header = ("<the file states", "stated", "computed", "<verdict")
    _print_table(console, header, rows, notes=[claim["note"] for claim in claims])
    _say(console)


def _print_files(console: Console, files: list[Report]) -> None:
    if not files:
        return
    rows = [
        (
            file["key"],
            _plain(file["name"], longest=LONGEST_NAME),
            "" if file["computed_bytes"] is None else _size(file["computed_bytes"]),
            "" if file["found_bytes"] is None else _size(file["found_bytes"]),
            Text(file["verdict"], style=VERDICT_STYLES.get(file["verdict"], "dim")),
        )
        for file in files
    ]
    _print_table(console, ("<file", "<name", "computed", "found", "<verdict"), rows)
    _say(console)


def _print_adapters(console: Console, adapters: list[Report]) -> None:
    """What was learnt since, in the order in which it is applied."""
    if not adapters:
        return
    rows = [
        (
            _plain(adapter["file"], longest=LONGEST_NAME),
            _plain(adapter["method"] or "", longest=LONGEST_NAME),
            "" if adapter["steps"] is None else f"{adapter['steps']:,}",
            _size(adapter["bytes"]),
            _plain(adapter["base"] or "")[:SHOWN_OF_DIGEST],
            Text(adapter["verdict"], style=VERDICT_STYLES.get(adapter["verdict"], "dim")),
        )
        for adapter in adapters
    ]
    header = ("<adapter", "<method", "steps", "bytes", "<learnt on", "<verdict")
    _print_table(console, header, rows, notes=[_plain(adapter["note"]) for adapter in adapters])
    _say(console)


def _print_inert(console: Console, paths: list[str]) -> None:
    if not paths:
        _say(console, "  every key that is named does something")
        return
    sections: dict[str, list[str]] = {}
    for path in paths:
        section, _, rest = path.partition(".")
        sections.setdefault(section.partition("[")[0], []).append(rest or section)
    names = (name if inner == [name] else f"{name} ({len(inner)})" for name, inner in sections.items())
    _say_wrapped(console, f"checked but inert for now: {', '.join(names)}")


def _print_table(
    console: Console, header: Sequence[str], rows: Sequence[Sequence[Cell]], *, notes: Sequence[str] = ()
) -> None:
    """Columns at the right, or at the left where the header says `<`; notes beside rows where they fit."""
    titles = [title.removeprefix("<") for title in header]
    widths = [max(len(cell) for cell in column) for column in zip(titles, *rows, strict=True)]
    for number, row in enumerate([titles, *rows]):
        line = Text(style="bold" if number == 0 else "")
        for title, width, cell in zip(header, widths, row, strict=True):
            if not title and not width:
                continue
            pad = " " * (width - len(cell))
            line.append("  " if len(line) else "")
            for piece in (cell, pad) if title.startswith("<") else (pad, cell):
                line.append_text(piece) if isinstance(piece, Text) else line.append(piece)
        note = notes[number - 1] if notes and number else ""
        if note and len(line) + INDENT + len(note) <= console.width:
            line.append(f"  {note}", style="dim")
            note = ""
        _say(console, line)
        if note:
            _say(console, Text(f"    {note}", style="dim"))


def _say(console: Console, line: Cell = "") -> None:
    """A line without spaces at its end; a terminal that is too narrow wraps it itself."""
    text = line if isinstance(line, Text) else Text(line)
    text.rstrip()
    console.print(text, soft_wrap=True)


def _say_wrapped(console: Console, words: str) -> None:
    width = max(2 * MARGIN, min(console.width, PAGE_WIDTH))
    wrapper = textwrap.TextWrapper(
        width=width,
        initial_indent="  ",
        subsequent_indent="    ",
        break_long_words=False,
        break_on_hyphens=False,
    )
    for line in wrapper.wrap(words):
        _say(console, line)


def _plain(text: str, *, longest: int | None = None) -> str:
    """A text of the file's on one line, without characters that a terminal would obey."""
    cut = text if longest is None or len(text) <= longest else text[:longest] + "…"
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in cut)


def _of(number: int, word: str) -> str:
    return f"{number:,} {word}" if number == 1 else f"{number:,} {word}s"


def _figure(value: float, claim: Report) -> str:
    unit = claim["unit"]
    if unit == "parameters":
        return _count(value)
    text = f"{value:,.4g}" if value < 1e4 else f"{value:,.0f}"
    # A path such as `….tokens` has its unit in its name.
    return text if claim["path"].endswith((f".{unit}", f"_{unit}")) else f"{text} {unit}"


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
