"""Rules over paths: the one language in which places in a tree or a net are spoken of.

A *path* is names joined by "/", such as "encoder/dense_0/kernel". A *pattern* is a path in which `*` stands for one
name, or for any part of one ("dense_*"), `?` for one letter, `[0-3]` for one of these, and `**` for any number of
names, none included:

    "dense_0/kernel"        that array
    "*/kernel"              the kernels one level down
    "**/kernel"             all kernels
    "encoder/**"            all that is in the encoder

A function path → bool may stand in a pattern's place. A *rule set* is a mapping from patterns to values. The first
pattern that matches a path gives its value. A pattern that matches no path at all raises: it is misspelt; so does one
after a broader one that takes all that it could: the special rule comes first.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterable, Mapping
from fnmatch import fnmatchcase
from typing import Any, TypeVar

from funcnets.shapes import listed, names_of, near
from funcnets.values import Value, code

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


def leads(pattern: Pattern, place: str) -> bool:
    """Whether a pattern may stand for something else once what is at a place has gone to another.

    It does if it names the place, or what is on the way to it. `**` for all that there is, and "**/kernel" for all that
    is called so, name no place: they stand for as much wherever that is.

    Args:
      pattern: As `matches` takes it; a function may look at any part of a path.
      place: Names joined by "/".
    """
    return not isinstance(pattern, str) or _leads(names_of(pattern), names_of(place))


def _leads(pattern: list[str], names: list[str]) -> bool:
    rest = pattern[1:]
    if pattern[:1] == ["**"] and len(rest) <= 1 and "**" not in rest:
        return bool(names and rest) and fnmatchcase(names[-1], rest[0])
    if not names or not pattern:
        return not names
    on_the_way = fnmatchcase(names[0], pattern[0]) and (len(names) == 1 or _leads(rest, names[1:]))
    return pattern[0] == "**" or on_the_way


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
      ValueError: A pattern that fits no path, and must; a rule that does nothing, after a broader one.
    """
    paths = list(paths)
    fitting = {pattern: [path for path in paths if fits(pattern, path)] for pattern in rules}
    for pattern, theirs in fitting.items():
        if must_fit(pattern) and not theirs:
            inside = any(path.startswith(f"{pattern}/") for path in paths)
            hint = f" (all that is in it is '{pattern}/**')" if inside else near(pattern, paths)
            raise ValueError(
                f"the pattern {code(pattern)} matches no {what}{hint}; there are "
                f"{listed([repr(path) for path in paths]) or 'none'}"
            )
    for before, pattern in itertools.combinations(rules, 2):
        if _covers(before, pattern) and not _is_same(rules[before], rules[pattern]):
            raise ValueError(
                f"the rule for {code(pattern)} does nothing: the first that fits counts, and {code(before)} before it "
                "takes all that it could. Put the special rule before the general one"
            )
    first: dict[str, Any] = {}
    for pattern, theirs in fitting.items():
        for path in theirs:
            first.setdefault(path, pattern)
    return {path: rules[first[path]] for path in paths if path in first}


def _covers(general: Any, special: Any) -> bool:
    """Whether one pattern or class fits whatever another does, in any tree."""
    if isinstance(general, type) and isinstance(special, type):
        return issubclass(special, general)
    if not isinstance(general, str) or not isinstance(special, str):
        return False
    names = [name if name == "**" else name.replace("*", _SOME).replace("?", _SOME[0]) for name in names_of(special)]
    none = [name for name in names if name != "**"]
    several = [part for name in names for part in ((_SOME, f"{_SOME}s", f"a{_SOME}") if name == "**" else (name,))]
    return all(_matches(tuple(names_of(general)), tuple(example)) for example in (none, several))


_SOME = "some_name"  # an example of what `*` stands for


def _is_same(a: Any, b: Any) -> bool:
    return a is b or (type(a) is type(b) and isinstance(a, str | int | float | Value) and a == b)
