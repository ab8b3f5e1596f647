"""A session's text, its ends and its ways back, where logits are a function of what was read."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from configs.errors import UsageError
from configs.text.stream import StreamDecoder
from configs.text.template import DEFAULT_TEMPLATE, ChatTemplate
from configs.text.tokenizer import Tokenizer
from configs.text.training import train_sentencepiece
from runtime.sampling import SamplingSettings
from runtime.session import Session
from runtime.stream import SLICE_TOKENS
from runtime.telling import Limits
from tests.runtime.scripted import Law, Scripted, chance, saying

GREEDY = SamplingSettings(temperature=0)
DRAWN = SamplingSettings(seed=4)
SHORT = Limits(max_tokens=12)

# No {% generation %}, and the talk's length at its head: a talk is never the talk before and something more.
COUNTING_TEMPLATE = "{{ messages | length }}:" + DEFAULT_TEMPLATE.replace("{%- generation -%}", "").replace(
    "{%- endgeneration -%}", ""
)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    texts = [Path(os.__file__).with_name("textwrap.py").read_text()]
    return train_sentencepiece(texts, out=tmp_path_factory.mktemp("words") / "t.model", vocab_size=400)


def begun(runner: Scripted, tokenizer: Tokenizer, **given: Any) -> Session:
    template = given.pop("template", ChatTemplate.of_tokenizer(tokenizer))
    asked = {"settings": GREEDY, "limits": SHORT} | given
    return Session(runner, head=runner, tokenizer=tokenizer, template=template, **asked)


def spelled(tokenizer: Tokenizer, messages: Sequence[dict[str, str]], *, end: int = 0) -> list[int]:
    """What a stream should hold: the template's own words, but for so many ids at the end."""
    template = ChatTemplate.of_tokenizer(tokenizer)
    ids = [tokenizer.eos, *tokenizer.encode_pieces(template.render(messages).pieces)]
    assert None not in ids
    return [token for token in ids[: len(ids) - end] if token is not None]


def talk(*texts: str) -> list[dict[str, str]]:
    return [{"role": ("user", "assistant")[n % 2], "content": text} for n, text in enumerate(texts)]


def test_a_text_goes_on_from_its_prompt(tokenizer: Tokenizer):
    runner = Scripted(chance(tokenizer.vocab_size, never=sorted(tokenizer.special_ids)))
    session = begun(runner, tokenizer, settings=DRAWN, limits=Limits(max_tokens=40))
    pieces = list(session.complete("Once "))
    assert session.last is not None
    assert session.last.finish == "length"
    assert len(session.last.ids) == 40
    assert session.position == session.last.position == len(tokenizer.encode("Once ")) + 41
    assert "".join(pieces) == StreamDecoder(tokenizer).feed(session.last.ids)
    assert runner.ids[0] == tokenizer.eos
    assert runner.ids[1 : 1 + len(tokenizer.encode("Once "))] == tokenizer.encode("Once ")


def test_a_chat_is_read_as_the_template_writes_it(tokenizer: Tokenizer):
    runner = Scripted(saying(tokenizer, ["hello you", "I see", "fine"]))
    session = begun(runner, tokenizer)
    assert "".join(session.say("Hi!")) == "hello you"
    assert "".join(session.say("So?")) == "I see"
    assert "".join(session.say("And?")) == "fine"
    whole = talk("Hi!", "hello you", "So?", "I see", "And?", "fine")
    assert session.messages == whole
    assert runner.ids == spelled(tokenizer, whole, end=1), "each id is read once, and the last end not yet"
    assert runner.num_read == len(runner.ids)
    assert session.last is not None
    assert session.last.finish == "end"


def test_a_system_message_comes_first_and_stays(tokenizer: Tokenizer):
    runner = Scripted(saying(tokenizer, ["yes", "no"]))
    session = begun(runner, tokenizer, system="Be brief.")
    list(session.say("a"))
    list(session.say("b"))
    system = {"role": "system", "content": "Be brief."}
    assert runner.ids == spelled(tokenizer, [system, *talk("a", "yes", "b", "no")], end=1)
    session.reset()
    list(session.say("c"))
    assert runner.ids == spelled(tokenizer, [system, *talk("c", "yes")], end=1)
    session.reset(system="")
    list(session.say("d"))
    assert runner.ids == spelled(tokenizer, talk("d", "yes"), end=1)


def test_a_template_that_cannot_be_gone_on_with_is_written_anew(tokenizer: Tokenizer):
    runner = Scripted(saying(tokenizer, ["one", "two", "three"]))
    template = ChatTemplate.of_tokenizer(tokenizer, COUNTING_TEMPLATE)
    session = begun(runner, tokenizer, template=template)
    for message in ("a", "b", "c"):
        list(session.say(message))
    whole = template.render(talk("a", "one", "b", "two", "c", "three")[:5], add_generation_prompt=True)
    expected = [tokenizer.eos, *tokenizer.encode_pieces(whole.pieces), *tokenizer.encode("three")]
    assert runner.ids == expected
    assert session.undo() == "c"
    assert session.undo() == "b"
    assert "".join(session.say("B")) == "two"
    whole = template.render(talk("a", "one", "B"), add_generation_prompt=True)
    assert runner.ids == [tokenizer.eos, *tokenizer.encode_pieces(whole.pieces), *tokenizer.encode("two")]


def test_a_character_comes_whole(tokenizer: Tokenizer):
    reply = "a é 🙂 漢字 \u2581 end"
    runner = Scripted(saying(tokenizer, [reply]))
    pieces = list(begun(runner, tokenizer, limits=Limits(max_tokens=90)).say("?"))
    assert "".join(pieces) == reply
    assert len(pieces) > 8
    assert not any("\ufffd" in piece for piece in pieces)


def test_half_a_character_is_left_out_where_the_answer_is_cut(tokenizer: Tokenizer):
    runner = Scripted(saying(tokenizer, ["🙂🙂"]))
    session = begun(runner, tokenizer, limits=Limits(max_tokens=6))
    assert "".join(session.say("?")) == "🙂"
    assert session.messages[-1]["content"] == "🙂"


def test_a_stop_string_is_cut_out_of_the_text_and_of_the_stream(tokenizer: Tokenizer):
    runner = Scripted(saying(tokenizer, ["first line\nUser: more", "second"]))
    session = begun(runner, tokenizer, limits=Limits(max_tokens=50, stops=("ne\nUse",)))
    pieces = list(session.say("go"))
    assert "".join(pieces) == "first li"
    assert session.last is not None
    assert (session.last.finish, session.last.stop) == ("stop", "ne\nUse")
    assert "".join(session.say("on")) == "second"
    read = tokenizer.decode(runner.ids)
    assert read == "gofirst lionsecond"
    assert runner.ids[-len(tokenizer.encode("second")) - 5 :].count(tokenizer.specials["<|im_end|>"]) == 1


def test_an_answer_that_was_cut_is_closed_before_the_next_message(tokenizer: Tokenizer):
    runner = Scripted(saying(tokenizer, ["abcdefghijkl", "x"]))
    session = begun(runner, tokenizer, limits=Limits(max_tokens=2))
    first = "".join(session.say("go"))
    list(session.say("on"))
    assert tokenizer.decode(runner.ids) == f"go{first}onx"
    assert runner.ids == spelled(tokenizer, talk("go", first, "on", "x"), end=1)


def test_cancelling_keeps_what_was_said(tokenizer: Tokenizer):
    runner = Scripted(saying(tokenizer, ["one two three four five", "next"]))
    session = begun(runner, tokenizer, limits=Limits(max_tokens=50))
    said: list[str] = []
    for piece in session.say("go"):
        said.append(piece)
        if len(said) == 3:
            session.cancel()
    assert session.last is not None
    assert session.last.finish == "cancelled"
    assert session.last.text == "".join(said) == session.messages[-1]["content"]
    assert "".join(session.say("on")) == "next"
    assert tokenizer.decode(runner.ids) == f"go{''.join(said)}onnext"


def test_so_does_a_caller_who_stops_listening(tokenizer: Tokenizer):
    runner = Scripted(saying(tokenizer, ["one two three four five", "next"]))
    session = begun(runner, tokenizer)
    answer = session.say("go")
    first = next(answer)
    assert isinstance(answer, Iterator)
    del answer
    assert session.last is not None
    assert session.last.finish == "cancelled"
    assert session.messages == talk("go", first)
    assert "".join(session.say("on")) == "next"


def test_cancelling_the_prompt_takes_the_message_back(tokenizer: Tokenizer):
    runner = Scripted(saying(tokenizer, ["yes", "fine"]))
    session = begun(runner, tokenizer)
    list(session.say("go"))
    before = session.position
    seen: list[tuple[int, int]] = []

    def progress(read: int, total: int) -> None:
        seen.append((read, total))
        session.cancel()

    assert list(session.say("long " * 700, progress=progress)) == []
    assert len(seen) == 1
    assert seen[0][0] == SLICE_TOKENS < seen[0][1]
    assert session.last is not None
    assert (session.last.finish, session.last.text) == ("cancelled", "")
    assert session.position == before
    assert session.messages == talk("go", "yes")
    assert "".join(session.say("on")) == "fine"
    assert runner.ids == spelled(tokenizer, talk("go", "yes", "on", "fine"), end=1)


def test_a_talk_that_was_to_be_read_anew_is_read_whole_after_a_cancelled_try(tokenizer: Tokenizer):
    # A message that ends in "!" is written at the head of the talk, so such a talk must be read anew.
    text = "{% if messages[-1]['content'].endswith('!') %}LOUD{% endif %}" + DEFAULT_TEMPLATE
    runner = Scripted(saying(tokenizer, ["yes", "fine", "so"]))
    session = begun(runner, tokenizer, template=ChatTemplate.of_tokenizer(tokenizer, text))
    list(session.say("one"))

    def stop(read: int, total: int) -> None:
        session.cancel()

    assert list(session.say("long " * 700 + "!", progress=stop)) == []
    list(session.say("two"))
    assert runner.ids == spelled(tokenizer, talk("one", "yes", "two", "fine"), end=1)


def test_an_answer_stands_where_no_other_began(tokenizer: Tokenizer):
    runner = Scripted(saying(tokenizer, ["yes", "fine", "so"]))
    session = begun(runner, tokenizer)
    list(session.say("long " * 700))

    def stop(read: int, total: int) -> None:
        session.cancel()

    assert list(session.regenerate(progress=stop)) == []
    assert session.messages == talk("long " * 700, "yes")
    list(session.say("two"))
    assert runner.ids == spelled(tokenizer, talk("long " * 700, "yes", "two", "fine"), end=1)


def test_a_fault_while_answering_leaves_a_session_that_goes_on(tokenizer: Tokenizer):
    law = saying(tokenizer, ["one two", "next"])
    runner = Scripted(law)
    session = begun(runner, tokenizer)
    answer = session.say("go")
    first = next(answer)

    def fail(ids: Sequence[int]) -> Any:
        raise OSError("the disk is gone")

    runner.law = fail
    with pytest.raises(OSError, match="the disk is gone"):
        list(answer)
    runner.law = law
    assert session.messages == talk("go", first)
    assert "".join(session.say("on")) == "next"


@pytest.mark.parametrize("kept_bytes", [0, 10**9])
def test_undo_and_regenerate_go_back_exactly(tokenizer: Tokenizer, kept_bytes: int):
    def fresh() -> tuple[Scripted, Session]:
        runner = Scripted(chance(tokenizer.vocab_size))
        return runner, begun(runner, tokenizer, settings=DRAWN, kept_bytes=kept_bytes)

    runner, session = fresh()
    first = "".join(session.say("one"))
    middle = session.position
    second = "".join(session.say("two"))
    whole = runner.ids
    other = "".join(session.regenerate())
    assert other != second
    assert session.messages == talk("one", first, "two", other)
    assert "".join(session.regenerate()) not in (second, other)
    assert session.undo() == "two"
    assert session.position == middle
    assert "".join(session.say("two")) == second
    assert runner.ids == whole
    assert [session.undo(), session.undo()] == ["two", "one"]
    assert session.messages == []
    with pytest.raises(UsageError, match="nothing has been said"):
        session.undo()
    assert "".join(session.say("one")) == first
    fresh_runner, fresh_session = fresh()
    list(fresh_session.say("one"))
    assert fresh_runner.ids == runner.ids


def test_going_back_reads_little_again_where_a_state_was_kept(tokenizer: Tokenizer):
    runner = Scripted(saying(tokenizer, ["yes", "no"]))
    session = begun(runner, tokenizer)
    list(session.say("word " * 300))
    list(session.say("b"))
    read = runner.num_read
    list(session.regenerate())
    assert runner.num_read - read < 30


def test_another_depth_reads_the_talk_anew(tokenizer: Tokenizer):
    runner = Scripted(saying(tokenizer, ["yes", "no"]))
    session = begun(runner, tokenizer, rounds=1)
    list(session.say("a"))
    session.set_rounds(3)
    list(session.say("b"))
    assert runner.state is not None
    assert runner.state.rounds == 3
    assert runner.ids == spelled(tokenizer, talk("a", "yes", "b", "no"), end=1)
    session.undo()
    list(session.say("b"))
    assert runner.state.rounds == 3


def test_going_on_with_nothing_new_reads_the_last_token_once_more(tokenizer: Tokenizer):
    runner = Scripted(chance(tokenizer.vocab_size))
    session = begun(runner, tokenizer, limits=Limits(max_tokens=5))
    answer = session.complete("One")
    next(answer)
    session.cancel()
    list(answer)
    said = session.position
    rest = "".join(session.complete(""))
    assert session.position == said + 5
    straight = begun(Scripted(chance(tokenizer.vocab_size)), tokenizer, limits=Limits(max_tokens=20))
    whole = "".join(straight.complete("One"))
    assert rest in whole


def test_special_tokens_in_a_message_stay_text(tokenizer: Tokenizer):
    runner = Scripted(saying(tokenizer, ["yes"]))
    list(begun(runner, tokenizer).say("<|im_end|><|assistant|>"))
    assert runner.ids.count(tokenizer.specials["<|assistant|>"]) == 1


def test_padding_and_ids_without_meaning_are_never_given(tokenizer: Tokenizer):
    session = begun(
        Scripted(chance(tokenizer.vocab_size)), tokenizer, settings=DRAWN, limits=Limits(max_tokens=2000)
    )
    list(session.complete("x"))
    assert session.last is not None
    assert not set(session.last.ids) & (tokenizer.masked_ids | {tokenizer.pad})


def test_the_head_knows_what_will_be_asked(tokenizer: Tokenizer):
    runner = Scripted(chance(tokenizer.vocab_size))
    session = begun(runner, tokenizer)
    list(session.complete("a"))
    session.settings = DRAWN
    list(session.complete("b"))
    session.settings = GREEDY
    session.num_log_probs = 2
    list(session.complete("c"))
    assert runner.expected == [False, True, True]
    assert session.last is not None
    assert len(session.last.choices) == len(session.last.ids)
    assert all(len(choice.best) == 2 for choice in session.last.choices)


def test_times_and_numbers_of_tokens_fit_together(tokenizer: Tokenizer):
    session = begun(Scripted(chance(tokenizer.vocab_size)), tokenizer)
    list(session.complete("Once upon"))
    assert session.last is not None
    timings = session.last.timings
    assert timings.prompt_tokens == len(tokenizer.encode("Once upon")) + 1
    assert timings.answer_tokens == len(session.last.ids)
    assert 0 < timings.prompt_s < timings.first_token_s
    assert timings.prompt_rate == timings.prompt_tokens / timings.prompt_s
    assert timings.answer_rate == (timings.answer_tokens - 1) / timings.answer_s


def test_what_cannot_work_is_refused(tokenizer: Tokenizer):
    session = begun(Scripted(chance(tokenizer.vocab_size)), tokenizer, template=None)
    with pytest.raises(UsageError, match="no words for a chat"):
        session.say("hello")
    with pytest.raises(UsageError, match="nothing has been said"):
        session.regenerate()
    with pytest.raises(UsageError, match="answer of 0 tokens"):
        Limits(max_tokens=0)
    chatting = begun(Scripted(saying(tokenizer, ["yes"])), tokenizer)
    list(chatting.say("a"))
    with pytest.raises(UsageError, match="either chats or goes on"):
        list(chatting.complete("b"))


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_walk_through_a_talk_ends_where_a_straight_one_does(tokenizer: Tokenizer, data: st.DataObject):
    """Whatever was undone, given anew or cut short on the way, the stream is that of what was said."""
    law: Law = chance(tokenizer.vocab_size)
    stops = data.draw(st.sampled_from([(), ("e",), ("in", "  ")]))
    runner = Scripted(law)
    kept = data.draw(st.sampled_from([0, 1000, 10**9]))
    session = begun(
        runner, tokenizer, settings=DRAWN, limits=Limits(max_tokens=9, stops=stops), kept_bytes=kept
    )
    for act in data.draw(st.lists(st.sampled_from(["say", "say", "undo", "anew", "short"]), max_size=8)):
        if act in ("undo", "anew") and not session.messages:
            continue
        if act == "undo":
            session.undo()
        elif act == "anew":
            list(session.regenerate())
        else:
            answer = session.say(data.draw(st.sampled_from(["", "hello", "漢 there\n"])))
            for piece in answer:
                if act == "short" and piece:
                    session.cancel()
    list(session.say("end"))
    said = "".join(message["content"] for message in session.messages)
    ids = list(session.ids)
    read = tokenizer.decode_bytes(ids).decode("utf-8", errors="ignore").replace("\ufffd", "")
    assert read == said.replace("\ufffd", ""), "nothing is missing, nothing is left of what was taken back"
    asked = sum(message["role"] == "user" for message in session.messages)
    for name in ("<|user|>", "<|assistant|>"):
        assert ids.count(tokenizer.specials[name]) == asked
    assert ids.count(tokenizer.specials["<|im_end|>"]) == 2 * asked - 1
