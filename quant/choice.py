"""Which layout of ternary codes is fastest on this machine: measured once, remembered, told with its numbers.

Every layout gives the same bits, so the choice is about time alone. It depends on where the weights are: 1.6
bits win where memory is what a product waits for, and 2-bit tiles where weights come from a cache. So each
place is measured for itself, with the number of threads that will be used: one token, and several, as in a
prompt. A layout has to be a good deal faster than the file's own to be worth its making and its memory.

A candidate whose machine code would have to be compiled for it is left out until the code is there: `chimera
doctor` compiles all. What was found is kept in the cache folder under the codes' identities; what cannot be
read is measured again.
"""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias, cast, get_args

import numpy as np
from numpy.typing import NDArray

from configs.errors import ChimeraError
from quant import cpu, native
from quant.activations import QuantizedActivations, quantize_activations
from quant.cache import cache_folder, remember
from quant.kernels import places
from quant.kernels.calls import Call, laid_call
from quant.kernels.forms import FORMS
from quant.layout_names import LAYOUTS, Layout
from quant.layouts import PRODUCTS, laid_out
from quant.packing import PackedTernary, pack_ternary
from quant.selfcheck import Chosen, chosen
from quant.ternary import TernaryWeights, num_groups

if TYPE_CHECKING:
    from concurrent.futures import ThreadPoolExecutor

Place: TypeAlias = Literal["cache", "memory"]
PLACES: tuple[Place, ...] = get_args(Place)
"""Where weights are when a token needs them."""

SHAPE = (1280, 2560)
MEMORY_BYTES = 64 << 20
"""Codes that are read one after another to measure memory; twice the last cache, where that is more."""
MOST_MEMORY_BYTES = 512 << 20
SOME_TOKENS = 16
CACHE_COPIES, PRODUCTS_OF_ONE = 4, 32
ROUNDS, MORE_ROUNDS = 3, 12
"""Turns of all layouts; and more, before another one than the file's own is believed to be faster."""
WORTH = 1.1
"""How many times as fast as tiles a layout has to be for one token …"""
NO_WORSE = 0.8
"""… and how many at least for several."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Measured:
    """What a product of the measured size took, in µs."""

    one_token: float
    token_of_some: float


@dataclass(frozen=True, kw_only=True, slots=True)
class LayoutChoice:
    """The layout to use and why."""

    layout: Layout
    reason: str
    measured: Mapping[Layout, Measured]


def best_layout(*, place: Place, num_threads: int, cache_bytes: int = 0) -> LayoutChoice:
    """The layout for weights that are read from a place by so many threads."""
    forced = cpu.forced_layout()
    if forced is not None:
        return LayoutChoice(layout=forced, reason="CHIMERA_CPU says so", measured={})
    kernels, left_out = _candidates()
    if len(kernels) == 1:
        return LayoutChoice(layout=LAYOUTS[0], reason="; ".join(left_out), measured={})
    found = _measured(place, num_threads, cache_bytes)
    best = fastest(found)
    words = [f"{layout} {_words(found, layout)}" for layout in found if layout != LAYOUTS[0]]
    source = "a cache" if place == "cache" else "memory"
    crew = "1 thread" if num_threads == 1 else f"{num_threads} threads"
    told = f"from {source}, {crew}: {', '.join(words)}"
    return LayoutChoice(layout=best, reason="; ".join([told, *left_out]), measured=found)


def fastest(found: Mapping[Layout, Measured]) -> Layout:
    """The layout that a measurement speaks for; tiles unless another is worth it."""
    own = found[LAYOUTS[0]]
    worth: dict[Layout, float] = {}
    for layout, times in found.items():
        gain, gain_of_some = own.one_token / times.one_token, own.token_of_some / times.token_of_some
        if gain >= WORTH and gain_of_some >= NO_WORSE:
            worth[layout] = gain
    best: Layout = LAYOUTS[0]
    for layout, gain in worth.items():
        if gain > worth.get(best, 1.0):
            best = layout
    return best


def forget() -> None:
    """Measure anew when next asked."""
    _measured.cache_clear()
    for path in _folder().glob("*.json"):
        path.unlink(missing_ok=True)


def _words(found: Mapping[Layout, Measured], layout: Layout) -> str:
    own, times = found[LAYOUTS[0]], found[layout]
    one, some = own.one_token / times.one_token, own.token_of_some / times.token_of_some
    return f"{one:.2f} times as fast as tiles ({some:.2f} for {SOME_TOKENS} tokens)"


def _candidates() -> tuple[dict[Layout, Chosen], list[str]]:
    """The layouts whose products are ready and right here, and why others are not among them."""
    found: dict[Layout, Chosen] = {LAYOUTS[0]: chosen(PRODUCTS[LAYOUTS[0]])}
    left_out: list[str] = []
    for layout in LAYOUTS[1:]:
        operation = PRODUCTS[layout]
        try:
            if not native.is_ready(_best_form(operation)):
                left_out.append(f"{layout} would have to be compiled")
                continue
            found[layout] = chosen(operation)
        except ChimeraError as error:
            left_out.append(f"{layout}: {error.message}")
    return found, left_out


def _best_form(operation: str) -> native.Kernel:
    """The kernel that an operation of the table would get first."""
    forms = FORMS[operation]
    return forms[cpu.choose(forms).form]


@cache
def _measured(place: Place, num_threads: int, cache_bytes: int) -> Mapping[Layout, Measured]:
    """From what was remembered, or now."""
    kernels: dict[Layout, native.Kernel] = {
        layout: choice.kernel for layout, choice in _candidates()[0].items()
    }
    path = _folder() / f"{place}-{num_threads}-{_key(kernels)}.json"
    found = _read(path, layouts=tuple(kernels))
    if found is None:
        found = measure(kernels, place=place, num_threads=num_threads, cache_bytes=cache_bytes)
        numbers = {layout: [times.one_token, times.token_of_some] for layout, times in found.items()}
        remember(path, json.dumps(numbers).encode())
    return found


def measure(
    kernels: Mapping[Layout, native.Kernel], *, place: Place, num_threads: int, cache_bytes: int
) -> dict[Layout, Measured]:
    """Products by each kernel in turns; the least time of each counts, as others can only add to it."""
    from concurrent.futures import ThreadPoolExecutor  # which most starts do without

    packed = _matrix()
    some = _acts(SOME_TOKENS)
    with ThreadPoolExecutor(num_threads) as pool:
        sides: dict[Layout, tuple[Callable[[], float], Callable[[], float]]] = {}
        for layout, kernel in kernels.items():
            laid = laid_out(packed, layout=layout)
            one_call, some_call = laid_call(laid, _acts(1)), laid_call(laid, some)
            copies = _copies(laid.codes, place=place, cache_bytes=cache_bytes)
            sides[layout] = (
                _side(pool, kernel, one_call, codes=copies, least=PRODUCTS_OF_ONE, num_threads=num_threads),
                _side(pool, kernel, some_call, codes=copies[:CACHE_COPIES], least=1, num_threads=num_threads),
            )
        best: dict[Layout, list[float]] = {layout: [float("inf"), float("inf")] for layout in sides}
        for turn in range(ROUNDS + MORE_ROUNDS):
            # Whoever else is at work slows now this side and now that one.
            if turn >= ROUNDS and fastest(_of_tokens(best)) == LAYOUTS[0]:
                break
            for layout, runs in sides.items():
                best[layout] = [min(least, run()) for least, run in zip(best[layout], runs, strict=True)]
    return _of_tokens(best)


def _of_tokens(best: Mapping[Layout, Sequence[float]]) -> dict[Layout, Measured]:
    return {
        layout: Measured(one_token=one, token_of_some=several / SOME_TOKENS)
        for layout, (one, several) in best.items()
    }


def _matrix() -> PackedTernary:
    rows, inputs = SHAPE
    draws = np.random.default_rng(0)
    codes = draws.integers(-1, 2, SHAPE, dtype=np.int8)
    scales = np.full((rows, num_groups(inputs, group_size=128)), 0.01, dtype=np.float16)
    return pack_ternary(TernaryWeights(codes=codes, scales=scales, group_size=128))


def _acts(num_tokens: int) -> QuantizedActivations:
    draws = np.random.default_rng(1)
    return quantize_activations(draws.standard_normal((num_tokens, SHAPE[1]), dtype=np.float32))


def _copies(codes: NDArray[np.uint8], *, place: Place, cache_bytes: int) -> NDArray[np.uint8]:
    """The same codes over and over, as many as the place asks for: [copies, bytes]."""
    count = CACHE_COPIES
    if place == "memory":
        count = min(max(MEMORY_BYTES, 2 * cache_bytes), MOST_MEMORY_BYTES) // codes.nbytes
    return np.tile(codes.reshape(-1), (count, 1))


def _side(
    pool: "ThreadPoolExecutor",
    kernel: native.Kernel,
    call: Call,
    *,
    codes: NDArray[np.uint8],
    least: int,
    num_threads: int,
) -> Callable[[], float]:
    """What runs a product with each of the copies, `least` in all, and gives the µs that one took."""
    tables = np.tile(call.table, (len(codes), 1))
    tables[:, places.CODES] = [copy.ctypes.data for copy in codes]
    tables = np.tile(tables, (-(-least // len(tables)), 1))
    addresses = [table.ctypes.data for table in tables]
    run_code = native.code_of(kernel).call

    def part(number: int) -> None:
        first, last = (call.units * end // num_threads for end in (number, number + 1))
        for address in addresses:
            run_code(address, first, last)

    def run(_alive: object = (call, codes, tables)) -> float:
        begin = time.perf_counter()
        list(pool.map(part, range(num_threads)))
        return (time.perf_counter() - begin) / len(addresses) * 1e6

    return run


def _folder() -> Path:
    return cache_folder() / "layouts"


def _key(kernels: Mapping[Layout, native.Kernel]) -> str:
    words = [f"{layout} {native.code_of(kernel).identity}" for layout, kernel in kernels.items()]
    return sha256("\n".join(words).encode()).hexdigest()[:16]


def _read(path: Path, *, layouts: tuple[Layout, ...]) -> dict[Layout, Measured] | None:
    """What was remembered, if every number is there and can be one."""
    try:
        read: object = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
    if not isinstance(read, dict):
        return None
    numbers = cast("dict[str, object]", read)
    found: dict[Layout, Measured] = {}
    for layout in layouts:
        match numbers.get(layout):
            case [float(one), float(several)] if 0 < one < 1e9 and 0 < several < 1e9:
                found[layout] = Measured(one_token=one, token_of_some=several)
            case _:
                return None
    return found
