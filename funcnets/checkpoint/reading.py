"""Reading steps: first what is said about the tree, then its arrays, all of them or a few."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import numpy as np

from funcnets.checkpoint.describing import array_shape, flat, holds_state, is_iterator, stored_state
from funcnets.checkpoint.integrity import Damaged, Files, check, read_manifest
from funcnets.checkpoint.steps import ARRAYS, TREE, Steps
from funcnets.rows import Row, leaf_rows, nested, placed, restored, row_path

if TYPE_CHECKING:
    from etils import epath

FORMAT = 2


class Stored(NamedTuple):
    """A step on disk; leaves have the names of their arrays besides.

    Attributes:
      step: Its number.
      rows: Those of its tree; each leaf's has the name of its array as "array".
      net: The net as JSON, or None.
      metrics: By name.
      files: What its manifest lists; None if it has none.
    """

    step: int
    rows: list[Row]
    net: Any
    metrics: Mapping[str, float]
    files: Files | None


def read_description(steps: Steps, step: int) -> Stored:
    """What a step says about itself. Raises Damaged where that is not what was written."""
    folder = steps.folder(step)
    files = read_manifest(folder)
    if files is not None:
        check(folder, files, only=[TREE])
    try:
        found = json.loads((folder / TREE).read_text())
        known = found["format"] == FORMAT
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise Damaged(f"{TREE} cannot be read: {type(error).__name__}: {error}") from error
    if not known:
        raise ValueError(
            f"{steps.directory} has step {step} in format {found['format']!r}, and this funcnets reads {FORMAT}: "
            "read it with the version that saved it"
        )
    rows = found["rows"]
    for i, row in enumerate(leaf_rows(rows)):
        row["array"] = str(i)
    return Stored(step, rows, found.get("net"), found.get("metrics") or {}, files)


def read_values(steps: Steps, step: int, rows: Sequence[Row], likes: Sequence[Any]) -> list[Any]:
    """The leaves with these rows, where and of the kind that `likes` are. Raises Damaged where they cannot be read."""
    arrays = _read_arrays(steps, step, rows, likes)
    return [_value(row, arrays.get(row["array"]), like) for row, like in zip(rows, likes, strict=True)]


def _value(row: Row, data: Any, like: Any) -> Any:
    if not holds_state(row):
        return restored(row, data, like)
    state = stored_state(row, data)
    if not is_iterator(like):
        return state
    try:
        like.set_state(state)
    except Exception as error:
        error.add_note(f"from set_state of {row_path(row)}, a {type(like).__name__}")
        raise
    return like


def _read_arrays(steps: Steps, step: int, rows: Sequence[Row], likes: Sequence[Any]) -> Mapping[str, Any]:
    import orbax.checkpoint as ocp

    folder = steps.folder(step) / ARRAYS
    forms: dict[str, Any] = {}
    for row, like in zip(rows, likes, strict=True):
        if array_shape(row) is not None:
            to_host = holds_state(row) or getattr(like, "weak_type", False)
            place = None if to_host else placed(like)
            forms[row["array"]] = ocp.ArrayRestoreArgs(sharding=place) if place else ocp.RestoreArgs(np.ndarray)
    if not forms:
        return {}
    try:
        found = _restore(folder, forms)
    except Exception as error:
        if _are_readable(folder, forms):  # so it is the places where they were to go
            raise
        raise Damaged(f"its arrays cannot be read: {type(error).__name__}: {error}") from error
    for row in rows:
        shape = array_shape(row)
        there = getattr(found.get(row["array"]), "shape", None)  # orbax gives 0 for one that is not there
        if shape is not None and (there is None or [*there[: len(shape)]] != shape):
            raise Damaged(f"its array of {row_path(row)} is not there as it was written")
    return found


def _restore(folder: epath.Path, forms: Mapping[str, Any]) -> Mapping[str, Any]:
    import orbax.checkpoint as ocp

    args = ocp.args.PyTreeRestore(item=dict.fromkeys(forms, 0), restore_args=dict(forms), partial_restore=True)
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as reader:
        return reader.restore(folder, args=args)


def _are_readable(folder: epath.Path, names: Iterable[str]) -> bool:
    """Whether arrays can be read at all, one at a time and to the host."""
    import orbax.checkpoint as ocp

    try:
        for name in names:
            _restore(folder, {name: ocp.RestoreArgs(np.ndarray)})
    except Exception as error:
        return isinstance(error, MemoryError)  # that is not the file's fault
    return True


def tree_of(rows: Sequence[Row], values: Sequence[Any], like: Any) -> Any:
    """The values in the containers of `like`, or without it in plain ones."""
    if like is None:
        return nested(iter(rows), iter(values))[1]
    return jax.tree.unflatten(flat(like)[1], values)
