"""A stream's ways back: however it went, it holds what a straight one holds, and reads little again."""

from array import array

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.stream import Stream
from runtime.streams.kept import KeptState, KeptStates
from tests.runtime.scripted import ReadIds, Scripted, chance

STATE_BYTES = 1000
"""Of a scripted state."""


def begun(runner: Scripted, **given: int) -> Stream:
    return Stream(runner, **{"spacing": 10, "kept_bytes": 10**6} | given)


@settings(max_examples=60)
@given(data=st.data(), kept_bytes=st.sampled_from([0, STATE_BYTES, 4 * STATE_BYTES, 10**6]))
def test_any_way_leads_where_the_straight_one_does(data: st.DataObject, kept_bytes: int) -> None:
    runner = Scripted(chance(100))
    streams = {0: (begun(runner, kept_bytes=kept_bytes), list[int]())}
    snapshots = []
    for number in range(data.draw(st.integers(1, 20))):
        name = data.draw(st.sampled_from(sorted(streams)))
        stream, held = streams[name]
        match data.draw(st.sampled_from(["read", "read", "rewind", "keep", "snapshot", "restore", "fork"])):
            case "read":
                more = [number, *range(data.draw(st.integers(0, 30)))]
                stream.accept(more)
                held += more
            case "rewind":
                position = data.draw(st.integers(0, len(held)))
                stream.rewind(position)
                del held[position:]
            case "keep":
                stream.keep()
            case "snapshot":
                snapshots.append((stream.snapshot(), list(held)))
            case "restore" if snapshots:
                snapshot, then = data.draw(st.sampled_from(snapshots))
                stream.restore(snapshot)
                held[:] = then
            case "fork" if len(streams) < 4:
                streams[len(streams)] = (stream.fork(), list(held))
            case _:
                pass
        if data.draw(st.booleans()):
            stream.catch_up()
        for other, ids in streams.values():
            state = other.state
            assert isinstance(state, ReadIds)
            assert list(other.ids()) == ids
            assert list(state.ids) == ids[: state.position]
            assert other.kept_bytes <= max(kept_bytes, STATE_BYTES)
            assert other.num_bytes == STATE_BYTES + other.kept_bytes + 4 * len(ids)


@given(length=st.integers(1, 400), back=st.floats(0, 1))
def test_going_back_reads_no_more_than_the_spacing_again(length: int, back: float) -> None:
    runner = Scripted(chance(100))
    stream = begun(runner)
    stream.accept(range(length))
    stream.catch_up()
    position = round(length * back)
    expected = stream.num_replayed(position)
    read = runner.num_read
    stream.rewind(position)
    stream.catch_up()
    assert runner.num_read - read == expected
    assert expected < 10 or position == length == expected


@pytest.mark.parametrize("length", [500, 5000])
def test_thinned_states_stand_closer_together_near_the_end(length: int) -> None:
    room = 2 * (length // 10).bit_length() + 4
    kept = KeptStates(budget_bytes=room * STATE_BYTES, spacing=10)
    for position in range(10, length + 1, 10):
        state = ReadIds(array("I", range(position)), rounds=None)
        kept.add(KeptState(state=state, outlook=None, is_mark=position == 50))
        assert kept.num_bytes <= kept.budget_bytes
    places = [0, *(state.position for state in kept)]
    assert 50 in places
    for position in range(0, length, 7):
        found = kept.nearest(position)
        replayed = position - (found.position if found else 0)
        assert replayed <= max(10, 2 * (length - position)), "two for each doubling of the text are enough"


def test_a_mark_is_kept_where_there_is_room_for_one_alone() -> None:
    runner = Scripted(chance(100))
    stream = begun(runner, kept_bytes=STATE_BYTES)
    stream.accept(range(25))
    stream.catch_up()
    stream.keep()
    stream.accept(range(100))
    stream.catch_up()
    assert stream.num_replayed(30) == 5
    none = begun(runner, kept_bytes=0)
    none.accept(range(100))
    none.catch_up()
    assert none.kept_bytes == 0


def test_who_was_heard_needs_no_reading_to_be_heard_again() -> None:
    runner = Scripted(chance(100))
    stream = begun(runner)
    stream.accept([1, 2, 3])
    stream.catch_up()
    snapshot = stream.snapshot()
    stream.accept([4])
    stream.catch_up()
    read, other = runner.num_read, begun(runner)
    other.restore(snapshot)
    other.look_out()
    assert (runner.ids, runner.num_read) == ([1, 2, 3], read)
    stream.rewind(3)
    stream.catch_up()
    stream.rewind(2)
    stream.catch_up()
    stream.look_out()
    assert runner.ids == [1, 2]
