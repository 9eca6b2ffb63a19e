"""Signals that wait for the end of a step."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from fusiform.training.interruption import Interruption


class Ended(KeyboardInterrupt):
    pass


@pytest.fixture
def ended() -> Iterator[None]:
    """SIGTERM as the command line hears it, and SIGINT as Python does."""

    def end(*_: Any) -> None:
        raise Ended

    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    signal.signal(signal.SIGTERM, end)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize(("number", "kind"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, Ended)])
def test_the_first_is_noted_and_obeyed_later(ended: None, number: int, kind: type[BaseException]) -> None:
    handler = signal.getsignal(number)
    with Interruption() as interruption:
        interruption.obey()  # nothing was asked
        signal.raise_signal(number)
        assert (interruption.asked, interruption.insisted) == (True, False)
        with pytest.raises(kind) as raised:
            interruption.obey()
        assert raised.type is kind
    assert signal.getsignal(number) is handler


def test_the_second_is_obeyed_at_once(ended: None) -> None:
    with Interruption() as interruption:
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(Ended):
            signal.raise_signal(signal.SIGTERM)
        assert interruption.insisted


def test_work_that_may_be_broken_off_is(ended: None) -> None:
    with Interruption() as interruption:
        with pytest.raises(KeyboardInterrupt), interruption.at_once():
            signal.raise_signal(signal.SIGINT)
        assert interruption.asked
        with pytest.raises(KeyboardInterrupt), interruption.at_once():
            pytest.fail("what was asked before is obeyed before")


def test_what_is_ignored_stays_so_and_other_threads_change_nothing(ended: None) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    handler = signal.getsignal(signal.SIGINT)
    with Interruption():
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN
        assert signal.getsignal(signal.SIGINT) is not handler
    seen: list[object] = []

    def elsewhere() -> None:
        with Interruption():
            seen.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert seen == [handler]


@pytest.mark.skipif(sys.platform == "win32", reason="there is no fork")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_child_leaves_ctrl_c_to_its_parent(ended: None) -> None:
    with Interruption():
        child = os.fork()
        if child == 0:
            code = 1
            try:
                signal.raise_signal(signal.SIGINT)
                signal.raise_signal(signal.SIGINT)
                try:
                    signal.raise_signal(signal.SIGTERM)
                except Ended:
                    code = 7
            finally:
                os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
