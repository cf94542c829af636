"""What a step says about its tree: rows, as `funcnets.rows` has them, and the states of iterators.

An object with `get_state` and `set_state` is a leaf, an *iterator*; its row holds what get_state returned, or of bytes
how many there are, which are an array of uint8:

    {"path": ["stream"], "dtype": "iterator", "json": "{\\"step\\": 3}"}
    {"path": ["history"], "dtype": "iterator", "bytes": 48000}
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from funcnets.rows import Row, is_stored, leaf_rows, row_path, rows_of
from funcnets.shapes import is_array, show

_ITERATOR = "iterator"


def is_iterator(node: Any) -> bool:
    return callable(getattr(node, "get_state", None)) and callable(getattr(node, "set_state", None))


def flat(tree: Any) -> tuple[list[Any], Any]:
    """Its leaves and its structure."""
    return jax.tree.flatten(tree, is_leaf=is_iterator)


class Describing:
    """The rows of trees, and their leaves. A tree like the last one, as a run's states are, takes its rows over."""

    def __init__(self) -> None:
        self._last: Any = None
        self._rows: list[Row] = []

    def __call__(self, tree: Any) -> tuple[list[Row], list[Any]]:
        leaves, structure = flat(tree)
        signature = (structure, [_signature(leaf) for leaf in leaves])
        if self._last != signature:
            stand_in = jax.tree.unflatten(structure, ["" if is_iterator(leaf) else leaf for leaf in leaves])
            self._rows = [*rows_of(stand_in)]
            for row, leaf in zip(leaf_rows(self._rows), leaves, strict=True):
                if is_iterator(leaf):
                    row["dtype"] = _ITERATOR
            self._last = signature
        remaining = iter(leaves)
        return [_of_leaf(row, next(remaining)) if "dtype" in row else row for row in self._rows], leaves


def _signature(leaf: Any) -> Any:
    return (type(leaf), leaf.shape, leaf.dtype) if is_array(leaf) else type(leaf)


def _of_leaf(row: Row, leaf: Any) -> Row:
    """The row with the leaf's own value, where values are in rows."""
    if "value" not in row or row["dtype"] == _ITERATOR:
        return row
    return next(rows_of(leaf)) | {"path": row["path"]}


def with_states(rows: Sequence[Row], leaves: Sequence[Any]) -> tuple[list[Row], list[Any]]:
    """The rows, and the leaves, with the states that iterators are in now."""
    remaining, found = iter(leaves), list[Any]()
    described: list[Row] = []
    for row in rows:
        if "dtype" in row:
            row, leaf = _with_state(row, next(remaining))
            found.append(leaf)
        described.append(row)
    return described, found


def _with_state(row: Row, leaf: Any) -> tuple[Row, Any]:
    if row["dtype"] != _ITERATOR:
        return row, leaf
    state, array = leaf.get_state(), None
    if isinstance(state, bytes):
        content, array = {"bytes": len(state)}, np.frombuffer(state, np.uint8)
    elif _is_plain(state):
        content = {"json": json.dumps(state)}
    else:
        raise TypeError(
            f"a checkpoint takes states of iterators that are JSON (dicts by strings, lists, strings, finite numbers, "
            f"booleans, None) or bytes; {row_path(row)} is a {type(leaf).__name__} whose get_state() gives "
            f"{show(state)}: let it give that, or leave it out"
        )
    return {"path": row["path"], "dtype": _ITERATOR} | content, array


def _is_plain(state: Any) -> bool:
    if type(state) is dict:
        return all(type(name) is str and _is_plain(inner) for name, inner in state.items())
    if type(state) is list:
        return all(map(_is_plain, state))
    return state is None or type(state) in (bool, int, str) or (type(state) is float and math.isfinite(state))


def holds_state(row: Row) -> bool:
    return row["dtype"] == _ITERATOR


def array_shape(row: Row) -> list[int] | None:
    """The shape of the leaf's array; None where it has none, or nothing is in it."""
    if row.get("bytes"):
        return [row["bytes"]]
    return row["shape"] if is_stored(row) else None


def stored_state(row: Row, data: Any) -> Any:
    """What get_state returned, of its row and its array."""
    if "bytes" not in row:
        return json.loads(row["json"])
    return b"" if data is None else data.tobytes()
