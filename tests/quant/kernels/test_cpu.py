"""What the code-generation target may hold, and which form is chosen for it."""

import subprocess
import sys
from collections.abc import Iterator
from typing import get_args

import llvmlite.binding as llvm
import pytest

from configs.errors import UsageError
from quant import cpu
from quant.cpu import FORMS, NEEDS, Form, Target

X86 = [form for form in FORMS if "neon" not in NEEDS[form]]
ALL = frozenset({"sse4.1", "avx", "fma"}).union(*(NEEDS[form] for form in X86))


@pytest.fixture(autouse=True)
def _fresh(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv("CHIMERA_CPU", raising=False)
    cpu.own_target.cache_clear()
    yield
    monkeypatch.undo()
    cpu.own_target.cache_clear()


def on(
    monkeypatch: pytest.MonkeyPatch,
    *,
    machine: frozenset[str] = ALL,
    name: str | None = None,
    features: str | None = None,
) -> Target:
    """The target of a machine with these features and these settings of Numba."""
    monkeypatch.setattr(cpu, "machine_features", lambda: machine)
    for variable, value in (("NUMBA_CPU_NAME", name), ("NUMBA_CPU_FEATURES", features)):
        if value is None:
            monkeypatch.delenv(variable, raising=False)
        else:
            monkeypatch.setenv(variable, value)
    cpu.own_target.cache_clear()
    return cpu.target()


def test_every_form_says_what_it_needs() -> None:
    assert get_args(Form) == FORMS == tuple(NEEDS)


@pytest.mark.parametrize(
    ("name", "form"),
    [
        (None, "avx512vbmi"),
        ("x86-64", "plain"),
        ("x86-64-v2", "ssse3"),
        ("ivybridge", "ssse3"),
        ("x86-64-v3", "avx2"),
        ("haswell", "avx2"),
        ("alderlake", "avxvnni"),
        ("skylake-avx512", "avx512"),
        ("cascadelake", "avx512vnni"),
        ("icelake-server", "avx512vbmi"),
        ("znver4", "avx512vbmi"),
        ("a-cpu-of-tomorrow", "plain"),
        ("generic", "plain"),
    ],
)
def test_a_name_decides_the_form(monkeypatch: pytest.MonkeyPatch, name: str | None, form: Form) -> None:
    target = on(monkeypatch, name=name)
    assert cpu.allowed_forms()[0] == form
    choice = cpu.choose(FORMS)
    assert choice.form == form
    assert target.name in choice.reason


def test_a_name_takes_nothing_that_the_machine_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    avx2_machine = cpu.named_features("haswell") or frozenset()
    target = on(monkeypatch, name="skylake-avx512", machine=avx2_machine)
    assert target.features == avx2_machine


def test_features_that_the_machine_lacks_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    avx2_machine = cpu.named_features("haswell") or frozenset()
    with pytest.raises(UsageError, match="lacks avx512bw, avx512dq, avx512f, avx512vl"):
        on(monkeypatch, name="skylake-avx512", features="", machine=avx2_machine)
    with pytest.raises(UsageError, match=r"NUMBA_CPU_FEATURES=.*lacks avx512f"):
        on(monkeypatch, features="+avx512f", machine=avx2_machine)


def test_an_unknown_name_is_said_to_be_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "not in our list" in on(monkeypatch, name="a-cpu-of-tomorrow").origin


@pytest.mark.parametrize(
    ("start", "spelled", "end"),
    [
        (frozenset(), "+avx2", {"avx2", "avx", "sse4.1", "ssse3"}),
        (frozenset(), "+avx2,+sha,-bmi", {"avx2", "avx", "sse4.1", "ssse3"}),
        (ALL, "-avx512f", {"ssse3", "sse4.1", "avx", "avx2", "f16c", "fma", "avxvnni"}),
        (ALL, "-avx2", {"ssse3", "sse4.1", "avx", "f16c", "fma"}),
        (ALL, "-sse4.1,+f16c", {"ssse3", "sse4.1", "avx", "f16c"}),
        (ALL, "", ALL),
    ],
)
def test_feature_strings_are_read_as_llvm_reads_them(
    start: frozenset[str], spelled: str, end: set[str]
) -> None:
    assert cpu.apply_features(start, spelled=spelled) == end


def test_features_of_the_host_outweigh_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    spelled = ",".join(f"-{feature}" for feature in sorted(ALL))
    assert on(monkeypatch, name="znver4", features=spelled).features == frozenset()


def test_chimera_cpu_sets_the_best_form(monkeypatch: pytest.MonkeyPatch) -> None:
    on(monkeypatch)
    monkeypatch.setenv("CHIMERA_CPU", "avx2")
    choice = cpu.choose(FORMS)
    assert choice.form == "avx2"
    assert "avx512vnni is barred by CHIMERA_CPU=avx2" in choice.reason
    assert cpu.choose(("avx512vnni", "plain")).form == "plain", "the next form below, where there is no avx2"


def test_chimera_cpu_is_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    on(monkeypatch, machine=cpu.named_features("haswell") or frozenset())
    monkeypatch.setenv("CHIMERA_CPU", "avx512vnni")
    with pytest.raises(UsageError, match=r"lacks avx512bw.*\n.*avx2 or ssse3 or plain"):
        cpu.choose(FORMS)
    monkeypatch.setenv("CHIMERA_CPU", "mmx")
    with pytest.raises(UsageError, match="CHIMERA_CPU=mmx is not known"):
        cpu.choose(FORMS)


def test_a_refused_form_is_passed_over_with_its_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    on(monkeypatch)
    choice = cpu.choose(("avx512vnni", "avx2"), refused={"avx512vnni": "3 of 9 elements are wrong"})
    assert choice.form == "avx2"
    assert "avx512vnni failed: 3 of 9 elements are wrong" in choice.reason


def test_no_form_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    on(monkeypatch, name="x86-64")
    with pytest.raises(UsageError, match="avx2 needs avx2, f16c"):
        cpu.choose(("avx2",))


# LLVM is asked by code that it can make for any target, in two ways of which one shows the feature.
PROBES = """
declare <4 x i64> @llvm.abs.v4i64(<4 x i64>, i1)
declare <4 x float> @llvm.rint.v4f32(<4 x float>)
declare <4 x float> @llvm.fma.v4f32(<4 x float>, <4 x float>, <4 x float>)
define <16 x i8> @ssse3(<16 x i8> %a) {
  %r = shufflevector <16 x i8> %a, <16 x i8> undef, <16 x i32> <i32 3, i32 0, i32 2, i32 1, i32 7, i32 15,
    i32 6, i32 4, i32 11, i32 9, i32 10, i32 8, i32 5, i32 14, i32 12, i32 13>
  ret <16 x i8> %r }
define <4 x float> @sse41(<4 x float> %a) {
  %r = call <4 x float> @llvm.rint.v4f32(<4 x float> %a)
  ret <4 x float> %r }
define <8 x float> @avx(<8 x float> %a) { %r = fadd <8 x float> %a, %a ret <8 x float> %r }
define <8 x i32> @avx2(<8 x i32> %a, <8 x i32> %b) { %r = sub <8 x i32> %a, %b ret <8 x i32> %r }
define <4 x float> @f16c(<4 x half> %a) { %r = fpext <4 x half> %a to <4 x float> ret <4 x float> %r }
define <4 x float> @fma(<4 x float> %a, <4 x float> %b, <4 x float> %c) {
  %r = call <4 x float> @llvm.fma.v4f32(<4 x float> %a, <4 x float> %b, <4 x float> %c)
  ret <4 x float> %r }
define <16 x i32> @avx512f(<16 x i32> %a, <16 x i32> %b) { %r = sub <16 x i32> %a, %b ret <16 x i32> %r }
define <64 x i8> @avx512bw(<64 x i8> %a, <64 x i8> %b) { %r = sub <64 x i8> %a, %b ret <64 x i8> %r }
define <8 x i64> @avx512dq(<8 x i64> %a, <8 x i64> %b) { %r = mul <8 x i64> %a, %b ret <8 x i64> %r }
define <4 x i64> @avx512vl(<4 x i64> %a) {
  %r = call <4 x i64> @llvm.abs.v4i64(<4 x i64> %a, i1 0)
  ret <4 x i64> %r }
define <64 x i8> @avx512vbmi(<64 x i8> %a) {
  %r = shufflevector <64 x i8> %a, <64 x i8> undef, <64 x i32> <LANES>
  ret <64 x i8> %r }
""".replace("LANES", ", ".join(f"i32 {13 * place % 64}" for place in range(64)))
SIGNS = {
    "ssse3": "pshufb",
    "sse4.1": "roundps",
    "avx": "vaddps\t%ymm",
    "avx2": "vpsubd\t%ymm",
    "f16c": "vcvtph2ps",
    "fma": "vfmadd213ps",
    "avx512f": "vpsubd\t%zmm",
    "avx512bw": "vpsubb\t%zmm",
    "avx512dq": "vpmullq",
    "avx512vl": "vpabsq",
    "avx512vbmi": "vpermb",
}


@pytest.mark.parametrize("name", cpu.named_cpus())
def test_the_list_of_names_agrees_with_llvm(name: str) -> None:
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    machine = llvm.Target.from_triple("x86_64-unknown-linux-gnu").create_target_machine(cpu=name, opt=2)
    text = machine.emit_assembly(llvm.parse_assembly(PROBES))
    found = {feature for feature, sign in SIGNS.items() if sign in text}
    assert found == set(cpu.named_features(name) or ()) & set(SIGNS)


# An intrinsic that LLVM lacks aborts the process, so it is asked in one of its own.
DOT_PRODUCTS = """
import sys, llvmlite.binding as llvm
llvm.initialize_all_targets(); llvm.initialize_all_asmprinters()
bits, encoding = sys.argv[1], sys.argv[2]
sums, products = f"<{int(bits) // 32} x i32>", f"<{int(bits) // 8} x i8>"
module = llvm.parse_assembly(f'''
declare {sums} @llvm.x86.avx512.vpdpbusd.{bits}({sums}, {products}, {products})
define {sums} @dot({sums} %s, {products} %u, {products} %x) {{
  %r = call {sums} @llvm.x86.avx512.vpdpbusd.{bits}({sums} %s, {products} %u, {products} %x)
  ret {sums} %r }}
''')
for name in sys.argv[3:]:
    target = llvm.Target.from_triple("x86_64-unknown-linux-gnu")
    text = target.create_target_machine(cpu=name).emit_assembly(module)
    assert encoding + "vpdpbusd" in text.replace("\\t", ""), name
"""


@pytest.mark.parametrize(
    ("feature", "without", "bits", "encoding", "known"),
    [("avx512vnni", "", 512, "", "znver4"), ("avxvnni", "avx512vnni", 256, "{vex}", "alderlake")],
)
def test_every_cpu_with_vnni_has_the_instruction(
    feature: str, without: str, bits: int, encoding: str, known: str
) -> None:
    """Where a CPU has both, code takes the longer registers."""
    listed = {name: cpu.named_features(name) or frozenset[str]() for name in cpu.named_cpus()}
    names = [name for name, features in listed.items() if feature in features and without not in features]
    assert known in names
    command = [sys.executable, "-c", DOT_PRODUCTS, str(bits), encoding, *names]
    subprocess.run(command, check=True, capture_output=True)
