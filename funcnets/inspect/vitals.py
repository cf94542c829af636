"""The statistics of arrays of numbers, and what is wrong with them."""

from __future__ import annotations

import math
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
      fault: "" or what is wrong: "not finite", "constant" (all entries are equal), "saturated" (95 % of the entries lie
        at the two ends of the range, some at each: a tanh at ±1; or are 0 where others differ: a relu that is dead); of
        a gradient "zero", in all of its copies.
      copy: The number of the first copy of a loop where that is so; () where there is no loop, or no fault.
      taker: Of a gradient with respect to an output, the layer that takes the output, and in which the gradient is
        computed, by its path: "the loss" for the net's output, "" where it is not known.
      when: The moment at which the fault's copy of an output is computed, as numbers that compare.
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
    when: tuple[int, ...] = ()

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
    fault_of = _fault_of_output if kind == "output" else _not_finite
    rows: list[Vitals] = []
    for place, leaf in leaves:
        if not jnp.issubdtype(leaf.dtype, jnp.floating) or not leaf.size:
            continue
        numbers = _concrete(leaf)
        whole, copies = _measured(numbers), list(np.ndindex(leaf.shape[:loops]))
        backwards = kind.startswith("gradient")
        faults = ((fault_of(_measured(numbers[copy])), copy) for copy in (copies[::-1] if backwards else copies))
        fault, copy = next(((fault, copy) for fault, copy in faults if fault), ("", ()))
        if backwards and whole.min == whole.max == 0 and not fault:
            fault = "zero"
        label = name if len(leaves) == 1 else f"{name}{jax.tree_util.keystr(place)}"
        rows.append(Vitals(kind, label, show(leaf), *whole[:7], fault, copy))
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
    is_split: bool = False  # whether 5 % at least lie at each of the ends
    is_binary: bool = False  # whether they are all 0 or 1, as a mask or a one-hot code
    is_varied: bool = False  # whether those that are not 0 differ


def _measured(numbers: Any) -> _Numbers:
    finite = numbers[np.isfinite(numbers)]
    if not finite.size:
        return _Numbers(math.nan, math.nan, math.nan, math.nan, numbers.size, 0.0, 0.0, numbers.size)
    least, most = float(finite.min()), float(finite.max())
    near = _NEAR * (most - least)
    low, high = finite <= least + near, finite >= most - near
    at_ends, is_split = np.mean(low | high), bool(min(np.mean(low), np.mean(high)) >= 1 - SATURATED)
    others = finite[finite != 0]
    is_varied, is_binary = bool((others != others[:1]).any()), bool((others == 1).all())
    mean, std, zeros = float(finite.mean()), float(finite.std()), float(np.mean(finite == 0))
    rest = numbers.size - finite.size, zeros, float(at_ends), numbers.size, is_split, is_binary, is_varied
    return _Numbers(mean, std, least, most, *rest)


def _not_finite(numbers: _Numbers) -> str:
    return "not finite" if numbers.not_finite else ""


def _fault_of_output(numbers: _Numbers) -> str:
    if numbers.not_finite:
        return "not finite"
    if numbers.size > 1 and numbers.min == numbers.max:
        return "constant"
    if numbers.size < _FEW or numbers.is_binary:  # of a few numbers, many are the least or the largest
        return ""
    at_both = numbers.at_ends >= SATURATED and numbers.is_split
    is_dead = numbers.zeros >= SATURATED and numbers.is_varied
    return "saturated" if at_both or is_dead else ""
