"""The choice of a checked kernel: a wrong form is found, passed over, and remembered."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from configs.errors import KernelError
from quant import cache, cpu, selfcheck
from quant.jit import kernel
from quant.kernels.forms import FORMS
from quant.kernels.operation import Case, Kernel, Operation, Problem
from quant.kernels.table import OPERATIONS
from quant.registers import f32
from quant.simd import load, put


@kernel
def double(arguments: int, first: int, last: int) -> None:
    for i in range(first, last):
        x = load(f32, arguments + 4 * i)
        put(f32, arguments + 4096 + 4 * i, x + x)


@kernel
def double_but_the_last(arguments: int, first: int, last: int) -> None:
    for i in range(first, last - 1):
        x = load(f32, arguments + 4 * i)
        put(f32, arguments + 4096 + 4 * i, x + x)


def doubling(case: Case, rng: np.random.Generator) -> Problem:
    memory = np.zeros(2048, dtype=np.float32)
    memory[: case.inputs] = rng.standard_normal(case.inputs, dtype=np.float32)
    return Problem(
        run=lambda kernel, first, last: kernel(memory.ctypes.data, first, last),
        units=case.inputs,
        outputs=(memory[1024 : 1024 + case.inputs],),
        inputs=(memory[: case.inputs],),
    )


def operation(**forms: Kernel) -> Operation:
    golden = Case(inputs=20)
    return Operation(reference=lambda x: 2 * x, forms=forms, problem=doubling, cases=(golden,), golden=golden)


@pytest.fixture
def forgetful(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(cache, "cache_folder", lambda: tmp_path)
    selfcheck.chosen.cache_clear()
    yield
    selfcheck.chosen.cache_clear()


def choose(monkeypatch: pytest.MonkeyPatch, subject: Operation) -> selfcheck.Chosen:
    monkeypatch.setitem(OPERATIONS, "doubling", subject)
    monkeypatch.setitem(FORMS, "doubling", subject.forms)
    selfcheck.chosen.cache_clear()
    return selfcheck.chosen("doubling")


def memories(folder: Path) -> list[Path]:
    return sorted((folder / "checked").glob("*.json"))


@pytest.mark.usefixtures("forgetful")
def test_a_right_form_is_chosen_and_checked_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    subject = operation(plain=double)
    assert choose(monkeypatch, subject).kernel is double
    (memory,) = memories(tmp_path)
    monkeypatch.setattr(selfcheck, "check", lambda name, form: pytest.fail("checked twice"))
    assert choose(monkeypatch, subject).form == "plain"
    assert memories(tmp_path) == [memory]


@pytest.mark.usefixtures("forgetful")
def test_a_wrong_form_falls_back_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(cpu.NEEDS, "avx2", frozenset())
    subject = operation(avx2=double_but_the_last, plain=double)
    for _ in range(2):
        chosen = choose(monkeypatch, subject)
        assert chosen.form == "plain"
        assert chosen.kernel is double
        assert "avx2 failed: 2 of 20 elements of array 0 are wrong, the first at (9,)" in chosen.reason
    assert len(memories(tmp_path)) == 2


@pytest.mark.usefixtures("forgetful")
def test_no_right_form_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(KernelError, match=r"no form of doubling .* plain: 2 of 20 elements"):
        choose(monkeypatch, operation(plain=double_but_the_last))


@pytest.mark.usefixtures("forgetful")
@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b'{"wrong": 3}', b"\xff\xfe", b'{"right": ""}'])
def test_a_memory_that_cannot_be_read_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: bytes
) -> None:
    subject = operation(plain=double)
    choose(monkeypatch, subject)
    (memory,) = memories(tmp_path)
    whole = memory.read_bytes()
    memory.write_bytes(damage)
    assert choose(monkeypatch, subject).form == "plain"
    assert memory.read_bytes() == whole


def test_all_operations_of_this_machine_pass() -> None:
    for name, subject in OPERATIONS.items():
        form = cpu.choose(subject.forms).form
        assert selfcheck.check(name, form) == "", f"{name}, {form}"
