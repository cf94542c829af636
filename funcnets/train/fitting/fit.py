"""A whole run around a step: data, reports, checkpoints, logs, and an end that can be gone on from.

    run = train.fit(step, state, data, epochs=40, evaluate=..., best="loss", checkpoints=fn.Checkpoints("runs/a"))

`fit` is the loop that anybody would write by hand, `state, metrics = step(state, data[i])`, and knows nothing of nets:
whatever it is given are plain functions and values. Every so many steps, an epoch for instance, it makes a *report*:

    {"loss": 0.31, "accuracy": 0.92}      means of what the steps measured since the last, and what `evaluate` returned

which goes to the history and the callbacks, decides which state is the best, and is when the run is saved. Between
reports nothing waits for the device: each call is handed to it before the one before has ended.

With checkpoints a run that was broken off anywhere, by a signal, a crash or a loss of power, and is started again by
the same program ends as one that was left alone, bit for bit: with the same state, the same best, the same history and
the same logs. For that, all that it goes on from is in what is saved, {"state", "history", "best", "data"}; to read one
of these elsewhere, `checkpoints.restore(state, under="best")`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Generic

import jax

from funcnets.checkpoint import Checkpoints
from funcnets.checkpoint.keeping import Criterion, criterion
from funcnets.layer import Layer
from funcnets.shapes import show
from funcnets.train.arguments import check_count, kind
from funcnets.train.fitting.feed import Feed
from funcnets.train.fitting.history import History
from funcnets.train.fitting.interruption import Interruption
from funcnets.train.fitting.journals import Callback
from funcnets.train.fitting.loop import Evaluate, Loop, S, StepFunction, Stopped
from funcnets.train.fitting.pace import Pace, pace_of
from funcnets.train.fitting.profiling import Profile, Profiler
from funcnets.train.fitting.progress import Bar


@dataclass(frozen=True, eq=False)
class Run(Generic[S]):
    """What `fit` returns.

    Attributes:
      state: The state after the last step.
      best: The state of the best report, on the device like any; None without `best=`, and before there is one.
      history: What was measured.
      stopped: Why it ended: "finished", all steps are done; "patience"; "callback", one said so; "exhausted", the data
        ended; "interrupted", by a signal that did not end the program, as Ctrl-C in an interactive session; "raised",
        by an exception whose `run` this is.
    """

    state: S
    best: S | None
    history: History
    stopped: Stopped

    def __repr__(self) -> str:
        return f"Run(stopped={self.stopped!r}, history={self.history!r})"


def fit(
    step: StepFunction[S],
    state: S,
    data: Any,
    *,
    epochs: int | None = None,
    steps: int | None = None,
    every: int | None = None,
    evaluate: Evaluate[S] | None = None,
    best: str | Criterion | None = None,
    patience: int | None = None,
    checkpoints: Checkpoints | None = None,
    callbacks: Sequence[Callback] = (),
    progress: bool | None = None,
    profile: Profile | None = None,
) -> Run[S]:
    """Trains: `state, metrics = step(state, batch)` for all steps, with reports on the way.

    A report holds the means of the steps' metrics since the last one, and the numbers of `evaluate`; where both have
    a name, it is evaluation's, and the training metric is called "train/loss".

    Ctrl-C and SIGTERM let the step under way end, and the run is saved; an evaluation is broken off, and so is waiting
    for a batch (which ends a generator). Then a script ends, by KeyboardInterrupt or SystemExit(143); in an interactive
    session Ctrl-C gives the run so far, whose `state` may be trained on. The second signal has its effect at once.

    Args:
      step: `step(state, batch)` → (state, dict of metrics), as `train.make_step` gives it, or any function whose state
        has the number of its steps, `state.step` or `state["step"]`. One with `steps_per_call` gets the batches of so
        many steps; those that are left before a report are taken by `step.single`.
      state: Where to begin. The step consumes it, as it does each state; a callback that keeps one copies it.
      data: `train.batches`, or else what has a batch for each step, `data[step]`; with a length, as a list, those of an
        epoch, again and again. An iterator of batches, whose place is saved with the run if it has `get_state` and
        `set_state` (`data.stream()`, `train.prefetch`, Grain's); with another, as a generator, a run cannot be gone on
        with. What gives an iterator each epoch, as a DataLoader: it can from an epoch's end, if it has a length. Or
        None. A batch is always of one step: those of a call of several are stacked here. For several devices,
        `train.prefetch(data.stream(), sharding=...)`.
      epochs: How many, in all: those of runs that this one resumes count.
      steps: How many, in all, in the place of `epochs`.
      every: Steps between reports; None is an epoch. There is one at the end too.
      evaluate: `evaluate(state)` → a dict of numbers, at each report.
      best: The number in a report that says which is best: "loss" (less is better), or ("accuracy", "max"). Where it
        was not asked for from the beginning, it is the best of the reports since.
      patience: How many reports in a row may be no better than the best before the run ends.
      checkpoints: Where the run is saved: at reports (at the first after each multiple of its own `every`), at the end
        and when it is broken off. From its newest step the run goes on, with the step function, `best` and data
        that it had; a warning says where `train.batches` are others.
      callbacks: Functions `callback(step, metrics, state)`, called with each report; one that returns something true
        ends the run. `train.json_lines` and `train.tensorboard` are such. A run that goes on from a report calls them
        with that one again, so that logs drop what they have of later steps, and what ended the run ends it again.
      progress: Whether a bar is shown; None shows it in terminals and notebooks.
      profile: A directory and a range of steps, counted from 0 as batches are, which JAX's profiler traces:
        ("runs/a/profile", range(10, 13)).

    Returns:
      A `Run`, with `state`, `best`, `history` and `stopped`.

    Raises:
      TypeError: An argument is none of these; metrics that are no numbers.
      ValueError: Both or neither of `epochs` and `steps`; data without a length where one is needed; `best` that is in
        no report; a saved run that cannot be gone on with.
      Exception: Of a step, the data, `evaluate` and callbacks, with a note that names the step. What there is of the
        run is saved first, and is the exception's attribute `run`: `except Exception as error: state = error.run.state`
        (it has none if the step that failed had consumed the state). If it came in a report, that is made again when
        the run goes on.

    Example:
      >>> net, optimizer = fn.Dense(1), optax.sgd(0.1)
      >>> state = fn.train.create(net, optimizer, jax.random.key(0), jnp.ones((1, 3)))
      >>> step = fn.train.make_step(net, lambda model, x: jnp.square(model(x) - x[:, :1]).mean(), optimizer)
      >>> data = fn.train.batches(np.random.default_rng(0).normal(size=(64, 3)).astype("float32"), 16)
      >>> run = fn.train.fit(step, state, data, epochs=30, best="loss")
      >>> int(run.state.step), run.stopped, run.history.steps[:3].tolist()
      (120, 'finished', [4, 8, 12])
      >>> bool(run.history["loss"][-1] < 0.01 < run.history["loss"][0])
      True
    """
    _check(step, evaluate, checkpoints, callbacks)
    judged_by = _judged_by(best, patience)
    feed = Feed(data)
    pace = pace_of(step, feed.length, epochs, steps, every)
    profiler, interruption, history = Profiler(profile, pace.total), Interruption(), History(judged_by)
    loop = Loop(step, evaluate, checkpoints, callbacks, feed, pace, patience, interruption, history, state)
    loop.resume()
    _check_calls(step, pace, feed, loop.done)
    bar = Bar(progress, pace.total, loop.done)
    try:
        with interruption, checkpoints or contextlib.nullcontext(), profiler, bar:
            stopped = loop.run(profiler, bar)
    except BaseException as error:
        _hand_over(error, loop)
        raise
    feed.put_back()
    return Run(loop.state, loop.best, loop.history, stopped)


def _hand_over(error: BaseException, loop: Loop[Any]) -> None:
    """Gives an exception that ends a run what there is of it, but for a state that a step has consumed."""
    if not any(isinstance(leaf, jax.Array) and leaf.is_deleted() for leaf in jax.tree.leaves(loop.state)):
        error.run = Run(loop.state, loop.best, loop.history, "raised")  # pyright: ignore[reportAttributeAccessIssue]
        error.add_note(f"the run as it was after {loop.done} steps is this exception's attribute `run`")


def _judged_by(best: str | Criterion | None, patience: int | None) -> Criterion | None:
    pair = criterion("fit", best)
    if patience is not None:
        check_count("fit", "patience", patience)
        if pair is None:
            raise ValueError(
                'fit takes patience= with best=, such as best="loss": without, no report is the better one'
            )
    return pair


def _check(step: Any, evaluate: Any, checkpoints: Any, callbacks: Any) -> None:
    if not callable(step) or isinstance(step, Layer):
        raise TypeError(f"fit takes the step first, got {kind(step)}: train.make_step(net, loss, optimizer)")
    if evaluate is not None and not callable(evaluate):
        raise TypeError(f"fit takes evaluate= a function of the state, got {kind(evaluate)}")
    if checkpoints is not None and not isinstance(checkpoints, Checkpoints):
        raise TypeError(f"fit takes checkpoints=fn.Checkpoints(directory), got {show(checkpoints)}")
    if not isinstance(callbacks, Sequence) or not all(map(callable, callbacks)):
        raise TypeError(f"fit takes callbacks= a list of functions (step, metrics, state), got {show(callbacks)}")


def _check_calls(step: Any, pace: Pace, feed: Feed, done: int) -> None:
    """Raises where a call would have to take fewer steps than the step function takes, or a batch that is not full."""
    for short in feed.short(range(done, pace.total)):
        if pace.stacks(short):
            raise ValueError(
                f"a call of {pace.per_call} steps takes full batches, and data[{short}], its epoch's last, is not: "
                "give train.batches partial='drop', or make_step steps_per_call=1"
            )
    if pace.per_call > 1 and not hasattr(step, "single"):
        counts = {"every": pace.every, "steps in all": pace.total, "steps done": done}
        if odd := {name: count for name, count in counts.items() if count % pace.per_call}:
            raise ValueError(
                f"this step function takes {pace.per_call} steps a call and has no `single` for fewer, got {odd}: give "
                "multiples"
            )
