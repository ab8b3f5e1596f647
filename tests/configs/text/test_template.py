"""Chat templates: the right pieces, replies for training, and no message that spells a special token."""

from datetime import datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from configs.errors import TokenizerError
from configs.text.template import DEFAULT_TEMPLATE, ChatTemplate, Rendered
from configs.text.tokenizer import Piece, Special, Tokenizer, open_tokenizer
from configs.text.training import DEFAULT_SPECIALS
from tests.configs.text.conftest import HOSTILE, TEXTS

CHATML_NAMES = ("<|im_start|>", "<|im_end|>")
CHATML = """\
{% for message in messages %}
{{- '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"""
TAGGED = """\
{%- for message in messages %}
    {%- if message.role == 'assistant' %}
<|im_start|>assistant
        {%- generation %}
 {{ message.content | trim }}<|im_end|>
        {%- endgeneration %}
    {%- else %}
<|im_start|>{{ message.role }}
{{ message.content }}<|im_end|>
    {%- endif %}
{%- endfor %}"""
INSTRUCT = """\
{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content.strip() }} [/INST]
{%- elif m.role == 'assistant' %} {{ m.content | trim ~ eos_token }}{% else %}
{{- raise_exception('only user and assistant') }}{% endif %}{% endfor %}"""
TALK = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": "Hello"},
    {"role": "user", "content": "Bye"},
    {"role": "assistant", "content": "Farewell"},
]


def chatml(source: str = CHATML) -> ChatTemplate:
    return ChatTemplate(source, specials=CHATML_NAMES)


def spelt(pieces: tuple[Piece, ...]) -> str:
    return "".join(piece.name if isinstance(piece, Special) else piece for piece in pieces)


def replies(rendered: Rendered) -> list[str]:
    return [spelt(rendered.pieces[reply.start : reply.stop]) for reply in rendered.replies]


def test_the_default_template() -> None:
    rendered = ChatTemplate(specials=DEFAULT_SPECIALS).render(TALK[:4], add_generation_prompt=True)
    end = Special("<|im_end|>")
    assert rendered.pieces == (
        *(Special("<|system|>"), "Be brief.", end),
        *(Special("<|user|>"), "Hi", end),
        *(Special("<|assistant|>"), "Hello", end),
        *(Special("<|user|>"), "Bye", end),
        Special("<|assistant|>"),
    )
    assert rendered.replies == (range(7, 9),)


def test_the_default_template_keeps_white_space_and_refuses_other_roles() -> None:
    template = ChatTemplate(specials=DEFAULT_SPECIALS)
    content = " \n two  words\n\n"
    assert template.render([{"role": "user", "content": content}]).pieces[1] == content
    with pytest.raises(
        TokenizerError, match="it refuses these messages: role tool; allowed: system, user, assist"
    ):
        template.render([{"role": "tool", "content": ""}])


@pytest.mark.parametrize("source", [CHATML, TAGGED, INSTRUCT])
def test_replies_are_found_with_and_without_tags(source: str) -> None:
    template = ChatTemplate(
        source, specials=[*CHATML_NAMES, "<s>", "</s>"], variables={"bos_token": "<s>", "eos_token": "</s>"}
    )
    talk = TALK[1:] if source == INSTRUCT else TALK
    rendered = template.render(talk, find_replies=True)
    end = template.end_of_reply()
    assert [reply.strip() for reply in replies(rendered)] == [f"Hello{end[0]}", f"Farewell{end[0]}"]
    assert end == (("</s>",) if source == INSTRUCT else ("<|im_end|>",))
    assert spelt(rendered.pieces) == spelt(template.render(talk).pieces)


def test_a_prompt_is_the_beginning_of_what_is_trained_on() -> None:
    template = chatml()
    prompt = template.render(TALK[:2], add_generation_prompt=True).pieces
    whole = template.render(TALK[:3], find_replies=True)
    assert whole.pieces[: len(prompt)] == prompt
    assert whole.replies[0].start == len(prompt)


def test_a_reply_that_cannot_be_told_apart_says_what_to_do() -> None:
    with pytest.raises(TokenizerError, match="cannot tell where the reply in message 3") as caught:
        chatml("{{ messages | length }}" + CHATML).render(TALK, find_replies=True)
    assert "{% generation %}" in caught.value.hint


def test_ids_and_the_mask_of_replies(tokenizer: Tokenizer) -> None:
    names = sorted(tokenizer.specials)[:2]
    source = CHATML.replace("<|im_start|>", names[0]).replace("<|im_end|>", names[1])
    rendered = ChatTemplate.of_tokenizer(tokenizer, source).render(TALK, find_replies=True)
    ids, is_reply = rendered.encode(tokenizer)
    assert ids == tokenizer.encode_pieces(rendered.pieces)
    said = [token for token, counts in zip(ids, is_reply, strict=True) if counts]
    end = tokenizer.specials[names[1]]
    assert said == [*tokenizer.encode("Hello"), end, *tokenizer.encode("Farewell"), end]


def test_the_parts_of_a_tokenizer_are_variables(o200k: Tokenizer) -> None:
    template = ChatTemplate.of_tokenizer(o200k, "{{ bos_token }}{{ eos_token }}{{ pad_token }}")
    assert template.render([]).pieces == (Special("<|endoftext|>"), Special("<|pad|>"))


def test_one_template_serves_our_files_and_o200k(o200k: Tokenizer, unigram_file: Any) -> None:
    rendered = [ChatTemplate.of_tokenizer(tok).render(TALK) for tok in (o200k, open_tokenizer(unigram_file))]
    assert rendered[0] == rendered[1]
    assert ChatTemplate.of_tokenizer(o200k).end_of_reply() == ("<|im_end|>",)


NAMES = (*DEFAULT_SPECIALS, *CHATML_NAMES[:1])
CONTENT = st.lists(st.sampled_from([*NAMES, "<|im_", "end|>", "<|", "|>"]) | TEXTS, max_size=4).map("".join)


@given(contents=st.lists(CONTENT, min_size=1, max_size=4))
def test_what_a_message_says_stays_text(contents: list[str]) -> None:
    roles = ["system", "user", "assistant", "user"]
    talk = [{"role": role, "content": content} for role, content in zip(roles, contents, strict=False)]
    rendered = ChatTemplate(specials=NAMES).render(talk)
    expected: list[Piece] = []
    for message in talk:
        expected += [Special(f"<|{message['role']}|>"), message["content"], Special("<|im_end|>")]
    assert rendered.pieces == tuple(piece for piece in expected if piece != "")


@given(first=CONTENT, second=CONTENT)
def test_what_a_template_does_to_a_message_makes_no_special_token(first: str, second: str) -> None:
    """Parts put side by side, cut, replaced and written as JSON: at worst an error, never a special token."""
    source = (
        "{{ messages[0].content }}{{ messages[1].content }}"
        "{{ messages[0].content ~ messages[1].content }}{{ messages[0].content | trim | lower }}"
        "{{ messages[0].content.replace('a', 'b') }}{{ messages[1].content[1:] }}{{ messages | tojson }}"
    )
    template = ChatTemplate(source, specials=NAMES)
    talk = [{"role": "user", "content": text} for text in (first, second)]
    try:
        rendered = template.render(talk)
    except TokenizerError as error:
        outcome = error.message
    else:
        assert not any(isinstance(piece, Special) for piece in rendered.pieces)
        outcome = "it builds the special token"
    assert "it builds the special token" in outcome


def test_a_special_token_split_over_two_parts_of_a_message_is_not_joined() -> None:
    source = "{% for part in messages[0].content %}{{ part.text }}{% endfor %}<|im_end|>"
    parts = [{"type": "text", "text": "<|im_"}, {"type": "text", "text": "end|>"}]
    with pytest.raises(TokenizerError, match=r"it builds the special token '<\|im_end\|>' from parts"):
        chatml(source).render([{"role": "user", "content": parts}])


def test_roles_and_keys_and_variables_are_text_too() -> None:
    template = chatml(
        "{{ messages[0].role }}{{ messages[0] | list | join }}{{ tools[0] }}{{ messages[0] | tojson }}"
    )
    rendered = template.render(
        [{"role": "<|im_end|>", "<|im_start|>": 1}], variables={"tools": ["<|im_start|>"]}
    )
    assert all(isinstance(piece, str) for piece in rendered.pieces)


def test_a_message_with_a_templates_own_mark_is_refused() -> None:
    template = chatml()
    mark = template._marks.of_name("<|im_end|>")
    with pytest.raises(TokenizerError, match="a message holds this template's own mark"):
        template.render([{"role": "user", "content": mark}])
    assert template._marks.secret != chatml()._marks.secret


def test_private_use_characters_are_text() -> None:
    content = "\ue000\uf8ff\U000f0000\U000f0002"
    assert chatml("{{ messages[0].content }}").render([{"role": "user", "content": content}]).pieces == (
        content,
    )


@pytest.mark.parametrize(
    ("source", "pieces"),
    [
        ("{% if '<|im_end|>' in messages[0].content %}yes{% endif %}", ("yes",)),
        ("{% if messages[0].content is eq('a<|im_end|>b') %}yes{% endif %}", ("yes",)),
        ("{{ messages[0].content.split('<|im_end|>')[0] }}", ("a",)),
        (
            "{{ messages[0].content.replace('<|im_end|>', '<|im_start|>') }}",
            ("a", Special("<|im_start|>"), "b"),
        ),
        ("{{ messages[0].content | replace('<|im_end|>', '') }}", ("ab",)),
        ("{{ {'<|im_end|>': 'x'}['<|im_end|>'] }}", ("x",)),
        ("{{ {'k': '<|im_end|>'}['k'] }}", (Special("<|im_end|>"),)),
        (
            "{% set end = '<|im_end|>' %}{{ end }}{{ end | upper }}",
            (Special("<|im_end|>"), Special("<|im_end|>")),
        ),
        ("{% macro f(x) %}{{ x }}{% endmacro %}{{ f('<|im_end|>') }}", (Special("<|im_end|>"),)),
        ("<|im_end|>{# <|im_end|> #}{{ '<\\x7cim_end|>' }}", (Special("<|im_end|>"), Special("<|im_end|>"))),
    ],
)
def test_a_templates_own_names_are_special_where_put_out_and_text_where_compared(
    source: str, pieces: tuple[Piece, ...]
) -> None:
    assert chatml(source).render([{"role": "user", "content": "a<|im_end|>b"}]).pieces == pieces


def test_the_longest_name_wins() -> None:
    template = ChatTemplate("<|im|><|im|>x", specials=["<|im|>", "<|im|>x"])
    assert template.render([]).pieces == (Special("<|im|>"), Special("<|im|>x"))


def test_a_template_that_builds_or_cuts_special_tokens_is_refused() -> None:
    with pytest.raises(TokenizerError, match=r"it builds the special token '<\|im_end\|>' from parts"):
        chatml("{{ '<|' ~ 'im_end' ~ '|>' }}").render([])
    with pytest.raises(TokenizerError, match="it cuts a special token apart"):
        chatml("{{ '<|im_end|>'[3:] }}").render([])


def test_dates_are_the_callers() -> None:
    now = datetime(2026, 2, 3, 4, 5)
    template = chatml("{{ strftime_now('%d %b %Y') }}")
    assert template.render([], now=now).pieces == ("03 Feb 2026",)
    assert template.render([]).pieces == (datetime.now().strftime("%d %b %Y"),)


def test_json_is_not_escaped_for_html() -> None:
    template = chatml("{{ messages[0] | tojson }}{{ messages[0] | tojson(indent=2) }}")
    message = {"role": "user", "content": "<a & 'b'> \u00e9"}
    assert template.render([message]).pieces == (
        '{"role": "user", "content": "<a & \'b\'> \u00e9"}'
        '{\n  "role": "user",\n  "content": "<a & \'b\'> \u00e9"\n}',
    )


def test_loops_namespaces_and_macros_work() -> None:
    source = """\
{%- macro say(text) -%}[{{ text }}{{ caller() if caller else '' }}]{%- endmacro -%}
{%- set ns = namespace(count=0, last='') -%}
{%- for m in messages if m.role != 'system' -%}
{%- if loop.index > 3 -%}{%- break -%}{%- endif -%}
{%- set ns.count = ns.count + 1 -%}{%- set ns.last = m.content -%}
{{ loop.index0 }}{{ loop.first }}{{ say(m['content'][:2]) }}{%- endfor -%}
{{ ns.count * 2 }}{{ ns.last.upper() }}{{ messages | map(attribute='role') | unique | join('/') }}
{{- messages | selectattr('role', 'equalto', 'user') | list | length }}{{ missing }}{{ missing is defined }}
{{- range(3) | list }}{{ '%s-%d' % ('a', 1) }}{{ messages[-1].get('name', 'none') }}
{%- for key, value in {'a': 1}.items() %}{{ key }}{{ value }}{% endfor %}"""
    rendered = chatml(source).render(TALK)
    assert spelt(rendered.pieces) == (
        "0True[Hi]1False[He]2False[By]6BYEsystem/user/assistant2False[0, 1, 2]a-1nonea1"
    )


@pytest.mark.oracle
@pytest.mark.parametrize("source", [DEFAULT_TEMPLATE, CHATML, TAGGED, INSTRUCT])
def test_text_and_replies_equal_transformers(source: str) -> None:
    from transformers.utils.chat_template_utils import render_jinja_template

    talk = TALK[1:] if source == INSTRUCT else TALK
    names = {"bos_token": "<s>", "eos_token": "</s>"}
    is_tagged = "generation %}" in source
    texts, spans = render_jinja_template(
        conversations=[talk], chat_template=source, return_assistant_tokens_mask=is_tagged, **names
    )
    specials = [*NAMES, *names.values()]
    rendered = ChatTemplate(source, specials=specials, variables=names).render(talk, find_replies=True)
    assert spelt(rendered.pieces) == texts[0]
    if is_tagged:
        assert replies(rendered) == [texts[0][start:end] for start, end in spans[0]]


WRONG: dict[str, tuple[str, str]] = {
    "syntax": ("one\n{% if %}", "line 2: Expected an expression"),
    "an unclosed block": ("{% for m in messages %}\n", "Unexpected end of template"),
    "an unclosed reply": ("{% generation %}", "Unexpected end of template"),
    "an unknown tag": ("\n\n{% trans %}", "line 3: Encountered unknown tag 'trans'"),
    "an unknown filter": ("{{ 1 | center }}", "line 1: No filter named 'center'"),
    "an unknown test": ("{{ 1 is filtered }}", "line 1: No test named 'filtered'"),
    "a missing message": ("\n{{ messages[9].content.x }}", "line 2: list object has no element 9"),
    "a missing function": ("\n{{ no_such_thing() }}", "line 2: 'no_such_thing' is undefined"),
    "a wrong type": ("\n\n{{ 1 + 'a' }}", "line 3: TypeError: unsupported operand"),
    "a division by zero": ("{% for m in messages %}\n{{ 1 / 0 }}{% endfor %}", "line 2: ZeroDivisionError"),
    "a refusal": ("\n{{ raise_exception('no\nway') }}", "line 2: it refuses these messages: no way"),
    "a reply in a reply": (
        "{% generation %}{% generation %}{% endgeneration %}{% endgeneration %}",
        "a reply marked by generation is inside another",
    ),
    "nested too deep": ("{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}", "RecursionError"),
    "a refusal that shows a mark": ("{{ raise_exception('x<|im_end|>y') }}", "messages: x<|im_end|>y"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_with_a_template_has_a_line(name: str) -> None:
    source, words = WRONG[name]
    with pytest.raises(TokenizerError) as caught:
        chatml(source).render(TALK)
    assert words in caught.value.message
    assert caught.value.message.startswith("chat template")
    assert len(caught.value.message.splitlines()) == 1


def test_messages_are_plain_data_of_a_greatest_size() -> None:
    template = chatml("{{ messages | length }}")
    nested: object = "x"
    for _ in range(40):
        nested = [nested]
    for content, words in (
        (object(), "a object in the messages; allowed: text, numbers"),
        (b"bytes", "a bytes in the messages"),
        (nested, "nested more than 32 levels deep"),
        ("x" * 8_000_001, "messages of more than 8000000 characters"),
    ):
        with pytest.raises(TokenizerError, match=words):
            template.render([{"role": "user", "content": content}])


def test_a_message_is_an_object() -> None:
    with pytest.raises(TokenizerError, match="a message is a str; allowed: an object of role and content"):
        chatml().render(["Hi"])  # pyright: ignore[reportArgumentType]


def test_a_source_has_a_greatest_size() -> None:
    with pytest.raises(TokenizerError, match="262145 characters and 2 special tokens; at most 262144"):
        chatml("x" * 262_145)


def test_rendering_leaves_the_messages_as_they_were() -> None:
    talk = [{"role": "user", "content": "a", "tags": [1, 2]}]
    with pytest.raises(TokenizerError, match="uses 'append' of a list"):
        chatml("{{ messages[0].tags.append(3) }}").render(talk)
    assert talk == [{"role": "user", "content": "a", "tags": [1, 2]}]


def test_hostile_fragments_cover_the_names() -> None:
    assert set(HOSTILE) & set(NAMES)
