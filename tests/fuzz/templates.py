"""Chat templates."""

import re

from configs.errors import TokenizerError
from configs.text.template import DEFAULT_TEMPLATE, ChatTemplate
from tests.fuzz.mutations import changed_words
from tests.fuzz.target import Target

SPECIALS = ("<|system|>", "<|user|>", "<|assistant|>", "<|im_end|>", "<s>", "</s>")
TALKS = (
    [{"role": "user", "content": "Hi <|im_end|>"}],
    [
        {"role": "system", "content": ""},
        {"role": "user", "content": "a" * 2000},
        {"role": "assistant", "content": "{{ 7 * 7 }}", "tool_calls": [{"name": "f", "arguments": {"x": 1}}]},
        {"role": "tool", "content": [{"type": "text", "text": "é"}]},
    ],
)


def load_template(data: bytes) -> None:
    """A template that compiles renders talks, or refuses them."""
    template = ChatTemplate(
        data.decode("utf-8", "replace"),
        specials=SPECIALS,
        variables={"bos_token": "<s>", "eos_token": "</s>"},
    )
    for talk in TALKS:
        try:
            rendered = template.render(talk, add_generation_prompt=True, variables={"tools": [{"name": "f"}]})
        except TokenizerError:
            continue
        size = sum(len(piece) if isinstance(piece, str) else 1 for piece in rendered.pieces)
        assert size <= 20_000_000
        assert all(0 <= reply.start <= reply.stop <= len(rendered.pieces) for reply in rendered.replies)


TEMPLATES = (
    DEFAULT_TEMPLATE,
    "{% set ns = namespace(n=0) %}{% for m in messages if m.content is string %}{% set ns.n = ns.n + 1 %}"
    "{{ loop.index0 ~ m['role'] | upper | trim }}{% if loop.last %}{% break %}{% endif %}{% endfor %}"
    "{{ ns.n }}",
    "{% macro say(x, y='a') -%}<|user|>{{ x | tojson(indent=2) }}{{ y * 3 }}{%- endmacro %}"
    "{% call say(tools) %}{{ caller() }}{% endcall %}{{ messages | map(attribute='role') | join(', ') }}",
    "{% filter upper %}{{ bos_token }}{{ strftime_now('%Y') }}{% endfilter %}{{ range(3) | list | last }}"
    "{{ messages[0].content.split(' ')[-1] | replace('a', 'b') | default('x', true) | length }}"
    "{% with a = 1 %}{{ (a, 2) | max }}{% endwith %}"
    "{{ messages | selectattr('role', 'eq', 'user') | first }}",
    "{% if tools is defined and tools %}{{ raise_exception('no ' ~ tools | length) }}{% endif %}{# c #}",
)
_WORDS = """
{{ }} {% %} {%- -%} {# #} | ~ + - * ** / // % [ ] ( ) { } : , . = == < 'a' 0 1 -1 99999999999 1e308
'%9999d' [::2] for in if else elif endif endfor set endset macro endmacro call endcall filter endfilter
block endblock raw endraw with endwith generation endgeneration include import extends from recursive
break continue do autoescape is not and messages tools loop self super caller varargs kwargs namespace
range cycler dict loop.index loop.cycle range(9999) namespace() messages[0] __class__ __mro__ __globals__
format format_map attr items tojson join map list sort unique batch center indent wordwrap truncate
random pprint xmlattr urlize groupby sum round slice replace default dictsort reverse none true false
'x'*99999 {{[messages]*1000}} {{2**255}}
"""
TEMPLATE_WORDS = (*_WORDS.split(), " {% for x in range(1000) %}{% endfor %} ", *SPECIALS)
TEMPLATE_TOKENS = re.compile(r"\{[{%#]-?|-?[}%#]\}|\w+|\s+|'[^']*'|.", re.DOTALL)


TEMPLATE = Target(
    name="template",
    load=load_template,
    seeds=lambda: [text.encode() for text in TEMPLATES],
    mutate=changed_words(TEMPLATE_TOKENS, TEMPLATE_WORDS),
    refusals=(TokenizerError,),
    sources=(
        "configs.text.template",
        "configs.text.sandbox",
        "configs.text.sandbox_budget",
        "configs.text.marks",
    ),
)
