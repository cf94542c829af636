"""Steps on disk: for each a directory that is named by its number, and is there whole or not at all.

    30/             a step that was written to its end, with its manifest
    40.writing/     one that is being written, or was when the program was killed
    20.deleting/    one that is no longer kept
    30.damaged/     one that was set aside, since a run went on from before it; nothing but a person deletes it
    .lock           says which process writes, see funcnets.checkpoint.lock

Where names cannot be changed in one go ("gs://...", "s3://..."), a step is written under its number at once; there the
manifest, which is written last, says that it is whole.
"""

from __future__ import annotations

import errno
import functools
import itertools
import os
import pathlib
import re
from typing import TYPE_CHECKING

from funcnets.checkpoint.integrity import MANIFEST
from funcnets.checkpoint.lock import Lock
from funcnets.notices import warn

if TYPE_CHECKING:
    from etils import epath

TREE, ARRAYS = "tree.json", "arrays"


class Steps:
    """The steps in a directory, which need not be there."""

    def __init__(self, directory: str) -> None:
        self.directory = directory
        self._remote = "://" in directory
        self._lock = Lock(directory)
        self._warned_of: set[int] = set()

    @functools.cached_property
    def _root(self) -> epath.Path:
        from etils import epath

        return epath.Path(self.directory)

    def numbers(self) -> tuple[int, ...]:
        """Those that are whole, oldest first. A directory that is named like one and is none is warned of, once."""
        try:
            paths = [path for path in self._root.iterdir() if re.fullmatch(r"0|[1-9][0-9]*", path.name)]
        except FileNotFoundError:
            return ()
        there = {int(path.name) for path in paths if self._is_whole(path)}
        if not self._remote:
            self._warn_of({int(path.name) for path in paths if path.is_dir()} - there)
        return tuple(sorted(there))

    def _is_whole(self, path: epath.Path) -> bool:
        return (path / MANIFEST).exists() or (not self._remote and (path / TREE).exists())

    def _warn_of(self, strange: set[int]) -> None:
        if new := sorted(strange - self._warned_of):
            self._warned_of |= strange
            warn(
                f"{', '.join(map(str, new))} in {self.directory} has neither {TREE} nor {MANIFEST}, so it is no step "
                "of Checkpoints and passed over: move it elsewhere"
            )

    def is_taken(self, step: int) -> bool:
        """Whether there is something else by the name of that step."""
        return not self._remote and self.folder(step).exists() and step not in self.numbers()

    def folder(self, step: int) -> epath.Path:
        return self._root / str(step)

    def draft(self, step: int) -> epath.Path:
        """Where the step is written."""
        return self.folder(step) if self._remote else self._root / f"{step}.writing"

    def open(self) -> None:
        """Makes the directory, if need be, and this object the one that writes there, until `close`."""
        if self._remote:
            return
        if not self._root.exists():
            new = [path for path in (self._root, *self._root.parents) if not path.exists()]
            self._root.mkdir(parents=True, exist_ok=True)
            for path in new:
                _sync(path.parent)
        if self._lock.take():
            self._sweep()

    def close(self) -> None:
        self._lock.let_go()

    def begin(self, step: int) -> None:
        """Makes the draft, an empty directory."""
        draft = self.draft(step)
        if draft.exists():
            draft.rmtree()
        draft.mkdir(parents=True)

    def commit(self, step: int) -> None:
        """Gives the draft the step's name, once all of it is on the disk itself; returns when the name is, too."""
        if not self._remote:
            draft = self.draft(step)
            for path in [*pathlib.Path(draft).rglob("*"), draft]:
                _sync(path)
            draft.rename(self.folder(step))
            _sync(self._root)

    def delete(self, step: int) -> None:
        path = self.folder(step)
        if self._remote:
            (path / MANIFEST).unlink()
        else:
            path = path.rename(self._root / f"{step}.deleting")
        path.rmtree()

    def set_aside(self, step: int) -> str:
        """Gives the step another name, which is returned, so that it counts no more."""
        names = (f"{step}.damaged{count or ''}" for count in itertools.count())
        name = next(name for name in names if not (self._root / name).exists())
        self.folder(step).rename(self._root / name)
        return name

    def _sweep(self) -> None:
        """Deletes what a program left that was killed."""
        for path in [*self._root.iterdir()]:
            if re.fullmatch(r"[0-9]+\.(writing|deleting)", path.name):
                path.rmtree(missing_ok=True)


def _sync(path: os.PathLike[str]) -> None:
    """Returns when a file's content, or which names a directory has, would survive a loss of power."""
    if os.name != "posix":  # elsewhere a directory cannot be opened
        return
    file = os.open(path, os.O_RDONLY)
    try:
        os.fsync(file)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # a kind of disk where that is not asked for
            raise
    finally:
        os.close(file)
