"""Writing steps behind the program: orbax writes the arrays, a thread of ours what else there is to do.

    save returns      orbax has taken a snapshot of the arrays and is writing them
    then              tree.json and the manifest, with checksums of what is on disk; the step's own name; and what is no
                      longer kept is deleted
    `wait` returns    and the next save may begin: so a process that is killed leaves the step before the one that it
                      was writing

In a run of several processes each writes its own part of the arrays, and the first of them does the rest.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import itertools
import json
import threading
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from funcnets.checkpoint.integrity import write_manifest
from funcnets.checkpoint.steps import ARRAYS, TREE, Steps
from funcnets.notices import first_process

if TYPE_CHECKING:
    import orbax.checkpoint as ocp  # slow to load

_COUNT = itertools.count()  # saves of this process; the same in all processes of a run
_PATIENCE = 20 * 60_000  # milliseconds that a process waits for the others


@dataclasses.dataclass(eq=False)
class _Save:
    step: int
    description: Mapping[str, Any]
    barrier: Callable[..., None]  # where the processes of a run wait for each other
    # An event and not a thread is waited for: a signal may interrupt that at any moment
    whole: threading.Event = dataclasses.field(default_factory=threading.Event)


class Writer:
    """What writes the steps of one directory.

    Args:
      steps: The steps.
      superfluous: The steps that are no longer kept, once another one is there.
    """

    def __init__(self, steps: Steps, superfluous: Callable[[], list[int]]) -> None:
        self._steps, self._superfluous = steps, superfluous
        self._orbax = _checkpointer()
        self._last: _Save | None = None
        self._failure: BaseException | None = None

    def write(self, step: int, description: Mapping[str, Any], arrays: Mapping[str, Any]) -> None:
        """Begins to write a step; call `wait` before."""
        import orbax.checkpoint as ocp

        if first_process():
            self._steps.begin(step)
        if arrays:
            args = ocp.args.PyTreeSave(dict(arrays))
            try:
                self._orbax.save(self._steps.draft(step) / ARRAYS, args=args, force=True)
            except BaseException:
                self._give_up(step)
                raise
        barrier = functools.partial(ocp.multihost.get_barrier_sync_fn(), key=f"funcnets_checkpoint_{next(_COUNT)}")
        save = _Save(step, description, barrier)
        threading.Thread(target=self._finish, args=(save,), name=f"checkpoint_{step}").start()
        self._last = save

    def _finish(self, save: _Save) -> None:
        try:
            self._orbax.wait_until_finished()
            if first_process():
                self._complete(save)
        except BaseException as error:  # raised by what is called next
            self._failure = error
            self._give_up(save.step)
        try:
            save.barrier(timeout_ms=_PATIENCE)
        except Exception as error:
            self._failure = self._failure or error
        save.whole.set()

    def _give_up(self, step: int) -> None:
        self._orbax = _checkpointer()  # the one that failed may say so again
        with contextlib.suppress(OSError):
            if first_process() and step not in self._steps.numbers():
                self._steps.draft(step).rmtree()

    def _complete(self, save: _Save) -> None:
        draft = self._steps.draft(save.step)
        (draft / TREE).write_text(json.dumps(save.description))
        write_manifest(draft)
        self._steps.commit(save.step)
        for old in self._superfluous():
            self._steps.delete(old)

    def wait(self) -> None:
        """Returns when the last save is whole; raises what writing failed with."""
        if self._last is not None:
            self._last.whole.wait()
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure

    def close(self) -> None:
        self._orbax.close()


def _checkpointer() -> ocp.AsyncCheckpointer:
    import orbax.checkpoint as ocp

    # made in the background, a directory that cannot be made blocks the process for twenty minutes
    options = ocp.AsyncOptions(create_directories_asynchronously=False)
    return ocp.AsyncCheckpointer(ocp.PyTreeCheckpointHandler(), async_options=options)
