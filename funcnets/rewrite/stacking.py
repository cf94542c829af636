"""Between the parameter trees of equal layers and the one tree that `Repeat` and `Ensemble` hold.

unstack(stack(trees)) == trees                       bit for bit
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from funcnets.shapes import Tree, join, show, specs


def stack(trees: Iterable[Tree]) -> Tree:
    """One tree of the arrays of several, stacked along a leading axis: what `Repeat` and `Ensemble` hold.

    Args:
      trees: Parameters or states of equal layers, or their specs.

    Raises:
      ValueError: No tree, or trees that differ in structure, shape or dtype.
      TypeError: Something in a tree that is no array.

    Example:
      >>> one, x = fn.Dense(3), jnp.ones((2, 3))
      >>> params = [one.init(jax.random.key(i), x) for i in range(4)]
      >>> y = fn.Ensemble(one, 4).apply(fn.rewrite.stack(params), x)
      >>> bool(jnp.allclose(y[2], one.apply(params[2], x)))
      True
    """
    trees = list(trees)
    if not trees:
        raise ValueError("stack takes at least one tree, got none. A Repeat of 0 copies holds arrays of 0 rows")
    odd = _odd(trees, "stack")
    if odd is not None:
        path, i, *got = odd
        raise ValueError(
            f"stack takes trees of the same structure, shapes and dtypes, but {path or 'the tree'} is {got[0]} "
            f"in the first and {got[1]} in number {i}. They are of equal layers, for inputs of one size"
        )
    for i, tree in enumerate(trees):
        if jax.tree.structure(trees[0]) != jax.tree.structure(tree):
            raise ValueError(
                f"stack takes trees of the same structure, got {show(specs(trees[0]))} first and "
                f"{show(specs(tree))} as number {i}. They are of equal layers"
            )
    return jax.tree.map(_stacked, *trees)


def check_alike(trees: dict[str, Tree]) -> None:
    """Raises unless the arrays of the layers at these paths, which are to be copies of one, are alike."""
    places = list(trees)
    odd = _odd(list(trees.values()), "a net that is rolled")
    if odd is not None:
        path, i, *got = odd
        first, other = (join(places[at], path) or "the net" for at in (0, i))
        raise ValueError(
            f"roll takes equal layers with arrays of the same shapes and dtypes, but {first} is {got[0]} and {other} "
            f"is {got[1]}. Cast them to one dtype, array.astype(...), before they are held as one"
        )


def _odd(trees: list[Tree], owner: str) -> tuple[str, int, str, str] | None:
    """The first array that differs from that of the first tree: its path, the number of the tree, and what the two
    are.
    """
    first, *others = [_leaves(tree, owner) for tree in trees]
    for i, other in enumerate(others, 1):
        for path in dict.fromkeys([*first, *other]):
            a, b = (tree.get(path) for tree in (first, other))
            if a is None or b is None or a.shape != b.shape or a.dtype != b.dtype or _is_spec(a) != _is_spec(b):
                return path, i, _shown(a), _shown(b)
    return None


def _shown(leaf: Any) -> str:
    return "nothing" if leaf is None else f"the spec {show(leaf)}" if _is_spec(leaf) else show(leaf)


def unstack(tree: Tree, n: int | None = None) -> list[Tree]:
    """The trees that are stacked in one along its leading axis: those of the copies in `Repeat` and `Ensemble`.

    Args:
      tree: A tree of arrays, or specs, with one leading axis for all.
      n: The number of copies; by default the length of that axis. A tree without arrays does not tell it.

    Raises:
      ValueError: Arrays without that axis, or with another one; no array, and no n.
      TypeError: Something in the tree that is no array.

    Example:
      >>> net, x = fn.Repeat(fn.Dense(3), 4), jnp.ones((2, 3))
      >>> params = fn.rewrite.unstack(net.init(jax.random.key(0), x))
      >>> len(params), params[0]["kernel"].shape
      (4, (3, 3))
    """
    leaves = _leaves(tree, "unstack")
    if n is not None and (not isinstance(n, int) or isinstance(n, bool) or n < 0):
        raise ValueError(f"unstack takes n as a whole number, at least 0, got {n!r}. It is the number of copies")
    for path, leaf in leaves.items():
        n = leaf.shape[0] if n is None and leaf.shape else n
        if leaf.shape[:1] != (n,):
            raise ValueError(
                f"unstack takes arrays with a leading axis of {'one length' if n is None else n}, got {show(leaf)} "
                f"under {path or 'no name'}. It is the number of copies"
            )
    if n is None:
        raise ValueError("unstack takes n where a tree holds no array to tell it, got None. It is the number of copies")
    return _taken_apart(tree, n)


def copies_of(tree: Tree, n: int, place: str) -> list[Tree]:
    """The trees of n copies at a place in a net."""
    where = place or "the net"
    for path, leaf in _leaves(tree, f"{where}: a net of copies").items():
        if leaf.shape[:1] != (n,):
            raise ValueError(
                f"{where}: {n} copies hold their arrays stacked along a leading axis of {n}, got {show(leaf)} under "
                f"{path or 'no name'}. Give the parameters, and the state, of this net"
            )
    return _taken_apart(tree, n)


def _taken_apart(tree: Tree, n: int) -> list[Tree]:
    def one(leaf: Any, i: int) -> Any:
        return jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype) if _is_spec(leaf) else leaf[i, ...]

    return [jax.tree.map(lambda leaf: one(leaf, i), tree) for i in range(n)]  # noqa: B023


def _leaves(tree: Tree, owner: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for keys, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
        path = jax.tree_util.keystr(keys, simple=True, separator="/")
        if not isinstance(leaf, (jax.Array, np.ndarray, np.generic, jax.ShapeDtypeStruct)):
            raise TypeError(
                f"{owner} takes trees of arrays, or of their specs, got {show(leaf)} under {path or 'no name'}. Make "
                "it one with jnp.asarray"
            )
        found[path] = leaf
    return found


def _is_spec(leaf: Any) -> bool:
    return isinstance(leaf, jax.ShapeDtypeStruct)


def _stacked(*leaves: Any) -> Any:
    if _is_spec(leaves[0]):
        return jax.ShapeDtypeStruct((len(leaves), *leaves[0].shape), leaves[0].dtype)
    on_host = all(isinstance(leaf, (np.ndarray, np.generic)) for leaf in leaves)
    return np.stack(leaves) if on_host else jnp.stack(leaves)  # NumPy's keep their dtype whatever JAX would hold
