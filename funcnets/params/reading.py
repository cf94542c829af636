"""What there is: the arrays of a tree by path, and how large they are.

Parameters are nested plain dicts whose names are strings, down to arrays, or one bare array, whose path is "". What is
true of parameters here is true of states, gradients and optimiser moments of the same form, and of trees of
`jax.ShapeDtypeStruct`. A dict without entries holds nothing: functions that put trees together leave it out.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from funcnets.printing import ruled_page
from funcnets.shapes import ABSENT, Tree, entry, flat, is_array, join, names_of, near, ruled, show


def paths(params: Tree) -> list[tuple[str, Any]]:
    """The arrays of nested dicts with their paths, in the order in which they stand.

    Args:
      params: Nested dicts of arrays.

    Raises:
      TypeError: Something else than dicts and what they hold: a list, a tuple, None, a `TrainState`.
      ValueError: A name that no path can hold.

    Example:
      >>> [path for path, _ in fn.params.paths({"dense_0": {"kernel": jnp.ones((2, 3)), "bias": jnp.ones(3)}})]
      ['dense_0/kernel', 'dense_0/bias']
    """
    return list(leaves(params).items())


def leaves(tree: Tree) -> dict[str, Any]:
    """What nested dicts hold, by path; raises for what is no tree of this form."""
    _check(tree, "")
    return dict(flat(tree))


def is_hidden(tree: Tree) -> bool:
    """Whether this is what optax puts in the place of an array that an optimiser is not to see."""
    optax = sys.modules.get("optax")
    return optax is not None and isinstance(tree, optax.MaskedNode)


def arrays(tree: Tree) -> dict[str, Any]:
    """The arrays or specs that nested dicts hold, by path; raises where they hold something else."""
    held = leaves(tree)
    for path, one in held.items():
        if not is_array(one):
            raise TypeError(
                f"{path or 'the tree'}: takes arrays in nested dicts, got {show(one)}: jnp.asarray makes one"
            )
    return held


def unaliased(new: Mapping[str, Any], others: Iterable[Any] = ()) -> dict[str, Any]:
    """Arrays by path, of which none is one of the others or stands twice: such an array could not be donated."""
    taken = set(map(id, others))
    single: dict[str, Any] = {}
    for path, one in new.items():
        if id(one) in taken and isinstance(one, (np.ndarray, jax.Array)):
            one = np.array(one) if isinstance(one, np.ndarray) else jnp.array(one)
        taken.add(id(one))
        single[path] = one
    return single


def _check(tree: Tree, path: str) -> None:
    if isinstance(tree, dict):
        for name, inner in tree.items():
            if not isinstance(name, str) or not name or "/" in name:
                raise ValueError(
                    f"{path or 'the tree'}: parameters are nested dicts whose names are non-empty strings without '/', "
                    f"got the name {name!r}"
                )
            _check(inner, join(path, name))
    elif not jax.tree_util.all_leaves([tree]) and not is_hidden(tree):
        raise TypeError(
            f"{path or 'the tree'}: parameters are nested dicts of arrays, or one array, got {type(tree).__name__}; of "
            "a training state, give state.params"
        )


def get(params: Tree, path: str) -> Any:
    """The array, or the nested dict of arrays, at a path.

    Args:
      params: Nested dicts of arrays.
      path: Names joined by "/"; "" is the whole.

    Raises:
      KeyError: Nothing stands there.

    Example:
      >>> params = {"encoder": {"dense_0": {"kernel": jnp.ones((2, 3)), "bias": jnp.zeros(3)}}}
      >>> fn.params.get(params, "encoder/dense_0/bias")
      Array([0., 0., 0.], dtype=float32)
    """
    found = entry(params, path)
    if found is ABSENT:
        raise absent(path, leaves(params))
    return found


def absent(path: str, held: Mapping[str, Any]) -> KeyError:
    """The error for a path at which nothing stands."""
    there = dict.fromkeys("/".join(names[: i + 1]) for names in map(names_of, held) for i in range(len(names)))
    shown = ", ".join(map(repr, list(held)[:12])) or "nothing"
    more = ", ..." if len(held) > 12 else ""
    return KeyError(f"there is no {path!r}{near(path, there)}; there are the arrays {shown}{more}")


# Sizes


def count(params: Tree) -> int:
    """The number of elements of all arrays. A tied array is one.

    Args:
      params: Nested dicts of arrays or of their specs.

    Example:
      >>> fn.params.count(fn.Dense(3).init(jax.random.key(0), jnp.ones((1, 2))))
      9
    """
    return table(params).elements


def nbytes(params: Tree) -> int:
    """The bytes that the elements of all arrays take.

    Args:
      params: Nested dicts of arrays or of their specs.

    Example:
      >>> fn.params.nbytes(fn.Dense(3).init(jax.random.key(0), jnp.ones((1, 2))))
      36
    """
    return table(params).nbytes


class TableRow(NamedTuple):
    """One array in a `Table`."""

    path: str
    shape: tuple[int, ...]
    dtype: Any
    elements: int
    nbytes: int


@dataclass(frozen=True, repr=False)
class Table:
    """The arrays of a tree with their sizes; printed, or shown in a notebook, it is a table. See `table`.

    Attributes:
      rows: (path, shape, dtype, elements, nbytes) of each array, in order.
    """

    rows: tuple[TableRow, ...]

    @property
    def elements(self) -> int:
        """The number of all elements."""
        return sum(row.elements for row in self.rows)

    @property
    def nbytes(self) -> int:
        """The bytes that they take."""
        return sum(row.nbytes for row in self.rows)

    def _cells(self) -> list[tuple[str, ...]]:
        head = ("path", "shape", "dtype", "elements", "bytes")
        body = [
            (path or "(all)", str(shape), str(getattr(dtype, "name", dtype)), f"{elements:,}", f"{nbytes:,}")
            for path, shape, dtype, elements, nbytes in self.rows
        ]
        return [head, *body, ("total", "", "", f"{self.elements:,}", f"{self.nbytes:,}")]

    def __repr__(self) -> str:
        return ruled(self._cells(), right=2)

    def _repr_html_(self) -> str:
        return ruled_page(self._cells(), right=2)


def table(params: Tree) -> Table:
    """The path, shape, dtype, elements and bytes of each array, and in total.

    Args:
      params: Nested dicts of arrays or of their specs, such as a plan's.

    Example:
      >>> fn.params.table(fn.Dense(3).plan(jnp.ones((1, 2))).params)
      path    shape   dtype    elements  bytes
      ----------------------------------------
      kernel  (2, 3)  float32         6     24
      bias    (3,)    float32         3     12
      ----------------------------------------
      total                           9     36
    """
    rows: list[TableRow] = []
    for path, one in arrays(params).items():
        elements = math.prod(one.shape)
        rows.append(TableRow(path, tuple(one.shape), one.dtype, elements, elements * one.dtype.itemsize))
    return Table(tuple(rows))
