"""Ctrl-C and other signals to end, held back until a run is at a place that it can be left at.

The signals are the program's own again when the run has ended; what `funcnets.checkpoint.leaving` does with them is for
programs whose loop is written by hand.
"""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
import traceback
from collections.abc import Generator
from types import FrameType
from typing import Any, Self

import jax

_SIGNALS: list[int] = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]


class BrokenOff(BaseException):
    """A signal has come where it need not wait."""


class Interruption:
    """Within its `with`, the first signal is noted down and a second has its effect at once. At its end what was set to
    handle them before is put back, and the one that was noted has its effect, but for Ctrl-C in an interactive session.
    An exception that ends it is then the context of what the signal raises, and is printed with it.

    Signals reach the main thread only: in others nothing is changed. One that the program ignores stays ignored; and
    where JAX runs in several processes, which could not stop at one step each by itself, all are left alone.

    Attributes:
      asked: The number of the signal that came; None if none did.
    """

    def __init__(self) -> None:
        self.asked: int | None = None
        self._previous: dict[int, Any] = {}
        self._at_once = False

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread() and not jax.distributed.is_initialized():
            for number in _SIGNALS:
                if signal.getsignal(number) not in (signal.SIG_IGN, None):  # None: set by other than Python
                    self._previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, kind: object, error: BaseException | None, *trace: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        is_done = self.asked == signal.SIGINT and is_interactive()  # who asked gets the run
        if self.asked is None or is_done or (error is not None and not isinstance(error, Exception)):
            return
        try:
            self._pass_on(self.asked, None)
        except SystemExit:  # of which, and so of its context, nothing is shown
            if error is not None:
                traceback.print_exception(error)
            raise

    @contextlib.contextmanager
    def breaking_off(self) -> Generator[None]:
        """What may be left halfway: in it the first signal raises `BrokenOff`, and so does one that came before."""
        self._at_once = True
        try:
            if self.asked is not None:
                raise BrokenOff
            yield
        finally:
            self._at_once = False

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.asked is not None:
            self._pass_on(number, frame)
        self.asked = number
        if number == signal.SIGINT:
            with contextlib.suppress(RuntimeError):  # it may have come in the middle of another print
                print("\nTraining ends after the step under way; interrupt again to leave at once.", file=sys.stderr)
        if self._at_once:
            raise BrokenOff

    def _pass_on(self, number: int, frame: FrameType | None) -> None:
        handler = self._previous[number]
        if callable(handler):  # Python's own for SIGINT raises KeyboardInterrupt
            handler(number, frame)
        else:  # the system's would end the process on the spot, without `finally`
            raise SystemExit(128 + number)


def is_interactive() -> bool:
    """Whether somebody is at a prompt: Python's own, IPython's or a notebook's."""
    return hasattr(sys, "ps1") or in_ipython() is not None


def in_ipython() -> Any:
    """IPython's shell if the program runs in one, or None."""
    ipython = sys.modules.get("IPython")
    return None if ipython is None else ipython.get_ipython()
