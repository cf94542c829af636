"""The lock of a directory: one object writes there at a time.

    .lock       says which process writes, or did last; the file stays

What counts is not the file but the operating system's lock on it (flock), which vanishes with the process, however that
ends. Where there are no such locks, as on Windows and some network drives, it is the user's to see to it that one
program writes to a directory.
"""

from __future__ import annotations

import contextlib
import os
import platform
import weakref

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

NAME = ".lock"


class Lock:
    """The lock of a directory, not yet taken; let go when the object is."""

    def __init__(self, directory: str) -> None:
        self._directory = directory
        self._file: int | None = None
        _locks.add(self)

    def take(self) -> bool:
        """Whether it was not this object's before; raises RuntimeError if it is another's."""
        if self._file is not None:
            return False
        if fcntl is None:
            return True
        file = os.open(os.path.join(self._directory, NAME), os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.ftruncate(file, 0)
            os.write(file, _this_process().encode())
        except BlockingIOError:
            who = os.read(file, 1000).decode(errors="replace")
            os.close(file)
            raise RuntimeError(self._text(who)) from None
        except OSError:  # no locks here, or no room to say who has it
            pass
        self._file = file
        return True

    def _text(self, who: str) -> str:
        own = who == _this_process()
        writes = "another Checkpoints of this process" if own else "another process"
        close = "close() that one first, or leave its `with`" if own else "end that one first"
        return (
            f"save takes a directory that nobody else is writing to; {writes} ({who or 'which has just begun'}) is "
            f"writing to {self._directory}: {close}, or give this run another directory"
        )

    def let_go(self) -> None:
        if self._file is not None and fcntl is not None:
            file, self._file = self._file, None
            with contextlib.suppress(OSError):  # a process may have been forked off that has the file too
                fcntl.flock(file, fcntl.LOCK_UN)
            os.close(file)

    def __del__(self) -> None:
        self.let_go()

    def leave_to_parent(self) -> None:
        """In a process that was forked off: the lock stays its parent's."""
        if self._file is not None:
            os.close(self._file)
            self._file = None


def _this_process() -> str:
    return f"process {os.getpid()} on {platform.node()}"


_locks: weakref.WeakSet[Lock] = weakref.WeakSet()


def _leave_to_parent() -> None:
    for lock in _locks:
        lock.leave_to_parent()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_leave_to_parent)
