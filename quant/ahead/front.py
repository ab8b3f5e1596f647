"""The first half of a compiler: a kernel as LLVM's text, for a target that this machine need not be.

Numba takes a kernel as far as its text, all helpers in, nothing optimised and nothing run. What the text
depends on besides the sources is written down: each question that a helper asked of the target. Targets that
answer alike share it.

It stands on Numba's insides, and it takes the process over: who calls `take_over` compiles nothing else.
"""

# pyright: reportMissingTypeStubs=false

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, cast

import numba as _numba
from numba.core import codegen as _codegen
from numba.core import compiler_lock as _compiler_lock
from numba.core import cpu as _numba_cpu

from quant import cpu, jit

codegen, compiler_lock, numba_cpu = cast(Any, _codegen), cast(Any, _compiler_lock), cast(Any, _numba_cpu)
make_function = cast(Any, _numba)._dynfunc.make_function

Answers = Mapping[str, object]
"""What a target said to each question."""

_asked: set[str] = set()


@dataclass(frozen=True, kw_only=True, slots=True)
class Text:
    """A kernel as LLVM's text."""

    ir: str
    symbol: str
    """Its function in the text."""
    questions: frozenset[str]
    """What was asked of the target on the way."""

    def answers(self, target: cpu.Target) -> Answers:
        """What another target says to the same questions."""
        return {question: _answer(question, target) for question in self.questions}


class _Questioned(cpu.Target):
    """A target that writes down what it is asked."""

    __slots__ = ()

    def has(self, feature: str) -> bool:
        _asked.add(f"has {feature}")
        return feature in object.__getattribute__(self, "features")

    def __getattribute__(self, name: str) -> Any:
        if name in ("architecture", "name", "features"):
            _asked.add(name)
        return object.__getattribute__(self, name)


def take_over() -> None:
    """From here on this process makes texts alone: Numba neither optimises, nor makes code, nor keeps it."""
    library = codegen.CPUCodeLibrary
    add_ir_module = library.add_ir_module

    def add_and_note(self: Any, module: Any) -> None:
        self.questions = getattr(self, "questions", frozenset[str]()) | _asked
        _asked.clear()
        add_ir_module(self, module)

    library.add_ir_module = add_and_note
    library._optimize_functions = _nothing
    library._optimize_final_module = _nothing
    codegen.JITCodeLibrary._finalize_specific = _nothing
    codegen.CPUCodegen._add_module = _nothing
    numba_cpu.CPUContext.get_executable = _never_called
    jit.forget_cache()


def questioned(target: cpu.Target) -> cpu.Target:
    """The same target, which is asked under watch."""
    return _Questioned(
        architecture=target.architecture, name=target.name, features=target.features, origin=target.origin
    )


def text_of(function: Callable[..., Any]) -> Text:
    """A kernel's text for the target that this process stands for."""
    apart = cast(Any, jit.apart(function))
    jit.prepare(apart)
    (compiled,) = apart.overloads.values()
    with compiler_lock.global_compiler_lock:
        compiled.library._ensure_finalized()
    return Text(
        ir=str(compiled.library.get_llvm_str()),
        symbol=str(compiled.fndesc.llvm_func_name),
        questions=_questions_of(compiled.library, seen=set()),
    )


def _questions_of(library: Any, *, seen: set[int]) -> frozenset[str]:
    """Those of a library and of all that it is linked with."""
    seen.add(id(library))
    found = cast("frozenset[str]", getattr(library, "questions", frozenset[str]()))
    for other in library._linking_libraries:
        if id(other) not in seen:
            found |= _questions_of(other, seen=seen)
    return found


def _answer(question: str, target: cpu.Target) -> object:
    if question.startswith("has "):
        return target.has(question.removeprefix("has "))
    return getattr(target, question)


def _nothing(*_: object) -> None:
    """In the place of a step that is left out."""


def _never_called(_context: Any, library: Any, description: Any, environment: Any) -> Any:
    """Numba wants a function of Python's for each library; these would lead nowhere."""
    name = description.qualname.split(".")[-1]
    return make_function(description.lookup_module(), name, "", 1, environment, (library,))
