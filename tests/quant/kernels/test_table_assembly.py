"""The machine code for CPUs that this machine need not be: it is made and read, and not run."""

import os
import re
import subprocess
import sys
from functools import cache

import pytest

from quant import cpu

# What a machine of another architecture makes is its own; there is nothing of AVX in it.
CPUS = ["znver4", "icelake-server"] if cpu.target().architecture == "x86_64" else []


@cache
def assembly(name: str, form: str, target: str) -> str:
    environment = {**os.environ, "NUMBA_CPU_NAME": target, "NUMBA_CPU_FEATURES": ""}
    command = [sys.executable, "-m", "tests.quant.kernels.assembly", name, form]
    return subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout


def loops(text: str) -> list[str]:
    """The innermost loops: from a label to a jump back to it, with no other label between."""
    return re.findall(r"^(\.L\w+):\n((?:(?!\.L\w+:).*\n)*?)\s+j\w+\s+\1$", text, re.MULTILINE)


@pytest.mark.parametrize("target", CPUS)
def test_the_ternary_product_uses_the_dot_product_of_avx512(target: str) -> None:
    text = assembly("ternary_matmul", "avx512vnni", target)
    assert not re.search(r"\bvfn?m(add|sub)", text)
    bodies = [body for _, body in loops(text) if "vpdpbusd" in body]
    many = max(bodies, key=lambda body: body.count("vpdpbusd"))
    assert many.count("vpdpbusd") == 64, "16 tokens, 4 fields"
    assert many.count("{1to16}") == 64, "a token's inputs are broadcast from memory"
    assert "%zmm" in many
    assert "%rsp" not in many, "all sums stay in registers"


@pytest.mark.parametrize("target", ["haswell", "znver3"] if CPUS else [])
def test_the_ternary_product_of_avx2_keeps_its_sums_in_registers(target: str) -> None:
    bodies = [body for _, body in loops(assembly("ternary_matmul", "avx2", target)) if "vpmaddubsw" in body]
    unpacked = [body for body in bodies if "vpand" not in body]
    in_place = max(bodies, key=lambda body: body.count("vpmaddubsw"))
    assert [body.count("vpmaddubsw") for body in unpacked] == [8], "16 rows, 4 tokens, 4 inputs"
    assert in_place.count("vpmaddubsw") == 32, "16 rows, 4 tokens, 16 inputs"
    for body in (*unpacked, in_place):
        assert body.count("vpbroadcastd") == body.count("vpmaddubsw") // 2, "a token's inputs serve 16 rows"
        assert "%rsp" not in body
