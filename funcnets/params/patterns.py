"""What speaks of some of the arrays of a tree.

Wherever functions of parameters take *patterns*, these may be given:

    "**/kernel"                             a pattern of paths
    ("**/bias", "head/**")                  several
    fn.params.frozen(net)                   a function path → bool
    fn.LayerNorm                            a class: the arrays of its layers in net=, wherever wrappers put them
    fn.params.of(net, fn.Dense, "kernel")   some arrays of the layers of a class
    {"head/bias": False, "**/bias": True}   rules: the first that fits a path decides

Where values are given by rule, a tuple of patterns is a rule for each. A pattern or class that fits nothing raises: it
is misspelt. A function may fit nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from funcnets.layer import Layer
from funcnets.places import Place, What, as_net, find, walk
from funcnets.rules import chosen, matches
from funcnets.shapes import below, near, show, within
from funcnets.values import Value, code

One = str | type[Layer] | Callable[[str], bool]
Several = tuple[One, ...] | list[One]
Patterns = One | Several | Mapping[One | tuple[One, ...], bool]
"""What speaks of arrays."""


def selected(paths: Iterable[str], patterns: Patterns, net: Layer | None) -> set[str]:
    """The paths that patterns speak of."""
    if isinstance(patterns, Mapping):
        for held in patterns.values():
            if not isinstance(held, (bool, np.bool_)):
                raise TypeError(f"rules that select parameters give True or False, got {show(held)}")
        rules: Mapping[Any, bool] = patterns
    else:
        several = patterns if isinstance(patterns, (tuple, list)) else [patterns]
        for pattern in several:
            check_pattern(pattern, net)
        rules = dict.fromkeys(several, True)
    return {path for path, held in by_rules(paths, rules, net).items() if held}


def by_rules(
    paths: Iterable[str],
    rules: Mapping[Any, Any],
    net: Layer | None,
    of_class: Callable[[str], bool] = lambda path: True,
) -> dict[str, Any]:
    """The value that rules give each path that they speak of; of its layers' arrays a class speaks of these alone."""
    if not isinstance(rules, Mapping):
        raise TypeError(f"rules are a mapping from patterns to values, got {show(rules)}: {{'**/kernel': ...}}")
    single: dict[Any, Any] = {}
    for patterns, value in rules.items():
        for pattern in patterns if isinstance(patterns, tuple) else (patterns,):
            check_pattern(pattern, net)
            single.setdefault(pattern, value)
    places = {pattern: roots(net, pattern) for pattern in single if net is not None and isinstance(pattern, type)}

    def fits(pattern: Any, path: str) -> bool:
        if isinstance(pattern, type):
            return of_class(path) and any(within(path, root) for root in places[pattern])
        return matches(pattern, path)

    return chosen(single, paths, "parameter", fits)


class Owned(Value):
    """Whether the array at a path is one of these layers', under one of these names; see `of`.

    Args:
      roots: The layers' paths.
      names: A pattern of the path below them.
    """

    roots: tuple[str, ...]
    names: str

    def __call__(self, path: str) -> bool:
        return any(within(path, root) and matches(self.names, below(path, root)) for root in self.roots)


def of(net: Layer, what: What, names: str = "**") -> Owned:
    """A function of paths: whether an array belongs to the layers that a class, pattern or equal layer speaks of.

    It stands in a pattern's place, wherever patterns of parameters are taken.

    Args:
      net: The net.
      what: A class of layers, a pattern of their paths, or an equal layer.
      names: A pattern of the arrays' names in their layer.

    Raises:
      ValueError: A net without such layers.

    Example:
      >>> net = fn.Sequential(fn.Dense(8), fn.LayerNorm(), ("head", fn.Dense(2)))
      >>> net = fn.rewrite.with_init(net, {fn.params.of(net, fn.Dense, "kernel"): fn.initializers.Ones()})
      >>> float(net.init(jax.random.key(0), jnp.ones((1, 3)))["head"]["kernel"].min())
      1.0
    """
    net = as_net("of", net)
    found = tuple(find(net, what))
    if not found:
        raise ValueError(f"of: the net has no layer {what_there_is(net, code(what))}")
    return Owned(found, names)


def check_pattern(pattern: Any, net: Layer | None) -> None:
    """Raises for what cannot speak of arrays."""
    if isinstance(pattern, type) and issubclass(pattern, Layer):
        if net is None:
            raise TypeError(
                f"the class {code(pattern)} stands for the parameters of its layers in a net: give net=, or a pattern "
                "of their paths"
            )
    elif not isinstance(pattern, str) and (not callable(pattern) or isinstance(pattern, (type, Layer))):
        raise TypeError(
            f"a pattern is a path with * and **, a function path -> bool, or a class of the net's layers, got "
            f"{code(pattern)}"
        )


def roots(net: Layer, kind: type[Layer]) -> list[str]:
    """The paths of the layers of a class."""
    found = list(find(net, kind))
    if not found:
        raise ValueError(f"the net has no layer of the class {what_there_is(net, kind.__name__)}")
    return found


def what_there_is(net: Layer, name: str) -> str:
    """A name that no layer has, what is near it, and the classes of layers that there are, for a message."""
    classes = sorted({type(place.layer).__name__ for place in walk(Place("", net))})
    return f"{name}{near(name, classes)}; it has {', '.join(classes)}"
