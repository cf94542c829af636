"""Between the parameter trees of equal layers and the one tree that `Repeat` and `Ensemble` hold.

unstack(stack(trees)) == trees                       bit for bit
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from funcnets.shapes import Tree, show, specs


def stack(trees: Iterable[Tree]) -> Tree:
    """One tree of the arrays of several, stacked along a leading axis: what `Repeat` and `Ensemble` hold.

    Args:
      trees: Parameters or states of equal layers.

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
    first, *others = [_leaves(tree, "stack") for tree in trees]
    for i, other in enumerate(others, 1):
        for path in dict.fromkeys([*first, *other]):
            a, b = (tree.get(path) for tree in (first, other))
            if a is None or b is None or a.shape != b.shape or a.dtype != b.dtype:
                got = ["nothing" if one is None else show(one) for one in (a, b)]
                raise ValueError(
                    f"stack takes trees of the same structure, shapes and dtypes, but {path or 'the tree'} is {got[0]} "
                    f"in the first and {got[1]} in number {i}. They are of equal layers, for inputs of one size"
                )
        if jax.tree.structure(trees[0]) != jax.tree.structure(trees[i]):
            raise ValueError(
                f"stack takes trees of the same structure, got {show(specs(trees[0]))} first and "
                f"{show(specs(trees[i]))} as number {i}. They are of equal layers"
            )
    return jax.tree.map(_stacked, *trees)


def unstack(tree: Tree, n: int | None = None) -> list[Tree]:
    """The trees that are stacked in one along its leading axis: those of the copies in `Repeat` and `Ensemble`.

    Args:
      tree: A tree of arrays with one leading axis for all.
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
    return [jax.tree.map(lambda leaf: leaf[i, ...], tree) for i in range(n)]  # noqa: B023


def copies_of(tree: Tree, n: int, place: str) -> list[Tree]:
    """`unstack`, of the arrays at a place in a net."""
    try:
        return unstack(tree, n)
    except (ValueError, TypeError) as error:
        error.add_note(f"{place or 'the net'}: {n} copies hold their arrays stacked along a leading axis")
        raise


def _leaves(tree: Tree, owner: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for keys, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
        path = jax.tree_util.keystr(keys, simple=True, separator="/")
        if not isinstance(leaf, (jax.Array, np.ndarray, np.generic)):
            raise TypeError(
                f"{owner} takes trees of arrays, got {show(leaf)} under {path or 'no name'}. Make it one with "
                f"jnp.asarray, or call {owner} in jax.eval_shape for specs"
            )
        found[path] = leaf
    return found


def _stacked(*leaves: Any) -> Any:
    on_host = all(isinstance(leaf, (np.ndarray, np.generic)) for leaf in leaves)
    return np.stack(leaves) if on_host else jnp.stack(leaves)  # NumPy's keep their dtype whatever JAX would hold
