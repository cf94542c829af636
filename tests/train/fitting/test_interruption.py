"""Signals that wait for the end of a block."""

import os
import signal
import threading

import pytest

from funcnets.train.fitting.interruption import BrokenOff, Interruption

USED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
pytestmark = pytest.mark.usefixtures("handlers")


def send(number, times=1):
    for _ in range(times):
        os.kill(os.getpid(), number)


@pytest.mark.parametrize(
    ("number", "raised"),
    [(signal.SIGINT, KeyboardInterrupt()), (signal.SIGTERM, SystemExit(143)), (signal.SIGHUP, SystemExit(129))],
    ids=str,
)
def test_the_first_signal_waits_and_the_second_does_not(number, raised):
    reached = []
    with pytest.raises(type(raised)) as at_end, Interruption() as interruption:
        send(number)
        reached.append(interruption.asked)
    assert at_end.value.args == raised.args and reached == [number]
    with pytest.raises(type(raised)) as at_once, Interruption():
        send(number, 2)
        raise AssertionError("not this far")
    assert at_once.value.args == raised.args


def test_nothing_happens_where_nothing_comes():
    with Interruption() as interruption, interruption.breaking_off():
        pass
    assert interruption.asked is None


def test_a_signal_is_not_forgotten_over_an_exception(capsys):
    with pytest.raises(SystemExit, match="143") as raised, Interruption():
        send(signal.SIGTERM)
        raise LookupError("mine")
    assert isinstance(raised.value.__context__, LookupError)
    assert "LookupError: mine" in capsys.readouterr().err
    with pytest.raises(KeyboardInterrupt) as raised, Interruption():
        send(signal.SIGINT)
        raise LookupError("mine")
    assert isinstance(raised.value.__context__, LookupError)
    assert "mine" not in capsys.readouterr().err  # the interpreter shows both
    with pytest.raises(SystemExit, match="3"), Interruption():
        send(signal.SIGTERM)
        raise SystemExit(3)


def test_what_may_be_broken_off_is():
    reached = []
    with pytest.raises(SystemExit), Interruption() as interruption:
        with pytest.raises(BrokenOff), interruption.breaking_off():
            send(signal.SIGTERM)
            reached.append("not this far")
        with pytest.raises(BrokenOff), interruption.breaking_off():
            reached.append("nor what comes after")
        reached.append("the rest")
    assert reached == ["the rest"]
    with pytest.raises(SystemExit), Interruption() as interruption:
        send(signal.SIGTERM)  # just before
        with pytest.raises(BrokenOff), interruption.breaking_off():
            raise AssertionError("not this far")


def test_what_is_ignored_stays_ignored_and_handlers_are_called():
    called = []
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda number, frame: called.append(number))
    with Interruption() as interruption:
        send(signal.SIGHUP)
        assert interruption.asked is None
        send(signal.SIGTERM)
        assert called == []
    assert called == [signal.SIGTERM]
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def test_other_threads_and_runs_of_several_processes_change_nothing(monkeypatch):
    found = []

    def look():
        with Interruption():
            found.append([signal.getsignal(number) for number in USED])

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    monkeypatch.setattr("jax.distributed.is_initialized", lambda: True)
    look()
    assert found == [[signal.default_int_handler, signal.SIG_DFL, signal.SIG_DFL]] * 2
