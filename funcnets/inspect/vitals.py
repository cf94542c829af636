"""The statistics of arrays of numbers, and what is wrong with them."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from funcnets.shapes import Tree, show

Kind = Literal["input", "parameter", "state", "output", "gradient", "gradient of parameter"]

SATURATED = 0.95  # the share of an output at one of its two ends from which on it is saturated
_FEW = 20  # entries from which on one can tell
_NEAR = 0.01  # how near to an end an entry is at it, as a share of the range


class Vitals(NamedTuple):
    """The statistics of one array of numbers.

    Attributes:
      kind: "input", "parameter", "state", "output", "gradient" (with respect to an output) or "gradient of parameter".
      path: The layer's path, that of a parameter or state, or the number or name of an input; and which of several
        arrays.
      what: Shape and dtype, "float32[2,20]". In a loop the leading axes count the copies.
      mean, std, min, max: Of the finite entries.
      not_finite: How many entries are NaN or infinite.
      zeros: The share of entries that are 0.
      at_ends: The share of entries within 1 % of the range from its least or largest entry.
      fault: "" or what is wrong: "not finite", "constant" (all entries are equal; of a gradient "zero"), "saturated"
        (95 % of the entries lie at the two ends of the range: a tanh at ±1, a relu that is dead).
      copy: The number of the first copy of a loop where that is so; () where there is no loop, or no fault.
      taker: Of a gradient with respect to an output, the layer that takes the output, and in which the gradient is
        computed, by its path: "the loss" for the net's output, "" where it is not known.
    """

    kind: Kind
    path: str
    what: str
    mean: float
    std: float
    min: float
    max: float
    not_finite: int
    zeros: float
    at_ends: float
    fault: str
    copy: tuple[int, ...]
    taker: str = ""

    @property
    def label(self) -> str:
        """What it is, in words: "gradient of dense_0"."""
        before = {"output": "", "gradient": "gradient of "}.get(self.kind, f"{self.kind} ")
        return before + (self.path or "the net")

    @property
    def trouble(self) -> str:
        """The fault in words, "" for none."""
        copy = f" in copy {', '.join(map(str, self.copy))}" if self.copy else ""
        count = (
            f", {self.not_finite:,} {'entry' if self.not_finite == 1 else 'entries'}"
            if self.fault == "not finite"
            else ""
        )
        return f"{self.fault}{copy}{count}" if self.fault else ""


def vitals_of(kind: Kind, name: str, tree: Tree, loops: int) -> tuple[Vitals, ...]:
    """A row for each floating array in a tree.

    Args:
      kind: What they are.
      name: The name of the whole tree.
      tree: The arrays.
      loops: How many leading axes count copies.

    Raises:
      RuntimeError: Tracers, which have no numbers.
    """
    leaves = jax.tree.leaves_with_path(tree)
    fault_of = _FAULTS.get(kind, _not_finite)
    rows: list[Vitals] = []
    for place, leaf in leaves:
        if not jnp.issubdtype(leaf.dtype, jnp.floating) or not leaf.size:
            continue
        numbers = _concrete(leaf)
        whole, copies = _measured(numbers), np.ndindex(leaf.shape[:loops])
        faults = ((fault_of(_measured(numbers[copy])), copy) for copy in copies)
        fault, copy = next(((fault, copy) for fault, copy in faults if fault), ("", ()))
        label = name if len(leaves) == 1 else f"{name}{jax.tree_util.keystr(place)}"
        rows.append(Vitals(kind, label, show(leaf), *whole[:-1], fault, copy))
    return tuple(rows)


def is_finite(tree: Tree) -> bool:
    """Whether all floating numbers in a tree of arrays are finite.

    Raises:
      RuntimeError: Tracers, likewise.
    """
    floating = [leaf for leaf in jax.tree.leaves(tree) if jnp.issubdtype(leaf.dtype, jnp.floating)]
    return all(_concrete(jnp.isfinite(leaf).all()) for leaf in floating)


def _concrete(array: Any) -> Any:
    try:
        return np.asarray(array, np.float64)
    except jax.errors.TracerArrayConversionError:
        raise RuntimeError(
            "check looks at numbers, and inside jit, grad or vmap it got tracers, which have none: call it outside, on "
            "the arrays themselves; it compiles the net by itself"
        ) from None


class _Numbers(NamedTuple):
    mean: float
    std: float
    min: float
    max: float
    not_finite: int
    zeros: float
    at_ends: float
    size: int


def _measured(numbers: Any) -> _Numbers:
    finite = numbers[np.isfinite(numbers)]
    if not finite.size:
        return _Numbers(math.nan, math.nan, math.nan, math.nan, numbers.size, 0.0, 0.0, numbers.size)
    least, most = float(finite.min()), float(finite.max())
    near = _NEAR * (most - least)
    at_ends = np.mean((finite <= least + near) | (finite >= most - near))
    mean, std, zeros = float(finite.mean()), float(finite.std()), float(np.mean(finite == 0))
    return _Numbers(mean, std, least, most, numbers.size - finite.size, zeros, float(at_ends), numbers.size)


def _not_finite(numbers: _Numbers) -> str:
    return "not finite" if numbers.not_finite else ""


def _fault_of_output(numbers: _Numbers) -> str:
    if numbers.not_finite:
        return "not finite"
    if numbers.size > 1 and numbers.min == numbers.max:
        return "constant"
    # Of a few numbers, many are the least or the largest.
    return "saturated" if numbers.size >= _FEW and numbers.at_ends >= SATURATED else ""


def _fault_of_gradient(numbers: _Numbers) -> str:
    if numbers.not_finite:
        return "not finite"
    return "zero" if numbers.min == numbers.max == 0 else ""


_FAULTS: dict[Kind, Callable[[_Numbers], str]] = {
    "output": _fault_of_output,
    "gradient": _fault_of_gradient,
    "gradient of parameter": _fault_of_gradient,
}
