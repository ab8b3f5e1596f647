"""Ctrl-C: the first one asks, the second leaves, and both are given back afterwards."""

import os
import signal
import threading

import pytest

from chimera.train.interrupts import ASKED, SECOND, watched


def send(number: int) -> None:
    os.kill(os.getpid(), number)


def test_the_first_asks_and_the_second_leaves():
    before = signal.getsignal(signal.SIGINT)
    said: list[str] = []
    heard = threading.Event()

    def say(text: str) -> None:
        said.append(text)
        heard.set()

    with watched(say) as interrupts:
        assert not interrupts.asked
        send(signal.SIGINT)
        assert interrupts.asked
        assert heard.wait(10)
        with pytest.raises(KeyboardInterrupt):
            send(signal.SIGINT)
    assert said == [ASKED + SECOND]
    assert signal.getsignal(signal.SIGINT) == before


def test_a_request_to_end_asks_as_often_as_it_comes():
    said: list[str] = []
    with watched(said.append) as interrupts:
        send(signal.SIGTERM)
        send(signal.SIGTERM)
        assert interrupts.asked
    assert said == [ASKED + SECOND]


def test_workers_are_told_twice_of_one_end():
    said: list[str] = []
    with watched(said.append, second_leaves=False) as interrupts:
        send(signal.SIGINT)
        send(signal.SIGINT)
        assert interrupts.asked
    assert said == [ASKED]


def test_unasked_nothing_is_said():
    said: list[str] = []
    with watched(said.append) as interrupts:
        pass
    assert (said, interrupts.asked) == ([], False)


def test_signals_reach_the_main_thread_alone():
    seen: list[bool] = []

    def elsewhere() -> None:
        with watched(print) as interrupts:
            seen.append(interrupts.asked)

    before = signal.getsignal(signal.SIGINT)
    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert seen == [False]
    assert signal.getsignal(signal.SIGINT) == before
