"""What the code-generation target can do, and so which form of a kernel may run.

LLVM aborts the whole process when it meets an intrinsic that its target lacks, and a CPU stops a program that
holds an instruction it lacks. So a form is allowed only if the target has all that it needs, and the target
is refused if the machine has less. The target is Numba's: the host, or what NUMBA_CPU_NAME and
NUMBA_CPU_FEATURES say.
"""

# pyright: reportMissingTypeStubs=false

import os
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal, cast, get_args

import llvmlite.binding as _llvm

from configs.errors import UsageError
from quant import cpu_arm
from quant.layout_names import LAYOUTS, Layout

llvm = cast(Any, _llvm)

Form = Literal["avx512vbmi", "avx512vnni", "avxvnni", "avx512", "avx2", "ssse3", "neon-dot", "neon", "plain"]

FORMS: tuple[Form, ...] = get_args(Form)
"""Best first. `plain` is portable vector code, which LLVM lowers for any CPU."""

_BY_NAME: dict[str, Form] = {form: form for form in FORMS}
_AVX512 = frozenset({"avx512f", "avx512bw", "avx512dq", "avx512vl", "f16c"})

NEEDS: dict[Form, frozenset[str]] = {
    "avx512vbmi": _AVX512 | {"avx512vnni", "avx512vbmi"},
    "avx512vnni": _AVX512 | {"avx512vnni"},
    "avxvnni": frozenset({"avx2", "f16c", "avxvnni"}),
    "avx512": _AVX512,
    "avx2": frozenset({"avx2", "f16c"}),
    "ssse3": frozenset({"ssse3"}),
    "neon-dot": frozenset({"neon", "dotprod"}),
    "neon": frozenset({"neon"}),
    "plain": frozenset(),
}

# LLVM turns on what a feature rests upon, and turns off what rests upon it.
_RESTS_ON: dict[str, tuple[str, ...]] = {
    "sse4.1": ("ssse3",),
    "avx": ("sse4.1",),
    "avx2": ("avx",),
    "f16c": ("avx",),
    "fma": ("avx",),
    "avxvnni": ("avx2",),
    "avx512f": ("avx2", "f16c", "fma"),
    "avx512bw": ("avx512f",),
    "avx512dq": ("avx512f",),
    "avx512vl": ("avx512f",),
    "avx512vnni": ("avx512f",),
    "avx512vbmi": ("avx512bw",),
    "dotprod": ("neon",),
}

_V2 = frozenset({"ssse3", "sse4.1"})
_SANDY = _V2 | {"avx"}
_V3 = _SANDY | {"avx2", "f16c", "fma"}
_V4 = _V3 | {"avx512f", "avx512bw", "avx512dq", "avx512vl"}
_VNNI = _V4 | {"avx512vnni"}
_VBMI = _VNNI | {"avx512vbmi"}
_VBMI_BOTH = _VBMI | {"avxvnni"}

# LLVM does not say what a CPU's name stands for, so the names are listed; any other name gets `plain`.
_NAMED: dict[str, frozenset[str]] = {
    "generic": frozenset(),
    "x86-64": frozenset(),
    "core2": frozenset({"ssse3"}),
    "penryn": _V2,
    **dict.fromkeys(("x86-64-v2", "nehalem", "corei7", "westmere", "silvermont", "goldmont", "tremont"), _V2),
    **dict.fromkeys(("sandybridge", "corei7-avx"), _SANDY),
    **dict.fromkeys(("ivybridge", "core-avx-i", "btver2"), _SANDY | {"f16c"}),
    **dict.fromkeys(("x86-64-v3", "haswell", "core-avx2", "broadwell", "skylake"), _V3),
    **dict.fromkeys(("znver1", "znver2", "znver3"), _V3),
    **dict.fromkeys(("gracemont", "alderlake", "raptorlake", "meteorlake"), _V3 | {"avxvnni"}),
    **dict.fromkeys(
        ("arrowlake", "lunarlake", "pantherlake", "sierraforest", "grandridge"), _V3 | {"avxvnni"}
    ),
    **dict.fromkeys(("x86-64-v4", "skylake-avx512", "skx"), _V4),
    "cannonlake": _V4 | {"avx512vbmi"},
    **dict.fromkeys(("cascadelake", "cooperlake"), _VNNI),
    **dict.fromkeys(("icelake-client", "icelake-server", "tigerlake", "rocketlake", "znver4"), _VBMI),
    **dict.fromkeys(("sapphirerapids", "emeraldrapids", "graniterapids", "znver5"), _VBMI_BOTH),
}


# Numba makes no AVX code for them unless it is told to.
_AVX_IS_SLOW = frozenset({"corei7-avx", "core-avx-i", "sandybridge", "ivybridge", "nocona"})


@dataclass(frozen=True, kw_only=True, slots=True)
class Target:
    """What code is generated for."""

    architecture: str
    """First part of the triple, such as x86_64 or aarch64."""
    name: str
    """CPU name as LLVM knows it."""
    features: frozenset[str]
    """Those of the features named in this module that kernels may use."""
    origin: str
    """Where this was taken from, in words."""

    def has(self, feature: str) -> bool:
        return feature in self.features

    def allows(self, form: Form) -> bool:
        return NEEDS[form] <= self.features

    def lacks(self, form: Form) -> tuple[str, ...]:
        return tuple(sorted(NEEDS[form] - self.features))


@dataclass(frozen=True, kw_only=True, slots=True)
class Choice:
    """The form taken for one operation and the reason, which `chimera doctor` prints."""

    form: Form
    reason: str


_stand_ins: list[Target] = []


def stand_for(other: Target) -> None:
    """From here on code is made for another target, which this machine need not be able to run."""
    _stand_ins.append(other)


def target() -> Target:
    """What code is made for: the target of this process, unless it stands for another."""
    return _stand_ins[-1] if _stand_ins else own_target()


@lru_cache(maxsize=1)
def own_target() -> Target:
    """The code-generation target of this process, checked against the machine."""
    machine = machine_features()
    # As Numba reads them; Numba itself is not loaded for it.
    name, spelled = os.environ.get("NUMBA_CPU_NAME"), os.environ.get("NUMBA_CPU_FEATURES")
    if name is None and spelled is None:
        host = str(llvm.get_host_cpu_name())
        if architecture() == "aarch64":
            machine &= cpu_arm.features_of_code(host, told=host_features())
        return Target(architecture=architecture(), name=host, features=machine, origin="this machine")
    if name is None:
        name, origin = str(llvm.get_host_cpu_name()), f"NUMBA_CPU_FEATURES={spelled}"
        features = apply_features(named_features(name) or _base_features(), spelled=spelled or "")
    elif spelled is None:
        # Numba adds the host's features to the name; we still hold to the name, which is what was asked for.
        origin = f"NUMBA_CPU_NAME={name}"
        features = (named_features(name) or _base_features()) & machine
    else:
        origin = f"NUMBA_CPU_NAME={name} NUMBA_CPU_FEATURES={spelled}"
        features = apply_features(named_features(name) or _base_features(), spelled=spelled)
    missing = sorted(features - machine)
    if missing:
        raise UsageError(
            f"{origin} asks for code that this machine cannot run: it lacks {', '.join(missing)}",
            hint="Unset it, or name a CPU that this machine is able to stand for, such as x86-64.",
        )
    if named_features(name) is None:
        origin += f" (the name {name!r} is not in our list, so no feature is taken from it)"
    return Target(architecture=architecture(), name=name, features=features, origin=origin)


def named_features(name: str) -> frozenset[str] | None:
    """Features of a CPU name of this architecture, or None for a name that is not listed."""
    return (cpu_arm.NAMED if architecture() == "aarch64" else _NAMED).get(name.lower())


def _base_features() -> frozenset[str]:
    """Those that every CPU of this architecture has."""
    return frozenset({"neon"} if architecture() == "aarch64" else ())


def named_cpus() -> tuple[str, ...]:
    return tuple(_NAMED)


def apply_features(features: frozenset[str], *, spelled: str) -> frozenset[str]:
    """Features after a string such as `+avx2,-avx512f`, read from left to right as LLVM does."""
    have = set(features)
    for item in filter(None, (part.strip() for part in spelled.split(","))):
        sign, feature = item[0], item[1:]
        if sign == "+" and (feature in _RESTS_ON or feature in ("ssse3", "neon")):
            have |= _foundations(feature)
        elif sign == "-":
            have = {other for other in have if feature not in _foundations(other)}
    return frozenset(have)


def cap() -> Form:
    """Best form that CHIMERA_CPU allows."""
    asked = os.environ.get("CHIMERA_CPU", "")
    if not asked:
        return FORMS[0]
    name, plus, layout = asked.partition("+")
    form = _BY_NAME.get(name)
    if form is None or (plus and layout not in LAYOUTS):
        raise UsageError(
            f"CHIMERA_CPU={asked} is not known",
            hint=f"Set it to one of {', '.join(FORMS)}, or one with +{' or +'.join(LAYOUTS)} behind it; or "
            "unset it.",
        )
    if not target().allows(form):
        raise UsageError(
            f"CHIMERA_CPU={asked} cannot work here: {target().name} ({target().origin}) lacks "
            f"{', '.join(target().lacks(form))}",
            hint="Unset CHIMERA_CPU, or set it to " + " or ".join(allowed_forms()) + ".",
        )
    return form


def forced_layout() -> Layout | None:
    """How CHIMERA_CPU wants ternary codes to lie; None where it is not set, and a measurement decides."""
    asked = os.environ.get("CHIMERA_CPU", "")
    if not asked:
        return None
    cap()  # what is not known is refused
    for layout in LAYOUTS:
        if asked.endswith(f"+{layout}"):
            return layout
    return LAYOUTS[0]


def allowed_forms() -> tuple[Form, ...]:
    """Forms that the target allows, best first."""
    return tuple(form for form in FORMS if target().allows(form))


def choose(available: Iterable[Form], *, refused: dict[Form, str] | None = None) -> Choice:
    """Best of the available forms that the target, CHIMERA_CPU and the self-check (`refused`: why) leave."""
    have, best, refused = set(available), cap(), refused or {}
    passed_over: list[str] = []
    for form in FORMS:
        if form not in have or not _is_made_for(form, target().architecture):
            continue
        if FORMS.index(form) < FORMS.index(best):
            passed_over.append(f"{form} is barred by CHIMERA_CPU={best}")
        elif not target().allows(form):
            passed_over.append(f"{form} needs {', '.join(target().lacks(form))}")
        elif form in refused:
            passed_over.append(f"{form} failed: {refused[form]}")
        else:
            found = f"{target().name}, from {target().origin}"
            return Choice(form=form, reason="; ".join([found, *passed_over]))
    raise UsageError(
        f"no form of this kernel can run here: {'; '.join(passed_over) or 'it has none'}",
        hint="Unset CHIMERA_CPU and NUMBA_CPU_NAME; if that does not help, please report it.",
    )


def _is_made_for(form: Form, architecture: str) -> bool:
    """Whether a form is one of this architecture at all."""
    return not NEEDS[form] or ("neon" in NEEDS[form]) == (architecture == "aarch64")


def _foundations(feature: str) -> set[str]:
    """A feature and all that it rests upon."""
    return {feature}.union(*(_foundations(below) for below in _RESTS_ON.get(feature, ())))


@lru_cache(maxsize=1)
def machine_features() -> frozenset[str]:
    """Features of the machine itself, as far as they matter here."""
    found = host_features()
    if architecture() == "aarch64":
        return cpu_arm.machine_features(str(llvm.get_host_cpu_name()), told=found)
    known = {"ssse3", *_RESTS_ON}
    enabled = frozenset(name for name in known if found.get(name, False))
    if not _avx_is_wanted():
        return frozenset(name for name in enabled if "avx" not in _foundations(name))
    return enabled


@lru_cache(maxsize=1)
def host_features() -> dict[str, bool]:
    """All that LLVM tells of the machine's features, by its own names; empty where it cannot tell."""
    try:
        return cast("dict[str, bool]", llvm.get_host_cpu_features())
    except RuntimeError:  # Numba takes it as "none" too
        return {}


@lru_cache(maxsize=1)
def architecture() -> str:
    """First part of this process's triple."""
    return str(llvm.get_process_triple()).split("-", maxsplit=1)[0]


def _avx_is_wanted() -> bool:
    """As Numba decides it, whose code is to be allowed no less and no more."""
    asked = os.environ.get("NUMBA_ENABLE_AVX")
    if asked is not None:
        return asked.strip() != "0"
    name = os.environ.get("NUMBA_CPU_NAME") or str(llvm.get_host_cpu_name())
    return name not in _AVX_IS_SLOW
