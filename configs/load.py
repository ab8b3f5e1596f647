"""From a preset's name, a file or JSON to a `ModelConfig`, and back to JSON."""

import difflib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from configs import derive
from configs.codec import Problem, decode, encode
from configs.errors import ConfigError
from configs.migrate import migrated
from configs.schema.checks import contradictions
from configs.schema.model import ModelConfig
from configs.strict_json import parse_object

PRESETS = ("chimera-5.1", "chimera-5.1-sum", "small", "tiny", "demo", "micro")
PRESET_FOLDER = Path(__file__).parent / "presets"
FOLLOWERS_OF_WIDTH = ("intermediate_size", "num_heads", "head_dim", "initializer_range")
HINT = "docs/config.md lists every key. Presets: " + ", ".join(PRESETS)
LARGEST_FILE_BYTES = 16 * 2**20


def load_config(source: str | Path) -> ModelConfig:
    """The config that a preset's name or a path gives: a file, or a folder that holds a config.json."""
    return build_config(load_raw(source), source=str(source))


def load_raw(source: str | Path) -> dict[str, Any]:
    """The keys that such a source names, a preset below it included, before rules and checks."""
    if isinstance(source, str) and source in PRESETS:
        return {"preset": source}
    path = Path(source)
    if path.is_dir():
        path /= "config.json"
    return dict(parse_object(_read(path, asked=str(source)), source=str(path)))


def preset(name: str) -> ModelConfig:
    """One of our own configs."""
    return build_config({"preset": name}, source=name)


def parse_config(text: str | bytes, *, source: str) -> ModelConfig:
    """A config from the text of a file. `source` stands for the file in messages."""
    return build_config(parse_object(text, source=source), source=source)


def build_config(raw: Mapping[str, Any], *, source: str) -> ModelConfig:
    """A config from JSON values: preset, migration, rules, types, contradictions, in this order."""
    problems: list[Problem] = []
    base = _preset_of(raw, problems)
    named = {name: value for name, value in migrated(raw).items() if name != "preset"}
    config = decode(ModelConfig, _complete(base, named), path="", problems=problems)
    readable = config or decode(ModelConfig, _complete(base, _without(named, problems)), path="", problems=[])
    if readable is not None:
        problems.extend(Problem(path, message) for path, message in contradictions(readable))
    if problems or config is None:
        raise ConfigError(_report(problems, source), hint=HINT)
    return config


def to_json(config: ModelConfig) -> str:
    """The config as the text of a config.json: every key named, so that no later default can change it."""
    return json.dumps(encode(config), ensure_ascii=False, indent=2) + "\n"


def named_values(raw: Mapping[str, Any]) -> dict[str, Any]:
    """What a valid config names, itself or by its preset, in today's schema and without what rules add."""
    named = {name: value for name, value in migrated(raw).items() if name != "preset"}
    return derive.overlaid(_preset_of(raw, []), named)


def preset_json(name: str) -> dict[str, Any]:
    """The keys that a preset's own file names."""
    path = PRESET_FOLDER / f"{name}.json"
    return dict(parse_object(path.read_bytes(), source=str(path)))


def _preset_of(raw: Mapping[str, Any], problems: list[Problem]) -> dict[str, Any]:
    """The preset that a config builds on, itself perhaps built on another."""
    if "preset" not in raw:
        return {}
    name = raw["preset"]
    if name not in PRESETS:
        near = difflib.get_close_matches(str(name), PRESETS, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        problems.append(Problem("preset", f"{name!r} is not one of {', '.join(PRESETS)}{hint}"))
        return {}
    named = preset_json(name)
    below = _preset_of(named, problems)
    named.pop("preset", None)
    return _complete(below, named)


def _complete(base: Mapping[str, Any], named: Mapping[str, Any]) -> dict[str, Any]:
    return derive.derived(derive.overlaid(base, named) if base else named)


def _without(named: Mapping[str, Any], problems: list[Problem]) -> dict[str, Any]:
    """The config without what could not be read, so that the rest can still be checked for contradictions."""
    paths = {problem.path.split("[")[0] for problem in problems}

    def kept(raw: Mapping[str, Any], path: str) -> dict[str, Any]:
        return {
            name: kept(cast("dict[str, Any]", value), f"{path}{name}.") if isinstance(value, dict) else value
            for name, value in raw.items()
            if f"{path}{name}" not in paths
        }

    return kept(named, "")


def _report(problems: list[Problem], source: str) -> str:
    if any(problem.path == "hidden_size" for problem in problems):
        problems = [
            problem for problem in problems if not (problem.path in FOLLOWERS_OF_WIDTH and problem.missing)
        ]
    if len(problems) == 1:
        return f"{source}: {problems[0]}"
    lines = "\n".join(f"  {problem}" for problem in problems)
    return f"{source}: {len(problems)} problems\n{lines}"


def _read(path: Path, *, asked: str) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(LARGEST_FILE_BYTES + 1)
    except FileNotFoundError:
        near = difflib.get_close_matches(asked, PRESETS, n=1)
        hint = f"Did you mean the preset {near[0]}?" if near else "Presets: " + ", ".join(PRESETS)
        raise ConfigError(f"{path}: there is no such file, and no preset of that name", hint=hint) from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    if len(data) > LARGEST_FILE_BYTES:
        raise ConfigError(f"{path}: over {LARGEST_FILE_BYTES} bytes, which no config is")
    return data
