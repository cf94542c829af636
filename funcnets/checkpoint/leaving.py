"""How a program ends while something is still being written: it is written to the end first.

`await_at_exit(one)` has `one.wait()` called when the program ends, `forget(one)` takes that back. After its last line,
sys.exit, an exception and Ctrl-C Python exits, and the exit waits. SIGTERM and SIGHUP, which end a process on the spot,
raise SystemExit(128 + number) as long as something is awaited: so `finally` blocks and `with`s run, and the exit waits.
A handler of the program's own is left alone, and so is a process that is forked off: it awaits nothing and dies of
SIGTERM as ever. Against SIGKILL, and os._exit, nothing can be done.

A handler raises wherever the main thread happens to be. What would not survive that halfway is done `with unbroken()`,
which has signals wait; as for locks, an `Event` may be waited for, but no thread may be joined: Python up to 3.12 takes
one for dead whose join was interrupted.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Generator
from types import FrameType
from typing import Any, Protocol

import jax

_ALL = signal.valid_signals()
_SIGNALS: list[int] = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]


class Waitable(Protocol):
    """What can be awaited: `wait` returns when nothing is being written, and raises, once, what writing failed with.
    An exception out of a signal's handler may end it early; called again, it goes on.
    """

    def wait(self) -> None: ...


def await_at_exit(one: Waitable) -> None:
    """Has the interpreter call `one.wait()` before it exits."""
    _hook_into_exit()
    _awaited.add(one)
    _listen()


def forget(one: Waitable) -> None:
    """Takes `await_at_exit(one)` back, if it was called."""
    _awaited.discard(one)
    if not _awaited:
        _state.asked = 0
        _stop_listening()


@contextlib.contextmanager
def unbroken() -> Generator[None]:
    """The handlers of signals that come inside, Ctrl-C among them, are called after it."""
    if not _in_main_thread():  # no handler is called there
        yield
        return
    _state.held = True
    try:
        for number in _ALL:
            handler = signal.getsignal(number)
            if callable(handler) and handler is not _hold:
                _handlers[number] = handler
                signal.signal(number, _hold)
        yield
    finally:
        _state.held = False  # from here on _hold passes on, so it does no harm if this is interrupted
        _hold_no_more()
        with contextlib.ExitStack() as calls:
            while _came:
                number = _came.pop()
                calls.callback(_handlers[number], number, None)
    if _state.asked and sys.exc_info()[0] is None:  # it was raised where exceptions are lost, as in a callback of gc
        _state.asked, number = 0, _state.asked
        raise SystemExit(128 + number)


class _State:
    held = False  # inside of unbroken()
    asked = 0  # the number of the signal for which SystemExit was raised
    exiting = False


_state = _State()
_awaited: set[Waitable] = set()
_handlers: dict[int, Callable[[int, FrameType | None], Any]] = {}  # those in whose place _hold is
_came: list[int] = []  # the numbers of the signals that wait


def _hold(number: int, frame: FrameType | None) -> None:
    if _state.held:
        _came.append(number)
    else:
        _handlers[number](number, frame)


def _hold_no_more() -> None:
    for number in _ALL:
        if signal.getsignal(number) is _hold:
            signal.signal(number, _handlers[number])


def _leave(number: int, frame: FrameType | None) -> None:
    if not _state.exiting:
        _state.asked = number
        raise SystemExit(128 + number)


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()


def _listen() -> None:
    """Takes the signals that would end the process on the spot."""
    # Only the main thread may; and JAX, where several processes run, may have a handler that Python does not see.
    if _in_main_thread() and not jax.distributed.is_initialized():
        for number in _SIGNALS:
            if signal.getsignal(number) is signal.SIG_DFL:
                signal.signal(number, _leave)


def _stop_listening() -> None:
    if _in_main_thread():
        for number in _SIGNALS:
            if signal.getsignal(number) is _leave:
                signal.signal(number, signal.SIG_DFL)


def _begin_anew() -> None:
    """In a process that was forked off: what its parent writes is no concern of it."""
    _awaited.clear()
    _came.clear()
    _state.held, _state.asked = False, 0
    _hold_no_more()
    _stop_listening()


@functools.cache
def _hook_into_exit() -> None:
    # What atexit runs comes too late: the executors that orbax writes with are shut down by then, and the save is lost.
    # What threading runs (concurrent.futures asks it to, for just that) comes before, the last to register first.
    getattr(threading, "_register_atexit", atexit.register)(_finish)
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=_begin_anew)


def _finish() -> None:
    """Waits for all that is awaited. The program is ending, so a signal to end it changes nothing."""
    _listen()
    _state.exiting = True
    insisted = False
    waiting = list(_awaited)
    while waiting:
        try:
            waiting[-1].wait()
        except KeyboardInterrupt:
            if insisted:
                raise
            insisted = True
            print("A checkpoint is being written to its end; interrupt again to leave without it.", file=sys.stderr)
            continue
        except Exception:  # the others are waited for all the same
            traceback.print_exc()
        except BaseException:  # SystemExit once more, by a handler of the program's own
            continue
        waiting.pop()
