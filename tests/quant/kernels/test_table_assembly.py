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


def bodies(name: str, form: str, target: str, instruction: str) -> list[str]:
    """The innermost loops that hold an instruction."""
    text = assembly(name, form, target)
    assert not re.search(r"\bvfn?m(add|sub)", text)
    found = [body for _, body in loops(text) if re.search(rf"\b{instruction}", body)]
    assert found, f"{target} has no loop with {instruction}"
    return found


# What each form's loops hold where a product of codes is made, and what the target's registers are called.
LOOPS = [
    ("avx512", "skylake-avx512", "vpmaddubsw", "%zmm", ()),
    ("avxvnni", "alderlake", r"vpdpbusd", "%ymm", ("%zmm",)),
    ("ssse3", "x86-64-v2", "pmaddubsw", "%xmm", ("%ymm", "%zmm")),
    ("plain", "x86-64", "pmullw", "%xmm", ("%ymm", "%zmm", "imul", "mulb")),
    ("plain", "x86-64-v2", "pmullw", "%xmm", ("%ymm", "%zmm", "imul", "mulb")),
]


@pytest.mark.parametrize(("form", "target", "instruction", "register", "never"), LOOPS if CPUS else [])
def test_a_form_is_vector_code_of_its_target(
    form: str, target: str, instruction: str, register: str, never: tuple[str, ...]
) -> None:
    for body in bodies("ternary_matmul", form, target, instruction):
        assert register in body
        assert not [word for word in never if word in body]


@pytest.mark.parametrize("target", CPUS[:1] and ["alderlake"])
def test_the_products_of_avx_vnni_keep_their_sums_in_registers(target: str) -> None:
    found = bodies("ternary_matmul", "avxvnni", target, "vpdpbusd")
    assert max(body.count("vpdpbusd") for body in found) == 32, "16 rows, 4 tokens, 16 inputs"
    assert "%rsp" not in max(found, key=lambda body: body.count("vpdpbusd"))


@pytest.mark.parametrize("target", CPUS[:1])
def test_weights_of_1_6_bits_are_unpacked_by_one_shuffle(target: str) -> None:
    found = [body for body in bodies("trits_matmul", "avx512vbmi", target, "vpdpbusd") if "2b\t" in body]
    for body in found:
        assert len(re.findall(r"\bvperm[it]2b\b", body)) == 1
        assert body.count("vpdpbusd") == 6, "a byte with and without its first digit, and four fields"
        assert "%rsp" not in body
    assert found


@pytest.mark.parametrize(
    ("form", "target"), [("avx512vnni", "cascadelake"), ("avxvnni", "alderlake")] if CPUS else []
)
def test_weights_of_1_6_bits_need_no_digit_with_vnni(form: str, target: str) -> None:
    found = [
        body for body in bodies("trits_matmul", form, target, "vpdpbusd") if body.count("vpdpbusd") == 10
    ]
    for body in found:
        assert body.count("vpaddb") == 10, "five times three times the byte, without a product of bytes"
        assert "vpmaddubsw" not in body
    assert found


@pytest.mark.parametrize("target", ["haswell"] if CPUS else [])
def test_sums_are_looked_up_by_shuffles(target: str) -> None:
    (body,) = bodies("lookup_matmul", "avx2", target, "vpshufb")
    assert body.count("vpshufb") == 64, "16 columns, two halves of a byte, two halves of an input"
