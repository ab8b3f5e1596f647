"""A template from a stranger: no way out of the sandbox, and no way to take all time or memory."""

import tracemalloc

import pytest
from jinja2.runtime import LoopContext

from configs.errors import TokenizerError
from configs.text import sandbox_budget
from configs.text.sandbox import SAFE_ATTRIBUTES, SAFE_FILTERS, SAFE_TESTS, TEXT_FILTERS, Sandbox
from configs.text.sandbox_budget import MAX_CHARACTERS
from configs.text.template import ChatTemplate

GROW = "{% set ns = namespace(x=START) %}{% for i in range(9000) %}{% set STEP %}{% endfor %}"
BIG = "'a' * 1000000"


def growing(start: str, step: str) -> str:
    return GROW.replace("START", start).replace("STEP", step)


ESCAPES = [
    "{{ ''.__class__ }}",
    "{{ ''['__class__'] }}",
    "{{ ''['__cla' ~ 'ss__'] }}",
    "{{ '' | attr('__class__') }}",
    "{{ [].__class__.__base__.__subclasses__() }}",
    "{{ messages.__init__.__globals__ }}",
    "{{ messages[0].__class__ }}",
    "{{ messages | map(attribute='__class__') | list }}",
    "{{ messages | sort(attribute='__class__') }}",
    "{{ messages | selectattr('__class__') | list }}",
    "{{ messages | map('attr', '__class__') | list }}",
    "{{ messages | join(attribute='__class__') }}{{ 1 / 0 }}",
    "{{ self.__init__ }}",
    "{{ self._TemplateReference__context }}",
    "{{ range.__globals__ }}",
    "{{ raise_exception.__globals__ }}",
    "{{ strftime_now.__closure__ }}",
    "{{ namespace.__init__ }}",
    "{{ ''.join.__self__ }}",
    "{{ '{0.__class__}'.format(1) }}",
    "{{ '{0.__class__}'.format_map({}) }}",
    "{{ 'a'.encode() }}",
    "{{ 'a'.translate({}) }}",
    "{% for i in [1] %}{{ loop.__class__ }}{% endfor %}",
    "{% for i in [1] %}{{ loop._iterable }}{% endfor %}",
    "{% macro f() %}{% endmacro %}{{ f.__init__ }}",
    "{% macro f() %}{% endmacro %}{{ f._func }}",
    "{{ messages.append(1) }}",
    "{{ messages[0].update({}) }}",
    "{{ messages[0].pop('role') }}",
    "{% include 'x' %}",
    "{% import 'x' as x %}",
    "{% from 'x' import y %}",
    "{% extends 'x' %}",
    "{{ cycler(1) }}",
    "{{ joiner() }}",
    "{{ lipsum(1) }}",
    "{{ dict(a=1) }}",
    "{% debug %}",
    "{% do messages.clear() %}",
]

# Templates by the words of the limit that must end them.
BOMBS: dict[str, list[str]] = {
    "takes more than 100000 steps": [
        "{% for i in range(9999) %}{% for j in range(9999) %}{% endfor %}{% endfor %}",
        "{% for i in range(999) %}{% for j in messages if j.role == 'x' %}{% else %}"
        "{% for k in range(999) %}{% endfor %}{% endfor %}{% endfor %}",
        "{% filter upper %}{% for i in range(9999) %}" + "x" * 50_000 + "{% endfor %}{% endfilter %}",
        "{% for c in " + BIG + " %}{% endfor %}",
        "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(60) }}",
        "{% macro f(n) %}{% if n %}{% call g() %}{{ f(n - 1) }}{{ f(n - 1) }}{% endcall %}{% endif %}"
        "{% endmacro %}{% macro g() %}{{ caller() }}{% endmacro %}{{ f(30) }}",
        "{% macro f() %}"
        + "x" * 50_000
        + "{% endmacro %}{% for i in range(2000) %}{% set y = f() %}{% endfor %}",
        "{% macro g() %}{% for i in range(2000) %}{% set y = caller() %}{% endfor %}{% endmacro %}"
        "{% call g() %}" + "x" * 50_000 + "{% endcall %}",
        growing("['a']", "ns.x = ns.x + ns.x"),
        growing("['a']", "ns.x = [ns.x, ns.x]"),
        growing("['a']", "ns.x = (ns.x, ns.x)"),
        growing("['a']", "ns.x = {'a': ns.x, 'b': ns.x}"),
        growing("['a']", "ns.x = [ns.x]"),
        growing(BIG, "y = 'a' * 1000000"),
        growing(BIG, "y = ns.x ~ 'a'"),
        growing(BIG, "y = ns.x + 'a'"),
        growing(BIG, "y = '%s' % ns.x"),
        growing(BIG, "y = ns.x.replace('b', 'aa')"),
        growing(BIG, "y = ''.join([ns.x])"),
        growing(BIG, "y = ns.x.count('b')"),
        growing(BIG, "y = ns.x.split('b')"),
        growing(BIG, "y = ns.x.find('b')"),
        growing(BIG, "y = 'b' in ns.x"),
        growing(BIG, "y = ns.x == ns.x ~ 'b'"),
        growing(BIG, "y = ns.x is upper"),
        growing(BIG, "y = 'a' is in ns.x"),
        growing(BIG, "y = ns.x | sort"),
        growing(BIG, "y = ns.x | min"),
        growing(BIG, "y = ns.x | list"),
        growing(BIG, "y = ns.x | map('int')"),
        growing(BIG, "y = ns.x | int"),
        growing(BIG, "y = ns.x | trim"),
        growing(BIG, "y = ns.x | tojson"),
        growing(BIG, "y = ns.x[1:]"),
        growing(BIG, "y = [ns.x]"),
    ],
    "asks for": [
        "{% for i in range(10001) %}{% endfor %}",
        "{{ messages | tojson(indent=1000000000) }}",
        "{{ messages | tojson(separators=(" + BIG + ", ':')) }}",
        "{{ strftime_now('%Y' * 1000) }}",
    ],
    "of more than 16000000 characters": [
        growing("'aaaa'", "ns.x = ns.x ~ ns.x"),
        growing("'aaaa'", "ns.x = ns.x + ns.x"),
        growing("'aaaa'", "ns.x = '%s%s' % (ns.x, ns.x)"),
        "{{ (" + BIG + ").replace('a', 'a' * 20) }}",
        "{{ 'aaa' | replace('', 'a' * 5000000) }}",
        "{{ range(9999) | join('a' * 10000) }}",
        "{{ (" + BIG + ").join(range(20)) }}",
    ],
    "makes an integer of more than 256 bits": [growing("9", "ns.x = ns.x * ns.x"), "{{ 9 ** 9 ** 9 }}"],
    "puts out more than 16000000 characters": [
        "{% set x = " + BIG + " %}{% for i in range(99) %}{{ x }}{% endfor %}",
        "{% set x = " + BIG + " %}{% for i in range(99) %}{% set y %}{{ x }}{% endset %}{% endfor %}",
    ],
    "repeats a value too often": [
        "{{ 'a' * 1000000000 }}",
        "{{ 1000000000 * 'a' }}",
        "{{ [1] * 1000000000 }}",
        "{{ (1,) * 1000000000 }}",
    ],
    "a power that is too large": ["{{ 2.5 ** 100000000 }}", "{{ 2 ** 257 }}"],
    "a width that is too large": [
        "{{ '%1000000000d' % 1 }}",
        "{{ '%.1000000000f' % 1 }}",
        "{{ '%*d' % (1000000000, 1) }}",
        "{{ '%(a)s%(a)s%(a)s' % {'a': 'b'} }}",
    ],
    "which the sandbox has not": [
        "{{ '{:1000000000}'.format(1) }}",
        "{{ 'a'.ljust(1000000000) }}",
        "{{ 'a'.zfill(1000000000) }}",
        "{{ '\t'.expandtabs(1000000000) }}",
    ],
    "No filter named": [
        "{{ 'a' | center(1000000000) }}",
        "{{ 'a' | indent(1000000000) }}",
        "{{ 1 | round(1000000000, 'ceil') }}",
    ],
    "recursive loops are not allowed": ["{% for i in [1] recursive %}{{ loop([1]) }}{% endfor %}"],
    "RecursionError": ["{% macro f(n) %}{{ f(n) }}{% endmacro %}{{ f(1) }}"],
}


@pytest.mark.parametrize("source", ESCAPES)
def test_no_way_out(source: str) -> None:
    with pytest.raises(TokenizerError) as caught:
        ChatTemplate(source, specials=[]).render([{"role": "user", "content": "hi"}])
    assert "0x" not in caught.value.message, "no address, no repr of an object"


@pytest.mark.parametrize(("words", "source"), [(words, source) for words in BOMBS for source in BOMBS[words]])
def test_no_way_to_take_all_time_or_memory(words: str, source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each would run for hours or fill the memory, and ends by a limit. Fewer steps, as tracing is slow."""
    if words == "takes more than 100000 steps":
        monkeypatch.setattr(sandbox_budget, "MAX_STEPS", 100_000)
    tracemalloc.start()
    try:
        with pytest.raises(TokenizerError) as caught:
            ChatTemplate(source, specials=[]).render([{"role": "user", "content": "hi"}])
        assert tracemalloc.get_traced_memory()[1] < 5 * MAX_CHARACTERS
    finally:
        tracemalloc.stop()
    assert words in caught.value.message


def test_a_long_conversation_fits_the_budget() -> None:
    talk = [{"role": role, "content": "word " * 100} for role in ("user", "assistant")] * 5000
    template = ChatTemplate(specials=["<|user|>", "<|assistant|>", "<|im_end|>"])
    assert len(template.render(talk).pieces) == 30_000
    long = [{"role": "user", "content": "x" * 7_900_000}]
    assert len(template.render(long).pieces[1]) == 7_900_000


def test_every_rendering_has_a_budget_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox_budget, "MAX_STEPS", 1000)
    template = ChatTemplate("{% for i in range(n) %}{{ i }}{% endfor %}", specials=[])
    for _ in range(3):
        assert template.render([], variables={"n": 200}).pieces
    with pytest.raises(TokenizerError, match="line 1: takes more than 1000 steps"):
        template.render([], variables={"n": 400})


def test_the_tables_name_what_exists() -> None:
    sandbox = Sandbox(functions={}, extensions=[])
    assert set(sandbox.globals) == {"range", "namespace"}
    own = {"replace", "join", "tojson", "string", "safe"}
    assert set(sandbox.filters) == set(SAFE_FILTERS.split()) | set(TEXT_FILTERS.split()) | own
    assert set(sandbox.tests) == set(SAFE_TESTS.split())
    for kind, names in SAFE_ATTRIBUTES.items():
        assert kind is LoopContext or all(hasattr(kind, name) for name in names.split())
        assert not any(name.startswith("_") for name in names.split())
