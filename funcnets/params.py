"""Parameters as data: paths into nested dicts, and rules over paths.

A *path* is names joined by "/", such as "encoder/dense_0/kernel". A *pattern* is a path in which `*` stands for one
name, or for any part of one ("dense_*"), `?` for one letter, `[0-3]` for one of these, and `**` for any number of
names, none included:

    "dense_0/kernel"        that array
    "*/kernel"              the kernels one level down
    "**/kernel"             all kernels
    "encoder/**"            all that is in the encoder

A *rule set* is a mapping from patterns to values. The first pattern that matches a path gives its value, and a pattern
that matches no path at all raises: it is misspelt.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping
from fnmatch import fnmatchcase
from typing import Any, TypeVar

from funcnets.shapes import Tree, flat, names_of, near

V = TypeVar("V")


def paths(params: Tree) -> list[tuple[str, Any]]:
    """The arrays of nested dicts with their paths, in the order in which they stand.

    Args:
      params: Nested dicts of arrays.

    Example:
      >>> [path for path, _ in fn.params.paths({"dense_0": {"kernel": jnp.ones((2, 3)), "bias": jnp.ones(3)}})]
      ['dense_0/kernel', 'dense_0/bias']
    """
    return list(flat(params))


def matches(pattern: str, path: str) -> bool:
    """Whether a pattern stands for a path.

    Args:
      pattern: Names joined by "/"; `*` stands for one name or a part of one, `**` for any number of names.
      path: Names joined by "/".

    Example:
      >>> fn.params.matches("**/kernel", "encoder/dense_0/kernel")
      True
      >>> fn.params.matches("*/kernel", "encoder/dense_0/kernel")
      False
    """
    return _matches(tuple(names_of(pattern)), tuple(names_of(path)))


@functools.lru_cache(maxsize=4096)
def _matches(pattern: tuple[str, ...], names: tuple[str, ...]) -> bool:
    if not pattern:
        return not names
    first, rest = pattern[0], pattern[1:]
    if first == "**":
        return any(_matches(rest, names[i:]) for i in range(len(names) + 1))
    return bool(names) and fnmatchcase(names[0], first) and _matches(rest, names[1:])


def chosen(
    rules: Mapping[Any, V], paths: Iterable[str], what: str, fits: Callable[[Any, str], bool] = matches
) -> dict[str, V]:
    """The value of each path that a rule set speaks of, by the first rule that fits it.

    Args:
      rules: From patterns to values.
      paths: What there is.
      what: What the paths lead to, as the error names it.
      fits: Whether a rule's pattern fits a path.

    Raises:
      ValueError: A pattern that fits no path.
    """
    paths = list(paths)
    for pattern in rules:
        if not any(fits(pattern, path) for path in paths):
            raise ValueError(
                f"the pattern {pattern!r} matches no {what}{near(pattern, paths)}; there are "
                f"{', '.join(repr(path) for path in paths[:12]) or 'none'}{', ...' if len(paths) > 12 else ''}"
            )
    first = ((path, next((pattern for pattern in rules if fits(pattern, path)), None)) for path in paths)
    return {path: rules[pattern] for path, pattern in first if pattern is not None}
