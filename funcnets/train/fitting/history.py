"""What a run has measured, as arrays.

A step has the number of steps that were taken when it was done: the first is 1. Its training metrics are of the
parameters that it was given, an evaluation at that number is of those that it left.

A history is part of what a checkpoint keeps, and all that a run goes on from besides its state and its data (where the
last report was, which was the best, how long ago) is read off it: so there is nothing else to restore.
"""

from __future__ import annotations

import io
import json
from array import array
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from funcnets.checkpoint.keeping import Criterion
from funcnets.shapes import near

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Floats = np.ndarray[tuple[int], np.dtype[np.float64]]


class Series(Mapping[str, Floats]):
    """Numbers by name over steps: `series["loss"]` goes with `series.steps`, float64[n] with int64[n].

    It is a mapping, so `pandas.DataFrame(dict(series), index=series.steps)` is a table. Where a name has no number at
    a step that others have one at, it is NaN.
    """

    def __init__(self) -> None:
        self._steps = array("q")
        self._columns: dict[str, array[float]] = {}

    @property
    def steps(self) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
        """The steps, in order, int64[n]."""
        return np.array(self._steps, np.int64)

    def __getitem__(self, name: str) -> Floats:
        if name not in self._columns:
            raise KeyError(f"{name!r} was not measured{near(name, self)}; there are {list(self)}")
        return np.array(self._columns[name], np.float64)

    def __iter__(self) -> Iterator[str]:
        return iter(self._columns)

    def __len__(self) -> int:
        """How many names there are."""
        return len(self._columns)

    __eq__ = object.__eq__  # that of mappings would ask arrays whether they are true
    __hash__ = object.__hash__  # pyright: ignore[reportAssignmentType]

    def __repr__(self) -> str:
        return f"{type(self).__name__}({len(self._steps)} × {', '.join(self) or 'nothing'})"

    def _extend(self, steps: Sequence[int], columns: Mapping[str, Sequence[float]]) -> None:
        for name in columns:
            if name not in self._columns:
                self._columns[name] = array("d", [np.nan]) * len(self._steps)
        for name, column in self._columns.items():
            column.extend(columns.get(name, [np.nan] * len(steps)))
        self._steps.extend(steps)

    def _last(self) -> dict[str, float]:
        """The numbers of the last step."""
        return {name: column[-1] for name, column in self._columns.items()} if self._steps else {}

    def _means_after(self, step: int) -> dict[str, float]:
        """The mean of each over the steps after one."""
        first = bisect_right(self._steps, step)
        return {name: float(np.mean(column[first:])) for name, column in self._columns.items() if column[first:]}


class History(Series):
    """The reports of a run: `history["loss"]` goes with `history.steps`. What each step measured is in
    `history.training`, and goes with `history.training.steps`. That of a saved run is read by
    `checkpoints.restore(History(), under="history")`.

    Attributes:
      training: A `Series` of the training metrics of each step.
      criterion: What the best is judged by, ("accuracy", "max"); None if nothing is.

    Example:
      >>> def step(state, batch):
      ...     return {"step": state["step"] + 1}, {"loss": 1 / batch}
      >>> history = fn.train.fit(step, {"step": 0}, [1.0, 2.0, 4.0, 4.0], epochs=2, every=2).history
      >>> history["loss"].tolist(), history.steps.tolist()
      ([0.75, 0.25, 0.75, 0.25], [2, 4, 6, 8])
      >>> history.training["loss"].tolist()
      [1.0, 0.5, 0.25, 0.25, 1.0, 0.5, 0.25, 0.25]
    """

    def __init__(self, criterion: Criterion | None = None) -> None:
        super().__init__()
        self.training = Series()
        self.criterion = criterion
        self._judged_from = 0  # how many reports there were before the best was asked for
        self._evaluated: list[str] = []  # the names whose numbers are evaluation's, not means of the steps'

    @property
    def best_step(self) -> int | None:
        """The step of the first of the best reports; None before there is one. NaN is never best."""
        row = self._best_row()
        return None if row is None else self._steps[row]

    @property
    def best_value(self) -> float | None:
        """What the best report has, or None."""
        row = self._best_row()
        return None if row is None or self.criterion is None else self._columns[self.criterion[0]][row]

    def plot(self) -> Figure:
        """A matplotlib figure: a panel for each metric, with its training curve and its evaluations, the best marked.

        It is drawn without a display, and a notebook shows it; `history.plot().savefig("curves.png")` keeps it.

        Raises:
          ValueError: Nothing was measured.
          ImportError: matplotlib is not installed.
        """
        try:
            from funcnets.train.fitting.curves import drawn
        except ImportError as error:
            raise ImportError("history.plot() takes matplotlib: pip install 'funcnets[train]'") from error
        return drawn(self)

    def get_state(self) -> bytes:
        """All that it holds, for a checkpoint."""
        parts: dict[str, Any] = {}
        for i, series in enumerate((self, self.training)):
            columns = [np.array(column) for column in series._columns.values()]
            parts |= {f"steps{i}": series.steps, f"values{i}": np.stack(columns) if columns else np.zeros((0, 0))}
        head = {
            "names": [list(self), list(self.training)],
            "evaluated": self._evaluated,
            "criterion": self.criterion,
            "judged_from": self._judged_from,
        }
        file = io.BytesIO()
        np.savez(file, head=np.frombuffer(json.dumps(head).encode(), np.uint8), **parts)
        return file.getvalue()

    def set_state(self, state: bytes) -> None:
        """Takes what `get_state` gave. Where nothing was judged there, this judges what comes from now on.

        Raises:
          ValueError: The best was judged by something else there.
        """
        with np.load(io.BytesIO(state), allow_pickle=False) as parts:
            head = json.loads(parts["head"].tobytes())
            criterion, reports = head["criterion"] and tuple(head["criterion"]), parts["steps0"].size
            if self.criterion is None or self.criterion == criterion:
                self.criterion, self._judged_from = criterion, head["judged_from"]
            elif criterion is None or not reports:
                self._judged_from = reports
            else:
                raise ValueError(
                    f"this run goes by best={criterion}, got best={self.criterion}: go on with that, or give another "
                    "run a directory of its own"
                )
            for i, (series, names) in enumerate(zip((self, self.training), head["names"], strict=True)):
                series._steps = array("q", parts[f"steps{i}"].tolist())
                columns = (array("d", column.tolist()) for column in parts[f"values{i}"])
                series._columns = dict(zip(names, columns, strict=True))
        self._evaluated = head["evaluated"]

    def _report(self, step: int, report: Mapping[str, float], evaluated: Sequence[str]) -> None:
        """Takes a report, some numbers of which are evaluation's."""
        self._extend([step], {name: [value] for name, value in report.items()})
        self._evaluated += [name for name in evaluated if name not in self._evaluated]

    def _check_sources(self, report: Mapping[str, float], evaluated: Sequence[str]) -> None:
        """Raises where a name of a report stands for something else than in those before."""
        for name in report:
            if name in self and (name in evaluated) != (name in self._evaluated):
                was, now = ("evaluation's", "a mean over steps")[:: 1 if name in self._evaluated else -1]
                raise ValueError(
                    f"{name!r} is {was} in the reports up to step {self._steps[-1]}, and would be {now} from now on: "
                    "give fit the evaluate= that it had, or one that uses other names, or give another run a directory "
                    "of its own"
                )

    def _best_row(self) -> int | None:
        if self.criterion is None:
            return None
        name, mode = self.criterion
        values = np.array(self._columns.get(name, ())[self._judged_from :]) * (1 if mode == "min" else -1)
        return None if np.isnan(values).all() else self._judged_from + int(np.nanargmin(values))

    def _improves(self, report: Mapping[str, float]) -> bool:
        """Whether a report would be the best."""
        if self.criterion is None:
            return False
        name, mode = self.criterion
        value, best = report[name], self.best_value
        return not np.isnan(value) and (best is None or (value < best if mode == "min" else value > best))

    def _reports_since_best(self) -> int:
        best = self._best_row()
        return len(self._steps) - (self._judged_from if best is None else best + 1)

    def _reported(self) -> int | None:
        """The step up to which all is in reports; None if nothing was measured."""
        if self._steps:
            return self._steps[-1]
        return self.training._steps[0] - 1 if self.training._steps else None
