"""Rules over paths: the one language in which places in a tree or a net are spoken of.

A *path* is names joined by "/", such as "encoder/dense_0/kernel". A *pattern* is a path in which `*` stands for one
name, or for any part of one ("dense_*"), `?` for one letter, `[0-3]` for one of these, and `**` for any number of
names, none included:

    "dense_0/kernel"        that array
    "*/kernel"              the kernels one level down
    "**/kernel"             all kernels
    "encoder/**"            all that is in the encoder

A function path → bool may stand in a pattern's place. A *rule set* is a mapping from patterns to values. The first
pattern that matches a path gives its value, and a pattern that matches no path at all raises: it is misspelt.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping
from fnmatch import fnmatchcase
from typing import Any, TypeVar

from funcnets.shapes import names_of, near
from funcnets.values import code

V = TypeVar("V")
Pattern = str | Callable[[str], bool]
"""What stands for paths."""


def matches(pattern: Pattern, path: str) -> bool:
    """Whether a pattern stands for a path.

    Args:
      pattern: Names joined by "/"; `*` stands for one name or a part of one, `**` for any number of names. Or a
        function of the path.
      path: Names joined by "/".

    Example:
      >>> fn.params.matches("**/kernel", "encoder/dense_0/kernel")
      True
      >>> fn.params.matches("*/kernel", "encoder/dense_0/kernel")
      False
    """
    if not isinstance(pattern, str):
        return pattern(path)
    return _matches(tuple(names_of(pattern)), tuple(names_of(path)))


@functools.lru_cache(maxsize=4096)
def _matches(pattern: tuple[str, ...], names: tuple[str, ...]) -> bool:
    if not pattern:
        return not names
    first, rest = pattern[0], pattern[1:]
    if first == "**":
        return any(_matches(rest, names[i:]) for i in range(len(names) + 1))
    return bool(names) and fnmatchcase(names[0], first) and _matches(rest, names[1:])


def _is_named(pattern: Any) -> bool:
    return not callable(pattern) or isinstance(pattern, type)


def chosen(
    rules: Mapping[Any, V],
    paths: Iterable[str],
    what: str,
    fits: Callable[[Any, str], bool] = matches,
    must_fit: Callable[[Any], bool] = _is_named,
) -> dict[str, V]:
    """The value of each path that a rule set speaks of, by the first rule that fits it.

    Args:
      rules: From patterns to values.
      paths: What there is.
      what: What the paths lead to, as the error names it.
      fits: Whether a rule's pattern fits a path.
      must_fit: Which patterns must fit some path: by default all but functions.

    Raises:
      ValueError: A pattern that fits no path, and must.
    """
    paths = list(paths)
    for pattern in rules:
        if must_fit(pattern) and not any(fits(pattern, path) for path in paths):
            inside = any(path.startswith(f"{pattern}/") for path in paths)
            hint = f" (all that is in it is '{pattern}/**')" if inside else near(pattern, paths)
            raise ValueError(
                f"the pattern {code(pattern)} matches no {what}{hint}; there are "
                f"{', '.join(repr(path) for path in paths[:12]) or 'none'}{', ...' if len(paths) > 12 else ''}"
            )
    first = ((path, next((pattern for pattern in rules if fits(pattern, path)), None)) for path in paths)
    return {path: rules[pattern] for path, pattern in first if pattern is not None}
