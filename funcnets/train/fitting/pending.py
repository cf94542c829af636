"""Metrics on their way from the device to a history, so that no step waits for the one before it."""

from __future__ import annotations

import functools
import itertools
import time
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from funcnets.notices import warn
from funcnets.shapes import is_array, show
from funcnets.train.fitting.history import Series

_OFTEN = 0.5  # seconds between looks at what has arrived


class Pending:
    """Metrics of steps that the device may still be at.

    Args:
      training: Where they go, in order.
    """

    def __init__(self, training: Series) -> None:
        self._training = training
        self._waiting: list[tuple[range, Mapping[str, Any]]] = []
        self._looked = time.monotonic()
        self._names: list[str] | None = None
        self._warned = False
        self._is_near = jax.default_backend() == "cpu"  # then arrays are read where they are, in a sixth of the time

    def add(self, steps: range, metrics: Any) -> None:
        """The metrics of a call that took these steps."""
        if not isinstance(metrics, Mapping):
            raise TypeError(
                f"a step returns (state, metrics) with a dict of these, by name, got {show(metrics)}: write "
                "{'loss': loss}"
            )
        for name, value in metrics.items():
            _check_number("a metric of a step", name, value, () if len(steps) == 1 else (len(steps),))
        self._names = same_names("a step", self._names, metrics)
        self._waiting.append((steps, metrics))

    def settle(self, *, now: bool) -> int:
        """Moves to the history what has arrived or, if it is to be `now`, waits for all; returns of how many steps."""
        if not now and time.monotonic() < self._looked + _OFTEN:
            return 0
        arrived = self._waiting if now else list(itertools.takewhile(lambda one: _has_arrived(one[1]), self._waiting))
        self._waiting = self._waiting[len(arrived) :]
        self._looked = time.monotonic()
        if not arrived:
            return 0
        steps = list(itertools.chain.from_iterable(steps for steps, _ in arrived))
        found: list[Mapping[str, Any]] = [metrics for _, metrics in arrived]
        if not self._is_near:
            found = jax.device_get(found)  # which starts all copies before it waits for the first
        columns = {
            name: np.concatenate([np.asarray(metrics[name], np.float64).reshape(-1) for metrics in found])
            for name in found[0]
        }
        self._training._extend(steps, {name: column.tolist() for name, column in columns.items()})
        self._warn_of(steps, columns)
        return len(steps)

    def _warn_of(self, steps: list[int], columns: Mapping[str, np.ndarray[Any, Any]]) -> None:
        if self._warned or "skipped" in columns:  # who skips steps sees to them
            return
        for name, column in columns.items():
            bad = np.flatnonzero(~np.isfinite(column))
            if name.rpartition("/")[2] == "loss" and bad.size:
                self._warned = True
                warn(
                    f"{name!r} of step {steps[bad[0]]} is {column[bad[0]]}, and training goes on: fn.check finds where "
                    "a number stops being finite; optax.apply_if_finite(optimizer, n) skips such steps",
                    RuntimeWarning,
                )
                return


def number(what: str, name: str, value: Any) -> float:
    """One number of a dict of them, as a float."""
    _check_number(what, name, value, ())
    return float(value)


def same_names(what: str, before: list[str] | None, metrics: Mapping[str, Any]) -> list[str]:
    """The names of metrics; raises unless they are those of the time before."""
    if "step" in metrics:
        raise ValueError(f"{what} returns metrics by names of their own, got 'step', which is the step's number")
    if before is not None and metrics.keys() != set(before):
        raise ValueError(
            f"{what} returns the same metrics each time, got {sorted(metrics)} after {sorted(before)}: return NaN for "
            "one that has no value this time"
        )
    return list(metrics)


def _check_number(what: str, name: str, value: Any, shape: tuple[int, ...]) -> None:
    is_real = _is_real(value.dtype) if is_array(value) else isinstance(value, int | float)
    if not is_real:
        raise TypeError(f"{what} is a real number, got {show(value)} for {name!r}")
    if np.shape(value) != shape:
        raise ValueError(
            f"{what} is one number{', for each step of a call' if shape else ''}, got {show(value)} for {name!r}: take "
            "its mean"
        )


@functools.cache
def _is_real(dtype: Any) -> bool:
    return any(jnp.issubdtype(dtype, kind) for kind in (np.bool_, np.integer, np.floating))


def _has_arrived(metrics: Mapping[str, Any]) -> bool:
    return all(value.is_ready() for value in metrics.values() if hasattr(value, "is_ready"))
