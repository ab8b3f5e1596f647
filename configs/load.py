"""From a preset's name, a file or JSON to a `ModelConfig`, and back to JSON."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from configs import derive, wording
from configs.codec import MANY_PROBLEMS, Problem, decode, encode, without_nulls
from configs.errors import ChimeraError, ConfigError
from configs.migrate import migrated
from configs.raw import Raw, as_object
from configs.schema.checks import contradictions
from configs.schema.model import ModelConfig
from configs.strict_json import parse_object
from configs.wording import Place, show

PRESETS = ("chimera-5.1", "chimera-5.1-sum", "small", "tiny", "demo", "micro")
PRESET_FOLDER = Path(__file__).parent / "presets"
FOLLOWERS_OF_WIDTH = ("intermediate_size", "num_heads", "head_dim", "initializer_range")
HINT = "docs/config.md lists every key. Presets: " + ", ".join(PRESETS)
LARGEST_FILE_BYTES = 16 * 2**20
LARGEST_REMEMBERED_BYTES, MOST_REMEMBERED = 2**20, 4

_good_texts: dict[bytes, ModelConfig] = {}


def load_config(source: str | Path) -> ModelConfig:
    """The config that a preset's name or a path gives: a file, or a folder that holds a config.json."""
    if isinstance(source, str) and source in PRESETS:
        return preset(source)
    path = config_path(source)
    return parse_config(_read(path, asked=str(source)), source=str(path), named=str(source))


def load_raw(source: str | Path) -> Raw:
    """The keys that such a source names, before presets, rules and checks.

    A preset's name wins over a file of that name; `./demo` or a `Path` is always a path.
    """
    if isinstance(source, str) and source in PRESETS:
        return {"preset": source}
    path = config_path(source)
    return dict(parse_object(_read(path, asked=str(source)), source=str(path)))


def config_path(source: str | Path) -> Path:
    """The file that a path means: itself, or the config.json of a folder."""
    path = Path(source)
    try:
        return path / "config.json" if path.is_dir() else path
    except OSError as error:
        raise ConfigError(f"{wording.show(str(path))} cannot be read: {error.strerror}") from error


def preset(name: str) -> ModelConfig:
    """One of our own configs."""
    return build_config({"preset": name}, source=name)


def parse_config(
    text: str | bytes, *, source: str, named: str = "", error: type[ChimeraError] = ConfigError
) -> ModelConfig:
    """A config from the text of a file. `source` stands for the file in messages, or `named` where it parses.

    A text that was good is remembered: a model's config lies beside its weights and inside of them.
    """
    key = (text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass")).strip()
    config = _good_texts.get(key)
    if config is None:
        config = build_config(parse_object(text, source=source, error=error), source=named or source)
        if len(key) <= LARGEST_REMEMBERED_BYTES:
            _good_texts[key] = config
            while len(_good_texts) > MOST_REMEMBERED:
                _good_texts.pop(next(iter(_good_texts)))
    return config


def build_config(raw: Mapping[str, Any], *, source: str) -> ModelConfig:
    """A config from JSON values: migration, preset, rules, types, contradictions, in this order."""
    problems: list[Problem] = []
    base = _preset_below(raw, problems)
    named = _without_preset(migrated(raw))
    config = decode(ModelConfig, _complete(base, named), problems=problems, also=("preset",))
    readable = config
    if config is None:
        readable = decode(ModelConfig, _complete(base, _without(named, problems)), problems=[])
    if readable is not None:
        unread = [".".join(_place_of_whole(problem.place)) for problem in problems if not problem.unknown]
        for path, message in contradictions(readable, unread=unread):
            problems.append(Problem(tuple(path.split(".")), message))
    if problems or config is None:
        raise ConfigError(_report(problems, source), hint=HINT)
    return config


def to_json(config: ModelConfig) -> str:
    """The config as the text of a config.json: every key named, so that no later default can change it."""
    return json.dumps(encode(config), ensure_ascii=False, indent=2) + "\n"


def named_values(raw: Mapping[str, Any]) -> Raw:
    """What a valid config names, itself or by its preset, in today's schema and without what rules add."""
    named = _without_preset(migrated(raw))
    return derive.overlaid(named_values(preset_json(raw["preset"])), named) if "preset" in raw else named


def preset_json(name: str) -> Raw:
    """The keys that a preset's own file names."""
    path = PRESET_FOLDER / f"{name}.json"
    return dict(parse_object(path.read_bytes(), source=str(path)))


def _preset_below(raw: Mapping[str, Any], problems: list[Problem]) -> Raw:
    """The preset that a config builds on, itself perhaps built on another; with none, nothing."""
    if "preset" not in raw:
        return {}
    name = raw["preset"]
    if name not in PRESETS:
        near = wording.nearest(name, PRESETS)
        hint = f"; did you mean {show(near)}?" if near else ""
        problems.append(
            Problem(("preset",), f"{show(name)} is no preset; they are {', '.join(PRESETS)}{hint}")
        )
        return {}
    named = preset_json(name)
    return _complete(_preset_below(named, problems), _without_preset(named))


def _without_preset(raw: Mapping[str, Any]) -> Raw:
    return {name: value for name, value in raw.items() if name != "preset"}


def _complete(base: Mapping[str, Any], named: Mapping[str, Any]) -> Raw:
    """The named values over those of a preset, without nulls, and with what follows from them."""
    full = derive.overlaid(base, named) if base else named
    return derive.derived(without_nulls(ModelConfig, full))


def _place_of_whole(place: Place) -> tuple[str, ...]:
    """The place of a value, or of the array that it stands in."""
    names: list[str] = []
    for step in place:
        if isinstance(step, int):
            break
        names.append(step)
    return tuple(names)


def _without(named: Mapping[str, Any], problems: list[Problem]) -> Raw:
    """The config without what could not be read, so that the rest can still be checked for contradictions."""
    unread = {_place_of_whole(problem.place) for problem in problems}

    def kept(raw: Mapping[str, Any], place: tuple[str, ...]) -> Raw:
        values: Raw = {}
        for name, value in raw.items():
            here, inner = (*place, name), as_object(value)
            if here not in unread:
                values[name] = value if inner is None else kept(inner, here)
        return values

    return kept(named, ())


def _report(problems: list[Problem], source: str) -> str:
    """All problems, those that make others hard to judge first, and without those that follow from them."""
    paths = {problem.path for problem in problems}
    if "preset" in paths:
        problems = [problem for problem in problems if not problem.missing]
    if "hidden_size" in paths:
        problems = [
            problem for problem in problems if not (problem.missing and problem.path in FOLLOWERS_OF_WIDTH)
        ]
    problems = sorted(problems, key=lambda problem: problem.path not in ("preset", "_v"))
    if len(problems) == 1:
        return f"{source}: {problems[0]}"
    lines = [f"  {problem}" for problem in problems[:MANY_PROBLEMS]]
    if len(problems) > MANY_PROBLEMS:
        lines.append(f"  and {len(problems) - MANY_PROBLEMS} more")
    return f"{source}: {len(problems)} problems\n" + "\n".join(lines)


def _read(path: Path, *, asked: str) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(LARGEST_FILE_BYTES + 1)
    except FileNotFoundError:
        near = wording.nearest(asked, PRESETS)
        hint = f"Did you mean the preset {near}?" if near else "Presets: " + ", ".join(PRESETS)
        if Path(asked).is_dir():
            raise ConfigError(f"the folder {asked} holds no config.json", hint=hint) from None
        raise ConfigError(f"{asked}: there is no such file, and no preset of that name", hint=hint) from None
    except OSError as error:
        raise ConfigError(f"{wording.show(asked)} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise ConfigError(f"{wording.show(asked)} is no path: {error}") from error
    if len(data) > LARGEST_FILE_BYTES:
        raise ConfigError(f"{path} is over {LARGEST_FILE_BYTES:,} bytes, which no config is")
    return data
