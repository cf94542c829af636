"""The loop of `fit`: calls of the step, reports, what is saved and gone on from, and ends."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Literal, TypeVar

import jax
import numpy as np

from funcnets.checkpoint import Checkpoints
from funcnets.notices import warn
from funcnets.shapes import near
from funcnets.train.arguments import kind
from funcnets.train.data import whole
from funcnets.train.fitting.feed import Feed
from funcnets.train.fitting.history import History
from funcnets.train.fitting.interruption import BrokenOff, Interruption
from funcnets.train.fitting.journals import Callback
from funcnets.train.fitting.pace import Pace
from funcnets.train.fitting.pending import Pending, number, same_names
from funcnets.train.fitting.profiling import Profiler
from funcnets.train.fitting.progress import Bar
from funcnets.train.fitting.resuming import has_best

S = TypeVar("S")
Stopped = Literal["finished", "patience", "callback", "exhausted", "interrupted", "raised"]
StepFunction = Callable[[S, Any], tuple[S, Mapping[str, Any]]]
Evaluate = Callable[[S], Mapping[str, Any]]


@dataclass(eq=False)
class Loop(Generic[S]):
    """A run on its way: `done` steps, a `state`, the `best` one, a `history`."""

    step: StepFunction[S]
    evaluate: Evaluate[S] | None
    checkpoints: Checkpoints | None
    callbacks: Sequence[Callback]
    feed: Feed
    pace: Pace
    patience: int | None
    interruption: Interruption
    history: History
    state: S
    best: S | None = None

    def __post_init__(self) -> None:
        self.done = self._begun = self._reported = _steps_of(self.state)
        self._saved = -1
        self._names: list[str] | None = None
        self._pending = Pending(self.history.training)

    # What is saved, and gone on from

    def _tree(self) -> dict[str, Any]:
        tree: dict[str, Any] = {"state": self.state, "history": self.history, "data": self.feed}
        if self.history.criterion is not None:
            tree["best"] = self.state if self.best is None else self.best
        return tree

    def resume(self) -> None:
        """Takes over the newest step that was saved, if there is one."""
        if self.checkpoints is None or not self.checkpoints.steps():
            return
        directory, tree = self.checkpoints.directory, self._tree()
        if not has_best(self.checkpoints, self.history.criterion):
            tree.pop("best", None)
        try:
            tree = self.checkpoints.resume(tree)
        except ValueError as error:
            error.add_note(
                f"fit goes on from what is in {directory}: give it the net, optimizer, data and best= that this run "
                "had, or checkpoints in another directory; state, report = checkpoints.restore(state, under='state', "
                "strict=False) takes over what fits into a new run's state"
            )
            raise
        self.state, self.done = tree["state"], _steps_of(tree["state"])
        self.best = tree["best"] if self.history.best_step is not None else None
        reported = self.history._reported()
        self._saved, self._reported = self.done, self.done if reported is None else reported
        if not 0 < self.done < self.pace.total:
            return
        if not self.feed.can_go_on_from(self.done):
            raise ValueError(
                f"fit goes on from step {self.done} in {directory}, and this data cannot be brought "
                "to where it was: give train.batches, its stream(), or an iterator with get_state and set_state; what "
                "has a length and gives a new iterator each epoch goes on from an epoch's end (delete later steps)"
            )
        if self.feed.changed:
            warn(
                f"the data is not that of the run in {directory}, which goes on with it from step {self.done}: "
                + ", ".join(self.feed.changed)
            )

    def _save(self, *, force: bool) -> None:
        """Saves where that is due: at the first report after each multiple of the checkpoints' own `every`."""
        if self.checkpoints is None or self._saved == self.done:
            return
        every = self.checkpoints.every
        if not force and self.done // every == max(self._saved, 0) // every:
            return
        metrics = None
        if self.checkpoints.best is not None:
            metrics = self.history._last() if self._reported == self.done else {self.checkpoints.best[0]: math.nan}
        self.checkpoints.save(self.done, self._tree(), metrics=metrics, force=True)
        self._saved = self.done

    # The loop

    def run(self, profiler: Profiler, bar: Bar) -> Stopped:
        """Trains to the end, whatever that is, and saves."""
        try:
            stopped = self._train(profiler, bar)
        except BrokenOff:
            stopped = "interrupted"
        except Exception as error:
            self._rescue(bar, error)
            raise
        self._settle(bar)
        self._save(force=True)
        return stopped

    def _rescue(self, bar: Bar, error: Exception) -> None:
        """Saves what there is before an exception ends the run. A report that it came in is made when that goes on."""
        if self.checkpoints is None or self.done == self._begun or jax.process_count() > 1:
            return  # of several processes the others may not come to save
        try:
            self._settle(bar)
            self._save(force=True)
        except Exception as another:
            error.add_note(f"and step {self.done} could not be saved: {another}")

    def _train(self, profiler: Profiler, bar: Bar) -> Stopped:
        stopped = self._ends()
        if stopped is None and self._reported == self.done and self.history.steps.size:
            # what has ended a run ends it again, and logs are told twice what they drop
            stopped = self._tell(self.history._last())
        while stopped is None:
            if self.interruption.asked is not None:
                stopped = "interrupted"
            elif self._reported < self.done and self.pace.reports_at(self.done):
                stopped = self._report(bar)
            elif not self._advance(profiler, bar):
                stopped = (self._report(bar) if self._reported < self.done else None) or "exhausted"
        return stopped

    def _advance(self, profiler: Profiler, bar: Bar) -> bool:
        """Takes the steps of the next call; False if the data has ended."""
        count = self.pace.call(self.done)
        steps = range(self.done, self.done + count)
        step: Any = self.step if count == self.pace.per_call else getattr(self.step, "single", None)
        with _noting(f"in step {self.done + 1}"):
            try:
                with self.interruption.breaking_off():
                    batch = self.feed.take(self.done, count)
            except StopIteration:
                return False
            with profiler.around(steps, self.state):
                result = step(self.state, batch)
            if not isinstance(result, tuple) or len(result) != 2:
                raise TypeError(f"a step returns (state, metrics), got {kind(result)}: write return state, metrics")
            self.state, metrics = result
            self.done += count
            self.feed.used()
            self._pending.add(range(steps.start + 1, steps.stop + 1), metrics)
        profiler.after(self.done, self.state)
        self._show(bar, self._pending.settle(now=False))
        return True

    def _show(self, bar: Bar, moved: int) -> None:
        newest = self.history.training._last().items() if moved else ()
        bar.update(moved, {self._reported_as(name): value for name, value in newest})

    def _reported_as(self, name: str) -> str:
        """What reports call a training metric, as far as there are any."""
        return f"train/{name}" if f"train/{name}" in self.history else name

    def _settle(self, bar: Bar) -> None:
        """Waits for all steps that were begun."""
        self._show(bar, self._pending.settle(now=True))
        if (says := _steps_of(self.state)) != self.done:
            raise ValueError(
                f"after {self.done} steps the state says that it has taken {says}: a step returns a state whose step "
                "is one more, or steps_per_call more"
            )

    # Reports

    def _report(self, bar: Bar) -> Stopped | None:
        """Reports on the steps since the last report, and saves; says why the run is to end.

        What may raise comes first: a report is in the history when all have been told of it, or it is made again.
        """
        self._settle(bar)
        report = self.history.training._means_after(self._reported)
        if self.evaluate is not None:
            with _noting(f"in evaluate, after step {self.done}"):
                report = self._with_evaluation(report, self.evaluate)
        evaluated = [name for name in report if name in (self._names or ())]
        self.history._check_sources(report, evaluated)
        for best in (self.history.criterion, self.checkpoints and self.checkpoints.best):
            if best is not None and best[0] not in report:
                raise ValueError(
                    f"best= names a number of the reports, got {best[0]!r}{near(best[0], report)}; there are "
                    f"{list(report)}"
                )
        report = dict.fromkeys(self.history, math.nan) | report
        bar.update(0, report)
        told = self._tell(report)
        if self.history._improves(report):
            self.best = _copied(self.state)
        self.history._report(self.done, report, evaluated)
        self._reported = self.done
        self._save(force=False)
        return self._ends() or told

    def _with_evaluation(self, report: dict[str, float], evaluate: Evaluate[S]) -> dict[str, float]:
        with self.interruption.breaking_off():
            found = evaluate(self.state)
        if not isinstance(found, Mapping):
            raise TypeError(f"evaluate returns a dict of numbers, by name, got {kind(found)}: write {{'loss': loss}}")
        self._names = same_names("evaluate", self._names, found)
        trained = {f"train/{name}" if name in found else name: value for name, value in report.items()}
        if len(trained) < len(report):
            raise ValueError(f"evaluate and a step measure {list(found)} and {list(report)}: give them other names")
        return trained | {name: number("what evaluate returns", name, value) for name, value in found.items()}

    def _tell(self, report: dict[str, float]) -> Stopped | None:
        """Calls the callbacks with a report."""
        stops: list[Any] = []
        for callback in self.callbacks:
            with _noting(f"in a callback, after step {self.done}"):
                stops.append(callback(self.done, dict(report), self.state))
        return "callback" if any(stops) else None

    def _ends(self) -> Stopped | None:
        """Why the run ends with the last report, if it does."""
        if self.done >= self.pace.total and self._reported == self.done:
            return "finished"
        tired = self.patience is not None and self.history._reports_since_best() >= self.patience
        return "patience" if tired and self._reported == self.done else None


def _copied(state: S) -> S:
    """A state of its own arrays, which no step consumes."""
    return jax.tree.map(lambda leaf: leaf.copy() if isinstance(leaf, jax.Array | np.ndarray) else leaf, state)


@contextlib.contextmanager
def _noting(where: str) -> Generator[None]:
    try:
        yield
    except Exception as error:
        error.add_note(f"{where} of fit")
        raise


def _steps_of(state: Any) -> int:
    number = state.get("step") if isinstance(state, Mapping) else getattr(state, "step", None)
    if isinstance(number, jax.Array) and number.is_deleted():
        raise ValueError(
            "this state was consumed by an earlier step, which reused its buffers: fit takes the one that was returned "
            "then, run.state, or a new one"
        )
    return whole(number, "fit takes a state with the number of its steps, state.step or state['step']")
