"""A tree as rows: all that a pytree of arrays, typed PRNG keys, numbers and strings is, but its arrays, as JSON.

For each node, parents first, a row with its path and what it is:

    {"path": ["layers"], "type": "dict", "size": 2}                    a container of two
    {"path": ["layers", "kernel"], "dtype": "float32", "shape": [3]}   an array; keys have "impl" besides, as key_data
    {"path": ["epoch"], "dtype": "int", "value": "7"}                  a Python number, or a string

Two trees are alike if their rows are: `differences` says where they are not. `nested` and `restored` make the tree
again of its rows and arrays.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from funcnets.values import Value

Row = dict[str, Any]
_PLAIN: dict[str, Callable[[str], Any]] = {
    "bool": "True".__eq__, "int": int, "float": float, "complex": complex, "str": str
}  # fmt: skip


def rows_of(node: Any, path: tuple[str | int, ...] = (), *, what: str = "a checkpoint") -> Iterator[Row]:
    """The rows of a tree; a leaf that it cannot have is an error that speaks of what takes the tree."""
    if isinstance(node, Value):
        raise TypeError(
            f"{what} takes arrays; {row_path({'path': path})} is {node!r:.60}, a value without any: save its "
            "parameters, and the net itself as fn.files.to_config(net)"
        )
    children = jax.tree.leaves_with_path(node, is_leaf=lambda inner: inner is not node)
    if len(children) != 1 or children[0][0]:
        yield {"path": path, "type": type(node).__name__, "size": len(children)}
        for (entry, *_), child in children:
            name = getattr(entry, "idx", getattr(entry, "key", getattr(entry, "name", entry)))
            yield from rows_of(child, (*path, name if isinstance(name, str | int) else str(name)), what=what)
    elif type(node) in (bool, int, float, complex, str):
        yield {"path": path, "dtype": type(node).__name__, "value": node if isinstance(node, str) else repr(node)}
    elif isinstance(node, jax.Array | jax.ShapeDtypeStruct) and jnp.issubdtype(node.dtype, jax.dtypes.prng_key):
        impl = str(jax.random.key_impl(node)) if isinstance(node, jax.Array) else None
        yield {"path": path, "dtype": str(node.dtype), "shape": list(node.shape), "impl": impl}
    else:
        # a masked array is no array: what is written would lack its mask
        dtype = np.dtype(object if isinstance(node, np.ma.MaskedArray) else getattr(node, "dtype", object))
        if dtype.kind != "b" and not jnp.issubdtype(dtype, np.number):
            raise TypeError(
                f"{what} takes arrays of numbers, PRNG keys, bool, int, float, complex and str; "
                f"{row_path({'path': path})} is {type(node).__name__}: leave it out, or make an array of it"
            )
        # with 32 bits only, a spec of float64 stands for what JAX makes of it
        dtype = jax.dtypes.canonicalize_dtype(dtype) if isinstance(node, jax.ShapeDtypeStruct) else dtype
        yield {"path": path, "dtype": dtype.name, "shape": list(node.shape)}


def check_held(row: Row, leaf: Any, what: str) -> None:
    """Raises for a leaf that holds nothing to save: an array that was donated, or a spec."""
    if isinstance(leaf, jax.ShapeDtypeStruct) or (isinstance(leaf, jax.Array) and leaf.is_deleted()):
        raise ValueError(
            f"{what} takes arrays that hold something; {row_path(row)} is a {type(leaf).__name__} that was donated, or "
            "a spec: save what the step returned, not what it was given"
        )


def leaf_rows(rows: Sequence[Row]) -> list[Row]:
    """Those of leaves, in the order of the leaves."""
    return [row for row in rows if "dtype" in row]


def row_path(row: Row) -> str:
    """A node's path, as messages name it."""
    # {"1": x} and {1: x} are two trees
    names = [repr(name) if isinstance(name, str) and name.isdigit() else str(name) for name in row["path"]]
    return "/".join(names) or "the tree"


def differences(saved: Sequence[Row], model: Sequence[Row], what: str = "checkpoint") -> list[str]:
    """The lines that say where a saved tree, which is called so, and the model's are not alike."""
    stored, wanted = ({tuple(row["path"]): row for row in rows} for rows in (saved, model))
    lines: list[str] = []
    for path, row in (stored | wanted).items():
        old, new = stored.get(path), wanted.get(path)
        lacking = None in (old, new) and row.get("size")  # what one side lacks shows in its leaves
        if _text(old) != _text(new) and not lacking:
            lines.append(f"{row_path(row)}: {what} {_text(old)}, model {_text(new)}")
    return lines


def _text(row: Row | None) -> str:
    if row is None:
        return "nothing"
    if "dtype" in row:
        return row["dtype"] + (f"[{','.join(map(str, row['shape']))}]" if "shape" in row else "")
    return row["type"] if row["size"] else f"empty {row['type']}"


def nested(rows: Iterator[Row], leaves: Iterator[Any]) -> tuple[Any, Any]:
    """The name and value of the next node, of containers that need no class of the caller's."""
    row = next(rows)
    name = row["path"][-1] if row["path"] else None
    if "dtype" in row:
        return name, next(leaves)
    inner = dict(nested(rows, leaves) for _ in range(row["size"]))
    kinds: dict[str, Any] = {"NoneType": None, "list": [*inner.values()], "tuple": (*inner.values(),)}
    return name, kinds.get(row["type"], inner)


def is_stored(row: Row) -> bool:
    """Whether it is an array with something in it."""
    return "shape" in row and 0 not in row["shape"]


def placed(like: Any) -> Any:
    """Where an array is; None if JAX chose, for such an array may move to where others are and is to stay so."""
    free = isinstance(like, jax.Array) and not like.committed
    return None if free else getattr(like, "sharding", None)


def restored(row: Row, data: Any, like: Any) -> Any:
    """A leaf of its row and its data, None where nothing is stored: where and of the kind that `like` is."""
    if "value" in row:
        return _PLAIN[row["dtype"]](row["value"])
    if "impl" in row:
        none = jnp.broadcast_to(jax.random.key(0, impl=row["impl"]), row["shape"])
        data = none if data is None else jax.random.wrap_key_data(jnp.asarray(data), impl=row["impl"])
    elif data is None:
        data = np.zeros(row["shape"], row["dtype"])
    if isinstance(like, np.generic):
        return data[()]
    if not isinstance(like, jax.Array | jax.ShapeDtypeStruct):
        return data
    if getattr(like, "weak_type", False):
        # an array is of weak type if a Python number made it, and stays so when values are put in
        data = jnp.full(like.shape, data.dtype.type(0).item()).at[...].set(data)
    if placed(like) is not None:
        return jax.device_put(data, placed(like))
    return data if isinstance(data, jax.Array) else jnp.array(data)
