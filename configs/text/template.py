"""Chat templates: messages to text and special tokens, by a jinja template as Hugging Face models carry it.

What a message says stays text, whatever it spells (`marks`); what the template does has limits (`sandbox`).
`{% generation %}` marks an assistant's reply with its end token, so that training counts the loss there.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeAlias, cast

import jinja2
from jinja2 import nodes

from configs.errors import TokenizerError
from configs.text.marks import BEGIN_REPLY, END_REPLY, FIRST_SPECIAL, MAX_SPECIALS, Generation, Marker, Marks
from configs.text.sandbox import Rewriter, Sandbox, check_size
from configs.text.sandbox_budget import Refused, with_budget
from configs.text.tokenizer import Piece, Special, Tokenizer

Message: TypeAlias = Mapping[str, object]

MAX_SOURCE_CHARACTERS = 262_144
MAX_INPUT_CHARACTERS = 8_000_000
MAX_INPUT_DEPTH = 32
MAX_DATE_FORMAT = 100

# For the special tokens of DEFAULT_SPECIALS, which o200k has as well: who speaks, what is said, its end.
DEFAULT_TEMPLATE = """\
{%- for message in messages -%}
{%- if message.role == 'system' -%}<|system|>{{ message.content }}<|im_end|>
{%- elif message.role == 'user' -%}<|user|>{{ message.content }}<|im_end|>
{%- elif message.role == 'assistant' -%}<|assistant|>
{%- generation -%}{{ message.content }}<|im_end|>{%- endgeneration -%}
{%- else -%}{{ raise_exception('role ' ~ message.role ~ '; allowed: system, user, assistant') }}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}<|assistant|>{%- endif -%}
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Rendered:
    """A conversation, ready for Tokenizer.encode_pieces."""

    pieces: tuple[Piece, ...]
    """Text and special tokens in order."""
    replies: tuple[range, ...]
    """Which pieces each reply of the assistant holds, its end token among them."""

    def encode(self, tokenizer: Tokenizer) -> tuple[list[int], list[bool]]:
        """The ids, and for each whether it belongs to a reply."""
        said = {number for reply in self.replies for number in reply}
        ids: list[int] = []
        is_reply: list[bool] = []
        for number, piece in enumerate(self.pieces):
            ids += tokenizer.encode_pieces([piece])
            is_reply += [number in said] * (len(ids) - len(is_reply))
        return ids, is_reply


class ChatTemplate:
    """A compiled template. `variables` are the names that a model's own files give it, such as bos_token."""

    def __init__(
        self,
        source: str = DEFAULT_TEMPLATE,
        *,
        specials: Iterable[str],
        variables: Mapping[str, str] | None = None,
        name: str = "chat template",
    ) -> None:
        self.source = source
        self.name = name
        names = tuple(specials)
        if len(source) > MAX_SOURCE_CHARACTERS or len(names) > MAX_SPECIALS:
            raise TokenizerError(
                f"{name}: {len(source)} characters and {len(names)} special tokens; "
                f"at most {MAX_SOURCE_CHARACTERS} and {MAX_SPECIALS} are allowed"
            )
        self._marks = Marks(names)
        self._variables = {key: self._marks.marked(value) for key, value in (variables or {}).items()}
        sandbox = Sandbox(functions={"raise_exception": _raise}, extensions=[Generation])
        sandbox.extend(reply_marks=(self._marks.of(BEGIN_REPLY), self._marks.of(END_REPLY)))
        try:
            tree = sandbox.parse(source)
            check_size(tree)
            tree = Rewriter().visit(Marker(self._marks).visit(tree))
            code = sandbox.compile(cast(nodes.Template, tree))
            self._template = jinja2.Template.from_code(sandbox, code, sandbox.globals)
        except Exception as error:  # a stranger's program: whatever it makes jinja raise is its own fault
            raise self._failure(error) from None

    @classmethod
    def of_tokenizer(
        cls, tokenizer: Tokenizer, source: str = DEFAULT_TEMPLATE, *, name: str = "chat template"
    ) -> "ChatTemplate":
        """A template with the special tokens of a tokenizer, and its bos_token, eos_token and pad_token."""
        by_id = {token: text for text, token in tokenizer.specials.items()}
        ids = {"bos_token": tokenizer.bos, "eos_token": tokenizer.eos, "pad_token": tokenizer.pad}
        variables = {key: by_id[token] for key, token in ids.items() if token in by_id}
        return cls(source, specials=tokenizer.specials, variables=variables, name=name)

    def render(
        self,
        messages: Sequence[Message],
        *,
        add_generation_prompt: bool = False,
        find_replies: bool = False,
        variables: Mapping[str, object] | None = None,
        now: datetime | None = None,
    ) -> Rendered:
        """The pieces of a conversation.

        `find_replies` looks for the replies in a template without {% generation %}, by rendering up to each.
        `variables` are given to the template beside the messages (`tools` and the like). `now` is what
        strftime_now shows; without it, a template that asks gets today's date.
        """
        seen = _Input(self.name)
        given = cast("dict[str, Any]", seen.copied(dict(variables or {}), depth=0))
        plain = [seen.message(message) for message in messages]
        if any(self._marks.secret in text for text in seen.texts):
            raise TokenizerError(f"{self.name}: a message holds this template's own mark")
        given |= self._variables
        given["strftime_now"] = _clock(now or datetime.now())
        text = self._rendered(plain, given, add_generation_prompt=add_generation_prompt)
        if find_replies and self._marks.of(BEGIN_REPLY) not in text:
            text = self._with_replies(text, plain, given)
        return self._pieces(text, seen.texts)

    def end_of_reply(self) -> tuple[str, ...]:
        """The special tokens that end an assistant's reply: where a chat stops generating."""
        probe = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hi"}]
        rendered = self.render(probe, find_replies=True)
        said = (
            rendered.pieces[rendered.replies[-1].start : rendered.replies[-1].stop]
            if rendered.replies
            else ()
        )
        return tuple(piece.name for piece in said[-1:] if isinstance(piece, Special))

    def _rendered(
        self, messages: list[dict[str, Any]], variables: dict[str, Any], *, add_generation_prompt: bool
    ) -> str:
        given = {**variables, "messages": messages, "add_generation_prompt": add_generation_prompt}
        try:
            return with_budget(lambda: self._template.render(given))
        except Exception as error:  # a stranger's program, as above
            raise self._failure(error) from None

    def _with_replies(self, whole: str, messages: list[dict[str, Any]], variables: dict[str, Any]) -> str:
        """The text with each reply marked: what follows its prompt, up to the turn's last special token."""
        marks = self._marks
        made, done = "", 0
        for number, message in enumerate(messages):
            if message.get("role") != "assistant":
                continue
            before = self._rendered(messages[:number], variables, add_generation_prompt=True)
            after = self._rendered(messages[: number + 1], variables, add_generation_prompt=False)
            ends = [found.end() for found in marks.pattern.finditer(after, len(before))]
            end = ends[-1] if ends else len(after)
            if not after.startswith(before) or not whole.startswith(after[:end]) or len(before) < done:
                raise TokenizerError(
                    f"{self.name}: cannot tell where the reply in message {number + 1} begins and ends",
                    hint="Put {% generation %} and {% endgeneration %} around the reply in the template.",
                )
            made += (
                whole[done : len(before)]
                + marks.of(BEGIN_REPLY)
                + whole[len(before) : end]
                + marks.of(END_REPLY)
            )
            done = end
        return made + whole[done:]

    def _pieces(self, text: str, inputs: Sequence[str]) -> Rendered:
        pieces: list[Piece] = []
        replies: list[range] = []
        begun: int | None = None
        for part in self._marks.split(text):
            if isinstance(part, str):
                self._check_text(part, inputs)
                pieces += [part] if part else []
            elif part >= FIRST_SPECIAL:
                pieces.append(Special(self._marks.specials[part - FIRST_SPECIAL]))
            elif (part == BEGIN_REPLY) == (begun is not None):
                raise TokenizerError(
                    f"{self.name}: a reply marked by generation is inside another or cut off"
                )
            elif begun is None:
                begun = len(pieces)
            else:
                replies.append(range(begun, len(pieces)))
                begun = None
        if begun is not None:
            raise TokenizerError(f"{self.name}: a reply marked by generation has no end")
        return Rendered(pieces=tuple(pieces), replies=tuple(replies))

    def _check_text(self, text: str, inputs: Sequence[str]) -> None:
        """Text must not hold a cut mark, nor a special token's name that no message spells."""
        if self._marks.has_part(text):
            raise TokenizerError(f"{self.name}: it cuts a special token apart; write special tokens whole")
        for name in set(self._marks.names_in(text)):
            if not any(name in given for given in inputs):
                raise TokenizerError(
                    f"{self.name}: it builds the special token {name!r} from parts, which makes it text",
                    hint="Write the special token whole in the template.",
                )

    def _failure(self, error: Exception) -> TokenizerError:
        """What went wrong in a template, with its line."""
        line = error.lineno if isinstance(error, jinja2.TemplateSyntaxError) else None
        trace = error.__traceback__
        while trace is not None:
            line = trace.tb_lineno if trace.tb_frame.f_code.co_filename == "<template>" else line
            trace = trace.tb_next
        reason = self._marks.readable(" ".join(str(error).split()))[:300] or type(error).__name__
        if not isinstance(error, (_Raised, Refused, jinja2.TemplateError)):
            reason = f"{type(error).__name__}: {reason}"
        where = self.name if line is None else f"{self.name}, line {line}"
        if isinstance(error, _Raised):
            return TokenizerError(f"{where}: it refuses these messages: {reason}")
        return TokenizerError(f"{where}: {reason}", hint="Correct the template, or use the default one.")


class _Raised(Exception):
    """What raise_exception says."""


def _raise(message: object) -> None:
    raise _Raised(str(message))


def _clock(now: datetime) -> Callable[[object], str]:
    def strftime_now(form: object) -> str:
        if not isinstance(form, str) or len(form) > MAX_DATE_FORMAT:
            raise Refused(
                f"asks for a date in a format other than text of up to {MAX_DATE_FORMAT} characters"
            )
        return now.strftime(form)

    return strftime_now


class _Input:
    """A copy of what a caller gives: plain data alone, so that a template meets no object of ours."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.texts: list[str] = []
        self._left = MAX_INPUT_CHARACTERS

    def message(self, value: object) -> dict[str, Any]:
        """A message, which is an object."""
        if not isinstance(value, Mapping):
            raise TokenizerError(
                f"{self.name}: a message is a {type(value).__name__}; allowed: an object of role and content"
            )
        return cast("dict[str, Any]", self.copied(cast("Mapping[object, object]", value), depth=0))

    def copied(self, value: object, *, depth: int) -> object:
        """The value as dicts, lists, texts, numbers, booleans and None."""
        if depth > MAX_INPUT_DEPTH:
            raise TokenizerError(f"{self.name}: messages nested more than {MAX_INPUT_DEPTH} levels deep")
        if isinstance(value, str):
            self.texts.append(value)
            self._left -= len(value)
            if self._left < 0:
                raise TokenizerError(
                    f"{self.name}: messages of more than {MAX_INPUT_CHARACTERS} characters",
                    hint="Give the older part of the conversation as a saved state.",
                )
            return str(value)
        if value is None or isinstance(value, (bool, int, float)):
            return value
        if isinstance(value, Mapping):
            return {
                str(self.copied(key, depth=depth + 1)): self.copied(item, depth=depth + 1)
                for key, item in cast("Mapping[object, object]", value).items()
            }
        if isinstance(value, (list, tuple)):
            return [self.copied(item, depth=depth + 1) for item in cast("Sequence[object]", value)]
        raise TokenizerError(
            f"{self.name}: a {type(value).__name__} in the messages; allowed: text, numbers, lists, objects"
        )
