"""Sources: which files, how often, under what name; records as documents of ids with their answers marked."""

import sys
from pathlib import Path
from typing import Any

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from chimera.data.conversations import Conversations
from chimera.data.sources import Document, documents_of, sources_of, texts_of
from configs.errors import DataError, MissingExtra, UsageError
from configs.text.template import DEFAULT_TEMPLATE, ChatTemplate
from configs.text.tokenizer import Tokenizer
from tests.chimera.data.samples import sentence, written

CHAT = [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "So."}]


def read(path: Path, tokenizer: Tokenizer, *, given: str | None = None, **options: Any) -> list[Document]:
    (source,) = sources_of([given or path])
    return list(documents_of(source, tokenizer, template=ChatTemplate.of_tokenizer(tokenizer), **options))


def test_a_text_begins_and_ends_as_the_runtime_has_it(tmp_path: Path, tokenizer: Tokenizer):
    path = tmp_path / "a.txt"
    path.write_text("One.\nTwo.\n<|endoftext|>\nThree.\n")
    first, second = read(path, tokenizer)
    assert tokenizer.bos is None
    for document, text in ((first, "One.\nTwo."), (second, "Three.")):
        assert document.ids == [tokenizer.eos, *tokenizer.encode(text), tokenizer.eos]
        assert document.answers == [False] * len(document.ids)
        assert document.source == "a"


def test_a_conversation_marks_what_the_assistant_says_and_its_end(tmp_path: Path, tokenizer: Tokenizer):
    path = written(tmp_path / "a.jsonl", [{"messages": [*CHAT, *CHAT]}])
    (document,) = read(path, tokenizer)
    end = tokenizer.special_id("<|im_end|>")
    said = [token for token, is_answer in zip(document.ids, document.answers, strict=True) if is_answer]
    assert said == [*tokenizer.encode("So."), end] * 2
    assert document.ids[0] == document.ids[-1] == tokenizer.eos


def test_a_share_of_texts_with_prompts_becomes_chats_and_the_same_ones_again(
    tmp_path: Path, tokenizer: Tokenizer
):
    records = [{"prompt": f"Write {n}.", "text": sentence(n)} for n in range(400)]
    path = written(tmp_path / "a.jsonl", records)
    whole = written(tmp_path / "b.jsonl", records[::-1])
    one, other = (read(file, tokenizer, chat_share=0.25) for file in (path, whole))
    chats = [any(document.answers) for document in one]
    assert 70 < sum(chats) < 130
    assert chats == [any(document.answers) for document in other][::-1]
    plain = one[chats.index(False)]
    assert plain.ids[1:-1] == tokenizer.encode(sentence(chats.index(False)))
    assert not any(any(d.answers) for d in read(path, tokenizer))
    assert all(any(d.answers) for d in read(path, tokenizer, chat_share=1.0))


def test_an_answer_that_needs_its_prompt_is_always_in_a_chat(tmp_path: Path, tokenizer: Tokenizer):
    path = written(tmp_path / "a.jsonl", [{"prompt": "2 + 2 =", "completion": "4", "rejected": "5"}])
    (document,) = read(path, tokenizer, chat_share=0.0)
    text = tokenizer.decode(document.ids)
    assert text == "2 + 2 =4"
    assert any(document.answers)


def test_how_often_and_whether_as_a_chat_are_drawn_apart(tmp_path: Path, tokenizer: Tokenizer):
    records = [{"prompt": f"Write {n}.", "text": sentence(n)} for n in range(800)]
    path = written(tmp_path / "a.jsonl", records)
    half = read(path, tokenizer, given=f"{path}*0.5", chat_share=0.5)
    assert 330 < len(half) < 470
    assert 0.4 < sum(any(document.answers) for document in half) / len(half) < 0.6


@pytest.mark.parametrize(("times", "least", "most"), [("2", 200, 200), ("0.3", 15, 45), ("1.5", 120, 180)])
def test_records_count_as_often_as_asked(
    tmp_path: Path, tokenizer: Tokenizer, times: str, least: int, most: int
):
    path = written(tmp_path / "a.jsonl", [{"text": sentence(n)} for n in range(100)])
    (source,) = sources_of([f"{path}*{times}"])
    assert least <= len(read(path, tokenizer, given=f"{path}*{times}")) <= most
    assert len(list(texts_of([source]))) == len(read(path, tokenizer, given=f"{path}*{times}"))


def test_a_folder_stands_for_the_data_files_below_it(tmp_path: Path):
    for name in ("b.txt", "a.jsonl", "deep/c.jsonl.zst", "deep/d.txt.zst"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    for ignored in (".hidden.txt", ".cache/e.txt", "notes.md", "f.zst"):
        (tmp_path / ignored).parent.mkdir(exist_ok=True)
        (tmp_path / ignored).touch()
    (tmp_path / "folder.txt").mkdir()
    found = sources_of([f"{tmp_path}*3"])
    assert [source.name for source in found] == ["a", "b", "c", "d"]
    assert {source.times for source in found} == {3.0}


def test_a_kind_is_a_source_of_its_own(tmp_path: Path, tokenizer: Tokenizer):
    path = written(tmp_path / "s.jsonl", [{"text": "One.", "kind": "story"}, {"text": "Two."}])
    assert [document.source for document in read(path, tokenizer)] == ["s/story", "s"]


def test_a_file_whose_name_has_a_star_is_itself(tmp_path: Path):
    path = tmp_path / "a*2.txt"
    path.touch()
    (source,) = sources_of([path])
    assert (source.path, source.times) == (path, 1.0)


def test_compressed_files_are_read_as_plain_ones(tmp_path: Path, tokenizer: Tokenizer):
    plain = written(tmp_path / "a.jsonl", [{"text": sentence(n)} for n in range(50)])
    packed = tmp_path / "b.jsonl.zst"
    packed.write_bytes(zstandard.compress(plain.read_bytes()))
    one, other = read(plain, tokenizer), read(packed, tokenizer)
    assert [document.ids for document in one] == [document.ids for document in other]


def test_zstd_without_its_package_names_the_extra(
    tmp_path: Path, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
):
    path = tmp_path / "a.txt.zst"
    path.write_bytes(zstandard.compress(b"text"))
    monkeypatch.setitem(sys.modules, "zstandard", None)
    with pytest.raises(MissingExtra, match="zstandard") as error:
        read(path, tokenizer)
    assert "train" in error.value.hint


def test_a_record_that_a_template_refuses_is_named_by_its_line(tmp_path: Path, tokenizer: Tokenizer):
    messages = [{"role": "tool", "content": "x"}]
    path = written(tmp_path / "a.jsonl", [{"text": "One."}, {"messages": messages}])
    with pytest.raises(DataError, match=r"a\.jsonl:2: .*role tool"):
        read(path, tokenizer)


@pytest.mark.parametrize(
    ("name", "error", "words"),
    [
        ("missing.txt", DataError, "no such file"),
        ("a.csv", DataError, "not the name of a data file"),
        ("empty", DataError, "no data file below"),
        ("a.txt*0", UsageError, "'0' is not a number of times"),
        ("a.txt*many", UsageError, "'many' is not a number of times"),
        ("a.txt*nan", UsageError, "'nan' is not a number of times"),
    ],
)
def test_what_cannot_be_a_source_is_refused(tmp_path: Path, name: str, error: type[Exception], words: str):
    (tmp_path / "a.txt").touch()
    (tmp_path / "a.csv").touch()
    (tmp_path / "empty").mkdir()
    with pytest.raises(error, match=words):
        sources_of([f"{tmp_path}/{name}"])


def test_no_source_at_all_is_refused():
    with pytest.raises(UsageError, match="no data"):
        sources_of([])


def test_a_share_beyond_all_is_refused(tmp_path: Path, tokenizer: Tokenizer):
    path = written(tmp_path / "a.jsonl", [{"text": "One."}])
    with pytest.raises(UsageError, match="chat share"):
        read(path, tokenizer, chat_share=1.5)


@given(st.text(max_size=40), st.text(max_size=40))
def test_the_frame_of_our_template_is_what_the_template_says(tokenizer: Tokenizer, prompt: str, answer: str):
    template = ChatTemplate.of_tokenizer(tokenizer)
    messages = [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]
    conversations = Conversations(template, tokenizer)
    assert conversations.encode_answer(prompt, answer) == conversations.encode(messages)


def test_a_template_that_looks_at_what_is_said_is_asked_each_time(tokenizer: Tokenizer):
    source = DEFAULT_TEMPLATE.replace("{{ message.content }}", "{{ message.content | trim }}")
    conversations = Conversations(ChatTemplate.of_tokenizer(tokenizer, source), tokenizer)
    assert conversations.encode_answer(" Why? ", " So. ") == conversations.encode_answer("Why?", "So.")
