"""What each expert in memory is worth, by policy. `chronos_moe.store.policy` says the same in NumPy."""

from quant.jit import helper, kernel
from quant.kernels.experts import reading_places as at
from quant.registers import f64, i64
from quant.simd import load, put
from quant.sync import atomic_load

LOG_HALF = -0.6931471805599453
NEVER = 1 << 40
"""In passes."""


@helper
def read(address: int) -> int:
    return load(i64, address)


@helper
def record_of(head: int, number: int) -> int:
    return read(head + at.RECORDS) + number * (at.RECORD_PLACES * 8)


@helper
def clock_of(head: int) -> int:
    return atomic_load(read(head + at.CLOCK))


@helper
def num_taken(head: int) -> int:
    """How many of a call's passes calls take now; what began within as many as there are at most is one."""
    clock, num_passes = clock_of(head), read(head + at.NUM_PASSES)
    if clock < num_passes:
        return num_passes
    count = 0
    for number in range(num_passes):
        if read(read(head + at.BEGUN) + number * 8) > clock - num_passes:
            count += 1
    return count


@kernel
def passes_until(head: int, row: int) -> int:
    """How many passes on a layer comes next: of its passes, the one that began longest ago is next."""
    clock, num_passes, taken = clock_of(head), read(head + at.NUM_PASSES), num_taken(head)
    found = i64(NEVER)
    for number in range(num_passes):
        if read(read(head + at.PASS_ROWS) + number * 8) == row:
            begun = read(read(head + at.BEGUN) + number * 8)
            ahead = begun + taken - clock
            if clock < num_passes and begun == 0:
                ahead = number - atomic_load(read(head + at.PLACE))
            if (begun > clock - num_passes or clock < num_passes) and ahead < found:
                found = ahead
    return max(found, 1)


@helper
def half_to(power: float) -> float:
    """2^−x, x ≥ 0."""
    whole = int(power)
    x = (power - whole) * LOG_HALF
    found = 1.0 + x * (
        1.0
        + x / 2.0 * (1.0 + x / 3.0 * (1.0 + x / 4.0 * (1.0 + x / 5.0 * (1.0 + x / 6.0 * (1.0 + x / 7.0)))))
    )
    while whole > 0 and found > 0.0:
        found *= 0.5
        whole -= 1
    return found


@kernel
def cool(head: int) -> None:
    """Bring the heat of all experts up to the clock."""
    clock = clock_of(head)
    factor = half_to((clock - read(head + at.COOLED_AT)) / (at.HALF_LIFE_TOKENS * num_taken(head)))
    put(i64, head + at.COOLED_AT, clock)
    for number in range(read(head + at.NUM_ALL)):
        record, visits = record_of(head, number), read(read(head + at.VISITS) + number * 8)
        new = visits - read(record + at.HEAT_VISITS * 8)
        put(f64, record + at.HEAT * 8, load(f64, record + at.HEAT * 8) * factor + new)
        put(i64, record + at.HEAT_VISITS * 8, visits)


@kernel
def refresh(head: int) -> None:
    """What `worth_of` looks at."""
    if read(head + at.POLICY) == at.LFU:
        cool(head)


@helper
def worth_of(head: int, number: int) -> float:
    """Whoever is worth least leaves."""
    policy, record = read(head + at.POLICY), record_of(head, number)
    loaded = read(record + at.LOADED * 8)
    latest = max(read(read(head + at.LAST_VISITS) + number * 8), loaded)
    if policy == at.LFU:
        # What has just come has no visits yet; it is not to leave before its turn.
        just_came = 1.0 if loaded >= clock_of(head) else 0.0
        return load(f64, record + at.HEAT * 8) + just_came
    if policy == at.LEAST_STALE:
        taken = num_taken(head)
        is_fresh = 1 if latest > clock_of(head) - taken else 0
        return float(is_fresh * (taken + 1) - passes_until(head, number // read(head + at.NUM_EXPERTS)))
    return float(latest)


@kernel
def put_worth(head: int, target: int) -> None:
    """The worth of all experts, as float64."""
    refresh(head)
    for number in range(read(head + at.NUM_ALL)):
        put(f64, target + number * 8, worth_of(head, number))
