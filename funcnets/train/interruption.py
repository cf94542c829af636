"""Ctrl-C and SIGTERM, held back until a run is at a place that it can be left at."""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any, Self

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interruption:
    """Within its `with`, the first signal is noted down and a second has its effect at once. What was set to handle
    them before is put back afterwards.

    Signals reach the main thread only: in others nothing is changed. One that the program ignores stays ignored.
    """

    def __init__(self) -> None:
        self.asked: int | None = None
        self._previous: dict[int, Any] = {}
        self._at_once = False

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in _SIGNALS:
                if signal.getsignal(number) not in (signal.SIG_IGN, None):  # None: set by other than Python
                    self._previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    @contextlib.contextmanager
    def at_once(self) -> Iterator[None]:
        """What may be broken off: here the first signal raises KeyboardInterrupt."""
        self._at_once = True
        try:
            yield
        finally:
            self._at_once = False

    def leave(self) -> None:
        """Does what the signal would have done; in an interactive session Ctrl-C has had its effect."""
        if self.asked is not None and not (self.asked == signal.SIGINT and is_interactive()):
            self._pass_on(self.asked, None)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.asked is not None:
            self._pass_on(number, frame)
        self.asked = number
        if self._at_once:
            raise KeyboardInterrupt

    def _pass_on(self, number: int, frame: FrameType | None) -> None:
        handler = self._previous[number]
        if callable(handler):  # Python's own for SIGINT raises KeyboardInterrupt
            handler(number, frame)
        else:  # the system's would end the process on the spot, without `finally` and without the last save
            raise SystemExit(128 + number)


def is_interactive() -> bool:
    """Whether somebody is at a prompt: Python's own, IPython's or a notebook's."""
    return hasattr(sys, "ps1") or in_ipython() is not None


def in_ipython() -> Any:
    """IPython's shell if the program runs in one, or None."""
    ipython = sys.modules.get("IPython")
    return None if ipython is None else ipython.get_ipython()
