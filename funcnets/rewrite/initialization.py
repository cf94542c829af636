"""Where parameters start: other initial values for a net's parameters, given by rules over their paths.

`with_init` gives a new net value: it acts when the net is initialised, adds no name, and changes nothing that the net
computes. Each array keeps its key, which is a function of its path, so an array that no rule speaks of starts as it
did. `reinit` draws some parameters of a net anew and leaves the others as they are.
"""

from __future__ import annotations

import dataclasses
import functools
import glob
from collections.abc import Iterable, Mapping
from typing import Any

from funcnets.combinators import Repeat, Sequential
from funcnets.compose import Wrapper
from funcnets.layer import Layer
from funcnets.leaves import Initializer, as_layer
from funcnets.params.patterns import One, Patterns, check_pattern, roots, selected
from funcnets.places import as_net
from funcnets.plan import Plan, check_tree
from funcnets.random import as_key
from funcnets.record import Arrays, Kind
from funcnets.rewrite.unrolling import Unrolled
from funcnets.rules import Pattern, chosen, leads, matches
from funcnets.shapes import Tree, entry, join, show, with_entry
from funcnets.values import Argument, Value, code

_Paths = Pattern | tuple[Pattern, ...]  # one pattern of parameter paths, or several that stand together


class OfClass(Value):
    """All arrays of the layers of a class, in whatever net the rule is met; printed as the class.

    Args:
      kind: The class.
    """

    kind: type[Layer]

    def _fill(self, **fields: Any) -> None:  # the one value that holds a class of values itself
        kind = fields["kind"]
        if not isinstance(kind, type) or not issubclass(kind, Layer):
            raise TypeError(f"OfClass takes a class of layers, got {show(kind)}: OfClass(Dense)")
        object.__setattr__(self, "_created", None)
        object.__setattr__(self, "kind", kind)

    def __repr__(self) -> str:
        return code(self.kind)

    def patterns(self, net: Layer) -> list[Pattern]:
        """The patterns of these arrays' paths."""
        return [join(glob.escape(path), "**") for path in roots(net, self.kind)]

    def leads(self) -> bool:
        """Whether there may be other layers of the class once copies are layers, or layers copies."""
        return issubclass(self.kind, Repeat) or any(
            issubclass(made, self.kind) for made in (Repeat, Sequential, Unrolled)
        )


_Which = _Paths | OfClass | tuple[Pattern | OfClass, ...]


class Initialized(Wrapper):
    """A net whose parameters start otherwise; see `with_init`."""

    body: Layer
    rules: tuple[tuple[_Which, Initializer], ...]

    def __post_init__(self) -> None:
        as_net("with_init", self.body)

    def _settled(self) -> None:
        self._set_children([("", as_layer(self.body))], {"body": 0})  # an initialiser that is a function is no child

    def _arguments(self) -> list[Argument]:
        return [Argument(self.body, place=".body"), Argument(dict(self.rules))]

    def _call(self) -> tuple[str, list[Argument], str]:
        return "with_init(", self._arguments(), ")"

    def forward(self, m: Any, *inputs: Any, **kwargs: Any) -> Any:
        return m.body(*inputs, **kwargs)

    def _lift(self, kind: Kind, arrays: Arrays) -> Arrays:
        if kind == "states":
            return arrays
        first = {path: self._initializer(path) for path in parameters(arrays)}
        lifted: Arrays = {}
        for path, one in arrays.items():
            inits = {name: first[join(path, name)] for name in one.what.names if first[join(path, name)] is not None}
            lifted[path] = one._replace(what=one.what.initialised_by(inits))
        return lifted

    @functools.cached_property
    def _resolved(self) -> tuple[tuple[_Paths, Initializer], ...]:
        """The rules with the paths of their classes' layers."""
        return tuple((_patterns_of(self._entries()[0][1], which), init) for which, init in self.rules)

    def _initializer(self, path: str) -> Initializer | None:
        return next((init for patterns, init in self._resolved if _fits(patterns, path)), None)

    def _leading(self, places: frozenset[str]) -> str | None:
        def leading(one: Pattern | OfClass) -> bool:
            return one.leads() if isinstance(one, OfClass) else any(leads(one, place) for place in places)

        return next((code(one) for which, _ in self.rules for one in _each(which) if leading(one)), None)

    def _check_plan(self, arrays: Arrays, lifted: bool) -> None:
        _chosen(dict(self._resolved), parameters(arrays))


def with_init(net: Layer, rules: Mapping[One | tuple[One, ...], Initializer]) -> Initialized:
    """A net whose parameters start otherwise: those that rules speak of, by the first rule that does.

    It needs no sample, and acts whenever the net is initialised. Keys go by path as ever: copies draw one by one, and a
    parametrised parameter is drawn so and then taken apart. A class is looked for in the net as it is when it is
    initialised, whatever was replaced in it since. Of two such rewritings, the later one's rules go first.

    Args:
      net: The net.
      rules: From a pattern of parameter paths, several in a tuple, or a layer class (all arrays of these layers) to an
        initialiser: any function (key, shape, dtype) → array.

    Raises:
      ValueError: A class of which the net has no layer; (at init) a pattern that matches no parameter.
      TypeError: Something that is no initialiser.

    Example:
      >>> net = fn.Sequential(fn.Dense(3), ("head", fn.Dense(2)))
      >>> net = fn.rewrite.with_init(net, {"**/bias": fn.initializers.Ones(), "head/*": fn.initializers.Constant(2.0)})
      >>> net.init(jax.random.key(0), jnp.ones((1, 3)))["head"]["bias"]
      Array([1., 1.], dtype=float32)
    """
    as_net("with_init", net)
    pairs: list[tuple[_Which, Initializer]] = []
    for which, init in rules.items():
        if not callable(init) or isinstance(init, (Layer, type)):
            raise TypeError(
                f"with_init takes an initialiser for {code(which)}, a function (key, shape, dtype) -> array, got "
                f"{show(init)}. Such as initializers.Normal(0.02), or initializers.Constant(1.0) for one number"
            )
        pairs.append((_held(net, which), init))
    return Initialized(net, tuple(pairs))


def _held(net: Layer, which: Any) -> _Which:
    """What speaks of parameters, as a rule holds it."""
    found: list[Pattern | OfClass] = []
    several: tuple[Any, ...] = which if isinstance(which, tuple) and which else (which,)
    for one in several:
        check_pattern(one, net)
        if isinstance(one, type):
            roots(net, one)  # raises for a class of which there is none
        found.append(OfClass(one) if isinstance(one, type) else one)
    return found[0] if len(found) == 1 else tuple(found)


def _patterns_of(net: Layer, which: _Which) -> _Paths:
    """The patterns that a rule stands for in a net."""
    found: list[Pattern] = []
    for one in _each(which):
        found += one.patterns(net) if isinstance(one, OfClass) else [one]
    return found[0] if len(found) == 1 else tuple(found)


def _each(which: _Which) -> tuple[Pattern | OfClass, ...]:
    return which if isinstance(which, tuple) else (which,)


def _fits(patterns: _Paths, path: str) -> bool:
    """Whether one of the patterns matches a path."""
    return any(matches(one, path) for one in (patterns if isinstance(patterns, tuple) else (patterns,)))


def parameters(arrays: Mapping[str, Any]) -> list[str]:
    """The paths of declared parameters; one that is parametrised is one, whatever is held in its place."""
    return [join(path, name) for path, one in arrays.items() for name in one.what.names]


def _chosen(rules: Mapping[_Paths, Any], paths: Iterable[str]) -> dict[str, Any]:
    must = lambda patterns: not callable(patterns)  # noqa: E731
    return chosen(rules, paths, "parameter", _fits, must)


def reinit(net: Layer, params: Tree, key: Any, *sample: Any, patterns: Patterns, **kwargs: Any) -> Tree:
    """Parameters of which some are drawn anew, as `net.init(key, *sample)` draws them, bit for bit.

    Args:
      net: The net.
      params: Its parameters.
      key: The key to draw with.
      *sample: Inputs of the net, or their specs.
      patterns: What is drawn anew: a pattern of parameter paths, a function of the path, a layer class, or several
        (see `funcnets.params.patterns`).

    Returns:
      The parameters; all that is not drawn anew is the very same arrays.

    Raises:
      ValueError: A pattern that matches no parameter; parameters that are not this net's.
      TypeError: Something that is no net, or no key.

    Example:
      >>> net, x = fn.Sequential(fn.Dense(3), ("head", fn.Dense(2))), jnp.ones((1, 3))
      >>> params = net.init(jax.random.key(0), x)
      >>> new = fn.rewrite.reinit(net, params, jax.random.key(1), x, patterns="head/**")
      >>> new["dense_0"]["kernel"] is params["dense_0"]["kernel"], bool((new["head"]["kernel"] == 0).any())
      (True, False)
    """
    net = as_net("reinit", net)
    try:
        key = as_key(key)
    except TypeError as error:
        wanted = "reinit takes the key before the sample, reinit(net, params, key, *sample, patterns=...)"
        raise TypeError(f"{wanted}: {str(error).partition('. ')[0]}") from None
    plan = net.plan(*sample, **kwargs)
    check_tree(plan, "params", params)
    drawn = selected(parameters(plan.declared["params"]), patterns, net)
    fresh = drawn_as_init(plan, "params", key, drawn)
    for path in drawn:
        params = with_entry(params, path, entry(fresh, path))
    return params


def drawn_as_init(plan: Plan, kind: Kind, key: Any, paths: Iterable[str]) -> Tree:
    """Some parameters of a plan, and what is made together with them, as init draws them."""
    wanted = set(paths)
    some = {
        path: one
        for path, one in plan.declared[kind].items()
        if any(join(path, name) in wanted for name in one.what.names)
    }
    return dataclasses.replace(plan, declared={kind: some}).draw(kind, key)
