"""What is wrong with the numbers in a net: the first input, parameter, output or gradient with a fault.

What a layer is given comes before what it gives: an output that is not finite is no fault of a layer whose kernel or
input is not. A gradient with respect to an output is computed in what takes this output, so its fault is to be looked
for there.
"""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from funcnets.combinators import Sequential, _Copies
from funcnets.inspect.calls import plan_of
from funcnets.inspect.editing import edit
from funcnets.inspect.vitals import Kind, Vitals, is_finite, vitals_of
from funcnets.layer import Layer, applied
from funcnets.params.freezing import frozen
from funcnets.places import Place, walk
from funcnets.plan import Plan, Sample
from funcnets.probe import Probe, spoken_in
from funcnets.shapes import Tree, flat, is_array, join, show, within


class Health(NamedTuple):
    """What `check` found; prints as a table.

    Attributes:
      given: The inputs, parameters and states that are not finite: the cause of all that follows from them.
      outputs: The layers' outputs, in the order in which they are computed: children before what holds them.
      gradients: With a loss, the gradients with respect to outputs, from the loss on backwards, and then those of the
        parameters.
      unseen: The paths of layers that run inside raw JAX transforms, whose outputs cannot be seen.
    """

    given: tuple[Vitals, ...]
    outputs: tuple[Vitals, ...]
    gradients: tuple[Vitals, ...]
    unseen: tuple[str, ...]

    @property
    def faults(self) -> tuple[Vitals, ...]:
        """All rows with a fault, in the order in which the faults come about, of gradients from the loss on."""
        outputs = sorted(self.outputs, key=lambda row: row.when)
        moved = sorted((row for row in self.gradients if row.when), key=lambda row: row.when, reverse=True)
        others = [row for row in self.gradients if not row.when]
        return tuple(row for row in (*self.given, *outputs, *moved, *others) if row.fault)

    @property
    def first(self) -> Vitals | None:
        """The first row with a fault: where to look."""
        return next(iter(self.faults), None)

    def __repr__(self) -> str:
        return str(self)

    def __str__(self) -> str:
        table: list[tuple[str, ...]] = [("path", "array", *_STATISTICS, "fault")]
        for title, rows in (("", self.given), ("outputs", self.outputs), ("gradients", self.gradients)):
            table += [(title, *[""] * 6)] if rows and title and len(table) > 1 else []
            table += map(_line, rows)
        widths = [max(map(len, column)) for column in zip(*table, strict=True)]
        lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in table]
        lines.insert(1, "-" * max(map(len, lines)))
        unseen = f"\nnot seen, in raw JAX transforms: {', '.join(self.unseen)}" if self.unseen else ""
        return "\n".join([*lines, self._end()]) + unseen

    def _end(self) -> str:
        first = self.first
        if first is None:
            return "no fault"
        taker = f"{first.taker}, which" if first.taker else "what"
        where = f"; computed in {taker} takes it" if first.kind == "gradient" else ""
        return f"first fault: {first.label}: {first.trouble}{where}"


_STATISTICS = ("mean", "std", "min", "max")


def _line(row: Vitals) -> tuple[str, ...]:
    place = row.label if row.kind in ("input", "parameter", "state") else row.path or "(the net)"
    rest = "; statistics of the others" if row.not_finite and jnp.isfinite(row.mean) else ""
    return place, row.what, *(f"{getattr(row, name):.3g}" for name in _STATISTICS), f"{row.trouble}{rest}"


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

    What the net is given comes first: inputs, parameters and states that are not finite. The net runs, compiled; so
    this is called outside jit, grad and vmap.

    Args:
      net: The net.
      params: Its parameters.
      *inputs: Its inputs.
      loss: A function of the net's output, which gives one floating number; given it, the gradients of all outputs and
        parameters are looked at too.
      state: The net's state, if it carries one.
      key: A key, if it is random.
      train: The mode.

    Returns:
      A `Health`: print it, or read `.first`, `.given`, `.outputs`, `.gradients`. Layers that take no input (a `Param`)
      have no row, nor have outputs that are no floating numbers.

    Raises:
      TypeError: Inputs that are not the net's, or are no arrays with numbers; a loss that gives something else.
      RuntimeError: A call inside a JAX transform.

    Example:
      >>> net = fn.Sequential(fn.Dense(4), lambda x: x * 1e30, jnp.exp, fn.Dense(2))
      >>> x = jax.random.normal(jax.random.key(1), (5, 3))
      >>> health = fn.check(net, net.init(jax.random.key(0), x), x)
      >>> health.first.path, health.first.fault
      ('exp_0', 'not finite')
    """
    plan = plan_of("check(net, params, x)", net, inputs, kwargs, params)
    _check_loss(loss)
    given, skipped, loops = Sample((inputs, kwargs)), set[str](), _loops(net)
    order = _Order(net, plan, loops)

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
        return _scalar((loss or jnp.sum)(passed(edited, params, arrays, None)))

    is_frozen = frozen(net)
    copies, takers = _copies(plan), {"": "the loss", **_takers(net, loops)}
    wrong = _not_finite(params, copies, (inputs, kwargs), state)
    arrays = [leaf for leaf in jax.tree.leaves((inputs, kwargs)) if is_array(leaf)]
    found = {name: held for name, held in jax.jit(looked_at)(params, arrays).items() if _path(name) in order.calls}
    ordered = sorted(found, key=order.position)
    outputs = [
        row._replace(when=order.when(name, row.copy))
        for name in ordered
        for row in vitals_of("output", name, found[name], len(loops[_path(name)]))
    ]
    gradients: list[Vitals] = []
    if loss is not None:
        still = {name: jax.tree.map(jnp.zeros_like, held) for name, held in found.items() if _can_move(held)}
        of_params, moves = jax.jit(jax.grad(moved, argnums=(0, 1)))(params, still, arrays)
        for name in reversed([name for name in ordered if name in moves]):
            rows = vitals_of("gradient", name, moves[name], len(loops[_path(name)]))
            taker = takers.get(_path(name), "")
            gradients += [row._replace(taker=taker, when=order.when(name, row.copy)) for row in rows]
        for path, array in flat(of_params):
            rows = vitals_of("gradient of parameter", path, array, copies.get(path, 0))
            gradients += [row._replace(fault="") if row.fault == "zero" and is_frozen(path) else row for row in rows]
    return Health(wrong, tuple(outputs), tuple(gradients), tuple(sorted(skipped)))


def _check_loss(loss: Any) -> None:
    """Raises unless it is a function of one output, or None."""
    if loss is None:
        return
    takes = "check takes loss as a function of the net's output, loss=lambda y: ..., got"
    if not callable(loss) or isinstance(loss, Layer):
        raise TypeError(f"{takes} {show(loss)}")
    try:
        inspect.signature(loss).bind(None)
    except TypeError:
        raise TypeError(f"{takes} one of {inspect.signature(loss)}: with labels, lambda y: f(y, labels)") from None
    except ValueError:  # a builtin that does not tell
        pass


def _scalar(value: Any) -> Any:
    if not is_array(value) or value.shape != () or not jnp.issubdtype(value.dtype, jnp.floating):
        raise TypeError(
            f"check takes a loss that gives one floating number, got {show(jax.tree.map(jax.typeof, value))}: take its "
            "mean, and return no metrics beside it"
        )
    return value


def _not_finite(
    params: Tree, copies: dict[str, int], inputs: tuple[tuple[Any, ...], dict[str, Any]], state: Tree
) -> tuple[Vitals, ...]:
    """The rows of what a net is given that is not finite, inputs first."""
    named: dict[str, Any] = {**{str(i): one for i, one in enumerate(inputs[0])}, **inputs[1]}
    held: dict[Kind, dict[str, Any]] = {"input": named, "parameter": dict(flat(params)), "state": dict(flat(state))}
    rows: list[Vitals] = []
    for kind, trees in held.items():
        for name, tree in trees.items():
            arrays = jax.tree.map(_as_given, tree)
            if not is_finite(arrays):
                rows += vitals_of(kind, name, arrays, copies.get(name, 0) if kind == "parameter" else 0)
    return tuple(row for row in rows if row.fault)


def _as_given(leaf: Any) -> Any:
    """An array as the net gets it; None for what is no array."""
    if isinstance(leaf, jax.ShapeDtypeStruct):
        raise TypeError(f"check runs the net, so it takes arrays with their numbers, got the spec {show(leaf)}")
    return jnp.asarray(leaf) if is_array(leaf) else None


def _copies(plan: Plan) -> dict[str, int]:
    """How many leading axes of a parameter count copies, by path."""
    return {
        path: len(one.copies) for full, one in plan.declared["params"].items() for path, _ in flat(one.shapes, full)
    }


def _path(name: str) -> str:
    """The path in a name as `capture` gives it."""
    return name.partition("@")[0]


class _Order:
    """The moments at which a net computes its outputs."""

    def __init__(self, net: Layer, plan: Plan, loops: dict[str, tuple[str, ...]]) -> None:
        spoken = {(place.path, spoken_in(place.layer)) for place in walk(Place("", net)) if not place.around}
        self.calls: dict[str, list[int]] = {}  # where in the plan the calls of a path end
        for i, call in enumerate(plan.calls):
            if (call.path, call.layer) in spoken and jax.tree.leaves(call.inputs):
                self.calls.setdefault(call.path, []).append(i)
        self._loops = loops
        self._ends = [(call.path, i) for i, call in enumerate(plan.calls) if isinstance(call.layer, _Copies)]

    def position(self, name: str) -> int:
        """Where the call that `capture` gives this name ends."""
        calls, call = self.calls[_path(name)], int(name.partition("@")[2] or 0)
        return calls[min(call, len(calls) - 1)]

    def when(self, name: str, copy: tuple[int, ...]) -> tuple[int, ...]:
        """A moment: a copy of a loop comes after all that is in the copy before."""
        begun = [self._begun(loop, self.position(name)) for loop in self._loops[_path(name)]]
        numbers = copy or (0,) * len(begun)
        return (*itertools.chain(*zip(begun, numbers, strict=True)), self.position(name))

    def _begun(self, loop: str, position: int) -> int:
        """Where the first call ends in the run of a loop that a call is in."""
        before = max((end for path, end in self._ends if path == loop and end < position), default=-1)
        return min(i for path, calls in self.calls.items() if within(path, loop) for i in calls if i > before)


def _loops(net: Layer) -> dict[str, tuple[str, ...]]:
    """The paths of the loops that the layers of a path run in, outermost first."""
    found: dict[str, tuple[str, ...]] = {}

    def visit(place: Place, around: tuple[str, ...]) -> None:
        inside = (*around, place.path) if isinstance(place.layer, _Copies) else around
        found[place.path] = max(inside, found.get(place.path, ()), key=len)
        for child in place.children():
            visit(child, inside)

    visit(Place("", net), ())
    return found


def _takers(net: Layer, loops: dict[str, tuple[str, ...]]) -> dict[str, str]:
    """Which layers take the outputs of others, by the latter's paths, as far as rows of layers tell."""
    found: dict[str, str] = {}
    for place in walk(Place("", net)):
        names = [name for name, _ in place.layer._entries()] if isinstance(place.layer, Sequential) else []
        for name, taker in itertools.pairwise(names):
            path = join(place.path, name)
            # The output of a copy goes to the next copy first, and of a name that stands twice either is meant.
            if names.count(name) == 1 and loops[path] == loops[place.path]:
                found[path] = join(place.path, taker)
    return found


def _can_move(tree: Tree) -> bool:
    """Whether a gradient with respect to this output has numbers."""
    return all(jnp.issubdtype(leaf.dtype, jnp.floating) and leaf.size for leaf in jax.tree.leaves(tree))
