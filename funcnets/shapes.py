"""Shapes and places: how arrays and paths are spoken of, in code and in messages."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

import jax
import numpy as np

from funcnets.values import Value, code, created_at

Tree = Any
"""A pytree of arrays; parameters and states are nested plain dicts."""


def is_array(x: object) -> bool:
    """Whether x has a shape and a dtype: an array, a tracer or a `jax.ShapeDtypeStruct`."""
    return hasattr(x, "shape") and hasattr(x, "dtype")


def is_empty(tree: Tree) -> bool:
    """Whether a tree is a dict without entries."""
    return isinstance(tree, dict) and not tree


def spec(x: Any) -> Any:
    """Shape and dtype of an array, as JAX would hold it; anything else as it is."""
    if isinstance(x, (np.ndarray, np.generic)):
        return jax.ShapeDtypeStruct(np.shape(x), jax.dtypes.canonicalize_dtype(x.dtype))
    return jax.ShapeDtypeStruct(x.shape, x.dtype) if is_array(x) else x


def specs(tree: Tree) -> Tree:
    """`spec` of every leaf."""
    return jax.tree.map(spec, tree)


_MOST = 240  # letters of a tree in a message


def show(x: Any) -> str:
    """`float32[2,20]` for an array, the same in their containers for trees of them, code for the rest; what is long is
    cut.
    """
    if is_array(x):
        return f"{getattr(x.dtype, 'name', x.dtype)}[{','.join(map(str, x.shape))}]"
    if isinstance(x, dict):
        return short("{" + ", ".join(f"{name!r}: {show(value)}" for name, value in x.items()) + "}", _MOST)
    if isinstance(x, (tuple, list)):
        count = len(jax.tree.leaves(x)) if is_numbers(x) else 0
        if count > 8:
            return f"a {type(x).__name__} of {count} numbers"
        inside = ", ".join(map(show, x))
        return short(f"({inside})" if isinstance(x, tuple) else f"[{inside}]", _MOST)
    return short(repr(x), 60)


def is_numbers(x: object) -> bool:
    """Whether x is a Python number, or a list or tuple of nothing else at any depth."""
    if isinstance(x, (list, tuple)):
        return bool(x) and all(map(is_numbers, x))
    return isinstance(x, (bool, int, float, complex)) and not isinstance(x, np.generic)


def short(text: str, most: int) -> str:
    """A text, cut off where it is longer than that."""
    return text if len(text) <= most else f"{text[: max(most - 3, 0)]}..."


def describe(value: Value) -> str:
    """A value's code on one line, and where it was built."""
    place = created_at(value)
    text = re.sub(r"(?<=[(\[])\n\s*|,?\n\s*(?=[)\]])", "", code(value))
    return short(" ".join(text.split()), 100) + (f" (built at {place})" if place else "")


def listed(names: Sequence[str], most: int = 12) -> str:
    """The first names, and dots for the rest."""
    return ", ".join(names[:most]) + (", ..." if len(names) > most else "")


def near(name: object, names: Iterable[str]) -> str:
    """` (did you mean 'hidden'?)` where a name is close to one of these."""
    close = difflib.get_close_matches(str(name), list(names), 1)
    return f" (did you mean {close[0]!r}?)" if close else ""


def aligned(columns: Sequence[Sequence[str]], right: Collection[int]) -> list[str]:
    """The lines of a table of columns, of which some stand to the right."""
    widths = [max(map(len, column)) for column in columns]
    padded = [
        [cell.rjust(width) if i in right else cell.ljust(width) for cell in column]
        for i, (column, width) in enumerate(zip(columns, widths, strict=True))
    ]
    return ["  ".join(line) for line in zip(*padded, strict=True)]


def ruled(cells: Sequence[Sequence[str]], right: int) -> str:
    """A table of rows: the head, a rule, the rows, a rule, the total. The last `right` columns hold numbers."""
    columns = list(zip(*cells, strict=True))
    head, *rows, total = aligned(columns, range(len(columns) - right, len(columns)))
    rule = "-" * len(head)
    return "\n".join([head, rule, *rows, rule, total])


# Paths


def join(path: str, name: str) -> str:
    return f"{path}/{name}" if path and name else path or name


def names_of(path: str) -> list[str]:
    return path.split("/") if path else []


def below(path: str, root: str) -> str:
    """The path relative to a root above it."""
    return path[len(root) :].lstrip("/") if root else path


def within(path: str, root: str) -> bool:
    """Whether a path is a root or lies below it."""
    return not root or f"{path}/".startswith(f"{root}/")


def nested(flat: Mapping[str, Any]) -> Tree:
    """{"a/b": x} as {"a": {"b": x}}; {"": x} as x."""
    tree: dict[str, Any] = {}
    for path, value in flat.items():
        names = names_of(path)
        if not names:
            return value
        here = tree
        for name in names[:-1]:
            here = here.setdefault(name, {})
        here[names[-1]] = value
    return tree


class _Absent:
    def __repr__(self) -> str:
        return "nothing"


ABSENT: Final = _Absent()  # no entry under this path


def entry(tree: Tree, path: str) -> Any:
    """What stands at a path of nested dicts; ABSENT where nothing does."""
    for name in names_of(path):
        tree = tree.get(name, ABSENT) if isinstance(tree, dict) else ABSENT
    return tree


def with_entry(tree: Tree, path: str, value: Any) -> Tree:
    """Nested dicts with another value at a path; the old ones are left as they are."""
    name, _, rest = path.partition("/")
    if not path:
        return value
    return {**tree, name: with_entry(tree.get(name, {}), rest, value)}


def without_entry(tree: Tree, path: str) -> Tree:
    """Nested dicts without what stands at a path, and without dicts that this leaves empty."""
    name, _, rest = path.partition("/")
    inner = without_entry(tree[name], rest) if rest else {}
    kept = {other: held for other, held in tree.items() if other != name}
    return {**kept, name: inner} if inner else kept


def flat(tree: Tree, path: str = "") -> Iterator[tuple[str, Any]]:
    """What nested dicts hold, with its paths, in order."""
    if isinstance(tree, dict):
        for name, inner in tree.items():
            yield from flat(inner, join(path, name))
    else:
        yield path, tree


def mapped(change: Callable[[str, Any], Any], tree: Tree, path: str = "") -> Tree:
    """Nested dicts of the same names with change(path, value) in the place of each value."""
    if isinstance(tree, dict):
        return {name: mapped(change, inner, join(path, name)) for name, inner in tree.items()}
    return change(path, tree)


def check_name(name: object, where: str) -> None:
    """Raises unless name can stand in a path."""
    if not isinstance(name, str) or not name or set(name) & set("/.:@"):
        raise ValueError(
            f"{where or 'the net'}: a name is a non-empty string without '/', '.', ':' and '@', got {name!r}. A path "
            "is made by layers in layers"
        )


# Differences


class Row(NamedTuple):
    """One difference between a tree of arrays and the declared one.

    Attributes:
      what: "missing"; "extra", or "unread" for one that nothing in a net can read; "reshaped"; "retyped"; "replaced",
        which is an array in the place of a dict, or the reverse.
      path: Where.
      declared: What is declared there; ABSENT for nothing.
      given: What is there.
    """

    what: str
    path: str
    declared: Any
    given: Any


def differences(declared: Tree, given: Tree, path: str = "", *, dtypes: bool = False) -> list[Row]:
    """How a tree of arrays differs from the declared one, in shapes and, if asked, in dtypes: a row a leaf."""
    if isinstance(declared, dict) and isinstance(given, dict):
        rows: list[Row] = []
        for name in dict.fromkeys([*declared, *given]):
            place = join(path, str(name))
            if name not in given:
                rows += [Row("missing", at, one, ABSENT) for at, one in flat(declared[name], place)]
            elif name not in declared:
                rows += [Row("extra", at, ABSENT, one) for at, one in flat(given[name], place)]
            else:
                rows += differences(declared[name], given[name], place, dtypes=dtypes)
        return rows
    if not isinstance(declared, dict) and getattr(given, "shape", None) == declared.shape:
        return [Row("retyped", path, declared, given)] if dtypes and given.dtype != declared.dtype else []
    reshaped = is_array(given) and not isinstance(declared, dict)
    return [Row("reshaped" if reshaped else "replaced", path, declared, given)]


def table(rows: list[Row]) -> str:
    """Differences as the lines of a message."""
    width = max(len(row.path) for row in rows)
    return "\n".join(
        f"  {row.what:<8}  {row.path or '(all)':<{width}}  expected {show(row.declared)}, got {show(row.given)}"
        for row in rows
    )


def misfit_error(rows: list[Row], what: str = "params") -> ValueError:
    """The error that lists how a tree differs from what the net declares for these inputs."""
    noun = "parameters" if what == "params" else "state"
    resized = any(kind == "reshaped" for kind, *_ in rows)
    return ValueError(
        f"the {noun} and the inputs do not belong together in this net:\n{table(rows)}\n"
        f"{misfit_remedy(what, resized=resized)}"
    )


def misfit_remedy(what: str, *, resized: bool) -> str:
    """What to do about parameters or a state that are not a net's; they may be of other shapes alone."""
    if what == "params":
        noun, were, are, make = "parameters", "were", "are", "make them with params = net.init(key, *sample)"
    else:
        noun, were, are, make = "state", "was", "is", "make it with state = net.init_state(*sample)"
    if not resized:
        return f"The {noun} {are} of another net, or {were} made for another sample: {make}"
    return (
        f"Either the inputs have other axes or sizes than the sample that the {noun} {were} made for (the batch comes "
        f"first, x[None] is a batch of one; features come last), or the {noun} {are} of another net: {make}"
    )


def unread(paths: list[str], tree: Tree) -> list[Row]:
    """Rows for entries that nothing in the net can read."""
    return [Row("unread", path, ABSENT, specs(entry(tree, path))) for path in paths]
