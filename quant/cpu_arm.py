"""What 64-bit ARM machines can do: CPU names, and what the system says of the machine it runs on."""

import ctypes
import sys
from collections.abc import Mapping

FEATURES = frozenset({"neon", "dotprod"})
"""Those that kernels ask for. The first is there on every machine with a system such as Linux."""

_NEON = frozenset({"neon"})

# As LLVM has them. Any other name gets what every CPU has.
NAMED: dict[str, frozenset[str]] = {
    "generic": _NEON,
    **dict.fromkeys(
        ("cortex-a34", "cortex-a35", "cortex-a53", "cortex-a57", "cortex-a72", "cortex-a73"), _NEON
    ),
    **dict.fromkeys(("cyclone", "apple-a7", "apple-a10", "apple-a11", "apple-a12"), _NEON),
    **dict.fromkeys(("a64fx", "carmel", "exynos-m3", "falkor", "kryo"), _NEON),
    **dict.fromkeys(("thunderx", "thunderx2t99", "thunderx3t110"), _NEON),
    **dict.fromkeys(
        ("cortex-a55", "cortex-a65", "cortex-a75", "cortex-a76", "cortex-a77", "cortex-a78"), FEATURES
    ),
    **dict.fromkeys(("cortex-a510", "cortex-a520", "cortex-a710", "cortex-a715", "cortex-a720"), FEATURES),
    **dict.fromkeys(("cortex-a725", "cortex-x1", "cortex-x2", "cortex-x3", "cortex-x4"), FEATURES),
    **dict.fromkeys(("cortex-a76ae", "cortex-a78ae", "cortex-a78c", "cortex-x1c", "cortex-x925"), FEATURES),
    **dict.fromkeys(
        ("neoverse-e1", "neoverse-n1", "neoverse-n2", "neoverse-n3", "neoverse-512tvb"), FEATURES
    ),
    **dict.fromkeys(("neoverse-v1", "neoverse-v2", "neoverse-v3", "grace"), FEATURES),
    **dict.fromkeys(("ampere1", "ampere1a", "ampere1b", "exynos-m4", "exynos-m5"), FEATURES),
    **dict.fromkeys(("oryon-1", "saphira", "tsv110"), FEATURES),
    **dict.fromkeys(("apple-a13", "apple-a14", "apple-a15", "apple-a16", "apple-a17"), FEATURES),
    **dict.fromkeys(("apple-m1", "apple-m2", "apple-m3", "apple-m4"), FEATURES),
}

# Numbers of Linux on this architecture: which word of the auxiliary vector, and which of its bits.
_HWCAP = 16
_BITS = {"neon": 1, "dotprod": 20}


def machine_features(name: str, *, told: Mapping[str, bool]) -> frozenset[str]:
    """Features of the machine; `told` is what LLVM says, which leaves out the dot product on Linux."""
    if sys.platform == "linux":
        word = int(ctypes.CDLL(None).getauxval(ctypes.c_ulong(_HWCAP)))
        return frozenset(feature for feature, bit in _BITS.items() if word >> bit & 1)
    return NAMED.get(name, _NEON) | frozenset(feature for feature in FEATURES if told.get(feature, False))


def features_of_code(name: str, *, told: Mapping[str, bool]) -> frozenset[str]:
    """What LLVM will use in code for a CPU of this name and with the features that it has been told of."""
    return NAMED.get(name, _NEON) | frozenset(feature for feature in FEATURES if told.get(feature, False))
