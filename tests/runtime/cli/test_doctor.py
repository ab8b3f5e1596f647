"""`chimera doctor` as it is typed."""

import json
import os
import subprocess
import sys
from pathlib import Path

from quant.kernels.table import OPERATIONS
from quant.selfcheck import chosen
from runtime.extras import GUESTS, PACKAGES

ROOT = Path(__file__).resolve().parents[3]


def doctor(*arguments: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "runtime.cli.main", "doctor", *arguments],
        cwd=ROOT,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=300,
    )


def test_a_sound_installation_is_told_in_full():
    done = doctor()
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[-1] == "nothing is broken"
    assert f"kernels: {len(OPERATIONS)} of {len(OPERATIONS)} give the reference's bits" in done.stdout
    words = {word.strip(" ,") for line in lines for word in line.split()}
    assert set(OPERATIONS) <= words
    assert f"  {chosen('ternary_matmul').form}, since: {chosen('ternary_matmul').reason}" in lines
    assert {package.name for package in (*PACKAGES, *GUESTS)} <= words
    for part in ("CPU: ", "threads: ", "memory: ", "cache: ", "model: ", "packages: "):
        assert any(line.startswith(part) for line in lines)


def test_a_program_gets_json():
    done = doctor("--json")
    assert (done.returncode, done.stderr) == (0, "")
    report = json.loads(done.stdout)
    assert report["broken"] == []
    assert report["self_check"]["failed"] == {}
    assert {kernel["operation"] for kernel in report["kernels"]} == set(OPERATIONS)
    assert Path(report["caches"]["folder"]).is_dir()
    assert report["caches"]["writable"]
    assert report["threads"]["count"] >= 1
    assert report["memory"]["available_bytes"] <= report["memory"]["total_bytes"]


def test_what_is_broken_is_told_beside_the_rest(tmp_path: Path):
    info = tmp_path / "jinja2-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: jinja2\nVersion: 1.0\n")
    done = doctor(PYTHONPATH=str(tmp_path))
    assert (done.returncode, done.stderr) == (1, "")
    *rest, problem, last = done.stdout.splitlines()
    assert last == "something is broken"
    assert problem.startswith("broken: package jinja2 is unusable: 1.0 is installed; ")
    assert any(line.startswith("kernels: ") for line in rest)


def test_an_environment_without_a_compiler_is_broken():
    done = doctor("--json", NUMBA_DISABLE_JIT="1", CHIMERA_JIT="1")
    assert done.returncode == 1
    report = json.loads(done.stdout)
    assert any("NUMBA_DISABLE_JIT" in problem for problem in report["broken"])
    assert report["environment"]["NUMBA_DISABLE_JIT"] == "1"
    assert report["versions"]["python"]


def test_a_cpu_that_nobody_knows_is_told_once():
    done = doctor(CHIMERA_CPU="abacus")
    assert done.returncode == 1
    problems = [line for line in done.stdout.splitlines() if line.startswith("broken: ")]
    assert len(problems) == 2
    assert all("CHIMERA_CPU=abacus" in problem for problem in problems)


def test_doctor_takes_no_model():
    done = doctor("tiny")
    assert (done.returncode, done.stdout) == (2, "")
    assert "unrecognized arguments: tiny" in done.stderr
