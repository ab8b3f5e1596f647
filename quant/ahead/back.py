"""The second half of a compiler: a kernel's text becomes an object for one level.

An object may call nothing but the short list of the system's functions, rounds after every operation, and
holds no more than its kernel.
"""

import re
import struct
from functools import cache
from typing import Any, cast

from quant import cpu
from quant.ahead.front import Text
from quant.ahead.levels import Level
from quant.ahead.loader import EXTERNALS

_DATA_LAYOUT = re.compile(r'^target datalayout = ".*"$', re.MULTILINE)
_TRIPLE = re.compile(r'^target triple = ".*"$', re.MULTILINE)
# A product and a sum in one rounding, or leave to regroup sums: the bits would depend on the target.
_LOOSE = re.compile(
    r"llvm\.(?:fma|fmuladd)\b|\bf(?:add|sub|mul|div) (?:fast|reassoc|contract|arcp|afn|nnan|ninf|nsz)\b"
)
_ELF_HEADER = struct.Struct("<16sHHIQQQIHHHHHH")
_ELF_SECTION = struct.Struct("<IIQQQQIIQQ")
_ELF_SYMBOL = struct.Struct("<IBBHQQ")
_SYMBOL_TABLE = 2


def object_of(text: Text, *, name: str, level: Level) -> bytes:
    """The object of a kernel, whose function has the kernel's name."""
    code = bytes(_machine(level).emit_object(_optimised_module(text, name=name, level=level)))
    foreign = undefined_in(code) - set(EXTERNALS)
    assert not foreign, f"{name} for {level.name} calls {', '.join(sorted(foreign))}"
    return code


def assembly_of(text: Text, *, name: str, level: Level) -> str:
    """What the object of a kernel holds, to be read."""
    return str(_machine(level).emit_assembly(_optimised_module(text, name=name, level=level)))


def _optimised_module(text: Text, *, name: str, level: Level) -> Any:
    machine = _machine(level)
    ir = _TRIPLE.sub(f'target triple = "{level.triple}"', text.ir)
    ir = _DATA_LAYOUT.sub(f'target datalayout = "{machine.target_data}"', ir)
    module = cpu.llvm.parse_assembly(ir)
    module.name = name
    for defined in (*module.functions, *module.global_variables):
        if not defined.is_declaration:
            defined.linkage = "external" if defined.name == text.symbol else "internal"
    for function in module.functions:
        # Nothing is thrown in a kernel or through it, so nobody needs tables to unwind it.
        function.add_function_attribute("nounwind")
    _optimise(module, machine)
    module.get_function(text.symbol).name = name
    assert not _LOOSE.search(str(module)), f"{name} holds loose arithmetic"
    return module


def undefined_in(code: bytes) -> set[str]:
    """The names that an ELF object leaves to others."""
    header = _ELF_HEADER.unpack_from(code)
    begin, size, count = header[6], header[11], header[12]
    sections: list[tuple[int, ...]] = [
        _ELF_SECTION.unpack_from(code, begin + size * number) for number in range(count)
    ]
    found: set[str] = set()
    for section in sections:
        if section[1] != _SYMBOL_TABLE:
            continue
        names = int(sections[section[6]][4])
        for at in range(section[4], section[4] + section[5], _ELF_SYMBOL.size):
            name, _, _, defined_in, _, _ = cast("tuple[int, ...]", _ELF_SYMBOL.unpack_from(code, at))
            if name and not defined_in:
                found.add(code[names + name : code.index(b"\0", names + name)].decode())
    return found


@cache
def _machine(level: Level) -> Any:
    llvm = cpu.llvm
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    target = llvm.Target.from_triple(level.triple)
    return target.create_target_machine(
        cpu=level.cpu, features=level.llvm_features, opt=3, reloc="pic", codemodel="small"
    )


def _optimise(module: Any, machine: Any) -> None:
    """As Numba does it: helpers are put inline cheaply, then all of it is optimised."""
    cheap = _pass_builder(machine, speed=0, vectorise=False)
    passes = cheap.getModulePassManager()
    passes.add_loop_rotate_pass()
    passes.add_instruction_combine_pass()
    passes.add_jump_threading_pass()
    passes.run(module, cheap)
    full = _pass_builder(machine, speed=3, vectorise=True)
    full.getModulePassManager().run(module, full)


def _pass_builder(machine: Any, *, speed: int, vectorise: bool) -> Any:
    options = cpu.llvm.create_pipeline_tuning_options(speed)
    options.loop_vectorization = vectorise
    options.slp_vectorization = False
    return cpu.llvm.create_pass_builder(machine, options)
