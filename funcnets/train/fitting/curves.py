"""A history as a picture: a panel for each metric, training and evaluation together."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from funcnets.train.fitting.history import Floats, History

_TRAINING, _EVALUATION, _BEST = "#4878a8", "#d1605e", "#2a2a2a"
_COLUMNS = 3  # panels in a row, at most
_PIECES = 60  # a running mean is over this part of all steps
_POINTS = 600  # of its curve, about


class Curves(Figure):
    """A figure that a notebook shows. No pyplot knows of it, so it opens no window, whatever the backend, and is freed
    like any other object.
    """

    def _repr_png_(self) -> bytes:
        file = io.BytesIO()
        self.savefig(file, format="png")
        return file.getvalue()


def drawn(history: History) -> Figure:
    """The figure that `History.plot` returns."""
    evaluated = [name for name in history if name.removeprefix("train/") not in history.training]
    names = list(dict.fromkeys([*history.training, *evaluated]))
    if not names:
        raise ValueError("plot takes a history of at least one step with a metric, got none: train first")
    columns = min(len(names), _COLUMNS)
    rows = -(-len(names) // columns)
    figure = Curves(figsize=(max(4.0 * columns, 5.5), 3.4 * rows), layout="constrained")
    for i, name in enumerate(names):
        first = figure.axes[0] if i else None
        _panel(figure.add_subplot(rows, columns, i + 1, sharex=first), history, name)
    return figure


def _panel(axes: Axes, history: History, name: str) -> None:
    shown: list[Floats] = []
    if name in history.training:
        shown.append(_curve(axes, history.training.steps, history.training[name]))
    if name in history._evaluated:
        steps, values = history.steps, history[name]
        shown.append(values)
        marker: dict[str, Any] = {"marker": "o", "markersize": 4} if steps.size <= 40 else {}
        axes.plot(steps, values, color=_EVALUATION, linewidth=1.6, label="evaluation", zorder=3, **marker)
    if history.criterion is not None and name == history.criterion[0] and history.best_step is not None:
        label = f"best, {history.best_value:.4g} at step {history.best_step:,}"
        place = np.array([[history.best_step], [history.best_value]], float)
        axes.plot(*place, "*", color=_BEST, markersize=11, markeredgecolor="white", label=label, zorder=4)
    if _spans_orders(np.concatenate(shown)):
        axes.set_yscale("log")
    axes.set(title=name, xlabel="step")
    axes.margins(x=0.02)
    axes.grid(alpha=0.25, linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize="small")


def _curve(axes: Axes, steps: Any, values: Floats) -> Floats:
    """Draws what each step gave and, where there are many, their running mean in front; returns what is in front."""
    width = steps.size // _PIECES
    if width < 2:
        axes.plot(steps, values, color=_TRAINING, linewidth=1.4, label="training")
        return values
    axes.plot(steps, values, color=_TRAINING, linewidth=0.6, alpha=0.3)
    stride = max(1, steps.size // _POINTS)
    means = np.lib.stride_tricks.sliding_window_view(values, width)[::stride].mean(-1)
    label = f"training, mean of {width:,} steps"
    axes.plot(steps[width - 1 :: stride], means, color=_TRAINING, linewidth=1.6, label=label)
    return means


def _spans_orders(values: Floats) -> bool:
    finite = values[np.isfinite(values)]
    return bool(finite.size and finite.min() > 0 and finite.max() > 100 * finite.min())
