"""Checkpoints: training states on disk, by step, written while training goes on.

A checkpoint is a *step* and a *tree*: a pytree of arrays, typed PRNG keys, numbers and strings. After save(step, tree)

    restore(like=tree) == tree      in bits, types and structure, with arrays where those of `like` are
    restore() == tree               with NumPy's arrays, and with dicts for NamedTuples and dataclasses

*A save that returned is kept.* It has taken a snapshot, so the arrays may be donated at once; what is being written
when the program ends (by its last line, sys.exit, an exception) is written to the end first. A step is on disk whole or
not at all, so a process killed meanwhile leaves the steps before. A write that fails raises from what is called next: a
save that is due, wait, a read or close.

*Nothing is adapted.* Before any array is read, names, containers, shapes and dtypes are compared with those of `like`,
and one error lists all that differs.

A step on disk is an orbax checkpoint of two items: `arrays` is a flat dict, str(i) is the tree's i-th leaf, if it is of
some size and no Python number; `tree` is JSON, the tree as `funcnets.rows` has it.
"""

from __future__ import annotations

import atexit
import functools
import logging
import math
import operator
import os
import threading
import traceback
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, Self, SupportsIndex, TypeVar, overload

import jax
import numpy as np

from funcnets.rows import Row, differences, is_stored, leaf_rows, nested, placed, restored, row_path, rows_of
from funcnets.shapes import show

if TYPE_CHECKING:
    import orbax.checkpoint as ocp  # slow to load, so at run time only where a directory is opened

T = TypeVar("T")
_FORMAT = 1


class Checkpoints:
    """The checkpoints of one run, in a directory of their own. Leaving the `with` waits for what is being written.

    Args:
      directory: Where the steps are; made by the first save. A relative path is pinned when the object is made.
      keep: How many steps stay: the newest or, with `best`, the best and the newest besides. None keeps all.
      every: `save` saves the steps divisible by this and passes over the others.
      best: The metric that says which are best: "loss" (less is better), or ("accuracy", "max"). NaN is worst.

    Raises:
      ValueError: An argument is none of these.

    Example:
      >>> import tempfile
      >>> directory = tempfile.mkdtemp()
      >>> with fn.Checkpoints(directory, keep=2, every=10) as checkpoints:
      ...     state = checkpoints.resume({"total": jnp.zeros(()), "step": 0})
      ...     for step in range(state["step"] + 1, 36):
      ...         state = {"total": state["total"] + step, "step": step}
      ...         saved = checkpoints.save(step, state)
      >>> fn.Checkpoints(directory).steps()
      (20, 30)
      >>> fn.Checkpoints(directory).restore()
      {'step': 30, 'total': array(465., dtype=float32)}
    """

    def __init__(
        self,
        directory: str | os.PathLike[str],
        keep: int | None = 3,
        every: int = 1,
        best: str | tuple[str, Literal["min", "max"]] | None = None,
    ) -> None:
        if (keep is not None and keep < 1) or every < 1:
            raise ValueError(f"Checkpoints takes keep= (or None: all) and every= of at least 1, got {keep} and {every}")
        pair = (best, "min") if isinstance(best, str) else best
        if pair is not None and (len(pair) != 2 or pair[1] not in ("min", "max")):
            raise ValueError(f'Checkpoints takes as best= "loss" (less is better) or ("accuracy", "max"), got {best!r}')
        path = os.fspath(directory)
        self.directory = path if "://" in path else os.path.abspath(path)
        self.keep, self.every, self.best = keep, every, pair
        self._manager: ocp.CheckpointManager | None = None

    def save(self, step: int, tree: Any, *, metrics: Mapping[str, Any] | None = None, force: bool = False) -> bool:
        """Takes a snapshot of `tree` if `step` is due, divisible by `every`, and returns while it is being written.

        Args:
          step: The number of the step, later than those there.
          tree: A pytree of arrays, typed PRNG keys, Python numbers and strings.
          metrics: Numbers by name, the one that `best` names among them.
          force: Save also when not due.

        Returns:
          Whether it saved.

        Raises:
          ValueError: The step is not later; `metrics` does not go with `best`; an array was donated before.
          TypeError: A leaf is of another type.
          Exception: What an earlier write failed with.

        Example: `checkpoints.save(step, state, metrics={"loss": loss})`
        """
        if not isinstance(step, SupportsIndex):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError(f"save takes the number of the step first, save(step, tree), got {show(step)}")
        step = operator.index(step)
        if step % self.every and not force:
            return False
        score, rows = self._score(metrics), list(rows_of(tree))
        self.wait()
        there = self._open().all_steps()
        if step <= max(there, default=-1):
            raise ValueError(
                f"save takes a step later than those there and not negative, got {step}; {self.directory} has "
                f"{sorted(there)}: resume from the newest, or give this run another directory"
            )
        import orbax.checkpoint as ocp

        arrays: dict[str, Any] = {}
        for i, (row, leaf) in enumerate(zip(leaf_rows(rows), jax.tree.leaves(tree), strict=True)):
            if isinstance(leaf, jax.ShapeDtypeStruct) or (isinstance(leaf, jax.Array) and leaf.is_deleted()):
                raise ValueError(
                    f"save takes arrays that hold something; {row_path(row)} is a {type(leaf).__name__} that was "
                    "donated, or a spec: save what the step returned, not what it was given"
                )
            if is_stored(row):
                array = np.asarray(leaf) if isinstance(leaf, np.generic) else leaf
                arrays[str(i)] = jax.random.key_data(array) if "impl" in row else array
        items: dict[str, Any] = {"tree": ocp.args.JsonSave({"format": _FORMAT, "rows": rows})}
        if arrays:
            items["arrays"] = ocp.args.PyTreeSave(arrays)
        self._open().directory.mkdir(parents=True, exist_ok=True)
        return self._open().save(step, metrics=score, force=True, args=ocp.args.Composite(**items))

    @overload
    def restore(self, like: None = None, step: int | None = None) -> Any: ...
    @overload
    def restore(self, like: T, step: int | None = None) -> T: ...
    def restore(self, like: Any = None, step: int | None = None) -> Any:
        """The tree of a step.

        Args:
          like: A tree like the one saved, of arrays or `jax.ShapeDtypeStruct`s; the result has its containers, and
            NumPy's or JAX's arrays where it has them. Those that were placed nowhere go to the default device.
            Without it: dicts, lists, tuples and NumPy's arrays.
          step: The number of the step; None is the newest.

        Raises:
          FileNotFoundError: The step, or any, is not there.
          ValueError: `like` differs from the tree saved.

        Example: `params = checkpoints.restore(jax.eval_shape(net.init, key, x))`
        """
        steps = self.steps()
        if not steps or step not in (None, *steps):
            wanted = "step at all" if step is None else f"step {step}"
            raise FileNotFoundError(f"{self.directory} has no {wanted}, only {list(steps)}: check the path")
        step = steps[-1] if step is None else step
        rows = self._read_rows(step)
        if like is not None and (lines := differences(rows, list(rows_of(like)))):
            raise ValueError(
                f"restore takes a tree like the one saved; step {step} in {self.directory} differs from it:\n  "
                + "\n  ".join(lines)
                + "\nRestore into the model that was saved, or restore without like= and take over what fits"
            )
        leaves, structure = jax.tree.flatten(like)
        leaves = [None] * len(leaf_rows(rows)) if like is None else leaves
        values = self._read_leaves(step, leaf_rows(rows), leaves)
        return nested(iter(rows), iter(values))[1] if like is None else jax.tree.unflatten(structure, values)

    def resume(self, initial: T) -> T:
        """The newest step as `restore(like=initial)` gives it, or `initial` itself if there is none.

        Example: `state = checkpoints.resume(state)`
        """
        return self.restore(initial) if self.steps() else initial

    def steps(self) -> tuple[int, ...]:
        """The steps that are there, oldest first, after waiting for the one being written."""
        self.wait()
        self._open().reload()  # another process may be the one that saves here
        return tuple(sorted(self._open().all_steps()))

    @property
    def latest_step(self) -> int | None:
        """The newest step, or None."""
        return max(self.steps(), default=None)

    @property
    def best_step(self) -> int | None:
        """The best step by the metric that `best` names, or None. Without `best` it raises ValueError."""
        if self.best is None:
            raise ValueError('best_step takes Checkpoints(..., best="loss"), got no best=')
        return self._open().best_step() if self.steps() else None

    def wait(self) -> None:
        """Returns when nothing is being written; raises what writing failed with."""
        try:
            if self._manager is not None:
                self._manager.wait_until_finished()
        except BaseException as error:
            self._open().reload()  # orbax has crossed off the steps it was to delete after this one
            error.add_note(f"while writing to {self.directory}; the steps {self._open().all_steps()} are there")
            raise

    def close(self) -> None:
        """Waits like `wait`, and frees what writing needs; used again, it opens again."""
        try:
            self.wait()
        finally:
            if self._manager is not None:
                self._manager.close()
            self._manager = None
            _awaited_at_exit().discard(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _open(self) -> ocp.CheckpointManager:
        if self._manager is None:
            import orbax.checkpoint as ocp

            policies: list[Any] = [ocp.checkpoint_managers.LatestN(self.keep if self.best is None else 1)]
            if self.best is not None:
                policies.append(ocp.checkpoint_managers.BestN(get_metric_fn=self._rank, n=self.keep))
            options = ocp.CheckpointManagerOptions(
                create=False,  # reading makes no directory of a misspelt name
                best_fn=self._rank if self.best is not None else None,
                preservation_policy=ocp.checkpoint_managers.AnyPreservationPolicy(policies),
                # made in the background, a directory that cannot be made blocks the process for five minutes
                async_options=ocp.AsyncOptions(create_directories_asynchronously=False),
            )
            self._manager = ocp.CheckpointManager(self.directory, options=options)
            logging.getLogger("absl").addFilter(_worth_saying)
            _awaited_at_exit().add(self)
        return self._manager

    def _score(self, metrics: Mapping[str, Any] | None) -> dict[str, float] | None:
        if self.best is None and metrics is None:
            return None
        if self.best is None or metrics is None or self.best[0] not in metrics:
            got = None if metrics is None else list(metrics)
            raise ValueError(f"save takes metrics= with what best= names, or neither, got {got} and best={self.best}")
        return {self.best[0]: float(metrics[self.best[0]])}

    def _rank(self, metrics: Mapping[str, float]) -> float:
        name, mode = self.best or ("", "")
        value = metrics.get(name, math.nan) * (1 if mode == "max" else -1)
        return -math.inf if math.isnan(value) else value

    def _read_rows(self, step: int) -> list[Row]:
        import orbax.checkpoint as ocp

        try:
            found: Any = self._open().restore(step, args=ocp.args.Composite(tree=ocp.args.JsonRestore()))
            if found["tree"]["format"] == _FORMAT:
                return found["tree"]["rows"]
        except KeyError:
            pass
        raise ValueError(f"{self.directory} has step {step} in another format: read it with the program that saved it")

    def _read_leaves(self, step: int, rows: Sequence[Row], likes: Sequence[Any]) -> list[Any]:
        import orbax.checkpoint as ocp

        forms: dict[str, Any] = {}
        for i, (row, like) in enumerate(zip(rows, likes, strict=True)):
            if is_stored(row):
                place = None if getattr(like, "weak_type", False) else placed(like)
                forms[str(i)] = ocp.ArrayRestoreArgs(sharding=place) if place else ocp.RestoreArgs(np.ndarray)
        arrays: Mapping[str, Any] = {}
        if forms:
            args = ocp.args.PyTreeRestore(item=dict.fromkeys(forms, 0), restore_args=forms)
            found: Any = self._open().restore(step, args=ocp.args.Composite(arrays=args))
            arrays = found["arrays"]
        return [restored(row, arrays.get(str(i)), like) for i, (row, like) in enumerate(zip(rows, likes, strict=True))]


@functools.cache
def _awaited_at_exit() -> set[Checkpoints]:
    """Those that are open: the interpreter waits for them before it exits."""
    opened: set[Checkpoints] = set()

    def finish() -> None:
        for checkpoints in opened:
            try:
                checkpoints.wait()
            except Exception:  # the others are waited for all the same
                traceback.print_exc()

    # What atexit runs comes too late: the executors that orbax writes with are shut down by then, and the save is lost.
    # What threading runs (concurrent.futures asks it to, for just that) comes before, the last to register first.
    getattr(threading, "_register_atexit", atexit.register)(finish)
    return opened


def _worth_saying(record: logging.LogRecord) -> bool:
    # orbax holds it against a save that somebody waited for the one before, though wait() was asked to
    return not str(record.msg).startswith("Waiting for previous save to complete")
