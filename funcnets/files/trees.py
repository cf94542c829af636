"""Trees of arrays in one file: a pytree of arrays, typed PRNG keys, numbers and strings. After save_tree(path, tree)

    load_tree(path, like=tree) == tree      in bits, types and structure, with arrays where those of `like` are
    load_tree(path) == tree                 with NumPy's arrays, and with dicts for NamedTuples and dataclasses

The file is NumPy's npz, a zip archive without compression: a member for each array, named by its path, and the tree.

    tree.json                      {"format": 1, "rows": [...]}, the tree as `funcnets.rows` has it
    params/dense_0/kernel.npy      an array; arr_0.npy if the tree is one array

So `numpy.load(path)["params/dense_0/kernel"]` reads it too. What NumPy has no dtype for (bfloat16, float8, int4) is
there in unsigned integers of its size, a PRNG key as its key data. In a name, `/`, `\\`, `%` and what cannot be printed
are written as %2F and the like. The zip's checksums tell of every byte of the contents that has changed.

*A file is whole or not there.* It is written under another name beside its own, and takes its place at the end: what
stops before (a full disk, an exception, a killed process) leaves the file that was there.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import zipfile
from collections.abc import Generator
from typing import IO, Any, TypeVar, overload

import jax
import numpy as np

from funcnets.rows import Row, check_held, differences, leaf_rows, nested, restored, row_path, rows_of
from funcnets.shapes import show

T = TypeVar("T")
_FORMAT = 1
_TREE = "tree.json"


def save_tree(path: str | os.PathLike[str], tree: Any) -> None:
    """Writes a tree to one file, in place of the one that may be there.

    Args:
      path: The file, by its whole name: no suffix is added, and none is needed. `.npz` tells others what it is.
      tree: A pytree of arrays, typed PRNG keys, Python numbers and strings: parameters, a list of arrays, one array.

    Raises:
      FileNotFoundError: The directory is not there.
      TypeError: A leaf is of another type.
      ValueError: An array was donated, or is a spec, or is in part on other hosts.

    Example:
      >>> import os, tempfile
      >>> path = os.path.join(tempfile.mkdtemp(), "model.npz")
      >>> net = fn.Sequential(fn.Dense(3), jax.nn.relu)
      >>> params = net.init(jax.random.key(0), jnp.ones((1, 2)))
      >>> fn.files.save_tree(path, {"net": fn.files.to_config(net), "params": params})
      >>> found = fn.files.load_tree(path)
      >>> fn.files.from_config(found["net"]) == net
      True
      >>> np.load(path)["params/dense_0/kernel"].shape
      (2, 3)
    """
    target = os.path.realpath(_checked_path("save_tree(path, tree)", path))  # of a link, the file that it is for
    rows = list(rows_of(tree, what="save_tree"))
    leaves = zip(leaf_rows(rows), jax.tree.leaves(tree), strict=True)
    arrays = [(row, _checked(row, leaf)) for row, leaf in leaves if "shape" in row]
    if os.path.isdir(target):
        raise IsADirectoryError(f"save_tree takes the name of a file; {target} is a directory: give the file a name")
    if not os.path.isdir(directory := os.path.dirname(target)):
        raise FileNotFoundError(
            f"save_tree writes into a directory that is there; {directory} is not: make it with os.makedirs"
        )
    with _in_place_of(target) as file, zipfile.ZipFile(file, "w") as archive:
        archive.writestr(zipfile.ZipInfo(_TREE), json.dumps({"format": _FORMAT, "rows": rows}))
        for row, array in arrays:
            with archive.open(_member(row), "w", force_zip64=True) as stream:
                np.lib.format.write_array(stream, _as_numpy(row, array), allow_pickle=False)


@overload
def load_tree(path: str | os.PathLike[str], like: None = None) -> Any: ...
@overload
def load_tree(path: str | os.PathLike[str], like: T) -> T: ...
def load_tree(path: str | os.PathLike[str], like: Any = None) -> Any:
    """The tree that `save_tree` wrote.

    Args:
      path: The file.
      like: A tree like the one saved, of arrays or `jax.ShapeDtypeStruct`s; the result has its containers, and NumPy's
        or JAX's arrays where it has them. Those that were placed nowhere go to the default device. Without it: dicts,
        lists, tuples and NumPy's arrays.

    Raises:
      FileNotFoundError: The file is not there.
      ValueError: `like` differs from the tree saved; the file is damaged, or `save_tree` did not write it.

    Example:
      >>> import os, tempfile
      >>> path = os.path.join(tempfile.mkdtemp(), "pair.npz")
      >>> fn.files.save_tree(path, [jnp.arange(3), {"rate": 0.1}])
      >>> fn.files.load_tree(path)
      [array([0, 1, 2], dtype=int32), {'rate': 0.1}]
      >>> fn.files.load_tree(path, like=[jax.ShapeDtypeStruct((3,), jnp.int32), {"rate": 0.0}])
      [Array([0, 1, 2], dtype=int32), {'rate': 0.1}]
    """
    name = _checked_path("load_tree(path, like=None)", path)
    with open(name, "rb") as file:
        with _said(name, file):
            archive = zipfile.ZipFile(file)
        rows = _rows_in(name, file, archive)
        if like is not None and (lines := differences(rows, list(rows_of(like, what="load_tree")), "file")):
            raise ValueError(
                f"load_tree takes a tree like the one saved; {name} differs from it:\n  "
                + "\n  ".join(lines)
                + "\nLoad into the model that was saved, or load without like= and take over what fits"
            )
        leaves, structure = jax.tree.flatten(like)
        likes = [None] * len(leaf_rows(rows)) if like is None else leaves
        values: list[Any] = []
        for row, leaf in zip(leaf_rows(rows), likes, strict=True):
            with _said(name, file):
                array = _read_array(archive, row) if "shape" in row else None
            values.append(restored(row, array, leaf))
    return nested(iter(rows), iter(values))[1] if like is None else jax.tree.unflatten(structure, values)


# Writing


def _checked_path(form: str, path: Any) -> str:
    if not isinstance(path, str | os.PathLike) or not isinstance(name := os.fspath(path), str) or not name:
        raise TypeError(f"{form} takes the name of a file first, a string or pathlib.Path that is not empty, got "
                        f"{show(path)}")  # fmt: skip
    return name


def _checked(row: Row, leaf: Any) -> Any:
    """An array that is there, all of it."""
    check_held(row, leaf, "save_tree")
    if isinstance(leaf, jax.Array) and not (leaf.is_fully_addressable or leaf.is_fully_replicated):
        raise ValueError(
            f"save_tree takes arrays that this process sees all of; {row_path(row)} is {show(leaf)} over several "
            "hosts: save them with fn.Checkpoints, to which each host gives its part"
        )
    return leaf


def _as_numpy(row: Row, leaf: Any) -> np.ndarray[Any, Any]:
    """An array as NumPy writes it."""
    array = np.asarray(jax.random.key_data(leaf) if "impl" in row else leaf)
    return array.view(f"u{array.itemsize}") if _is_foreign(array.dtype) else array


def _is_foreign(dtype: np.dtype[Any]) -> bool:
    """Whether it is a dtype that others have added to NumPy's: bfloat16, float8, int4."""
    return dtype.isbuiltin == 2


def _member(row: Row) -> str:
    """The name in the archive: no two arrays of a tree have one."""
    names = [re.sub(r"[%/\\\x00-\x1f\x7f\ud800-\udfff]", lambda c: f"%{ord(c[0]):02X}", str(n)) for n in row["path"]]
    return ("/".join(names) if names else "arr_0") + ".npy"


@contextlib.contextmanager
def _in_place_of(target: str) -> Generator[IO[bytes]]:
    """A new file, which takes the place of the target when it is written to the end, and is gone if it is not."""
    temporary = os.path.join(os.path.dirname(target), f".{secrets.token_hex(8)}.tmp")
    try:
        with open(temporary, "xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())  # a machine that stops now has the one file or the other
        os.replace(temporary, target)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise


# Reading


def _rows_in(name: str, file: IO[bytes], archive: zipfile.ZipFile) -> list[Row]:
    if _TREE not in archive.namelist():
        raise ValueError(
            f"load_tree reads what save_tree wrote; {name} is an archive without a {_TREE}: one of numpy.savez is read "
            "with numpy.load"
        )
    with _said(name, file):
        found = json.loads(archive.read(_TREE))
        number, rows = found["format"], found["rows"]
    if number != _FORMAT:
        raise ValueError(
            f"{name} has format {show(number)}, and this funcnets reads {_FORMAT}: read it with a later one"
        )
    return rows


def _read_array(archive: zipfile.ZipFile, row: Row) -> np.ndarray[Any, Any]:
    with archive.open(_member(row)) as stream:
        array = np.lib.format.read_array(stream, allow_pickle=False)
        if stream.read(1):  # checksums are compared at the end of a member
            raise ValueError(f"{_member(row)} goes on after its array")
    if "impl" in row:
        return array
    dtype = np.dtype(row["dtype"])
    array = array.view(dtype) if _is_foreign(dtype) else array
    if [array.dtype.name, list(array.shape)] != [dtype.name, row["shape"]]:
        raise ValueError(f"{_member(row)} is {show(array)}; {_TREE} says {dtype.name}{row['shape']}")
    return array


@contextlib.contextmanager
def _said(name: str, file: IO[bytes]) -> Generator[None]:
    """Whatever reading fails with, said as what it is: a file of others, or one that has changed."""
    try:
        yield
    except MemoryError:
        raise
    except Exception as error:
        file.seek(0)
        ours = file.read(2) == b"PK"
        what = "is cut short or damaged: take another copy of it" if ours else "is something else: check the path"
        raise ValueError(f"load_tree reads what save_tree wrote; {name} {what} ({error})") from error
