"""The kinds of generated tasks: each draws a prompt, the right answer and one that is wrong.

A wrong answer is one that a learner is near to give: off by one or ten, the neighbour's value, the order
unchanged, a bracket left out.
"""

import json
import random
from collections.abc import Callable, Mapping, Sequence

Made = tuple[str, str, str]
"""Prompt, answer, wrong answer."""

_WORD_LIST = """
apple bird boat book bread bridge cat chair cloud clock coat corn cup desk dog door drum egg fan
farm fish flag fox frog gate glass goat gold grass hat hill horse house ice jar key king kite lake
lamp leaf lion map milk moon mouse nest nut owl pan park pen pig pine pond queen rain ring river
road rock roof rope rose salt sand seed sheep ship shoe snow soap song star stone sun tent tiger
train tree wall wind wolf wood
"""
WORDS = tuple(_WORD_LIST.split())
_NAME_LIST = "Anna Ben Clara David Ella Finn Grace Henry Ida Jack Lena Max Nora Oscar Ruth Tom"
NAMES = tuple(_NAME_LIST.split())
_UNCOUNTED_LIST = """
bread corn fish glass gold grass ice leaf milk mouse rain salt sand sheep snow soap sun wind wolf wood
"""
COUNTED = tuple(sorted(set(WORDS) - set(_UNCOUNTED_LIST.split())))
"""Words with a plural in s or es."""
COLOURS = ("red", "blue", "green", "yellow", "black", "white", "brown", "pink")
TOWNS = ("Paris", "Rome", "Oslo", "Lima", "Cairo", "Delhi", "Tokyo", "Berlin", "Madrid", "Vienna")


def needle(draw: random.Random, *, haystack: Sequence[str], depth: float) -> Made:
    """A fact put among sentences, and asked for after them."""
    name = draw.choice(NAMES)
    word, wrong = draw.sample(WORDS, 2)
    place = round(depth * len(haystack))
    text = " ".join([*haystack[:place], f"The secret word of {name} is {word}.", *haystack[place:]])
    return f"{text}\nWhat is the secret word of {name}?", word, wrong


def _sum(draw: random.Random) -> Made:
    a, b = draw.randint(0, 99), draw.randint(0, 99)
    if draw.random() < 0.5:
        asked = draw.choice((f"What is {a} plus {b}?", f"{a} + {b} =", f"How much is {a} + {b}?"))
        return asked, str(a + b), str(a + b + draw.choice((-10, -1, 1, 10)))
    a, b = max(a, b), min(a, b)
    asked = draw.choice((f"What is {a} minus {b}?", f"{a} - {b} =", f"How much is {a} - {b}?"))
    return asked, str(a - b), str(a - b + draw.choice((1, 10)))


def _product(draw: random.Random) -> Made:
    a, b = draw.randint(2, 12), draw.randint(2, 12)
    return draw.choice((f"What is {a} times {b}?", f"{a} * {b} =")), str(a * b), str(a * b + a)


def _problem(draw: random.Random) -> Made:
    name, other = draw.sample(NAMES, 2)
    thing = draw.choice(COUNTED)
    have, change = draw.randint(3, 40), draw.randint(2, 20)
    if draw.random() < 0.5:
        told = f"{name} has {have} {_plural(thing)} and gets {change} more from {other}."
        return f"{told} How many does {name} have now?", str(have + change), str(have + change + 1)
    have += change
    told = f"{name} has {have} {_plural(thing)} and gives {change} of them to {other}."
    return f"{told} How many does {name} still have?", str(have - change), str(have)


def _copy(draw: random.Random) -> Made:
    words = draw.sample(WORDS, draw.randint(2, 8))
    return f"Repeat these words: {' '.join(words)}", " ".join(words), " ".join(words[:-1])


def _reverse(draw: random.Random) -> Made:
    words = draw.sample(WORDS, draw.randint(2, 6))
    return f"Write these words in reverse order: {' '.join(words)}", " ".join(words[::-1]), " ".join(words)


def _sort(draw: random.Random) -> Made:
    if draw.random() < 0.5:
        items: list[str] = draw.sample(WORDS, draw.randint(2, 6))
        right, order = sorted(items), "in alphabetical order"
    else:
        numbers = draw.sample(range(100), draw.randint(2, 6))
        items, right, order = [*map(str, numbers)], [*map(str, sorted(numbers))], "from smallest to largest"
    wrong = items if items != right else right[::-1]
    return f"Sort these {order}: {', '.join(items)}", ", ".join(right), ", ".join(wrong)


def _recall(draw: random.Random) -> Made:
    names = draw.sample(NAMES, draw.randint(2, 12))
    things = [f"{draw.choice(COLOURS)} {thing}" for thing in draw.sample(WORDS, len(names))]
    facts = " ".join(f"{name} has the {thing}." for name, thing in zip(names, things, strict=True))
    at = draw.randrange(len(names))
    return f"{facts} What does {names[at]} have?", f"the {things[at]}", f"the {things[at - 1]}"


def _owner(draw: random.Random) -> Made:
    names = draw.sample(NAMES, draw.randint(2, 8))
    things = draw.sample(WORDS, len(names))
    facts = " ".join(f"{name} has the {thing}." for name, thing in zip(names, things, strict=True))
    at = draw.randrange(len(names))
    return f"{facts} Who has the {things[at]}?", names[at], names[at - 1]


def _needle(draw: random.Random) -> Made:
    return needle(draw, haystack=[_aside(draw) for _ in range(draw.randint(3, 24))], depth=draw.random())


def _aside(draw: random.Random) -> str:
    """A sentence that says nothing of secret words."""
    name, other = draw.sample(NAMES, 2)
    thing, colour, town = draw.choice(WORDS), draw.choice(COLOURS), draw.choice(TOWNS)
    return draw.choice(
        (
            f"{name} saw a {colour} {thing}.",
            f"{name} went to {town} with {other}.",
            f"In {town} there is a {thing}.",
            f"{other} asked {name} about the {thing}.",
            f"The {thing} near the road was {colour}.",
        )
    )


def _count(draw: random.Random) -> Made:
    word, other = draw.sample(WORDS, 2)
    count = draw.randint(1, 7)
    words = [word] * count + [other] * draw.randint(0, 4)
    draw.shuffle(words)
    return f'How many times does "{word}" appear in: {" ".join(words)}?', str(count), str(count + 1)


def _colour(draw: random.Random) -> Made:
    things = draw.sample(WORDS, draw.randint(2, 5))
    colours = draw.sample(COLOURS, len(things))
    facts = ", ".join(f"the {thing} is {colour}" for thing, colour in zip(things, colours, strict=True))
    at = draw.randrange(len(things))
    return f"If {facts}, which colour is the {things[at]}?", colours[at], colours[at - 1]


def _json(draw: random.Random) -> Made:
    values = {
        "name": draw.choice(NAMES),
        "age": draw.randint(4, 90),
        "town": draw.choice(TOWNS),
        "has": draw.choice(WORDS),
    }
    keys = draw.sample(list(values), draw.randint(2, 4))
    told = f"{values['name']} is {values['age']}, lives in {values['town']} and has a {values['has']}."
    answer = json.dumps({key: values[key] for key in keys})
    return f"Write as JSON with the keys {', '.join(keys)}: {told}", answer, answer[:-1]


def _field(draw: random.Random) -> Made:
    values = {word: draw.randint(1, 99) for word in draw.sample(WORDS, draw.randint(2, 6))}
    key, other = draw.sample(list(values), 2)
    asked = f'What is the value of "{key}" in {json.dumps(values)}?'
    return asked, str(values[key]), str(values[other] if values[other] != values[key] else values[key] + 1)


def _python(draw: random.Random) -> Made:
    numbers = [draw.randint(0, 20) for _ in range(draw.randint(3, 6))]
    place = draw.randrange(len(numbers))
    code, value = draw.choice(
        (
            (f"sum({numbers})", sum(numbers)),
            (f"max({numbers})", max(numbers)),
            (f"min({numbers})", min(numbers)),
            (f"len({numbers})", len(numbers)),
            (f"{numbers}[{place}]", numbers[place]),
            (f"sorted({numbers})[0]", min(numbers)),
        )
    )
    return f"What does this Python code print?\n```python\nprint({code})\n```", str(value), str(value + 1)


def _letters(draw: random.Random) -> Made:
    word = draw.choice(WORDS)
    if draw.random() < 0.5:
        return f'What is the first letter of "{word}"?', word[0], word[-1]
    return f'Spell the word "{word}".', "-".join(word), "-".join(word[:-1])


def _larger(draw: random.Random) -> Made:
    a, b = draw.sample(range(1000), 2)
    return f"Which is larger, {a} or {b}?", str(max(a, b)), str(min(a, b))


def _next(draw: random.Random) -> Made:
    start, step = draw.randint(0, 30), draw.randint(1, 9)
    shown = ", ".join(str(start + step * i) for i in range(4))
    return f"What number comes next: {shown}?", str(start + 4 * step), str(start + 5 * step)


def _plural(word: str) -> str:
    return word + ("es" if word.endswith(("x", "s")) else "s")


KINDS: Mapping[str, Callable[[random.Random], Made]] = {
    "sum": _sum,
    "product": _product,
    "problem": _problem,
    "copy": _copy,
    "reverse": _reverse,
    "sort": _sort,
    "recall": _recall,
    "owner": _owner,
    "needle": _needle,
    "count": _count,
    "colour": _colour,
    "json": _json,
    "field": _field,
    "python": _python,
    "letters": _letters,
    "larger": _larger,
    "next": _next,
}
