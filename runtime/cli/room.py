"""Whether a talk finds room under `--memory-limit`: before its model is read, once built, at each change.

What counts is `runtime.sizing.Need`, and beside the engine's own the memory of text and draws.
"""

import argparse
from dataclasses import replace

from configs.schema.model import ModelConfig
from runtime.building.tensors import Tensors
from runtime.cli.choices import parsed_size
from runtime.engine import Engine
from runtime.head import ScreenUse
from runtime.model_folder import PackedModel
from runtime.screen import bytes_to_make
from runtime.sizing import Need, check_fits, state_bytes
from runtime.stream import KEPT_BYTES
from runtime.system import bytes_beside

TALK_BYTES = 4 * 2**20
"""Memory of a talk's own: text, templates, the prompt line."""
CHARACTER_BYTES = 12
"""Memory for each character of a prompt: the text, as it came and as it is read, and its tokens."""
DRAW_BYTES = 64
"""Memory of a draw, for each word of the vocabulary."""


def limit_of(
    args: argparse.Namespace, model: PackedModel, *, rounds: int, prompt_characters: int
) -> int | None:
    """The limit in bytes. A model that surely does not fit is refused before it is read."""
    if args.memory_limit is None:
        return None
    limit = parsed_size(args.memory_limit)
    files = [file.path for file in Tensors(model).files]
    need = Need(
        files_bytes=sum(path.stat().st_size for path in files),
        state_bytes=state_bytes(model.config, rounds),
        streams=1,
        buffer_bytes=0,
        program_bytes=bytes_beside(files),
    )
    check_fits(_with_talk(need, model.config, prompt_characters), limit_bytes=limit)
    return limit


def kept_bytes(engine: Engine, rounds: int, *, screen_bytes: int, prompt_characters: int = 0) -> int:
    """Memory for states that are kept to go back to; rounds that do not fit under the limit are refused."""
    if engine.memory_limit_bytes is None:
        return KEPT_BYTES
    need = _with_talk(engine.need(rounds), engine.config, prompt_characters)
    need = replace(need, screen_bytes=screen_bytes)
    return min(KEPT_BYTES, check_fits(need, limit_bytes=engine.memory_limit_bytes))


def screen_use(
    asked: ScreenUse, engine: Engine, *, rounds: int, prompt_characters: int = 0
) -> tuple[ScreenUse, int]:
    """Whether to screen, and the memory that is left for it. Where nobody asked, it gives way to a limit."""
    if engine.memory_limit_bytes is None or asked == "off" or engine.head_rows.bits != 8:
        return asked, 0
    num_bytes = bytes_to_make(engine.head_rows)
    left = kept_bytes(engine, rounds, screen_bytes=0, prompt_characters=prompt_characters)
    return ("off", 0) if asked == "auto" and num_bytes > left else (asked, num_bytes)


def _with_talk(need: Need, config: ModelConfig, prompt_characters: int) -> Need:
    talk = TALK_BYTES + DRAW_BYTES * config.vocab_size + CHARACTER_BYTES * prompt_characters
    return replace(need, program_bytes=need.program_bytes + talk)
