"""Checkpoints: training states on disk, by step, written while training goes on.

A checkpoint is a *step* and a *tree*: a pytree of arrays, typed PRNG keys, numbers, strings, and iterators, which are
objects with `get_state` and `set_state`. After save(step, tree)

    restore(like=tree) == tree      in bits, types and structure, with arrays where those of `like` are
    restore() == tree               with NumPy's arrays, with dicts for NamedTuples and dataclasses, and with what
                                    get_state returned for iterators

*A save that returned is kept.* It has taken a snapshot, so the arrays may be donated at once; what is being written
when the program ends (by its last line, sys.exit, an exception, Ctrl-C, SIGTERM or SIGHUP) is written to the end first.
A step is on disk whole or not at all, so a process that SIGKILL ends leaves the steps before; and before one is deleted
the next is on the disk itself, where a loss of power leaves it. A write that fails raises from what is called next: a
save that is due, wait, a read or close.

*One writes at a time.* The first save locks a directory, and close, or the end of the process whatever that is, unlocks
it; a save of another process in between raises and names who writes. Objects of one process take turns, each after what
the one before it writes. Any number may read meanwhile, and are given the newest that is still there. In a JAX run of
several processes the first one's lock stands for all. There is none at URLs, on Windows, and where the file system has
none.

*Nothing is adapted.* Before any array is read, names, containers, shapes and dtypes are compared with those of `like`,
and the net with the one saved; one error lists all that differs. What fits only in part is taken over where that is
asked for, with a report. Where arrays are is no part of a checkpoint: one saved on eight devices is read on one, and
back.

*What is read is what was written.* A step has a manifest with the checksums of its files, made in the background before
the step has its name. Reading compares them first, which takes one read of the files. A step that is asked for by its
number and is damaged raises; the newest is the newest good one, with a warning for each that is passed over. If a save
is then in the way of damaged steps they are set aside, renamed to "30.damaged", with a warning. Nothing is deleted but
what `keep` no longer keeps. A step without a manifest is used with a warning; a directory of another origin that is
named like a step is passed over with one.

A step on disk is a directory: `arrays` is an orbax checkpoint of a flat dict, str(i) is the tree's i-th leaf, if it is
of some size and no Python number, or the bytes that its get_state returned; `tree.json` is the tree as `funcnets.rows`
has it, with the metrics and the net; `manifest.json` lists the files. A directory may be an URL ("gs://bucket/run")
where orbax and etils.epath can write there; as nothing can be renamed at once there, a step is there when its manifest
is, and one without is none.
"""

from __future__ import annotations

import functools
import operator
import os
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, Self, TypeVar, overload

import jax
import numpy as np

from funcnets.checkpoint import leaving
from funcnets.checkpoint.describing import Describing, array_shape, with_states
from funcnets.checkpoint.finding import Finding
from funcnets.checkpoint.fitting import Report
from funcnets.checkpoint.keeping import Criterion, Keeping, criterion
from funcnets.checkpoint.nets import built, config_of
from funcnets.checkpoint.reading import FORMAT, Stored
from funcnets.checkpoint.restoring import Restoring
from funcnets.checkpoint.steps import Steps
from funcnets.checkpoint.writing import Writer
from funcnets.layer import Layer
from funcnets.notices import first_process, warn
from funcnets.rows import Row, check_held, leaf_rows
from funcnets.shapes import show

T = TypeVar("T")

_writers: weakref.WeakValueDictionary[str, Checkpoints] = weakref.WeakValueDictionary()  # by directory


class Checkpoints:
    """The checkpoints of one run, in a directory of their own. Leaving the `with` waits for what is being written.

    From the first save to the end of the `with`, SIGTERM and SIGHUP raise SystemExit, so that the program's end is an
    orderly one; where the program has a handler of its own, that is called as ever.

    Args:
      directory: Where the steps are; made by the first save. A relative path is pinned when the object is made.
      keep: How many steps stay: the newest or, with `best`, the best and the newest besides. None keeps all. One that
        was found to be damaged takes no other's place.
      every: `save` saves the steps divisible by this and passes over the others.
      best: The metric that says which are best: "loss" (less is better), or ("accuracy", "max"). NaN is worst.
      net: The net that is trained. It is stored with each step, and restoring with another one raises.
      verify: Whether the files of a step are compared with their checksums before it is read. Without, a large
        checkpoint of which little is wanted takes less time, and damage may go unnoticed.

    Raises:
      ValueError: An argument is none of these.
      TypeError: The net holds a function that cannot be written to a file, such as a lambda.

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
        best: str | Criterion | None = None,
        *,
        net: Layer | None = None,
        verify: bool = True,
    ) -> None:
        if (keep is not None and keep < 1) or every < 1:
            raise ValueError(f"Checkpoints takes keep= (or None: all) and every= of at least 1, got {keep} and {every}")
        pair = criterion("Checkpoints", best)
        path = os.fspath(directory)
        self.directory = path if "://" in path else os.path.abspath(path)
        self.keep, self.every, self.best, self.verify = keep, every, pair, verify
        self._config = None if net is None else config_of(net)
        self._steps = Steps(self.directory)
        self._finding = Finding(self._steps, verify)
        self._keeping = Keeping(self._steps, keep, pair, self._finding.damaged)
        self._describe = Describing()
        self._writer: Writer | None = None

    # Writing

    def save(self, step: int, tree: Any, *, metrics: Mapping[str, Any] | None = None, force: bool = False) -> bool:
        """Takes a snapshot of `tree` if `step` is due, divisible by `every`, and returns while it is being written.

        Args:
          step: The number of the step, later than those there.
          tree: A pytree of arrays, typed PRNG keys, Python numbers, strings and iterators.
          metrics: Numbers by name, the one that `best` names among them.
          force: Save also when not due.

        Returns:
          Whether it saved.

        Raises:
          ValueError: The step is not later; `metrics` does not go with `best`; an array was donated before.
          TypeError: A leaf is of another type.
          RuntimeError: Another process writes to the directory.
          Exception: What an earlier write failed with.

        Example: `checkpoints.save(step, state, metrics={"loss": loss})`
        """
        step = _number(step)
        if step % self.every and not force:
            return False
        stored_metrics = self._keeping.checked(metrics)
        rows, leaves = self._describe(tree)
        rows, leaves = with_states(rows, leaves)
        arrays = _arrays(rows, leaves)
        self.wait()
        self._become_writer()
        self._make_way(step)
        if self._writer is None:
            self._writer = Writer(self._steps, self._keeping.superfluous)
        self._keeping.enter(step, stored_metrics)
        description = {"format": FORMAT, "rows": rows, "metrics": stored_metrics, "net": self._config}
        leaving.await_at_exit(self)
        with leaving.unbroken():
            self._noting(functools.partial(self._writer.write, step, description, arrays))
        return True

    def _become_writer(self) -> None:
        """Takes over from the object of this process that writes there; raises if another process does."""
        other = _writers.get(self.directory)
        if other is not None and other is not self:
            other.close()
        _writers[self.directory] = self
        if first_process():
            self._steps.open()

    def _make_way(self, step: int) -> None:
        """Sets damaged steps aside that are no earlier than the one that is to be saved; raises of others."""
        there = self._steps.numbers()
        later = {number: self._finding.damage(number) for number in there if number >= step}
        if step < 0 or None in later.values():
            raise ValueError(
                f"save takes a step later than those there and not negative, got {step}; {self.directory} has "
                f"{list(there)}: resume from the newest, or give this run another directory"
            )
        if self._steps.is_taken(step):
            raise ValueError(
                f"save takes a number that is free; {self.directory} has {step}, which is no step of Checkpoints: move "
                "it elsewhere, or give this run another directory"
            )
        for number, damage in later.items():
            self._finding.forget(number)
            if first_process():
                warn(
                    f"step {number} in {self.directory} is damaged ({damage}) and not before step {step}, which is "
                    f"saved now: it is {self._steps.set_aside(number)} from now on, and counts no more"
                )

    # Reading

    @overload
    def restore(
        self, like: None = None, step: int | None = None, *, under: str = "", strict: Literal[True] = True
    ) -> Any: ...
    @overload
    def restore(self, like: T, step: int | None = None, *, under: str = "", strict: Literal[True] = True) -> T: ...
    @overload
    def restore(
        self, like: T, step: int | None = None, *, under: str = "", strict: Literal[False]
    ) -> tuple[T, Report]: ...
    def restore(self, like: Any = None, step: int | None = None, *, under: str = "", strict: bool = True) -> Any:
        """The tree of a step.

        Args:
          like: A tree like the one saved, of arrays or `jax.ShapeDtypeStruct`s; the result has its containers, and
            NumPy's or JAX's arrays where it has them. Those that were placed nowhere go to the default device. The
            iterators in it are given the states that were saved.
            Without it: dicts, lists, tuples, NumPy's arrays and the states of iterators.
          step: The number of the step; None is the newest good one.
          under: The path of a subtree, "params" or "params/encoder": only that is compared with `like` and read.
          strict: False takes over what is in `like` with the same path, shape and dtype, and keeps the rest of `like`.

        Returns:
          The tree; with `strict=False` the tree and a report, which prints as lines and has `restored`, `kept` and
          `unused`, tuples of paths.

        Raises:
          FileNotFoundError: The step, or any, is not there.
          ValueError: `like`, or the net, differs from what was saved; the step, or each of them, is damaged; there is
            nothing at `under`; nothing fits, or what does not is a spec in `like`.

        Example: `params = checkpoints.restore(jax.eval_shape(net.init, key, x), under="params")`
        """
        if like is None and not strict:
            raise ValueError("restore(strict=False) takes a tree like= to keep what does not fit from, got none")
        self.wait()
        restoring = Restoring(self._steps, self._finding.check, self._config, like, under)
        return self._finding.step(step, restoring.whole if strict else restoring.fitting)

    def resume(self, initial: T) -> T:
        """The newest good step as `restore(like=initial)` gives it, or `initial` itself if there are no steps.

        Example: `state, stream = checkpoints.resume((state, stream))`
        """
        return self.restore(initial) if self.steps() else initial

    def net(self, step: int | None = None) -> Layer:
        """The net that was stored with a step, by `Checkpoints(..., net=net)`; None is the newest good step.

        Raises:
          FileNotFoundError: The step, or any, is not there.
          ValueError: It was saved without a net; the net has a class or function that is not registered here.

        Example: `net = fn.Checkpoints("runs/a").net()`
        """
        self.wait()
        return self._finding.step(step, lambda stored: built(stored.net, f"step {stored.step} in {self.directory}"))

    def steps(self) -> tuple[int, ...]:
        """The steps that are there, damaged or not, oldest first, after waiting for the one being written."""
        self.wait()
        return self._steps.numbers()

    @property
    def latest_step(self) -> int | None:
        """The newest good step, or None if there are no steps. It reads the files, to compare their checksums."""
        return self._finding.step(None, self._verified) if self.steps() else None

    @property
    def best_step(self) -> int | None:
        """The best good step by the metric that `best` names, or None. Without `best` it raises ValueError."""
        if self.best is None:
            raise ValueError('best_step takes Checkpoints(..., best="loss"), got no best=')
        if not self.steps():
            return None
        return self._finding.first(lambda: self._keeping.ranked(self._finding.there())[::-1], self._verified)

    def _verified(self, stored: Stored) -> int:
        self._finding.check(stored)
        return stored.step

    # Waiting

    def wait(self) -> None:
        """Returns when nothing is being written by this process; raises what writing failed with."""
        other = _writers.get(self.directory)
        if other is not None and other is not self:
            other.wait()
        if self._writer is not None:
            self._noting(self._writer.wait)

    def _noting(self, call: Callable[[], None]) -> None:
        try:
            call()
        except Exception as error:
            error.add_note(f"while writing to {self.directory}; the steps {list(self._steps.numbers())} are there")
            raise

    def close(self) -> None:
        """Waits like `wait`, frees what writing needs, and lets others write there; used again, it opens again."""
        try:
            self.wait()
        except Exception:
            self._let_go()
            raise
        self._let_go()  # but not where waiting was interrupted: then the exit waits

    def _let_go(self) -> None:
        if self._writer is not None:
            self._writer.close()
        self._writer = None
        self._steps.close()
        leaving.forget(self)

    def __repr__(self) -> str:
        return f"Checkpoints({self.directory!r}, steps={list(self._steps.numbers())})"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def _number(step: Any) -> int:
    try:
        return operator.index(step)
    except TypeError:
        pass
    raise TypeError(f"save takes the number of the step first, save(step, tree), got {show(step)}")


def _arrays(rows: Sequence[Row], leaves: Sequence[Any]) -> dict[str, Any]:
    """What orbax is to write, each under the number of its leaf."""
    arrays: dict[str, Any] = {}
    for i, (row, leaf) in enumerate(zip(leaf_rows(rows), leaves, strict=True)):
        check_held(row, leaf, "save")
        if array_shape(row) is not None:
            array = np.asarray(leaf) if isinstance(leaf, np.generic) else leaf
            arrays[str(i)] = jax.random.key_data(array) if "impl" in row else array
    return arrays
