"""Logs of fine-tuning: what was written is read, what was torn is cut, what was changed is refused."""

import struct
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from configs.errors import AdapterError, ChimeraError, UsageError
from quant.adapter import (
    LOOK,
    MAGIC,
    AdapterHeader,
    Record,
    composed_digest,
    header_bytes,
    header_crc,
    is_adapter,
    packed_record,
    read_adapter,
    unpacked_record,
)
from quant.adapter_log import AdapterLog, first_steps, write_adapter

HEADER = AdapterHeader(
    method="scales",
    base="ab" * 32,
    seed=2**64 - 1,
    numbers=2,
    settings={"epsilon": 0.02, "batch": 16, "words": "0.0:-3", "is": True},
    data="cd" * 32,
    beneath=("ef" * 32,),
)
FLOAT = st.floats(-(2.0**100), 2.0**100, width=32)


def steps(count: int) -> list[Record]:
    return [
        Record(step=step, loss=step / 4, rate=0.5, numbers=(step * 3.0, -step / 8)) for step in range(count)
    ]


def written(path: Path, records: list[Record], header: AdapterHeader = HEADER) -> Path:
    with AdapterLog.begin(path, header) as log:
        for record in records:
            log.append(record)
    return path


@given(
    seed=st.integers(0, 2**64 - 1),
    numbers=st.lists(st.tuples(FLOAT, FLOAT), max_size=6),
    settings_of=st.dictionaries(st.text(), st.integers() | st.floats(allow_nan=False, allow_infinity=False)),
)
def test_what_was_written_is_read(
    tmp_path_factory: pytest.TempPathFactory,
    seed: int,
    numbers: list[tuple[float, float]],
    settings_of: dict[str, int | float],
) -> None:
    header = replace(HEADER, seed=seed, settings=settings_of)
    records = [Record(step=step, loss=1.5, rate=0.25, numbers=pair) for step, pair in enumerate(numbers)]
    look = Record(kind=LOOK, step=len(records), loss=2.5, rate=float("nan"))
    path = written(tmp_path_factory.mktemp("log") / "a.cza", [*records, look], header)
    found = read_adapter(path)
    assert (found.header, found.torn_bytes, found.whole_bytes) == (header, 0, path.stat().st_size)
    assert list(found.steps) == records
    (seen,) = found.looks
    assert (seen.loss, seen.score) == (2.5, None)
    assert is_adapter(path)


def test_a_log_cut_anywhere_holds_its_whole_records_and_goes_on(tmp_path: Path) -> None:
    whole = written(tmp_path / "whole.cza", steps(4)).read_bytes()
    begin, size = len(header_bytes(HEADER)), len(packed_record(steps(1)[0], HEADER, 0))
    path = tmp_path / "cut.cza"
    for length in range(begin, len(whole) + 1):
        path.write_bytes(whole[:length])
        found = read_adapter(path)
        assert (found.num_steps, found.torn_bytes) == divmod(length - begin, size)
        with AdapterLog.go_on(path, HEADER) as log:
            for record in steps(4)[log.num_steps :]:
                log.append(record)
        assert path.read_bytes() == whole
    for length in (0, 5, 8, 15, 16, 17, begin // 2, begin - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(AdapterError, match="no adapter yet"):
            read_adapter(path)
        with AdapterLog.begin(path, HEADER) as log:
            for record in steps(4):
                log.append(record)
        assert path.read_bytes() == whole


def test_what_is_no_adapter_is_not_read_and_not_written_over(tmp_path: Path) -> None:
    path = tmp_path / "large.cza"
    with path.open("wb") as file:
        file.write(header_bytes(HEADER))
        file.truncate(1 << 43)
    with pytest.raises(AdapterError, match="larger than 256 MiB"):
        read_adapter(path)
    with path.open("r+b") as file:
        file.write(b"another!")
    with pytest.raises(AdapterError, match="is no adapter"):
        read_adapter(path)
    with pytest.raises(UsageError, match="is there already"):
        AdapterLog.begin(path, HEADER)
    # A length that was changed makes no log one that was never begun.
    whole = written(tmp_path / "a.cza", steps(2)).read_bytes()
    (tmp_path / "a.cza").write_bytes(whole[:8] + b"\xff\xff\x00\x00" + whole[12:])
    with pytest.raises(UsageError, match="is there already"):
        AdapterLog.begin(tmp_path / "a.cza", HEADER)


def test_a_byte_changed_anywhere_is_refused_or_ends_the_log(tmp_path: Path) -> None:
    whole = written(tmp_path / "whole.cza", steps(3)).read_bytes()
    begin, size = len(header_bytes(HEADER)), len(packed_record(steps(1)[0], HEADER, 0))
    path = tmp_path / "changed.cza"
    for at in range(len(whole)):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0x40]) + whole[at + 1 :])
        if at >= begin + 2 * size:  # nothing tells a changed last record from a torn one
            assert read_adapter(path).num_steps == 2
        else:
            with pytest.raises(AdapterError):
                read_adapter(path)


def test_records_of_another_log_and_out_of_order_are_refused(tmp_path: Path) -> None:
    path = written(tmp_path / "a.cza", [])
    foreign = packed_record(steps(1)[0], HEADER, header_crc(replace(HEADER, seed=1)))
    with pytest.raises(AdapterError, match="no record"):
        unpacked_record(foreign, HEADER)
    late = packed_record(steps(2)[1], HEADER, header_crc(HEADER))
    assert unpacked_record(late, HEADER) == steps(2)[1]
    path.write_bytes(header_bytes(HEADER) + late)
    with pytest.raises(AdapterError, match="expected step 0"):
        read_adapter(path)


@pytest.mark.parametrize(
    "text",
    [
        b"[]",
        b"{}",
        b"not json",
        b'{"method": 1}',
        header_bytes(HEADER)[16:].replace(b'"seed": 1', b'"seed": -1'),
    ],
)
def test_headers_that_nobody_wrote_are_refused(tmp_path: Path, text: bytes) -> None:
    import zlib

    path = tmp_path / "bad.cza"
    path.write_bytes(MAGIC + struct.pack("<II", len(text), zlib.crc32(text)) + text)
    with pytest.raises(AdapterError):
        read_adapter(path)


def test_one_process_writes_a_log(tmp_path: Path) -> None:
    path = tmp_path / "a.cza"
    with AdapterLog.begin(path, HEADER) as log:
        with pytest.raises(UsageError, match="another process writes"):
            AdapterLog.go_on(path, HEADER)
        log.append(steps(1)[0])
    with pytest.raises(UsageError, match="is there already"):
        AdapterLog.begin(path, HEADER)
    with pytest.raises(AdapterError, match="begun with seed 18446744073709551615, not 5"):
        AdapterLog.go_on(path, replace(HEADER, seed=5))
    with pytest.raises(AdapterError, match=r"epsilon 0\.02, not 0\.5"):
        AdapterLog.go_on(path, replace(HEADER, settings={**HEADER.settings, "epsilon": 0.5}))
    with pytest.raises(AdapterError, match="on the model abababababab…, and this is 121212121212…"):
        AdapterLog.go_on(path, replace(HEADER, base="12" * 32))
    with AdapterLog.go_on(path, HEADER) as log:
        assert log.num_steps == 1


def test_a_full_disk_loses_no_step(tmp_path: Path) -> None:
    """The limit of a file's size stands for the disk: the system takes a part of a record, then nothing."""
    path = written(tmp_path / "a.cza", steps(2))
    size = path.stat().st_size
    code = f"""
import resource, signal
from pathlib import Path
from quant.adapter_log import AdapterLog
from tests.quant.test_adapter import HEADER, steps
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, ({size + 40}, {size + 40}))
with AdapterLog.go_on(Path({str(path)!r}), HEADER) as log:
    for record in steps(9)[2:]:
        log.append(record)
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "a.cza cannot be written: File too large" in ended.stderr
    found = read_adapter(path)
    assert (found.torn_bytes, list(found.steps)) == (0, steps(found.num_steps))
    assert found.num_steps >= 3
    with AdapterLog.go_on(path, HEADER) as log:
        for record in steps(9)[log.num_steps :]:
            log.append(record)
    assert path.read_bytes() == written(tmp_path / "b.cza", steps(9)).read_bytes()


def test_a_folder_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(ChimeraError, match="cannot be written: No such file"):
        AdapterLog.begin(tmp_path / "none" / "a.cza", HEADER)
    with pytest.raises(AdapterError, match="there is no file"):
        read_adapter(tmp_path / "none.cza")


def test_a_part_of_a_log_and_names(tmp_path: Path) -> None:
    look = Record(kind=LOOK, step=2, loss=1.0, rate=0.5)
    whole = read_adapter(written(tmp_path / "a.cza", [*steps(2), look, *steps(4)[2:]]))
    assert [record.step for record in first_steps(whole.records, 2)] == [0, 1, 2]
    write_adapter(tmp_path / "b.cza", whole, num_steps=2)
    part = read_adapter(tmp_path / "b.cza")
    assert (list(part.steps), len(list(part.looks))) == (steps(2), 1)
    assert part.digest != whole.digest
    # A look moves nothing, and neither does the version that wrote.
    moved = read_adapter(written(tmp_path / "c.cza", steps(2), replace(HEADER, version="other")))
    assert moved.digest == part.digest
    assert composed_digest("base", []) == "base"
    assert composed_digest("base", ["a", "b"]) != composed_digest("base", ["b", "a"])
