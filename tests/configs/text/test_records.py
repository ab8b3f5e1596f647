"""Data files: every shape of record, every way to be wrong, and the place of it."""

import json
import sys
from pathlib import Path

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from configs.errors import DataError, MissingExtra, UsageError
from configs.text.records import (
    ChatRecord,
    PromptRecord,
    ReadReport,
    Record,
    TextRecord,
    read_records,
)

CHAT = [
    {"role": "system", "content": "s"},
    {"role": "user", "content": "q"},
    {"role": "assistant", "content": "a"},
]


def written(path: Path, *lines: bytes | str) -> Path:
    path.write_bytes(b"\n".join(line.encode() if isinstance(line, str) else line for line in lines))
    return path


def all_of(path: Path, **options: object) -> tuple[list[Record], ReadReport]:
    report = ReadReport()
    return list(read_records(path, report=report, **options)), report


def test_every_shape(tmp_path: Path) -> None:
    path = written(
        tmp_path / "a.jsonl",
        '{"text": "t", "kind": "story", "id": 7}',
        '{"prompt": "p", "completion": "c"}',
        '{"kind": "task", "prompt": "p", "text": "c"}',
        json.dumps({"messages": CHAT}),
        '{"messages": [{"role": "assistant", "content": null, "tool_calls": [{"name": "f"}]}], "kind": null}',
    )
    records, report = all_of(path)
    at = {"file": str(path)}
    assert records == [
        TextRecord(text="t", kind="story", line=1, **at),
        PromptRecord(prompt="p", completion="c", line=2, **at),
        PromptRecord(prompt="p", completion="c", kind="task", stands_alone=True, line=3, **at),
        ChatRecord(messages=tuple(CHAT), line=4, **at),
        ChatRecord(
            messages=({"role": "assistant", "content": None, "tool_calls": [{"name": "f"}]},), line=5, **at
        ),
    ]
    assert report == ReadReport(records=5)


def test_byte_order_mark_crlf_and_blank_lines(tmp_path: Path) -> None:
    path = written(
        tmp_path / "a.jsonl", b'\xef\xbb\xbf{"text": "a\\r\\nb"}\r', b"\r", b"", b"  \t", b'{"text": "c"}\r'
    )
    records, report = all_of(path)
    assert [(record.text, record.line) for record in records] == [("a\r\nb", 1), ("c", 5)]
    assert report == ReadReport(records=2, blank=3)


def test_an_empty_file_has_no_records(tmp_path: Path) -> None:
    for name in ("a.jsonl", "a.txt"):
        assert all_of(written(tmp_path / name, b"")) == ([], ReadReport())


# what is wrong in line 2, what the message says after FILE:2
BAD: dict[str, tuple[bytes | str, str]] = {
    "cut off": ('{"text": "a', ":10: the text ends inside the string"),
    "not an object": ("[1]", ":1: expected a JSON object"),
    "bare text": ("hello", ":1: expected a JSON object, which begins with '{', got 'hello'"),
    "duplicate key": ('{"text": "a", "text": "b"}', ":15: duplicate key 'text'"),
    "not UTF-8": (b'{"text": "caf\xe9"}', ":14: not UTF-8: byte 0xe9"),
    "half a pair": ('{"text": "\\ud800"}', ":10: the string that begins here holds half"),
    "200,000 brackets": ('{"text": ' + "[" * 200_000, ":109: nested more than 100 levels deep"),
    "a long integer": ('{"text": ' + "1" * 5000 + "}", ":10: a number of 5000 characters"),
    "NaN": ('{"text": NaN}', ":10: NaN is not a JSON value"),
    "NUL": (b"\0", ":1: expected a JSON object"),
    "no known key": (
        '{"txt": "a", "id": 1}',
        ": keys 'txt', 'id'; allowed: text; or messages; or prompt with",
    ),
    "no keys": ("{}", ": keys none; allowed: text"),
    "prompt alone": ('{"prompt": "a"}', ": keys 'prompt'; allowed"),
    "two shapes": ('{"text": "a", "messages": []}', ": keys 'text', 'messages'; allowed"),
    "a number for text": ('{"text": 1}', ": 'text' is a number; allowed: a string"),
    "null for text": ('{"text": null}', ": 'text' is null; allowed: a string"),
    "a list for prompt": (
        '{"prompt": [], "text": "a"}',
        ": 'prompt' is a list without items; allowed: a string",
    ),
    "empty text": ('{"text": ""}', ": 'text' is empty"),
    "empty completion": ('{"prompt": "p", "completion": ""}', ": 'completion' is empty"),
    "a number for kind": ('{"text": "a", "kind": 1}', ": 'kind' is a number; allowed: a string"),
    "no messages": (
        '{"messages": []}',
        ": 'messages' is a list without items; allowed: a list of one message",
    ),
    "messages in an object": ('{"messages": {}}', ": 'messages' is an object; allowed: a list"),
    "a message of text": ('{"messages": ["a"]}', ": messages[0] is a string; allowed: an object with role"),
    "no role": ('{"messages": [{"content": "a"}]}', ": messages[0]: 'role' is missing; allowed: system"),
    "another role": (
        json.dumps({"messages": [*CHAT, {"role": "human", "content": ""}]}),
        ": messages[3]: 'role' is 'human'; allowed: system, developer, user, assistant, tool",
    ),
    "a list for role": (
        '{"messages": [{"role": [], "content": "a"}]}',
        ": messages[0]: 'role' is []; allowed",
    ),
    "no content": (
        '{"messages": [{"role": "user"}]}',
        ": messages[0]: 'content' is missing; allowed: a string",
    ),
    "null content": (
        '{"messages": [{"role": "user", "content": null}]}',
        "'content' is null; allowed: a string",
    ),
    "too long": (
        '{"text": "' + "x" * 300_000 + '"}',
        ": a record of 300013 bytes or more; at most 250000 are",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_line_stops_or_is_skipped(tmp_path: Path, name: str) -> None:
    bad, words = BAD[name]
    path = written(tmp_path / "a.jsonl", '{"text": "first"}', bad, '{"text": "last"}')
    reading = read_records(path, max_record_bytes=250_000)
    assert next(reading) == TextRecord(text="first", file=str(path), line=1)
    with pytest.raises(DataError) as caught:
        next(reading)
    message = caught.value.message
    assert message.startswith(f"{path}:2:")
    assert words in message
    assert len(message.splitlines()) == 1
    assert len(message) < len(str(path)) + 200

    records, report = all_of(path, on_error="skip", max_record_bytes=250_000)
    assert [record.text for record in records] == ["first", "last"]
    assert report == ReadReport(records=2, skipped=1, problems=[message])


def test_a_misspelt_key_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        all_of(written(tmp_path / "a.jsonl", '{"promt": "a", "text": 1}', '{"prompt": "a"}'))
    assert "'text' is a number" in caught.value.message
    with pytest.raises(DataError) as caught:
        all_of(written(tmp_path / "a.jsonl", '{"promt": "a", "completion": "b"}'))
    assert caught.value.hint == "Did you mean 'prompt' instead of 'promt'?"


def test_the_longest_line_allowed(tmp_path: Path) -> None:
    line = '{"text": "' + "x" * 100 + '"}'
    for end in ("", "\n", "\r\n"):
        path = written(tmp_path / "a.jsonl", line + end)
        assert len(all_of(path, max_record_bytes=len(line) + (end == "\r\n"))[0]) == 1
        with pytest.raises(DataError, match=r":1: a record of 11\d bytes or more"):
            all_of(path, max_record_bytes=len(line) - 1)


def test_a_huge_line_is_passed_over_without_being_kept(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    with path.open("wb") as file:
        file.write(b'{"text": "')
        file.seek(100_000_000)
        file.write(b'"}\n{"text": "after"}\n')
    records, report = all_of(path, on_error="skip")
    assert [(record.text, record.line) for record in records] == [("after", 2)]
    assert report.problems == [f"{path}:1: a record of 100000003 bytes or more; at most 16777216 are allowed"]


def test_only_the_first_problems_are_kept(tmp_path: Path) -> None:
    report = all_of(written(tmp_path / "a.jsonl", *["bad"] * 50), on_error="skip")[1]
    assert report.skipped == 50
    assert len(report.problems) == 20


def test_documents_of_plain_text(tmp_path: Path) -> None:
    end = "<|endoftext|>"
    path = written(
        tmp_path / "a.txt",
        *(
            b"\xef\xbb\xbfone",
            "",
            "two\r",
            end,
            end,
            " ",
            end + "\r",
            f"about {end} inside",
            f" {end}",
            end,
            "last",
            "",
        ),
    )
    records, report = all_of(path)
    assert [(record.text, record.line) for record in records] == [
        ("one\n\ntwo", 1),
        (f"about {end} inside\n {end}", 8),
        ("last", 11),
    ]
    assert report == ReadReport(records=3, blank=2)


def test_a_bad_document_stops_or_is_skipped_whole(tmp_path: Path) -> None:
    end = "<|endoftext|>"
    path = written(tmp_path / "a.txt", "one", end, "two", b"caf\xe9", "more", end, "three")
    with pytest.raises(DataError, match=r"a\.txt:4:4: not UTF-8: byte 0xe9"):
        all_of(path)
    records, report = all_of(path, on_error="skip")
    assert [(record.text, record.line) for record in records] == [("one", 1), ("three", 7)]
    assert report.skipped == 1
    long = written(tmp_path / "b.txt", "x" * 50, "y" * 60, end, "short")
    records, report = all_of(long, on_error="skip", max_record_bytes=100)
    assert [record.text for record in records] == ["short"]
    assert report.problems == [f"{long}:1: a record of 112 bytes or more; at most 100 are allowed"]


@given(texts=st.lists(st.text(alphabet=st.characters(codec="utf-8"), min_size=1, max_size=30), max_size=5))
@settings(max_examples=50)
def test_what_is_written_is_read(tmp_path_factory: pytest.TempPathFactory, texts: list[str]) -> None:
    folder = tmp_path_factory.mktemp("round")
    plain = written(folder / "a.jsonl", *(json.dumps({"text": text}, ensure_ascii=False) for text in texts))
    assert [record.text for record in all_of(plain)[0]] == texts
    packed = folder / "a.jsonl.zst"
    packed.write_bytes(zstandard.compress(plain.read_bytes()))
    assert [record.text for record in all_of(packed)[0]] == texts


def test_compressed_frames_one_after_another(tmp_path: Path) -> None:
    lines = [json.dumps({"text": f"{number} " + "word " * number}) + "\n" for number in range(2000)]
    path = tmp_path / "a.jsonl.zst"
    half = "".join(lines[:1000]).encode(), "".join(lines[1000:]).encode()
    path.write_bytes(zstandard.compress(half[0]) + zstandard.compress(b"") + zstandard.compress(half[1]))
    assert len(all_of(path)[0]) == 2000
    text = tmp_path / "b.txt.zst"
    text.write_bytes(zstandard.compress(b"a\n<|endoftext|>\nb\n"))
    assert [record.text for record in all_of(text)[0]] == ["a", "b"]


@pytest.mark.parametrize("damage", ["cut", "changed", "trailing"])
def test_damaged_compressed_files_always_stop(tmp_path: Path, damage: str) -> None:
    lines = "".join(json.dumps({"text": f"{number**7}"}) + "\n" for number in range(5000))
    whole = bytearray(zstandard.ZstdCompressor(write_checksum=True).compress(lines.encode()))
    if damage == "cut":
        del whole[-2000:]
    elif damage == "changed":
        whole[len(whole) // 2] ^= 0xFF
    else:
        whole += b"more"
    path = tmp_path / "a.jsonl.zst"
    path.write_bytes(whole)
    with pytest.raises(DataError, match=r"a\.jsonl\.zst: damaged zstd data: "):
        all_of(path, on_error="skip")


def test_a_bomb_is_read_in_small_memory(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl.zst"
    path.write_bytes(zstandard.compress(bytes(200_000_000)) + zstandard.compress(b'\n{"text": "after"}'))
    assert path.stat().st_size < 20_000
    records, report = all_of(path, on_error="skip")
    assert [(record.text, record.line) for record in records] == [("after", 2)]
    assert report.skipped == 1


UNREADABLE: dict[str, tuple[str, bytes | None, str]] = {
    "missing": ("a.jsonl", None, "no such file"),
    "another suffix": ("a.csv", b"a,b", "named .csv; allowed: .jsonl, .txt, .jsonl.zst, .txt.zst"),
    "no suffix": ("data", b"a,b", "named without a suffix; allowed"),
    "not zstd": ("a.jsonl.zst", b'{"text": "a"}', "named .zst but not zstd data"),
    "empty zstd": ("a.jsonl.zst", b"", "named .zst but not zstd data"),
}


@pytest.mark.parametrize("name", UNREADABLE)
def test_files_that_cannot_be_read(tmp_path: Path, name: str) -> None:
    file, data, words = UNREADABLE[name]
    if data is not None:
        (tmp_path / file).write_bytes(data)
    with pytest.raises(DataError) as caught:
        all_of(tmp_path / file, on_error="skip")
    assert words in caught.value.message


def test_a_folder_is_no_data_file(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").mkdir()
    with pytest.raises(DataError, match=r"a\.jsonl: cannot be read: Is a directory"):
        all_of(tmp_path / "a.jsonl")


def test_another_way_to_meet_errors_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="on_error 'ignore'; allowed: stop, skip"):
        read_records(tmp_path / "a.jsonl", on_error="ignore")  # pyright: ignore[reportArgumentType]


def test_zstd_without_its_package_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.jsonl.zst"
    path.write_bytes(zstandard.compress(b'{"text": "a"}'))
    monkeypatch.setitem(sys.modules, "zstandard", None)
    with pytest.raises(MissingExtra) as caught:
        all_of(path)
    assert "chimera-edge[train]" in caught.value.hint
