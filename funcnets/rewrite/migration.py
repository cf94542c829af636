"""Trained parameters for a net that has changed.

`migrate` keeps what the old net has learned wherever the new net has a place for it, and draws the rest as init does.
An array follows its layer (see `funcnets.rewrite.alignment`), also where an automatic name has moved; wrappers do not
count, and a parametrised parameter is one parameter, whatever is held in its place. Nothing is lost in silence: the
report (see `funcnets.rewrite.report`) names each parameter of either net once.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, overload

import jax
import jax.numpy as jnp

from funcnets.layer import Layer
from funcnets.parametrization import Decomposed, Parametrization
from funcnets.plan import Plan, check_tree
from funcnets.record import Declared, Kind
from funcnets.rewrite.alignment import Match, aligned, are_repeated, path_map, two_nets
from funcnets.rewrite.initialization import drawn_as_init
from funcnets.rewrite.report import Changed, Moved, Report
from funcnets.shapes import Tree, differences, entry, flat, join, names_of, nested, show, specs

Net = Layer | Callable[..., Any]


class Migration(NamedTuple):
    """Parameters for a net that has changed, and what became of those of the old net."""

    params: Tree
    report: Report


class StateMigration(NamedTuple):
    """The same with the state."""

    params: Tree
    report: Report
    state: Tree


@overload
def migrate(
    old_net: Net,
    new_net: Net,
    params: Tree,
    key: Any,
    *sample: Any,
    state: None = None,
    old_sample: tuple[Any, ...] | None = None,
    **kwargs: Any,
) -> Migration: ...
@overload
def migrate(
    old_net: Net,
    new_net: Net,
    params: Tree,
    key: Any,
    *sample: Any,
    state: Mapping[str, Any],
    old_sample: tuple[Any, ...] | None = None,
    **kwargs: Any,
) -> StateMigration: ...


def migrate(
    old_net: Net,
    new_net: Net,
    params: Tree,
    key: Any,
    *sample: Any,
    state: Tree = None,
    old_sample: tuple[Any, ...] | None = None,
    **kwargs: Any,
) -> Migration | StateMigration:
    """Parameters for a net that has changed: what the old one has learned is kept, the rest is drawn.

    What is drawn is what `new_net.init(key, *sample)` draws, bit for bit. A parameter that has become parametrised is
    taken apart; one that is so no more keeps the value that was computed. What is tied to another parameter is none.

    Args:
      old_net: The net that the parameters are of.
      new_net: The net that parameters are wanted for.
      params: The parameters of the old net.
      key: The key to draw with.
      *sample: Inputs, or their specs, that both nets take.
      state: The state of the old net; what it has no place for starts as `new_net.init_state(*sample)`. Without it no
        state is carried over, such as the running statistics of a BatchNorm, and the report says so.
      old_sample: A tuple of inputs that the old net took, where they were of other sizes than the sample; inputs by
        keyword go to both.

    Returns:
      (params, report); with a state given (params, report, state). Arrays that are kept are the very same.

    Raises:
      ValueError: Parameters, or a state, that are not the old net's; a parametrisation that needs its state.
      TypeError: Something that is no net; an old sample that is no tuple.

    Example:
      >>> net, x = fn.Sequential(fn.Dense(8), jax.nn.relu, ("head", fn.Dense(2))), jnp.ones((1, 3))
      >>> wider = fn.rewrite.replace(net, {"head": {"features": 5}})
      >>> trained = net.init(jax.random.key(0), x)
      >>> params, report = fn.rewrite.migrate(net, wider, trained, jax.random.key(1), x)
      >>> print(report)
      kept       2 as they are
      reshaped   head/kernel  float32[8,2] -> float32[8,5]  (drawn)
      reshaped   head/bias  float32[2] -> float32[5]  (drawn)
      >>> print(fn.rewrite.migrate(net, net, trained, jax.random.key(1), jnp.ones((1, 4)), old_sample=(x,)).report)
      kept       3 as they are
      reshaped   dense_0/kernel  float32[3,8] -> float32[4,8]  (drawn)
    """
    old_net, new_net = two_nets("migrate", old_net, new_net, "migrate(old_net, new_net, params, key, x)")
    if old_sample is not None and not isinstance(old_sample, tuple):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise TypeError(f"migrate takes old_sample as a tuple of inputs, got {show(old_sample)}: old_sample=(x,)")
    old = old_net.plan(*(sample if old_sample is None else old_sample), **kwargs)
    new = new_net.plan(*sample, **kwargs)
    _check(old, "params", params)
    if state is not None:
        _check(old, "states", state)
    match = aligned(old_net, new_net)
    moved = path_map(match)
    kept, report = _carried("params", old, new, moved, params, state, key)
    report = dataclasses.replace(report, hint=_hint(match) if report.fresh or report.dropped else "")
    drawn = drawn_as_init(new, "params", key, [*report.fresh, *(one.path for one in report.reshaped)])
    params = _assembled(new, "params", kept, drawn)
    if state is None:
        both = bool(old.declared["states"] and new.declared["states"])
        return Migration(params, dataclasses.replace(report, without_state=both))
    kept, states = _carried("states", old, new, moved, state, None, key)
    state = _assembled(new, "states", kept, new_net.init_state(*sample, **kwargs))
    return StateMigration(params, dataclasses.replace(report, state=states), state)


def _check(plan: Plan, kind: Kind, tree: Tree) -> None:
    """Raises for a tree that is not the old net's."""
    try:
        check_tree(plan, kind, tree)
    except ValueError as error:
        error.add_note(
            "migrate takes what the old net holds, which comes first: migrate(old_net, new_net, params, key, x). If "
            "that net took inputs of other sizes than x, say which: migrate(..., old_sample=(old_x,))"
        )
        raise


def _hint(match: Match) -> str:
    """What carries parameters into a Repeat, or out of one."""
    assert match.old is not None and match.new is not None
    if are_repeated(match.old, match.new):
        return "equal layers became a Repeat: fn.rewrite.roll stacks their parameters, fn.params.rename moves them"
    if are_repeated(match.new, match.old):
        return "a Repeat became equal layers: fn.rewrite.unroll unstacks its parameters, fn.params.rename moves them"
    return ""


# From the old tree to the new one


class _Unit(NamedTuple):
    """One parameter as a plan declares it."""

    one: Declared
    name: str

    @property
    def specs(self) -> Tree:
        return entry(self.one.shapes, self.name)


def _how(unit: _Unit | None) -> Parametrization | None:
    return unit.one.what.how if unit is not None and isinstance(unit.one.what, Decomposed) else None


def _units(plan: Plan, kind: Kind) -> dict[str, _Unit]:
    return {join(path, name): _Unit(one, name) for path, one in plan.declared[kind].items() for name in one.what.names}


def _carried(
    kind: Kind, old: Plan, new: Plan, moved: Callable[[str], str | None], tree: Tree, state: Tree, key: Any
) -> tuple[dict[str, Any], Report]:
    """What is kept, by its path in the new net, and the report."""
    mine, theirs = _units(old, kind), _units(new, kind)
    paths = [*mine, *_others(tree, mine)]
    became: dict[str, str] = {}  # from paths in the new net to those in the old
    kept: dict[str, Any] = {}
    reshaped: list[Changed] = []
    converted: list[Changed] = []
    for path in paths:
        there, held = moved(path), entry(tree, path)
        if there is None or there in became or (there not in theirs and not _reads(new, kind, there, held)):
            continue
        became[there] = path
        unit, other = mine.get(path), theirs.get(there)
        wanted = specs(held) if other is None else other.specs
        value = _in_form(path, unit, other, tree, state, key)
        if not _fits(wanted, value):
            reshaped.append(Changed(there, specs(held), wanted, path))
            continue
        if unit is None or unit.specs != wanted:
            value = jax.tree.map(_stored_as, value, wanted)
        if value is not held and (specs(value) != specs(held) or _how(unit) != _how(other)):
            converted.append(Changed(there, specs(held), specs(value), path))
        kept[there] = value
    gone = set(paths) - set(became.values())
    return kept, Report(
        kept=tuple(there for there in kept if became[there] == there),
        moved=tuple(Moved(became[there], there) for there in kept if became[there] != there),
        fresh=tuple(there for there in theirs if there not in became),
        dropped=tuple(path for path in paths if path in gone),
        reshaped=tuple(reshaped),
        converted=tuple(converted),
    )


def _others(tree: Tree, units: Mapping[str, _Unit]) -> list[str]:
    """Arrays of children that other inputs than the sample meet."""

    def is_known(path: str) -> bool:
        names = names_of(path)
        return any("/".join(names[:i]) in units for i in range(len(names) + 1))

    return [path for path, _ in flat(tree) if not is_known(path)]


def _reads(new: Plan, kind: Kind, path: str, held: Tree) -> bool:
    """Whether the new net may read an entry there for other inputs than the sample."""
    leaves = {call.path for call in new.calls if not call.layer._entries()}  # they have said what they read
    names = names_of(path)
    met = any("/".join(names[:i]) in leaves for i in range(len(names) + 1))
    return not met and not list(new.layer._strangers(kind, nested({path: held}), ""))


def _in_form(path: str, old: _Unit | None, new: _Unit | None, tree: Tree, state: Tree, key: Any) -> Tree:
    """A parameter in the form that the new net holds it in; as it is where it has another shape there."""
    held = entry(tree, path)
    if old is None or new is None or _how(old) == _how(new):
        return held
    if isinstance(old.one.what, Decomposed):
        held = old.one.what.computed(path, tree, state, old.one.copies)
    if isinstance(new.one.what, Decomposed):
        whole = new.one.what.what.shapes
        if jnp.shape(held) == (*new.one.copies, *whole.shape):
            return new.one.what.taken_apart(_stored_as(held, whole), key, new.one.steps)
    return held


def _fits(wanted: Tree, value: Tree) -> bool:
    """Whether arrays have these shapes, and dtypes of these kinds."""
    return not differences(wanted, value) and all(
        a.dtype == b.dtype or any(jnp.issubdtype(a.dtype, k) and jnp.issubdtype(b.dtype, k) for k in _KINDS)
        for a, b in zip(jax.tree.leaves(wanted), jax.tree.leaves(value), strict=True)
    )


_KINDS = (jnp.floating, jnp.complexfloating)


def _stored_as(array: Any, wanted: Any) -> Any:
    return array if array.dtype == wanted.dtype else jnp.asarray(array).astype(wanted.dtype)


def _assembled(new: Plan, kind: Kind, kept: Mapping[str, Any], drawn: Tree) -> Tree:
    """The new net's tree: what is kept, and what is drawn in all other places."""
    units = {path: kept[path] if path in kept else entry(drawn, path) for path in _units(new, kind)}
    return nested({**units, **kept})
