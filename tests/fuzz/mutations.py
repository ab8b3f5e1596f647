"""Changes of an input that keep most of its structure, so that they reach past the first check."""

import json
import random
import re
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

SIZES = (0, 1, 2, 7, 8, 63, 64, 65, 127, 128, 129, 4095, 4096, 2**16, 2**31 - 1, 2**31, 2**32, 2**40)
LIMITS = (2**53, 2**53 + 1, 2**62, 2**63 - 1, 2**63, 2**64 - 1, 2**64, 10**30, -1, -64, -(2**63))
TEXTS = (
    "",
    " ",
    "\0",
    "../../etc/passwd",
    "/dev/zero",
    "\x1b[2J",
    "\u202e",
    "\ufeff",
    "é",
    "\U0010ffff",
    "a" * 300,
)


class Raw(str):
    """Text that is put into JSON as it is."""


RAW = tuple(
    map(
        Raw,
        [
            "NaN",
            "-Infinity",
            "1e999",
            "-0",
            "1e-400",
            "9" * 500,
            "01",
            '"\\ud800"',
            '{"a":' * 120,
            "[[[",
            "tru",
        ],
    )
)


class Pairs(list[tuple[str, Any]]):
    """A JSON object that may have a key twice."""


Json: TypeAlias = Any
Change: TypeAlias = Callable[[bytes, random.Random], bytes]


def parsed(text: bytes | str) -> Json:
    """JSON with its objects as pairs; ValueError where it is none."""
    try:
        return json.loads(text, object_pairs_hook=Pairs)
    except RecursionError:
        raise ValueError("nested too deep") from None


def written(value: Json) -> str:
    """The text of such JSON."""
    if isinstance(value, Raw):
        return value
    if isinstance(value, Pairs):
        return "{" + ",".join(f"{json.dumps(key)}:{written(item)}" for key, item in value) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(written, value)) + "]"
    return json.dumps(value)


def changed_json(text: bytes, rng: random.Random) -> bytes:
    """JSON with some values changed; what is no JSON gets other bytes."""
    try:
        tree = parsed(text)
        for _ in range(rng.choice((1, 1, 1, 2, 4))):
            tree = changed_tree(tree, rng)
        return written(tree).encode("utf-8", "surrogatepass")
    except ValueError:
        return changed_bytes(text, rng)


def changed_tree(tree: Json, rng: random.Random) -> Json:
    """A tree with one thing changed, in place where it can be."""
    slots = list(_slots(tree))
    if not slots:
        return other_value(tree, rng, [])
    container, at = rng.choice(slots)
    value = _get(container, at)
    match rng.randrange(8):
        case 0:
            del container[at]
        case 1:
            container.insert(rng.randrange(len(container) + 1), container[at])
        case 2:
            moved = _get(*rng.choice(slots))
            _set(container, at, None if _is_within(container, moved) else moved)
        case 3 if isinstance(container, Pairs):
            keys = [key for inner, place in slots if isinstance(inner, Pairs) for key in [inner[place][0]]]
            container[at] = (rng.choice((*keys, *TEXTS)), value)
        case 4:
            _set(container, at, rng.choice((Pairs([("a", value)]), [value], [value, value], Pairs(), [])))
        case _:
            _set(container, at, other_value(value, rng, slots))
    return tree


def other_value(value: Json, rng: random.Random, slots: Sequence[tuple[Any, int]]) -> Json:
    """A value near this one, or a strange one."""
    if rng.random() < 0.3:
        return rng.choice((*SIZES, *LIMITS, *TEXTS, *RAW, None, True, False, 0.5, 1e308, -0.0))
    if isinstance(value, int) and not isinstance(value, bool):
        near = (value + 1, value - 1, value + 64, value - 64, value * 2, value // 2, -value)
        other = (value ^ (1 << rng.randrange(66)), Raw(f"{value}.0"), Raw(f'"{value}"'))
        return rng.choice((*near, *other))
    if isinstance(value, float):
        return rng.choice(
            (-value, value * 1e30, value / 1e30, Raw("NaN"), int(value) if abs(value) < 2**70 else 0)
        )
    if isinstance(value, str):
        texts = [found for found in (_get(*slot) for slot in slots) if isinstance(found, str)]
        return changed_text(value, rng, [*texts, *TEXTS])
    return rng.choice((*SIZES, *TEXTS, *RAW, None, not value))


def changed_text(text: str, rng: random.Random, others: Sequence[str]) -> str:
    """A text with one piece changed."""
    at, end = sorted((rng.randint(0, len(text)), rng.randint(0, len(text))))
    match rng.randrange(5):
        case 0:
            return rng.choice(others)
        case 1:
            return text[:at] + rng.choice(others) + text[end:]
        case 2:
            return text[:at] + text[end:]
        case 3:
            return text[:end] + text[at:]
        case _:
            letter = chr(
                rng.choice((rng.randrange(32, 127), rng.randrange(0xD800), rng.randrange(0xE000, 0x110000)))
            )
            return text[:at] + letter + text[at + 1 :]


def changed_bytes(data: bytes, rng: random.Random) -> bytes:
    """Bytes with some flipped, cut out, doubled or replaced by a number's."""
    whole = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 3))):
        at = rng.randrange(len(whole) + 1)
        end = min(len(whole), at + rng.choice((1, 2, 4, 8, 64, len(whole))))
        match rng.randrange(6):
            case 0 if at < len(whole):
                whole[at] ^= 1 << rng.randrange(8)
            case 1:
                del whole[at:end]
            case 2:
                whole[at:at] = whole[at:end]
            case 3:
                width = rng.choice((1, 2, 4, 8))
                number = rng.choice((*SIZES, *LIMITS)) % 256**width
                whole[at : at + width] = number.to_bytes(width, rng.choice(("little", "big")))
            case 4:
                whole[at:end] = rng.randbytes(min(end - at, 64))
            case _:
                begin = rng.randrange(len(whole) + 1)
                whole[at:at] = whole[begin : begin + rng.choice((1, 4, 16, 256))]
    return bytes(whole)


def changed_words(pattern: re.Pattern[str], words: Sequence[str]) -> Change:
    """A change of text by its tokens: dropped, doubled, moved, or one of `words` in their place."""

    def change(data: bytes, rng: random.Random) -> bytes:
        tokens = pattern.findall(data.decode("utf-8", "replace")) or [""]
        for _ in range(rng.choice((1, 1, 2, 3, 5))):
            at, other = rng.randrange(len(tokens)), rng.randrange(len(tokens))
            match rng.randrange(6):
                case 0 if len(tokens) > 1:
                    del tokens[at]
                case 1:
                    tokens[at:at] = tokens[other : other + rng.choice((1, 2, 4, 8))]
                case 2:
                    tokens[at], tokens[other] = tokens[other], tokens[at]
                case 3:
                    tokens[at] = rng.choice(words)
                case 4:
                    tokens[at] = changed_text(tokens[at], rng, words)
                case _:
                    tokens.insert(at, rng.choice(words))
        return "".join(tokens).encode("utf-8", "surrogatepass")

    return change


def one_of(*changes: Change) -> Change:
    """Any of several changes."""
    return lambda data, rng: rng.choice(changes)(data, rng)


def _slots(value: Json) -> Any:
    """Every container with every place in it."""
    waiting = [value]
    while waiting:
        container = waiting.pop()
        for at, item in enumerate(container if isinstance(container, list) else ()):
            yield container, at
            waiting.append(item[1] if isinstance(container, Pairs) else item)


def _get(container: Any, at: int) -> Json:
    return container[at][1] if isinstance(container, Pairs) else container[at]


def _set(container: Any, at: int, value: Json) -> None:
    container[at] = (container[at][0], value) if isinstance(container, Pairs) else value


def _is_within(container: Any, value: Json) -> bool:
    """Whether a container lies inside a value, which then may not be put into it."""
    return container is value or any(inner is container for inner, _ in _slots(value))
