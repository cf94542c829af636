"""Other activations in the places of some: a net that is edited from outside."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from funcnets.bound import Bound
from funcnets.compose import Wrapper
from funcnets.inspect.capture import check_met, speaks_of
from funcnets.layer import Layer
from funcnets.places import What
from funcnets.probe import Probe, Seen
from funcnets.rules import leads
from funcnets.shapes import below, is_array, show, specs
from funcnets.values import code


class Edited(Wrapper):
    """A net with other activations in the places of some; made by `edit`."""

    body: Layer
    edits: Edits

    _seen_inside: ClassVar[bool] = True

    def outline(self, m: Any, *inputs: Any, **kwargs: Any) -> Any:
        return m.body(*inputs, **kwargs)

    def forward(self, m: Any, *inputs: Any, **kwargs: Any) -> Any:
        root, met = m._scope.path, set[Any]()

        def change(seen: Seen, output: Any) -> Any:
            return self.edits.applied(seen._replace(path=below(seen.path, root)), output, met)

        scope = m.body._scope
        scope.probe = (scope.probe or Probe()).changing(change)
        output = Bound(scope)(*inputs, **kwargs)
        missed = [what for what, _ in self.edits.items if what not in met]
        if missed:
            raise ValueError(
                f"edit: no layer that {code(missed[0])} speaks of was called with these inputs, so there was nothing "
                "to replace. Leave it out for this call"
            )
        return output

    def _leading(self, places: frozenset[str]) -> str | None:
        return next((code(what) for what, _ in self.edits.items if any(_leads(what, place) for place in places)), None)

    def __repr__(self) -> str:
        return f"edit({self.body!r}, {self.edits!r})"


class Edits:
    """What to make of which activations: (what, change) pairs. Equal if the changes are the very same objects."""

    small = False  # it may hold arrays of a trace: nothing that is known of a net with it is kept

    def __init__(self, items: tuple[tuple[Any, Any], ...], add: bool) -> None:
        self.items = items
        self.add = add

    def applied(self, seen: Seen, output: Any, met: set[Any]) -> Any:
        """The output that takes the place of a call's; notes which edit it was."""
        exact = f"{seen.path}@{seen.call}"
        for what, change in sorted(self.items, key=lambda item: item[0] != exact):
            if (seen.spoken and what == exact) or ("@" not in str(what) and speaks_of(what, seen)):
                met.add(what)
                return _edited(seen, output, change, self.add)
        return output

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Edits) and self._mark == other._mark

    def __hash__(self) -> int:
        return hash(self._mark)

    @property
    def _mark(self) -> tuple[Any, ...]:
        return (self.add, *((what, id(change)) for what, change in self.items))

    def __repr__(self) -> str:
        shown = ", ".join(f"{code(what)}: {code(c) if callable(c) else show(c)}" for what, c in self.items)
        return f"{{{shown}}}{', add=True' if self.add else ''}"


def edit(net: Layer, changes: Mapping[What, Any], *, add: bool = False) -> Edited:
    """A net in which other activations stand in the places of those that rules speak of.

    It is a net like another, with the same parameters: `apply` it, under jit, grad and vmap, `capture` it, edit it
    again. Patching activations from one input into the pass of another, in three lines:

        _, clean = fn.capture(net, "**/attention")(params, x)
        patched = fn.edit(net, clean)
        y = patched.apply(params, other)

    The gradient with respect to activations, which are moved by nothing:

        _, activations = fn.capture(net, "**/attention")(params, x)
        zeros = jax.tree.map(jnp.zeros_like, activations)
        gradients = jax.grad(lambda moves: loss(fn.edit(net, moves, add=True).apply(params, x)))(zeros)

    Args:
      net: The net.
      changes: From a pattern of paths, a class, an equal layer, or a function (as `capture` takes) to what stands in
        the place of the activation: a function of it; a number, for all of its entries; or an array (or tree of
        arrays) like it. "path@1" is the second call at a path, as `capture` names it. The first rule that speaks of a
        layer counts.

        In a loop a function may take (activation, index), with the number of the copy (of several loops, a tuple); an
        array may have the leading axis that `capture` gives it, one entry a copy.
      add: Whether numbers and arrays are added to the activation.

    Raises:
      ValueError: A rule that speaks of no layer; (when called) one that no call met; another shape or dtype than the
        activation's.

    Source: Vig et al. 2020, Causal mediation analysis; Meng et al. 2022, Locating and editing factual associations.

    Example:
      >>> net, x = fn.Sequential(fn.Repeat(fn.Residual(fn.Dense(4)), 3), fn.Dense(2)), jnp.ones((5, 4))
      >>> params = net.init(jax.random.key(0), x)
      >>> without_the_second = fn.edit(net, {"dense_0": lambda y, i: jnp.where(i == 1, 0.0, y)})
      >>> without_the_second.apply(params, x).shape
      (5, 2)
    """
    if not isinstance(changes, Mapping) or not changes:
        raise TypeError(f"edit takes a mapping from what is replaced to its replacement, got {code(changes)}")
    check_met(net, tuple(what.partition("@")[0] if isinstance(what, str) else what for what in changes))
    return Edited(net, Edits(tuple(changes.items()), add))


def _leads(what: Any, place: str) -> bool:
    """Whether an edit may be of a layer at or below a place; in a loop, and out of it, that is another edit."""
    return not isinstance(what, str) or "**" in what or leads(what.partition("@")[0], place)


def _edited(seen: Seen, output: Any, change: Any, add: bool) -> Any:
    if callable(change) and not is_array(change):
        new = _called(seen, output, change)
    elif isinstance(change, bool | int | float | complex | np.generic):
        fill: Any = change
        new = jax.tree.map(lambda y: jnp.full_like(y, fill), output)
    else:
        new = _picked(seen, output, change)
    if add and not callable(change):
        new = jax.tree.map(jnp.add, output, new)
    if jax.tree.structure(new) != jax.tree.structure(output) or not _alike(new, output):
        raise ValueError(
            f"edit: what stands in the place of an activation is like it, {show(specs(output))} at "
            f"{seen.path or 'the net'}, got {show(specs(new))}. Cast or reshape it"
        )
    return new


def _alike(a: Any, b: Any) -> bool:
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return all(jnp.shape(x) == jnp.shape(y) and jnp.result_type(x) == jnp.result_type(y) for x, y in pairs)


def _called(seen: Seen, output: Any, change: Callable[..., Any]) -> Any:
    if not _takes_index(change):
        return change(output)
    if not seen.numbers:
        raise TypeError(
            f"edit: {code(change)} takes (activation, index), but {seen.path or 'the net'} is in no loop: write it "
            "with the activation alone"
        )
    return change(output, seen.numbers[0] if len(seen.numbers) == 1 else seen.numbers)


def _takes_index(change: Callable[..., Any]) -> bool:
    try:
        parameters = inspect.signature(change).parameters.values()
    except (TypeError, ValueError):  # a builtin that does not tell
        return False
    required = [
        p for p in parameters if p.default is p.empty and p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)
    ]
    return len(required) == 2


def _picked(seen: Seen, output: Any, change: Any) -> Any:
    """The part of given arrays that is for this copy."""
    if jax.tree.structure(change) != jax.tree.structure(output):
        return change

    def one(given: Any, y: Any) -> Any:
        axes = jnp.ndim(given) - jnp.ndim(y)
        return jnp.asarray(given)[seen.numbers] if 0 < axes == len(seen.numbers) else jnp.asarray(given)

    return jax.tree.map(one, change, output)
