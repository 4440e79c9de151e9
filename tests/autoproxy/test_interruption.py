"""Blocks that signals do not interrupt: they come right after, and no handler is lost."""

import signal
import threading
from collections.abc import Iterator
from types import FrameType

import pytest

from autoproxy.interruption import INTERRUPTIONS, Uninterrupted


@pytest.fixture(autouse=True)
def heard() -> Iterator[list[int]]:
    """What was delivered: SIGINT interrupts, the others are written down alone."""
    found: list[int] = []

    def note(number: int, _: FrameType | None) -> None:
        found.append(number)

    before = {number: signal.signal(number, note) for number in INTERRUPTIONS}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    yield found
    for number, handler in before.items():
        signal.signal(number, handler)


def handlers() -> list[object]:
    return [signal.getsignal(number) for number in INTERRUPTIONS]


@pytest.mark.parametrize("number", INTERRUPTIONS)
def test_a_signal_is_delivered_right_after(number: signal.Signals, heard: list[int]) -> None:
    before, done = handlers(), []
    try:
        with Uninterrupted():
            signal.raise_signal(number)
            assert not heard
            done.append("whole")
    except KeyboardInterrupt:
        heard.append(signal.SIGINT)
    assert (done, heard) == (["whole"], [number])
    assert handlers() == before


def test_different_ones_are_all_delivered_and_one_only_once(heard: list[int]) -> None:
    with Uninterrupted():
        signal.raise_signal(signal.SIGHUP)
        signal.raise_signal(signal.SIGTERM)
    assert heard == [signal.SIGHUP, signal.SIGTERM]
    with Uninterrupted():
        pass
    assert len(heard) == 2


def test_nested_blocks_end_before_it_comes() -> None:
    before, done = handlers(), []
    with pytest.raises(KeyboardInterrupt):  # noqa: PT012 - that it comes late is the point
        with Uninterrupted():
            with Uninterrupted():
                signal.raise_signal(signal.SIGINT)
                done.append("inner")
            done.append("outer")
        done.append("after")
    assert done == ["inner", "outer"]
    assert handlers() == before


def test_who_asks_twice_does_not_wait() -> None:
    before, done = handlers(), []
    with pytest.raises(KeyboardInterrupt), Uninterrupted():  # noqa: PT012 - it comes the second time
        signal.raise_signal(signal.SIGINT)
        done.append("once")
        signal.raise_signal(signal.SIGINT)
        done.append("twice")
    assert done == ["once"]
    assert handlers() == before


def test_an_error_inside_does_not_hide_it() -> None:
    with pytest.raises(KeyboardInterrupt) as caught, Uninterrupted():  # noqa: PT012 - both are needed
        signal.raise_signal(signal.SIGINT)
        raise ValueError("inside")
    assert isinstance(caught.value.__context__, ValueError)
    with pytest.raises(ValueError, match="alone"), Uninterrupted():
        raise ValueError("alone")


def test_what_is_ignored_or_left_to_the_system_stays_so() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    with Uninterrupted():
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
        signal.raise_signal(signal.SIGHUP)


def test_other_threads_may_have_such_blocks(heard: list[int]) -> None:
    before = handlers()
    seen: list[object] = []

    def work() -> None:
        with Uninterrupted():
            seen.extend(handlers())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == before
