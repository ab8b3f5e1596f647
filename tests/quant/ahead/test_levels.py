"""The targets of kernels made ahead of time, and which of them a machine may run."""

import pytest

from quant import cpu
from quant.ahead.levels import ARM, LEVELS, X86, Level, level_named, runnable
from quant.ahead.make import sources, wanted_at
from quant.kernels.forms import FORMS

SERVER = dict.fromkeys(level_named("x86-64-v4-vbmi").needs, True)


def names(levels: tuple[Level, ...]) -> list[str]:
    return [level.name for level in levels]


def test_a_machine_gets_only_what_it_can_run() -> None:
    assert names(runnable(X86, {})) == ["x86-64"]
    assert names(runnable(X86, SERVER)) == [
        "x86-64-v4-vbmi",
        "x86-64-v4-vnni",
        "x86-64-v4",
        "x86-64-v3",
        "x86-64-v2",
        "x86-64",
    ]
    # One feature less, and every level that rests on it is out.
    assert names(runnable(X86, SERVER | {"bmi2": False})) == ["x86-64-v2", "x86-64"]
    assert names(runnable(X86, SERVER | {"avx512vl": False})) == ["x86-64-v3", "x86-64-v2", "x86-64"]
    assert names(runnable(ARM, {})) == ["aarch64"]
    assert names(runnable(ARM, {"dotprod": True})) == ["aarch64-dotprod", "aarch64"]
    assert runnable("riscv64", SERVER) == ()


def test_a_base_is_the_next_weaker_level_of_the_same_architecture() -> None:
    assert len({level.name for level in LEVELS}) == len(LEVELS)
    for place, level in enumerate(LEVELS):
        assert set(level.extra) <= level.needs
        if level.base:
            base = level_named(level.base)
            assert base.architecture == level.architecture
            assert base.needs < level.needs
            assert LEVELS.index(base) > place, "best first"


@pytest.mark.parametrize("level", LEVELS, ids=lambda level: level.name)
def test_a_level_has_the_best_form_of_every_operation(level: Level) -> None:
    held = wanted_at(level)
    for name, forms in FORMS.items():
        best = next(form for form in cpu.FORMS if form in forms and cpu.NEEDS[form] <= level.needs)
        assert str(forms[best]) in held, name
    everything = {source.name for source in sources()}
    assert held <= everything
    assert {"quant.pool_kernels.launch", "runtime.worker_kernels.run_records"} <= held


def test_no_form_is_lost_between_the_levels() -> None:
    by_levels = frozenset[str]().union(*(wanted_at(level) for level in LEVELS))
    assert by_levels == {source.name for source in sources()}
