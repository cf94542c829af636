"""Other activations in the places of some: a net that is edited from outside."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from funcnets.bound import Bound
from funcnets.compose import Wrapper
from funcnets.inspect.calls import check_net
from funcnets.inspect.capture import check_met, speaks_of
from funcnets.layer import Layer
from funcnets.places import What
from funcnets.probe import Probe, Seen, spoken_in
from funcnets.rules import leads
from funcnets.shapes import below, is_array, show, specs
from funcnets.values import Argument, code, holds_nothing


class Edited(Wrapper):
    """A net with other activations in the places of some; made by `edit`."""

    body: Layer
    edits: Edits

    def outline(self, m: Any, *inputs: Any, **kwargs: Any) -> Any:
        return m.body(*inputs, **kwargs)

    def forward(self, m: Any, *inputs: Any, **kwargs: Any) -> Any:
        scope = m.body._scope
        around = scope.probe or Probe()
        change = _Here(self, m._scope.path, around)
        scope.probe = around.changing(change)
        output = Bound(scope)(*inputs, **kwargs)
        missed = [what for what, _ in self.edits.items if what not in change.met]
        if missed:
            raise ValueError(
                f"edit: no layer that {code(missed[0])} speaks of was called with these inputs, so there was nothing "
                "to replace. Leave it out for this call"
            )
        return output

    def _leading(self, places: frozenset[str]) -> str | None:
        return next((code(what) for what, _ in self.edits.items if any(_leads(what, place) for place in places)), None)

    def _call(self) -> tuple[str, list[Argument], str]:
        return "edit(", [Argument(self.body, place=".body"), Argument(self.edits)], ")"


class _Here:
    """The edits of a net at its place in a pass: paths, calls and loops are counted from there on."""

    def __init__(self, net: Edited, path: str, around: Probe) -> None:
        self._edits, self._path, self._spoken = net.edits, path, spoken_in(net._entries()[0][1])
        self._depth, self._calls = around.depth, around.calls
        self.met: set[Any] = set()

    def _own(self, seen: Seen) -> Seen:
        if seen.path == self._path:  # which wrappers are around does not matter inside
            seen = seen._replace(spoken=seen.layer is self._spoken)
        call = None if seen.call is None else seen.call - self._calls[seen.address]
        numbers, counts = seen.numbers[self._depth :], seen.counts[self._depth :]
        return seen._replace(path=below(seen.path, self._path), call=call, numbers=numbers, counts=counts)

    def speaks_of(self, seen: Seen) -> bool:
        return self._edits.rule(self._own(seen)) is not None

    def __call__(self, seen: Seen, output: Any) -> Any:
        own = self._own(seen)
        rule = self._edits.rule(own)
        if rule is None:
            return output
        self.met.add(rule[0])
        return _edited(own, output, rule[1], self._edits.add)


class Edits:
    """What to make of which activations: (what, change) pairs. Equal if the changes are the very same objects."""

    def __init__(self, items: tuple[tuple[Any, Any], ...], add: bool) -> None:
        self.items = items
        self.add = add
        # What is known of a net may be kept unless it holds arrays of a trace.
        self.small = all(holds_nothing(change) for _, change in items)
        self._ordered = sorted(items, key=lambda item: "@" not in str(item[0]))  # what names a call goes first

    def rule(self, seen: Seen) -> tuple[Any, Any] | None:
        """The first (what, change) that speaks of a call; arrays are for one, the first unless another is named."""
        for what, change in self._ordered:
            one_call = isinstance(what, str) and "@" not in what and not callable(change) and not _is_number(change)
            if speaks_of(f"{what}@0" if one_call else what, seen):
                return what, change
        return None

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
        arrays) like it. "path@1" is the second call at a path, as `capture` names it; a path alone is every call,
        with arrays the first. The first rule that speaks of a layer counts, those that name a call before others.

        In a loop a function may take (activation, index), with the number of the copy, which may be traced (of several
        loops, a tuple); an array may have the leading axis that `capture` gives it, one entry a copy.
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
    check_net("edit(net, {'path': new})", net)
    if not isinstance(changes, Mapping) or not changes:
        raise TypeError(f"edit takes a mapping from what is replaced to its replacement, got {code(changes)}")
    check_met("edit", net, tuple(changes))
    for what, change in changes.items():
        if isinstance(change, Layer | str):
            raise TypeError(
                f"edit takes a function of the activation, a number or arrays for {code(what)}, got {show(change)}. "
                "Another layer in its place is fn.rewrite.replace's"
            )
        if add and callable(change) and not is_array(change):
            raise TypeError(f"edit with add=True adds numbers and arrays, got the function {code(change)}: add in it")
    return Edited(net, Edits(tuple(changes.items()), add))


def _is_number(change: Any) -> bool:
    return isinstance(change, bool | int | float | complex) or (is_array(change) and jnp.ndim(change) == 0)


def _leads(what: Any, place: str) -> bool:
    """Whether an edit may be of a layer at or below a place; in a loop, and out of it, that is another edit."""
    return not isinstance(what, str) or "**" in what or leads(what.partition("@")[0].partition(":")[0], place)


def _edited(seen: Seen, output: Any, change: Any, add: bool) -> Any:
    if callable(change) and not is_array(change):
        new = _called(seen, output, change)
    elif _is_number(change):
        fill: Any = change
        new = jax.tree.map(lambda y: jnp.full(jnp.shape(y), fill, jnp.result_type(y)), output)
    else:
        new = _picked(seen, output, change)
    if jax.tree.structure(new) != jax.tree.structure(output) or not _alike(new, output):
        raise ValueError(
            f"edit: what stands in the place of an activation is like it, {show(specs(output))} at "
            f"{seen.path or 'the net'}, got {show(specs(new))}. Cast or reshape it"
        )
    return jax.tree.map(jnp.add, output, new) if add else new


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
    positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    return len([p for p in positional if p.default is p.empty]) == 2


def _picked(seen: Seen, output: Any, change: Any) -> Any:
    """The part of given arrays that is for this copy."""
    if jax.tree.structure(change) != jax.tree.structure(output):
        return change

    def one(given: Any, y: Any) -> Any:
        array, shape = jnp.asarray(given), jnp.shape(y)
        if array.shape == shape or not seen.counts or array.ndim != len(seen.counts) + len(shape):
            return array
        if array.shape != (*seen.counts, *shape):
            raise ValueError(
                f"edit: arrays for the copies of a loop have one entry each, {(*seen.counts, *shape)} at "
                f"{seen.path or 'the net'}, got {show(given)}. A patch comes from a pass with as many copies or steps"
            )
        return jnp.zeros(shape, array.dtype) if 0 in seen.counts else array[seen.numbers]

    return jax.tree.map(one, change, output)
