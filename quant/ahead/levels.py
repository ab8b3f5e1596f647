"""The targets that kernels are compiled for ahead of time, and which of them a machine can run.

A level stands for all CPUs that have at least its features. One that differs from its base in a few
instructions alone holds no more than the kernels that use them; all others are found in the base.
"""

from collections.abc import Mapping
from dataclasses import dataclass

X86, ARM = "x86_64", "aarch64"
TRIPLES: dict[str, str] = {X86: "x86_64-unknown-linux-gnu", ARM: "aarch64-unknown-linux-gnu"}

_V2 = frozenset({"cx16", "popcnt", "sahf", "sse3", "sse4.1", "sse4.2", "ssse3"})
_V3 = _V2 | {"avx", "avx2", "bmi", "bmi2", "f16c", "fma", "lzcnt", "movbe", "xsave"}
_V4 = _V3 | {"avx512bw", "avx512cd", "avx512dq", "avx512f", "avx512vl"}
_VNNI = _V4 | {"avx512vnni"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Level:
    """A target of code made ahead of time."""

    name: str
    architecture: str
    cpu: str
    """As LLVM names it."""
    needs: frozenset[str]
    """All features, by LLVM's names, that the code may use beyond what every CPU of the architecture has."""
    extra: tuple[str, ...] = ()
    """Those of them that the CPU's name does not stand for."""
    base: str = ""
    """The level whose code serves wherever these features make no difference."""

    @property
    def triple(self) -> str:
        return TRIPLES[self.architecture]

    @property
    def llvm_features(self) -> str:
        return ",".join(f"+{feature}" for feature in self.extra)


LEVELS: tuple[Level, ...] = (
    Level(
        name="x86-64-v4-vbmi",
        architecture=X86,
        cpu="x86-64-v4",
        needs=_VNNI | {"avx512vbmi"},
        extra=("avx512vnni", "avx512vbmi"),
        base="x86-64-v4-vnni",
    ),
    Level(
        name="x86-64-v4-vnni",
        architecture=X86,
        cpu="x86-64-v4",
        needs=_VNNI,
        extra=("avx512vnni",),
        base="x86-64-v4",
    ),
    Level(name="x86-64-v4", architecture=X86, cpu="x86-64-v4", needs=_V4),
    Level(
        name="x86-64-v3-vnni",
        architecture=X86,
        cpu="x86-64-v3",
        needs=_V3 | {"avxvnni"},
        extra=("avxvnni",),
        base="x86-64-v3",
    ),
    Level(name="x86-64-v3", architecture=X86, cpu="x86-64-v3", needs=_V3),
    Level(name="x86-64-v2", architecture=X86, cpu="x86-64-v2", needs=_V2, base="x86-64"),
    Level(name="x86-64", architecture=X86, cpu="x86-64", needs=frozenset()),
    Level(
        name="aarch64-dotprod",
        architecture=ARM,
        cpu="generic",
        needs=frozenset({"neon", "dotprod"}),
        extra=("dotprod",),
        base="aarch64",
    ),
    Level(name="aarch64", architecture=ARM, cpu="generic", needs=frozenset({"neon"})),
)
"""Best first."""

LEVEL_NAMES = tuple(level.name for level in LEVELS)


def level_named(name: str) -> Level:
    return next(level for level in LEVELS if level.name == name)


def runnable(architecture: str, features: Mapping[str, bool]) -> tuple[Level, ...]:
    """The levels whose code a machine with these features of LLVM's can run, best first."""
    have = {feature for feature, is_there in features.items() if is_there}
    if architecture == ARM:
        # Every 64-bit ARM of a Linux system has it, also where LLVM cannot tell.
        have.add("neon")
    return tuple(level for level in LEVELS if level.architecture == architecture and level.needs <= have)
