"""What doctor tells is so, and what is broken is told beside what is not."""

import json
from pathlib import Path

import pytest

from quant import cache, cpu
from quant.kernels.table import OPERATIONS
from quant.selfcheck import chosen
from runtime import diagnosis, extras, model_folder
from runtime.diagnosis import diagnose


@pytest.fixture(autouse=True)
def _few(monkeypatch: pytest.MonkeyPatch):
    """Two packages are enough here."""
    named = {package.name: package for package in extras.PACKAGES}
    few = (named["numpy"], extras.Package(name="oddly-absent", module="oddly_absent", least="1", extra="odd"))
    look = extras.survey

    def survey(**given: object) -> extras.Survey:
        return look(packages=few, guests=extras.GUESTS, **given)  # pyright: ignore[reportArgumentType]

    monkeypatch.setattr(diagnosis, "survey", survey)


def test_each_kernel_is_the_one_that_runs():
    told: list[str] = []
    report = diagnose(progress=told.append)
    assert [kernel["operation"] for kernel in report["kernels"]] == list(OPERATIONS)
    for kernel in report["kernels"]:
        choice = chosen(kernel["operation"])
        assert kernel["form"] == choice.form
        assert kernel["reason"].endswith(choice.reason)
    assert report["self_check"]["checked"] == len(OPERATIONS)
    assert report["self_check"]["failed"] == {}
    assert report["cpu"]["target"] == cpu.target().name
    assert set(report["cpu"]["target_features"]) == set(cpu.target().features)
    assert report["model"]["is_sound"]
    assert [found["place"] for found in report["layouts"]] == ["cache", "memory"]
    for found in report["layouts"]:
        assert set(found["us"]) == {"tiles", "columns", "trits"}
        assert found["layout"] in found["us"]
        assert found["reason"].count("times as fast as tiles") == 2
    assert report["caches"]["folder"] == str(cache.cache_folder())
    assert report["caches"]["bytes"] > 0
    assert report["broken"] == []
    assert {package["name"]: package["state"] for package in report["packages"]} == {
        "numpy": "present",
        "oddly-absent": "missing",
        "intel-extension-for-pytorch": "missing",
    }
    assert {"kernels", "the shipped model", "package numpy"} <= set(told)
    json.dumps(report, allow_nan=False)


def test_a_kernel_that_is_wrong_is_broken(monkeypatch: pytest.MonkeyPatch):
    shown = {name: OPERATIONS[name] for name in ("exp", "log", "sigmoid")}
    monkeypatch.setattr("quant.kernels.table.OPERATIONS", shown)
    monkeypatch.setattr(
        "quant.selfcheck.check", lambda name, form: "" if name == "exp" else "3 of 64 elements differ"
    )
    report = diagnose()
    assert set(report["self_check"]["failed"]) == {"log", "sigmoid"}
    (line,) = report["broken"]
    assert line.startswith("kernels log and 1 more: plain: ")
    assert "3 of 64 elements differ" in line


def test_a_shipped_model_that_is_damaged_is_broken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for file in model_folder.DEMO.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    weights = bytearray((tmp_path / "model.b158").read_bytes())
    weights[-1000] ^= 1
    (tmp_path / "model.b158").write_bytes(weights)
    monkeypatch.setattr(model_folder, "DEMO", tmp_path)
    report = diagnose()
    assert not report["model"]["is_sound"]
    (line,) = report["broken"]
    assert "is damaged" in line
    (tmp_path / "model.b158").write_bytes(weights[:1_000_000])
    report = diagnose()
    assert report["model"] is None
    assert "truncated" in report["broken"][0]


def test_an_installation_without_a_model_is_remarked_upon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(model_folder, "DEMO", tmp_path / "none")
    report = diagnose()
    assert report["model"] is None
    assert report["broken"] == []
    assert any("no model of its own" in remark for remark in report["remarks"])


def test_packages_that_work_are_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "imports" / "here.json"
    monkeypatch.setattr(diagnosis, "_path_of_marks", lambda: path)

    def tried(*, fresh: bool = False) -> str:
        return diagnose(fresh=fresh)["packages"][0]["tried"]

    assert [tried(), tried(), tried(fresh=True), tried()] == ["now", "before", "now", "before"]
    for damaged in ("[1, 2]", "{", '{"numpy": 5}'):
        path.write_text(damaged)
        assert tried() == "now"
        assert tried() == "before"


def test_a_package_of_ours_that_is_missing_is_broken(monkeypatch: pytest.MonkeyPatch):
    absent = extras.Package(name="oddly-absent", module="oddly_absent", least="1")
    monkeypatch.setattr(diagnosis, "survey", lambda **_: extras.survey(packages=(absent,), guests=()))
    (line,) = diagnose()["broken"]
    assert line == "package oddly-absent is missing: it is not installed (pip install chimera-edge)"


def test_a_cache_that_cannot_be_written_is_remarked_upon(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(cache, "notes", lambda: ("the user's cache folder cannot be written",))
    report = diagnose()
    assert report["remarks"] == ["cache: the user's cache folder cannot be written"]
    assert report["broken"] == []
