"""A jinja environment for templates that nobody here wrote: no files, no Python, a budget for the rest.

A template comes with a model file, so it is a stranger's program. jinja's immutable sandbox keeps it from
Python's internals and from changing its input. What remains is size and time: doubling a string, a list of
lists of lists, a loop in a loop. So every loop, call, filter and operator pays from one budget, values have a
greatest size, and only the attributes, filters, tests and functions in the tables below exist.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sized
from functools import wraps
from types import GeneratorType
from typing import Any, TypeAlias, cast

import jinja2.filters
import jinja2.tests
from jinja2 import TemplateSyntaxError, nodes
from jinja2.ext import Extension, LoopControlExtension
from jinja2.runtime import Context, LoopContext, Macro, Undefined
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace, pass_context
from jinja2.visitor import NodeTransformer

from configs.text.sandbox_budget import (
    MAX_BITS,
    MAX_CHARACTERS,
    Refused,
    current,
    join,
    look_at,
    paid,
    range_list,
    replace,
    text_of,
    to_json,
)

# A tenth of this is a long template. Each part costs a hundred times more to compile than to write.
MAX_PARTS = 16_384
# What the text between a loop's tags costs, in each round.
LOOP_CHARACTERS_PER_STEP = 16
MACRO_STEPS = 16

SAFE_ATTRIBUTES: dict[type, str] = {
    str: "capitalize count endswith find index isalpha isdigit islower isspace isupper join lower lstrip "
    "partition removeprefix removesuffix replace rfind rpartition rsplit rstrip split splitlines startswith "
    "strip title upper",
    dict: "get items keys values",
    list: "count index",
    tuple: "count index",
    LoopContext: "changed cycle depth depth0 first index index0 last length nextitem previtem revindex "
    "revindex0",
}
TEXT_FILTERS = "capitalize count d default float int length lower title trim upper"
SAFE_FILTERS = (
    "abs dictsort first items last list map max min reject rejectattr reverse select selectattr sort unique"
)
SAFE_TESTS = (
    "== != > >= < <= boolean callable defined divisibleby eq equalto even false float ge greaterthan gt in "
    "integer iterable le lessthan lower lt mapping ne none number odd sameas sequence string true undefined "
    "upper"
)
_Functions: TypeAlias = dict[str, Callable[..., Any]]
_WIDE_FORMAT = re.compile(r"\*|\d{4}|%\(")


def _same(value: Any) -> Any:
    """`safe` marks text as safe for HTML; nothing here is HTML."""
    return value


_OWN_FILTERS: _Functions = {
    "replace": replace,
    "join": join,
    "tojson": to_json,
    "string": text_of,
    "safe": _same,
}


def _join_with(separator: str, values: Iterable[Any]) -> str:
    return join(values, separator)


_CAREFUL_METHODS: _Functions = {"replace": replace, "join": _join_with}


def _charged(function: Callable[..., Any], *, by_character: bool = False) -> Callable[..., Any]:
    """The filter or test, paid for by what it reads and gives; jinja's marks on the function are kept."""

    @wraps(function)
    def pay_and_call(*args: Any, **kwargs: Any) -> Any:
        look_at(*args, by_character=by_character)
        return paid(function(*args, **kwargs))

    return pay_and_call


@pass_context
def _printed(_: Context, value: Any) -> str:
    """What an expression puts out. The context keeps jinja from doing this to constants when it compiles."""
    text = text_of(value)
    current().put_out(len(text))
    return text


class Metering(Extension):
    """What the rewritten template calls; no variable of a template can hide an extension's methods."""

    def loop_over(self, values: Any, cost: int) -> Any:
        """Pay for all rounds of a loop before the first."""
        if isinstance(values, Undefined):
            return values
        if not isinstance(values, Sized):
            values = paid(values if isinstance(values, GeneratorType) else (item for item in values))
        current().pay(len(cast(Sized, values)) * cost)
        return values

    def enter(self, cost: int) -> None:
        """Pay for a macro's body."""
        current().pay(MACRO_STEPS + cost)

    def concat(self, *values: Any) -> str:
        """The operator ~."""
        return join(values)

    def all_of(self, value: Any) -> Any:
        """Pay for a list, tuple, dict or slice that the template makes, or a value that it compares."""
        return paid(value)


class Rewriter(NodeTransformer):
    """Puts the calls to Metering into a parsed template and refuses what reads other templates."""

    _refused = (nodes.Include, nodes.Import, nodes.FromImport, nodes.Extends)

    def generic_visit(self, node: nodes.Node, *args: Any, **kwargs: Any) -> nodes.Node:
        if isinstance(node, self._refused):
            what = type(node).__name__.lower()
            raise TemplateSyntaxError(f"{what} reads another template, and there is none", node.lineno)
        return super().generic_visit(node, *args, **kwargs)

    def visit_For(self, node: nodes.For) -> nodes.Node:
        if node.recursive:
            raise TemplateSyntaxError("recursive loops are not allowed", node.lineno)
        node.iter = _metered("loop_over", cast(nodes.Expr, node.iter), nodes.Const(_cost(node)), at=node)
        return self.generic_visit(node)

    def visit_Macro(self, node: nodes.Macro) -> nodes.Node:
        return self._with_toll(node)

    def visit_CallBlock(self, node: nodes.CallBlock) -> nodes.Node:
        return self._with_toll(node)

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:
        self.generic_visit(node)
        return _metered("concat", *node.nodes, at=node)

    def visit_List(self, node: nodes.List) -> nodes.Node:
        return _metered("all_of", cast(nodes.Expr, self.generic_visit(node)), at=node)

    def visit_Dict(self, node: nodes.Dict) -> nodes.Node:
        return _metered("all_of", cast(nodes.Expr, self.generic_visit(node)), at=node)

    def visit_Tuple(self, node: nodes.Tuple) -> nodes.Node:
        self.generic_visit(node)
        return _metered("all_of", node, at=node) if node.ctx == "load" else node

    def visit_Compare(self, node: nodes.Compare) -> nodes.Node:
        self.generic_visit(node)
        node.expr = _metered("all_of", node.expr, at=node)
        for operand in node.ops:
            operand.expr = _metered("all_of", operand.expr, at=node)
        return node

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Node:
        self.generic_visit(node)
        return _metered("all_of", node, at=node) if isinstance(node.arg, nodes.Slice) else node

    def _with_toll(self, node: nodes.Macro | nodes.CallBlock) -> nodes.Node:
        toll = nodes.ExprStmt(_metered("enter", nodes.Const(_cost(node)), at=node))
        toll.set_lineno(node.lineno)
        node.body.insert(0, toll)
        return self.generic_visit(node)


def check_size(tree: nodes.Node) -> None:
    """Refuse a parsed template of too many parts before it is compiled, however deep they lie."""
    waiting, found = [tree], 0
    while waiting:
        waiting.extend(waiting.pop().iter_child_nodes())
        found += 1
        if found > MAX_PARTS:
            raise Refused(f"has more than {MAX_PARTS} parts")


def _metered(method: str, *args: nodes.Expr, at: nodes.Node) -> nodes.Expr:
    call = nodes.Call(nodes.ExtensionAttribute(Metering.identifier, method), list(args), [], None, None)
    call.set_lineno(at.lineno)
    return call


def _cost(node: nodes.Node) -> int:
    """The steps that one round of a body costs by its own text."""
    return 1 + sum(len(data.data) for data in node.find_all(nodes.TemplateData)) // LOOP_CHARACTERS_PER_STEP


class Sandbox(ImmutableSandboxedEnvironment):
    """The environment. `functions` are what a template may call beside range and namespace."""

    intercepted_binops = frozenset({"+", "-", "*", "/", "//", "%", "**"})

    def __init__(
        self, *, functions: Mapping[str, Callable[..., Any]], extensions: Iterable[type[Extension]]
    ) -> None:
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            finalize=_printed,
            extensions=[LoopControlExtension, Metering, *extensions],
        )
        filters = cast(_Functions, vars(jinja2.filters)["FILTERS"])
        tests = cast(_Functions, vars(jinja2.tests)["TESTS"])
        self.filters = {name: _charged(filters[name]) for name in TEXT_FILTERS.split()}
        self.filters |= {name: _charged(filters[name], by_character=True) for name in SAFE_FILTERS.split()}
        self.filters |= {name: _charged(function) for name, function in _OWN_FILTERS.items()}
        self.tests = {name: _charged(tests[name]) for name in SAFE_TESTS.split()}
        self.globals = {"range": range_list, "namespace": Namespace, **functions}

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        """Only what the table holds; a namespace's attributes are the template's own."""
        if isinstance(obj, Namespace):
            return not attr.startswith("_")
        return any(isinstance(obj, kind) and attr in names.split() for kind, names in SAFE_ATTRIBUTES.items())

    def unsafe_undefined(self, obj: Any, attribute: str) -> Undefined:
        """jinja would print nothing; say it instead."""
        raise Refused(f"uses {attribute!r} of a {type(obj).__name__}, which the sandbox has not")

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """An operator, refused before it makes something huge."""
        if operator == "**" and not (abs(left) <= 2**MAX_BITS and abs(right) <= MAX_BITS):
            raise Refused("raises to a power that is too large")
        if operator == "%" and isinstance(left, str) and _WIDE_FORMAT.search(left):
            raise Refused("formats with a width that is too large")
        if operator == "*":
            for value, count in ((left, right), (right, left)):
                if (
                    isinstance(value, Sized)
                    and isinstance(count, int)
                    and len(value) * count > MAX_CHARACTERS
                ):
                    raise Refused("repeats a value too often")
        return paid(super().call_binop(context, operator, left, right))

    def wrap_str_format(self, value: Any) -> None:
        """No str.format: a width in it makes a text of any size."""

    def call(self, context: Context, obj: Any, /, *args: Any, **kwargs: Any) -> Any:
        """A call, with the two methods that multiply sizes replaced by careful ones."""
        owner = getattr(obj, "__self__", None)
        look_at(owner, *args)
        if isinstance(owner, str) and obj.__name__ in _CAREFUL_METHODS:
            # jinja gives variables of its own to every call in a loop; its own call, not reached, drops them.
            given = {key: value for key, value in kwargs.items() if not key.startswith("_")}
            return paid(_CAREFUL_METHODS[obj.__name__](owner, *args, **given))
        value = super().call(context, obj, *args, **kwargs)
        is_paid = isinstance(owner, Metering) or isinstance(obj, Macro) or isinstance(value, Namespace)
        return value if is_paid else paid(value)
