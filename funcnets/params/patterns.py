"""What speaks of some of the arrays of a tree.

Wherever functions of parameters take *patterns*, these may be given:

    "**/kernel"                             a pattern of paths
    ("**/bias", "head/**")                  several
    fn.params.frozen(net)                   a function path → bool
    fn.LayerNorm                            a class: the arrays of its layers in net=, wherever wrappers put them
    {"head/bias": False, "**/bias": True}   rules: the first that fits a path decides

Where values are given by rule, a tuple of patterns is a rule for each. A pattern or class that fits nothing raises: it
is misspelt. A function may fit nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from funcnets.layer import Layer
from funcnets.places import Place, find, walk
from funcnets.rules import chosen, matches
from funcnets.shapes import near, show, within
from funcnets.values import code

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


def by_rules(paths: Iterable[str], rules: Mapping[Any, Any], net: Layer | None) -> dict[str, Any]:
    """The value that rules give each path that they speak of."""
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
            return any(within(path, root) for root in places[pattern])
        return matches(pattern, path)

    return chosen(single, paths, "parameter", fits)


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
        classes = sorted({type(place.layer).__name__ for place in walk(Place("", net))})
        close = near(kind.__name__, classes)
        raise ValueError(f"the net has no layer of the class {kind.__name__}{close}; it has {', '.join(classes)}")
    return found
