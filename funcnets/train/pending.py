"""Metrics on their way from the device to a history, so that no step waits for the one before it."""

from __future__ import annotations

import itertools
import time
import warnings
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from funcnets.shapes import is_array, show
from funcnets.train.history import History

_OFTEN = 0.5  # seconds between looks at what has arrived


class Pending:
    """Metrics of steps that the device may still be at.

    Args:
      history: Where they go, in order.
      steps_per_call: How many steps those of one call are of.
    """

    def __init__(self, history: History, steps_per_call: int) -> None:
        self._history = history
        self._shape = () if steps_per_call == 1 else (steps_per_call,)
        self._waiting: list[tuple[int, Mapping[str, Any]]] = []
        self._looked = time.monotonic()
        self._names: set[str] | None = None
        self._warned = False

    def add(self, done: int, metrics: Any) -> None:
        """The metrics of a call, after which so many steps are done."""
        if not isinstance(metrics, Mapping):
            raise TypeError(
                f"a step returns (state, metrics) with a dict of these, by name, got {show(metrics)}: write "
                "{'loss': loss}"
            )
        if self._names is None:
            self._names = {*metrics}
            for name, value in metrics.items():
                _check_number(name, value)
        if metrics.keys() != self._names:
            raise ValueError(
                f"a step returns the same metrics each time, got {sorted(metrics)} after {sorted(self._names)}: return "
                "NaN for one that has no value this time"
            )
        for name, value in metrics.items():
            if np.shape(value) != self._shape:
                raise ValueError(
                    f"a metric is one number a step, {self._shape} a call, got {show(value)} for {name!r}: take its mean"
                )
        self._waiting.append((done, metrics))

    def settle(self, *, now: bool) -> bool:
        """Moves to the history what has arrived or, if it is to be `now`, waits for all; says whether it moved any."""
        if not now and time.monotonic() < self._looked + _OFTEN:
            return False
        arrived = self._waiting if now else list(itertools.takewhile(lambda one: _has_arrived(one[1]), self._waiting))
        del self._waiting[: len(arrived)]
        if arrived:
            self._record(arrived)
        self._looked = time.monotonic()
        return bool(arrived)

    def _record(self, arrived: list[tuple[int, Mapping[str, Any]]]) -> None:
        per_call = self._shape[0] if self._shape else 1
        steps = [done - per_call + 1 + i for done, _ in arrived for i in range(per_call)]
        fetched = jax.device_get([metrics for _, metrics in arrived])
        columns = {
            name: np.concatenate([np.reshape(metrics[name], -1) for metrics in fetched]).astype(np.float64)
            for name in fetched[0]
        }
        self._history._extend(steps, {name: column.tolist() for name, column in columns.items()})
        self._warn_of(steps, columns)

    def _warn_of(self, steps: list[int], columns: dict[str, Any]) -> None:
        # a step that says whether it was skipped has somebody who sees to it
        if self._warned or "skipped" in columns or np.isfinite(losses := columns.get("loss", np.zeros(1))).all():
            return
        self._warned = True
        first = int(np.flatnonzero(~np.isfinite(losses))[0])
        warnings.warn(
            f"the loss of step {steps[first]} is {losses[first]}, and training goes on: fn.check finds where a number "
            "stops being finite; optax.apply_if_finite(optimizer, n) passes over such steps",
            RuntimeWarning,
            stacklevel=2,
        )


def number(what: str, name: str, value: Any) -> float:
    """One number of a dict of them, as a float."""
    _check_number(name, value, what)
    if np.shape(value) != ():
        raise TypeError(f"{what} is one number, got {show(value)} for {name!r}: take its mean")
    return float(value)


def _check_number(name: str, value: Any, what: str = "a metric") -> None:
    dtype = value.dtype if is_array(value) else np.result_type(type(value))
    if not jnp.issubdtype(dtype, np.number) and dtype != bool or jnp.issubdtype(dtype, np.complexfloating):
        raise TypeError(f"{what} is a real number, got {show(value)} for {name!r}")


def _has_arrived(metrics: Mapping[str, Any]) -> bool:
    return all(value.is_ready() for value in metrics.values() if isinstance(value, jax.Array))
