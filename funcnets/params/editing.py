"""New trees from old ones: other values, other names, fewer or more arrays. The old trees stay as they are.

What is not spoken of is in the new tree as the very array that it was. Changing one element is a function of the array
that it stands in:

    update(params, {"dense_0/kernel": lambda w: w.at[0, 0].set(42.0)})
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from funcnets.layer import Layer
from funcnets.params.patterns import Patterns, by_rules, selected
from funcnets.params.reading import absent, arrays, leaves, unaliased
from funcnets.shapes import Tree, below, check_name, is_array, join, mapped, names_of, nested, show, within
from funcnets.values import code

# Values

_NUMBERS: tuple[Any, ...] = (bool, int, float, complex)


def update(params: Tree, changes: Mapping[Any, Any], *, net: Layer | None = None, keep: bool = True) -> Tree:
    """The tree with other values for the arrays that rules speak of.

    A function with one positional parameter that has no default gets the array; one with two gets the path and the
    array. So `jnp.zeros_like`, `lambda w, scale=2.0: scale * w` and `lambda path, w: ...` are what they seem; a
    function that does not tell its parameters, or takes any number, gets the array.

    Args:
      params: Nested dicts of arrays. Of specs, the result is the specs of what it would be.
      changes: From patterns to an array, a Python number that fills the old array's shape, or a function that returns
        one of these. The first rule that fits a path holds. From the exact path of a subtree to another subtree of the
        same arrays, such as the "encoder" of another net's parameters.
      net: The net, where classes of layers stand in patterns' places.
      keep: Whether each array keeps its shape and dtype; what would change them raises.

    Raises:
      ValueError: A pattern or class that fits no array; a value of another shape or dtype, where they are kept; a
        number that the dtype does not hold.
      TypeError: A value that is none of these; something that is no pattern; a class without a net.

    Example:
      >>> params = {"dense_0": {"kernel": jnp.zeros((2, 2)), "bias": jnp.zeros(2)}}
      >>> new = fn.params.update(params, {"**/kernel": lambda w: (w + 1).at[0, 0].set(42.0), "**/bias": 3.0})
      >>> new["dense_0"]["kernel"]
      Array([[42.,  1.],
             [ 1.,  1.]], dtype=float32)
      >>> half = fn.params.update(params, {"**": lambda w: w.astype(jnp.bfloat16)}, keep=False)
    """
    held = arrays(params)
    given = by_rules(held, _by_array(held, changes), net)
    changed = {path: _changed(path, held[path], change, keep) for path, change in given.items()}
    held |= unaliased({path: new for path, new in changed.items() if new is not held[path]}, held.values())
    return mapped(lambda path, _: held[path], params)


def _by_array(held: Mapping[str, Any], changes: Any) -> Any:
    """Changes with those of a subtree as one for each array in it."""
    if not isinstance(changes, Mapping):
        return changes
    single: dict[Any, Any] = {}
    for pattern, change in changes.items():
        if not isinstance(pattern, str) or not isinstance(change, dict):
            single[pattern] = change
            continue
        there = [path for path in held if within(path, pattern)]
        given = {join(pattern, path): one for path, one in arrays(change).items()}
        if not there:
            raise absent(pattern, held)
        if {*there} != {*given}:
            missing, extra = sorted({*there} - {*given}), sorted({*given} - {*there})
            raise ValueError(
                f"update: the subtree given for {pattern!r} has other arrays than are there: missing "
                f"{', '.join(missing) or 'none'}, more {', '.join(extra) or 'none'}. Which arrays there are is changed "
                "by insert and drop"
            )
        single |= given
    return single


def _changed(path: str, old: Any, change: Any, keep: bool) -> Any:
    if isinstance(old, jax.ShapeDtypeStruct) and not isinstance(change, jax.ShapeDtypeStruct):
        return jax.eval_shape(lambda array: _changed(path, array, change, keep), old)
    new: Any = _called(path, old, change) if callable(change) else change
    if type(new) in _NUMBERS:
        return _filled(path, old, new)
    if new is old:
        return new
    specs = [isinstance(one, jax.ShapeDtypeStruct) for one in (old, new)]
    if not is_array(new) or specs == [False, True]:
        raise TypeError(
            f"update: {path!r}, {show(old)}, takes an array, a number, or a function that returns one, got "
            f"{show(new)}. A subtree goes to its own path, without * in it"
        )
    dtype = new.dtype
    if isinstance(new, (np.ndarray, np.generic)) and not isinstance(old, np.ndarray):
        dtype = jax.dtypes.canonicalize_dtype(dtype)  # as JAX takes it
    if keep and (new.shape, dtype) != (old.shape, old.dtype):
        raise ValueError(
            f"update: {path!r} is {show(old)}, got {show(new)} for it: give one of this shape and dtype, or say "
            "keep=False. A Python number fills any shape"
        )
    if isinstance(new, (np.ndarray, np.generic)):  # the caller's own, which may be written into
        return jnp.array(new) if isinstance(old, jax.Array) else np.array(new)
    # a weak type, of what was made of Python numbers, would give way to other dtypes later
    return jax.lax.convert_element_type(new, new.dtype) if getattr(new, "weak_type", False) else new


def _called(path: str, old: Any, function: Callable[..., Any]) -> Any:
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except (ValueError, TypeError):  # a builtin that does not tell
        parameters = []
    positional = inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD
    required = [one.name for one in parameters if one.kind in positional and one.default is one.empty]
    takes = f"update: for {path!r}, {show(old)}: a function takes (array) or (path, array)"
    if len(required) > 2:
        raise TypeError(f"{takes}, but {code(function)} takes ({', '.join(required)}): close over the rest")
    try:
        return function(path, old) if len(required) == 2 else function(old)
    except Exception as error:
        error.add_note(f"{takes}; {code(function)} was called with {'both' if len(required) == 2 else 'the array'}")
        raise


def _filled(path: str, old: Any, number: complex) -> Any:
    """An array like another, with a number in all places; raises unless its dtype holds the number."""
    dtype: Any = old.dtype
    if jnp.issubdtype(dtype, jnp.bool_):
        holds = isinstance(number, bool)
    elif jnp.issubdtype(dtype, jnp.integer):
        holds = isinstance(number, int) and jnp.iinfo(dtype).min <= number <= jnp.iinfo(dtype).max
    elif jnp.issubdtype(dtype, jnp.floating):
        infinite = number != number or number in (math.inf, -math.inf)
        holds = not isinstance(number, complex) and (infinite or abs(number) <= float(jnp.finfo(dtype).max))
    else:
        holds = jnp.issubdtype(dtype, jnp.complexfloating)
    if not holds:
        raise ValueError(
            f"update: {path!r} is {show(old)}, whose dtype does not hold {number!r}: give an array, and keep=False"
        )
    filled: Any = jnp.full_like if isinstance(old, jax.Array) else np.full_like
    return filled(old, number)


# Names


def rename(params: Tree, names: Mapping[str, str]) -> Tree:
    """The tree with arrays or subtrees under other paths; all move at once, so two may swap.

    Args:
      params: Nested dicts of arrays.
      names: From the exact path of an array or a subtree to its new path; "" is the whole.

    Raises:
      KeyError: An old path at which nothing stands.
      ValueError: A new path at which something stands, or that runs through an array, or that two are to have; an old
        path inside another.

    Example:
      >>> fn.params.rename({"a": {"kernel": 1}, "b": {"kernel": 2}}, {"a": "b", "b/kernel": "c/d"})
      {'b': {'kernel': 1}, 'c': {'d': 2}}
    """
    _check_mapping("rename", names, "{'old/path': 'new/path'}")
    held = leaves(params)
    moved: dict[str, str] = {}
    for old, new in names.items():
        inside = [path for path in held if within(path, old)]
        if not inside:
            raise absent(old, held)
        for path in inside:
            if path in moved:
                raise ValueError(f"rename: {old!r} lies in or above another that moves: move one, then the other")
            moved[path] = join(new, below(path, old))
    staying = [path for path in held if path not in moved]
    for old, new in names.items():
        _check_free("rename", new, [*staying, *(other for which, other in names.items() if which != old)])
    return nested({moved.get(path, path): one for path, one in held.items()})


def _check_mapping(what: str, given: object, form: str) -> None:
    if not isinstance(given, Mapping):
        raise TypeError(f"{what} takes a mapping from paths, got {show(given)}: {form}")


def _check_free(what: str, path: str, others: Iterable[str]) -> None:
    """Raises unless a path can hold something new beside others."""
    for name in names_of(path):
        check_name(name, f"{what} to {path!r}")
    for other in others:
        if within(other, path) or within(path, other):
            raise ValueError(
                f"{what}: {path!r} is not free, for {other!r} is there too: drop it first, or name a free path"
            )


# Fewer and more


def drop(params: Tree, patterns: Patterns, *, net: Layer | None = None) -> Tree:
    """The tree without the arrays that patterns speak of, and without the dicts that this leaves empty.

    Args:
      params: Nested dicts of arrays.
      patterns: A pattern, several, a function path → bool, or rules pattern → bool.
      net: The net, where classes of layers stand in patterns' places.

    Raises:
      ValueError: A pattern or class that fits no array.
      TypeError: Something that is no pattern; a class without a net.

    Example:
      >>> fn.params.drop({"encoder": {"kernel": 1, "bias": 2}, "head": {"bias": 3}}, "**/bias")
      {'encoder': {'kernel': 1}}
    """
    held = leaves(params)
    gone = selected(held, patterns, net)
    return nested({path: one for path, one in held.items() if path not in gone})


def insert(params: Tree, new: Mapping[str, Any]) -> Tree:
    """The tree with more arrays or subtrees, at paths where nothing stands.

    Args:
      params: Nested dicts of arrays.
      new: From paths to arrays or nested dicts of them.

    Raises:
      ValueError: A path at which something stands, or that runs through an array; a name that cannot be; a subtree
        without arrays.
      TypeError: Something that is no array or nested dict of arrays.

    Example:
      >>> params = {"dense_0": {"kernel": jnp.ones((2, 3))}}
      >>> jax.tree.map(jnp.shape, fn.params.insert(params, {"dense_0/bias": jnp.zeros(3)}))
      {'dense_0': {'bias': (3,), 'kernel': (2, 3)}}
    """
    _check_mapping("insert", new, "{'path': array}")
    held = leaves(params)
    for path, value in new.items():
        added = {join(path, inner): one for inner, one in arrays(value).items()}
        if not added:
            raise ValueError(f"insert: there is no array in what is given for {path!r}: leave it out")
        _check_free("insert", path, held)
        for inner in added:
            _check_free("insert", inner, ())
        own = {inner: np.array(one) if isinstance(one, np.ndarray) else one for inner, one in added.items()}
        held |= unaliased(own, held.values())  # the caller may write into an array of NumPy's
    return nested(held)
