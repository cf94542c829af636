"""Weighted means of trees: soups of checkpoints, moving averages."""

from __future__ import annotations

import functools
import operator
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from funcnets.params.comparison import difference
from funcnets.params.reading import arrays
from funcnets.shapes import Tree, mapped, show


def average(trees: Iterable[Tree], weights: Iterable[Any] | None = None) -> Tree:
    """Σ weightᵢ · treeᵢ, array by array, summed in float32 at least and given back in the arrays' dtypes.

    Args:
      trees: Trees of one structure, with the same shapes and dtypes: several checkpoints of one net.
      weights: A number for each, taken as they are: they need not sum to one. None is 1/n for each, the mean. A moving
        average is `average((ema, params), (0.999, 0.001))`, which is what `optax.incremental_update` computes too.

    Raises:
      ValueError: No trees; another number of weights; trees that differ in paths, shapes or dtypes.
      TypeError: An array of whole numbers, booleans or keys, which have no mean: `split` them off.

    Source: Wortsman et al. 2022, Model soups; Izmailov et al. 2018, Averaging weights leads to wider optima.

    Example:
      >>> fn.params.average([{"bias": jnp.array([1.0, 2.0])}, {"bias": jnp.array([3.0, 6.0])}])
      {'bias': Array([2., 4.], dtype=float32)}
    """
    if isinstance(trees, Mapping):
        raise TypeError("average takes several trees, [params, others], got one dict")
    trees = list(trees)
    several = [arrays(tree) for tree in trees]
    if not several:
        raise ValueError("average takes one tree or more, got none")
    factors = [1 / len(several)] * len(several) if weights is None else list(weights)
    if len(factors) != len(several):
        raise ValueError(f"average takes a weight for each tree, got {len(factors)} for {len(several)} trees")
    for i, tree in enumerate(trees):
        differing = difference(trees[0], tree)
        if differing:
            raise ValueError(f"average: tree {i} is not like the first:\n{differing}\nGive checkpoints of one net")
    for path, one in several[0].items():
        if isinstance(one, jax.ShapeDtypeStruct) or not jnp.issubdtype(one.dtype, jnp.inexact):
            what = "a spec" if isinstance(one, jax.ShapeDtypeStruct) else "no floating number"
            raise TypeError(
                f"average: {path!r} is {show(one)}, {what}, and has no mean: split such off, and merge those of one "
                "tree"
            )
    return mapped(lambda path, _: _sum([tree[path] for tree in several], factors), trees[0])


def _sum(each: list[Any], factors: list[Any]) -> Any:
    dtype = each[0].dtype
    wide = dtype if jnp.finfo(dtype).bits >= 32 else jnp.float32
    terms = [_as(wide, factor) * one.astype(wide) for factor, one in zip(factors, each, strict=True)]
    return functools.reduce(operator.add, terms).astype(dtype)


def _as(dtype: Any, factor: Any) -> Any:
    """A weight as arithmetic in this dtype takes it."""
    return factor.astype(dtype) if isinstance(factor, jax.Array) else float(factor)
