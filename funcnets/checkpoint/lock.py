"""The lock of a directory: one object writes there at a time.

    .lock       says which process writes, or did last; the file stays

What counts is not the file but the operating system's lock on it (flock), which vanishes with the process, however that
ends. Where there are no such locks, as on Windows and some network drives, it is the user's to see to it that one
program writes to a directory.
"""

from __future__ import annotations

import os
import platform
import weakref
from typing import Any

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

NAME = ".lock"


class Lock:
    """The lock of a directory, not yet taken. It is let go with the object; a process that is forked off has it not."""

    def __init__(self, directory: str) -> None:
        self._directory = directory
        self._held: weakref.finalize[Any, Any] | None = None  # closes the file
        _locks.add(self)

    def take(self) -> bool:
        """Whether it was not this object's before; raises RuntimeError if it is another's."""
        if self._held is not None:
            return False
        if fcntl is None:
            return True
        file = os.open(os.path.join(self._directory, NAME), os.O_RDWR | os.O_CREAT, 0o666)
        held = weakref.finalize(self, os.close, file)
        held.atexit = False
        try:
            self._lock(file)
            self._held = held
        except BaseException:  # as a signal's handler may raise, too
            held()
            raise
        return True

    def _lock(self, file: int) -> None:
        assert fcntl is not None
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RuntimeError(self._text(os.read(file, 1000).decode(errors="replace"))) from None
        except OSError:  # this kind of disk has no locks
            return
        os.ftruncate(file, 0)
        os.write(file, _this_process().encode())

    def let_go(self) -> None:
        if self._held is not None:
            self._held()
        self._held = None

    def _text(self, who: str) -> str:
        own = who == _this_process()
        writes = "another Checkpoints of this process" if own else "another process"
        close = "close() that one first, or leave its `with`" if own else "end that one first"
        return (
            f"save takes a directory that nobody else is writing to; {writes} ({who or 'which has just begun'}) is "
            f"writing to {self._directory}: {close}, or give this run another directory"
        )


def _this_process() -> str:
    return f"process {os.getpid()} on {platform.node()}"


_locks: weakref.WeakSet[Lock] = weakref.WeakSet()


def _begin_anew() -> None:
    for lock in _locks:
        lock.let_go()  # of its copy of the file: the lock stays its parent's


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_begin_anew)
