"""How a template's own special tokens are told from a message that spells the same.

The template's side is marked, not the message's: each special token in the template's source is replaced, in
the parsed tree, by a mark that holds a secret. After rendering, marks are special tokens, all else is text.
So whatever a message says, in one part or several, whatever the template does to it, it stays text.
"""

import re
import secrets
from collections.abc import Sequence
from typing import TypeVar, cast

from jinja2 import Environment, nodes
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.visitor import NodeTransformer

_SECRET_LENGTH = 12
_SECRET_LETTERS = range(0xE000, 0xF900)
_FIRST_INDEX = 0xF0000
_LAST_INDEX = 0xFFFFD
_PIECE_OF_SECRET = 4

BEGIN_REPLY, END_REPLY, FIRST_SPECIAL = 0, 1, 2
MAX_SPECIALS = _LAST_INDEX - _FIRST_INDEX + 1 - FIRST_SPECIAL

# Methods whose strings are compared with a message's text, so they must stay as the template has them.
_MATCHING_METHODS = (
    "count endswith find index lstrip partition removeprefix removesuffix rfind rpartition rsplit rstrip "
    "split startswith strip"
)
_Node = TypeVar("_Node", bound=nodes.Node)


class Marks:
    """Marks for some special tokens, and for the begin and end of a reply. All are of one length."""

    def __init__(self, specials: Sequence[str]) -> None:
        self.specials = tuple(specials)
        self.secret = "".join(chr(secrets.choice(_SECRET_LETTERS)) for _ in range(_SECRET_LENGTH))
        self.pattern = re.compile(f"{self.secret}([{chr(_FIRST_INDEX)}-{chr(_LAST_INDEX)}])")
        self._index = {name: FIRST_SPECIAL + number for number, name in enumerate(self.specials)}
        longest_first = sorted(self.specials, key=len, reverse=True)
        self._names = re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")

    @property
    def length(self) -> int:
        """The characters of a mark."""
        return _SECRET_LENGTH + 1

    def of(self, index: int) -> str:
        """The mark of a special token's index, or of BEGIN_REPLY or END_REPLY."""
        return self.secret + chr(_FIRST_INDEX + index)

    def of_name(self, name: str) -> str:
        """The mark of a special token's name."""
        return self.of(self._index[name])

    def marked(self, text: str) -> str:
        """Trusted text, every special token's name in it replaced by its mark."""
        return self._names.sub(lambda found: self.of_name(found.group()), text)

    def split(self, text: str) -> list[str | int]:
        """Rendered text as pieces of text and indices of marks."""
        parts = self.pattern.split(text)
        return [ord(part) - _FIRST_INDEX if number % 2 else part for number, part in enumerate(parts)]

    def readable(self, text: str) -> str:
        """A text with names instead of marks, for messages."""
        shown = ["" if isinstance(part, int) and part < FIRST_SPECIAL else part for part in self.split(text)]
        return "".join(
            self.specials[part - FIRST_SPECIAL] if isinstance(part, int) else part for part in shown
        ).replace(self.secret, "")

    def has_part(self, text: str) -> bool:
        """Whether a piece of a mark is left in a text."""
        cuts = range(_SECRET_LENGTH - _PIECE_OF_SECRET + 1)
        return any(self.secret[cut : cut + _PIECE_OF_SECRET] in text for cut in cuts)

    def names_in(self, text: str) -> list[str]:
        """The names of special tokens that a text spells."""
        return self._names.findall(text)


class Marker(NodeTransformer):
    """Marks the special tokens in a parsed template: in its text and in the strings that it may put out."""

    def __init__(self, marks: Marks) -> None:
        self._marks = marks

    def visit_TemplateData(self, node: nodes.TemplateData) -> nodes.Node:
        node.data = self._marks.marked(node.data)
        return node

    def visit_Const(self, node: nodes.Const) -> nodes.Node:
        if isinstance(node.value, str):
            node.value = self._marks.marked(node.value)
        return node

    def visit_Compare(self, node: nodes.Compare) -> nodes.Node:
        return node

    def visit_Test(self, node: nodes.Test) -> nodes.Node:
        return node

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Node:
        node.node = self._marked(node.node)
        return node

    def visit_Pair(self, node: nodes.Pair) -> nodes.Node:
        node.value = self._marked(node.value)
        return node

    def visit_Call(self, node: nodes.Call) -> nodes.Node:
        method = node.node.attr if isinstance(node.node, nodes.Getattr) else ""
        if method not in _MATCHING_METHODS.split() and method != "replace":
            return self.generic_visit(node)
        node.node = self._marked(node.node)
        if method == "replace":
            node.args[1:] = [self._marked(arg) for arg in node.args[1:]]
        return node

    def visit_Filter(self, node: nodes.Filter) -> nodes.Node:
        if node.name != "replace" or node.node is None:
            return self.generic_visit(node)
        node.node = self._marked(node.node)
        node.args[1:] = [self._marked(arg) for arg in node.args[1:]]
        return node

    def _marked(self, node: _Node) -> _Node:
        return cast(_Node, self.visit(node))


class Generation(Extension):
    """`{% generation %}reply{% endgeneration %}`: puts the two `reply_marks` of the environment around it."""

    def __init__(self, environment: Environment) -> None:
        super().__init__(environment)
        self.tags = {"generation"}

    def parse(self, parser: Parser) -> list[nodes.Node]:
        """Read the block up to its end."""
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        marks = cast("tuple[str, str]", vars(self.environment)["reply_marks"])
        begin, end = (nodes.Output([nodes.TemplateData(mark)], lineno=line) for mark in marks)
        return [begin, *body, end]
