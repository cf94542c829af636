"""What is wrong with the numbers in a net: the first layer whose output is not finite, saturated or constant."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from funcnets.combinators import _Copies
from funcnets.inspect.editing import edit
from funcnets.layer import Layer, applied
from funcnets.places import Place
from funcnets.plan import Sample
from funcnets.probe import Probe
from funcnets.shapes import Tree, flat, is_array, show

SATURATED = 0.95  # the share of an output at one of its two ends from which on it is saturated
_FEW = 20  # entries from which on one can tell
_NEAR = 0.01  # how near to an end an entry is at it, as a share of the range


class Vitals(NamedTuple):
    """The statistics of one array of numbers: a layer's output, or a gradient.

    Attributes:
      path: The layer's path, or that of a parameter, and which of several arrays.
      what: Shape and dtype, "float32[2,20]". In a loop the leading axes count the copies.
      mean, std, min, max: Of the finite entries.
      not_finite: How many entries are NaN or infinite.
      zeros: The share of entries that are 0.
      at_ends: The share of entries within 1 % of the range from its least or largest entry.
      fault: "" or what is wrong: "not finite", "constant" (all entries are equal; of a gradient "zero"), "saturated"
        (95 % of the entries lie at the two ends of the range: a tanh at ±1, a relu that is dead).
      copy: The number of the first copy of a loop where that is so; () where there is no loop, or no fault.
    """

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


class Health(NamedTuple):
    """What `check` found; prints as a table.

    Attributes:
      outputs: The layers' outputs, in the order in which they are computed: children before what holds them.
      gradients: With a loss, the gradients with respect to outputs, from the loss on backwards, and then those of the
        parameters.
      unseen: The paths of layers that run inside raw JAX transforms, whose outputs cannot be seen.
    """

    outputs: tuple[Vitals, ...]
    gradients: tuple[Vitals, ...]
    unseen: tuple[str, ...]

    @property
    def faults(self) -> tuple[Vitals, ...]:
        """All rows with a fault, in order."""
        return tuple(row for row in (*self.outputs, *self.gradients) if row.fault)

    @property
    def first(self) -> Vitals | None:
        """The first row with a fault: where to look."""
        return next(iter(self.faults), None)

    def __str__(self) -> str:
        names = ("mean", "std", "min", "max")
        table = [("path", "output", *names, "fault")]
        for title, rows in (("", self.outputs), ("gradients", self.gradients)):
            table += [(title, "", "", "", "", "", "")] if title and rows else []
            table += [
                (row.path or "(the net)", row.what, *(f"{getattr(row, name):.3g}" for name in names), _fault(row))
                for row in rows
            ]
        widths = [max(map(len, column)) for column in zip(*table, strict=True)]
        lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in table]
        lines.insert(1, "-" * max(map(len, lines)))
        first = self.first
        end = "no fault" if first is None else f"first fault: {first.path or 'the net'}: {_fault(first)}"
        unseen = f"\nnot seen, in raw JAX transforms: {', '.join(self.unseen)}" if self.unseen else ""
        return "\n".join([*lines, end]) + unseen


def _fault(row: Vitals) -> str:
    copy = f" in copy {', '.join(map(str, row.copy))}" if row.copy else ""
    count = f", {row.not_finite:,} entries" if row.fault == "not finite" else ""
    return f"{row.fault}{copy}{count}" if row.fault else ""


def check(
    net: Layer,
    params: Tree,
    *inputs: Any,
    loss: Callable[[Any], jax.Array] | None = None,
    state: Tree = None,
    key: Any = None,
    train: bool = False,
    **kwargs: Any,
) -> Health:
    """The statistics of every layer's output, and the first that is not finite, saturated or constant.

    Args:
      net: The net.
      params: Its parameters.
      *inputs: Its inputs.
      loss: A function of the net's output; given it, the gradients of all outputs and parameters are looked at too.
      state: The net's state, if it carries one.
      key: A key, if it is random.
      train: The mode.

    Returns:
      A `Health`: print it, or read `.first`, `.outputs`, `.gradients`. Layers that take no input (a `Param`) have no
      row, nor have outputs that are no floating numbers.

    Example:
      >>> net = fn.Sequential(fn.Dense(4), lambda x: x * 1e30, jnp.exp, fn.Dense(2))
      >>> x = jax.random.normal(jax.random.key(1), (5, 3))
      >>> health = fn.check(net, net.init(jax.random.key(0), x), x)
      >>> health.first.path, health.first.fault
      ('exp_0', 'not finite')
    """
    order = [call.path for call in net.plan(*inputs, **kwargs).calls if jax.tree.leaves(call.inputs)]
    given, skipped = Sample((inputs, kwargs)), set[str]()

    def passed(net: Layer, params: Tree, arrays: list[Any], probe: Probe | None) -> Any:
        inputs, named = given.filled(arrays)
        output = applied(net, params, inputs, named, state, key, train, probe)
        return output if state is None else output[0]

    def looked_at(params: Tree, arrays: list[Any]) -> dict[str, Any]:
        probe = Probe(lambda seen: seen.spoken, skipped=skipped)
        passed(net, params, arrays, probe)
        return probe.found

    def moved(params: Tree, moves: dict[Any, Any], arrays: list[Any]) -> Any:
        edited = edit(net, moves, add=True) if moves else net
        return (loss or jnp.sum)(passed(edited, params, arrays, None))

    arrays = [leaf for leaf in jax.tree.leaves((inputs, kwargs)) if is_array(leaf)]
    found = {name: held for name, held in jax.jit(looked_at)(params, arrays).items() if _path(name) in order}
    ordered = sorted(found, key=lambda name: (order.index(_path(name)), len(name), name))
    loops, none = _loops(net), tuple[Vitals, ...]()
    outputs = sum((_vitals(name, found[name], loops[_path(name)], _fault_of_output) for name in ordered), none)
    if loss is None:
        return Health(outputs, (), tuple(sorted(skipped)))
    still = {name: jax.tree.map(jnp.zeros_like, held) for name, held in found.items() if _is_floating(held)}
    of_params, moves = jax.jit(jax.grad(moved, argnums=(0, 1)))(params, still, arrays)
    back = [(name, moves[name], loops[_path(name)]) for name in reversed(ordered) if name in moves]
    back += [(path, array, 0) for path, array in flat(of_params)]
    gradients = sum((_vitals(*each, _fault_of_gradient) for each in back), none)
    return Health(outputs, gradients, tuple(sorted(skipped)))


def _path(name: str) -> str:
    """The path in a name as `capture` gives it."""
    return name.partition("@")[0]


def _loops(net: Layer) -> dict[str, int]:
    """How many loops the layers of a path run in."""
    found: dict[str, int] = {}

    def visit(place: Place, around: int) -> None:
        inside = around + isinstance(place.layer, _Copies)
        found[place.path] = max(inside, found.get(place.path, 0))
        for child in place.children():
            visit(child, inside)

    visit(Place("", net), 0)
    return found


def _is_floating(tree: Tree) -> bool:
    return all(jnp.issubdtype(leaf.dtype, jnp.floating) for leaf in jax.tree.leaves(tree))


def _vitals(name: str, tree: Tree, loops: int, fault_of: Callable[[_Numbers], str]) -> tuple[Vitals, ...]:
    leaves = jax.tree.leaves_with_path(tree)
    rows: list[Vitals] = []
    for place, leaf in leaves:
        if not jnp.issubdtype(leaf.dtype, jnp.floating) or not leaf.size:
            continue
        numbers = np.asarray(leaf, np.float64)
        whole, copies = _measured(numbers), np.ndindex(leaf.shape[:loops])
        faults = ((fault_of(_measured(numbers[copy])), copy) for copy in copies)
        fault, copy = next(((fault, copy) for fault, copy in faults if fault), ("", ()))
        label = name if len(leaves) == 1 else f"{name}{jax.tree_util.keystr(place)}"
        rows.append(Vitals(label, show(leaf), *whole[:-1], fault, copy))
    return tuple(rows)


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
