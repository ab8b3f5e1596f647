"""Which form an ARM machine gets, and that the list of its CPUs is LLVM's."""

from collections.abc import Iterator

import llvmlite.binding as llvm
import pytest

from configs.errors import UsageError
from quant import cpu, cpu_arm
from quant.cpu import FORMS, Target


@pytest.fixture(autouse=True)
def _fresh(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in ("CHIMERA_CPU", "NUMBA_CPU_NAME", "NUMBA_CPU_FEATURES"):
        monkeypatch.delenv(name, raising=False)
    cpu.own_target.cache_clear()
    yield
    monkeypatch.undo()
    cpu.own_target.cache_clear()


def on(
    monkeypatch: pytest.MonkeyPatch, *, machine: frozenset[str] = cpu_arm.FEATURES, host: str = "neoverse-n1"
) -> Target:
    """The target of an ARM machine with these features, of which LLVM knows the name."""
    monkeypatch.setattr(cpu, "architecture", lambda: "aarch64")
    monkeypatch.setattr(cpu, "machine_features", lambda: machine)
    monkeypatch.setattr(cpu, "host_features", lambda: {"neon": True})
    monkeypatch.setattr(cpu, "llvm", type("Llvm", (), {"get_host_cpu_name": staticmethod(lambda: host)}))
    return cpu.own_target()


@pytest.mark.parametrize(
    ("machine", "host", "form"),
    [
        (cpu_arm.FEATURES, "neoverse-n1", "neon-dot"),
        (cpu_arm.FEATURES, "apple-m1", "neon-dot"),
        (frozenset({"neon"}), "cortex-a72", "neon"),
        # LLVM would make no dot product for a name that it does not know, and stop at the instruction.
        (cpu_arm.FEATURES, "generic", "neon"),
        # A kernel of the system may hide what the name stands for.
        (frozenset({"neon"}), "neoverse-n1", "neon"),
    ],
)
def test_the_machine_decides_the_form(
    monkeypatch: pytest.MonkeyPatch, machine: frozenset[str], host: str, form: str
) -> None:
    on(monkeypatch, machine=machine, host=host)
    choice = cpu.choose(FORMS)
    assert choice.form == form
    assert "avx" not in choice.reason, "what is of another architecture is not worth a word"


def test_chimera_cpu_forces_the_form_without_dot_product(monkeypatch: pytest.MonkeyPatch) -> None:
    on(monkeypatch)
    monkeypatch.setenv("CHIMERA_CPU", "neon")
    assert cpu.choose(FORMS).form == "neon"
    monkeypatch.setenv("CHIMERA_CPU", "avx2")
    with pytest.raises(UsageError, match=r"lacks avx2, f16c\n.*neon-dot or neon or plain"):
        cpu.choose(FORMS)


def test_a_name_decides_on_arm_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NUMBA_CPU_NAME", "cortex-a72")
    assert on(monkeypatch).features == {"neon"}
    cpu.own_target.cache_clear()
    monkeypatch.setenv("NUMBA_CPU_FEATURES", "+dotprod")
    assert cpu.own_target().features == {"neon", "dotprod"}
    cpu.own_target.cache_clear()
    monkeypatch.setattr(cpu, "machine_features", lambda: frozenset({"neon"}))
    with pytest.raises(UsageError, match="lacks dotprod"):
        cpu.own_target()


# LLVM finds the instruction by itself where the CPU has it.
PROBE = """
declare i32 @llvm.vector.reduce.add.v16i32(<16 x i32>)
define i32 @dot(<16 x i8> %a, <16 x i8> %b) {
  %x = sext <16 x i8> %a to <16 x i32>
  %y = sext <16 x i8> %b to <16 x i32>
  %p = mul <16 x i32> %x, %y
  %r = call i32 @llvm.vector.reduce.add.v16i32(<16 x i32> %p)
  ret i32 %r }
"""


@pytest.mark.parametrize("name", cpu_arm.NAMED)
def test_the_list_of_arm_names_agrees_with_llvm(name: str) -> None:
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    machine = llvm.Target.from_triple("aarch64-unknown-linux-gnu").create_target_machine(cpu=name, opt=2)
    text = machine.emit_assembly(llvm.parse_assembly(PROBE))
    assert ("sdot" in text) == ("dotprod" in cpu_arm.NAMED[name])
    assert "smull" in text or "sdot" in text, "every CPU of the list has NEON"
