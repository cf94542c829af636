"""How two trees differ, as data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax

from funcnets.params.reading import arrays
from funcnets.shapes import ABSENT, Row, Tree, differences, flat, mapped
from funcnets.shapes import table as lines

Both = tuple[jax.ShapeDtypeStruct, jax.ShapeDtypeStruct]


@dataclass(frozen=True, repr=False)
class Difference:
    """How two trees of arrays differ; see `difference`. It is false where they do not, and prints as a table.

    Attributes:
      missing: What the first tree has and the second has not: {path: spec}.
      extra: What the second has and the first has not.
      reshaped: What has another shape in the second: {path: (spec in the first, spec in the second)}.
      retyped: What has the same shape and another dtype, likewise.
    """

    missing: Mapping[str, jax.ShapeDtypeStruct]
    extra: Mapping[str, jax.ShapeDtypeStruct]
    reshaped: Mapping[str, Both]
    retyped: Mapping[str, Both]

    def __bool__(self) -> bool:
        return any((self.missing, self.extra, self.reshaped, self.retyped))

    def __repr__(self) -> str:
        rows = [Row("missing", path, one, ABSENT) for path, one in self.missing.items()]
        rows += [Row("extra", path, ABSENT, one) for path, one in self.extra.items()]
        rows += [Row("reshaped", path, *both) for path, both in self.reshaped.items()]
        rows += [Row("retyped", path, *both) for path, both in self.retyped.items()]
        return lines(rows) if rows else "  no difference"


def difference(expected: Tree, got: Tree) -> Difference:
    """How a tree of arrays differs from the one that is expected, in paths, shapes and dtypes; values are not compared.

    Args:
      expected: Nested dicts of arrays, or of specs, such as `net.plan(*sample).params`.
      got: Those that are compared with it.

    Example:
      >>> old, new = (fn.Dense(3, use_bias=bias).plan(jnp.ones((1, n))).params for bias, n in ((True, 2), (False, 4)))
      >>> fn.params.difference(old, new)
        missing   bias    expected float32[3], got nothing
        reshaped  kernel  expected float32[2,3], got float32[4,3]
      >>> bool(fn.params.difference(old, old))
      False
    """
    rows = differences(_bare(expected), _bare(got), dtypes=True)
    # an array in the place of a dict, or the reverse, is missing, and what stands there is extra
    gone = [pair for row in rows if row.what in ("missing", "replaced") for pair in flat(row.declared, row.path)]
    come = [pair for row in rows if row.what in ("extra", "replaced") for pair in flat(row.given, row.path)]
    reshaped, retyped = (
        {row.path: (row.declared, row.given) for row in rows if row.what == what} for what in ("reshaped", "retyped")
    )
    return Difference(dict(gone), dict(come), reshaped, retyped)


def _bare(tree: Tree) -> Tree:
    """The shapes and dtypes of a tree as they are."""
    arrays(tree)

    def one(path: str, array: Any) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(array.shape, array.dtype)

    return mapped(one, tree)
