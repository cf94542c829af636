"""Nets as plain data, to be kept, read by people, compared line by line, and made into the net again.

    config = fn.files.to_config(net)                         # dicts, lists, strings, numbers, booleans, None
    text = json.dumps(config, indent=2, allow_nan=False)
    fn.files.from_config(json.loads(text)) == net

A value is an object that names its class and holds all its fields:

    {"format": 1, "net": {"class": "Sequential", "layers": [
        {"class": "GLU", "activation": {"function": "jax.nn.silu"}, "axis": -1},
        ["head", {"class": "Unembed"}]]}}

Strings, whole numbers, fractions, booleans and null stand for themselves, a list for a tuple. (2 and 2.0 are two
numbers, as in Python's own json: what else rewrites a file must keep them apart.) The rest are objects of other kinds:

    {"function": "jax.nn.relu"}                              {"dtype": "bfloat16"}
    {"partial": {"function": "jax.nn.gelu"}, "args": [], "keywords": {"approximate": true}}
    {"float": "nan"}                                         {"complex": [1.0, 2.0]}
    {"set": [1, 2]}                                          {"enum": "my_lab/Mode", "member": "FAST"}
    {"type": "Dense"}                                        (a class of layers itself)
    {"array": [[1.0, 2.0]], "dtype": "float32"}              {"base64": "AACAPw==", "dtype": "float32", "shape": [1]}

Fields at their defaults are written too, so that a default that changes one day changes no net of today. One that a
file lacks takes its default: for files written by hand, or before the class had that field.

Classes and functions go by the names of `funcnets.registry`. Reading looks names up there; it imports nothing, and
calls nothing but the constructors of the classes. So a file from a stranger runs no code of theirs; a net can still ask
for more memory or time than there is.
"""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import difflib
import enum
import functools
import inspect
import json
import math
from collections.abc import Callable, Generator, Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from funcnets.layer import Layer
from funcnets.leaves import _Frozen
from funcnets.registry import is_replaced, kind_of, known, place_of
from funcnets.shapes import show
from funcnets.values import Value, _given, _rebuild, comparable

FORMAT = 1
"""The version of the form that `to_config` writes."""

_FEW = 64  # numbers of an array that are written out


def to_config(net: Layer) -> dict[str, Any]:
    """The net as plain data: dicts, lists, strings, numbers, booleans and None.

    Args:
      net: The net. (Its parameters are no part of it.)

    Returns:
      `{"format": 1, "net": ...}`, which `json.dumps(config, indent=2, allow_nan=False)` takes.

    Raises:
      TypeError: A function or class in the net that is not registered, such as a lambda; with its place.

    Example:
      >>> fn.files.to_config(fn.Sequential(fn.Reshape(2, -1), ("act", jax.nn.relu)))["net"]["layers"]
      [{'class': 'Reshape', 'sizes': [2, -1]}, ['act', {'function': 'jax.nn.relu'}]]
    """
    if not isinstance(net, Layer):
        raise TypeError(f"to_config takes a net, got {show(net)}: make it a layer, fn.Sequential(...)")
    names: dict[int, str] = {}
    table = known()
    for name, held in table.items():
        names.setdefault(id(held), name)
    return {"format": FORMAT, "net": _written(net, "net", names)}


def from_config(config: Mapping[str, Any]) -> Layer:
    """The net that `to_config` wrote: equal to the one that it was given.

    Args:
      config: What `to_config` gives, also after JSON, or the like written by hand.

    Raises:
      ValueError: Another format; a name that is not registered; an object of none of the kinds.
      TypeError, ValueError: What a class says to its fields, with a note of the place.

    Example:
      >>> fn.files.from_config({"format": 1, "net": {"class": "Dense", "features": 8}})
      Dense(8)
    """
    if not isinstance(config, Mapping):
        raise TypeError(f"from_config takes what to_config gives, a dict, got {show(config)}: json.loads(text) first")
    if set(config) != {"format", "net"}:
        raise ValueError(f'a config is {{"format": {FORMAT}, "net": ...}}, got the keys {_listed(config)}')
    if type(config["format"]) is not int or config["format"] != FORMAT:
        raise ValueError(
            f"the config has format {show(config['format'])}, and this funcnets reads format {FORMAT}: read it with "
            f"the version of funcnets that wrote it, or a later one"
        )
    net = _read(config["net"], "net", known())
    if not isinstance(net, Layer):
        raise ValueError(f'net: a net is a layer, got {show(net)}: write {{"class": "Sequential", "layers": [...]}}')
    return net


# Writing


def _written(held: Any, path: str, names: dict[int, str]) -> Any:
    """A field's content as plain data; names are those of classes and functions by identity."""
    if held is None or type(held) in (bool, int, str) or (type(held) is float and math.isfinite(held)):
        return held
    if type(held) is float:
        return {"float": repr(held)}
    if kind_of(held) == "function" and id(held) in names:
        return {"function": names[id(held)]}
    if type(held) is tuple:
        return [_written(item, f"{path}[{i}]", names) for i, item in enumerate(held)]
    if type(held) is complex:
        return {"complex": [_written(part, path, names) for part in (held.real, held.imag)]}
    if type(held) is frozenset:
        return {"set": sorted((_written(item, path, names) for item in held), key=json.dumps)}
    if isinstance(held, np.dtype):
        return {"dtype": _dtype_name(held, path)}
    if isinstance(held, _Frozen):
        return _written_array(held.array, path)
    if isinstance(held, enum.Enum) and type(held).__members__.get(held.name) is held:
        return {"enum": _name(type(held), path, names), "member": held.name}
    if kind_of(type(held)) == "class":
        return _written_value(held, path, names)
    if type(held) is functools.partial:
        args = [_written(item, f"{path}.args[{i}]", names) for i, item in enumerate(held.args)]
        keywords = {name: _written(item, f"{path}.keywords.{name}", names) for name, item in held.keywords.items()}
        return {"partial": _written(held.func, f"{path}.partial", names), "args": args, "keywords": keywords}
    if isinstance(held, type) and issubclass(held, Layer):
        return {"type": _name(held, path, names)}
    if callable(held) and not isinstance(held, type):
        raise _nameless(held, path)
    raise TypeError(
        f"{path} holds {show(held)}, of type {type(held).__name__}, which a config has no form for: write it with "
        f"numbers, strings and tuples, or as a value of a registered class that has such fields"
    )


def _written_value(held: Any, path: str, names: dict[int, str]) -> dict[str, Any]:
    kind = type(held)
    name = _name(kind, path, names)
    fields = {field: getattr(held, field) for field in _fields(kind)}
    with _noted(path):
        if comparable(_built(kind, fields)) != comparable(held):
            raise TypeError(
                f"{show(held)}, made again of its own fields, is another: the constructor of {kind.__name__} changes "
                f"what it is given. Let it keep fields as they are"
            )
    return {"class": name} | {field: _written(inner, f"{path}.{field}", names) for field, inner in fields.items()}


def _name(kind: type, path: str, names: dict[int, str]) -> str:
    if id(kind) not in names:
        raise _nameless(kind, path)
    return names[id(kind)]


def _nameless(target: Any, path: str) -> TypeError:
    module, name = place_of(target)
    kind, define = ("class", "class") if isinstance(target, type) else ("function", "def")
    what = f"{path}: the {kind} {name or show(target)}" + (f" (in {module})" if module else "")
    if is_replaced(target):
        return TypeError(f"{what} is not the one that is registered, which was defined later: build the net with that")
    local = "is a lambda or local to a function, and " if "<" in name else ""
    return TypeError(
        f"{what} {local}is not registered: define it with {define} at module level and fn.files.register it (a "
        f"composite above @fn.compose)"
    )


def _written_array(array: np.ndarray, path: str) -> dict[str, Any]:
    """A few numbers as they are read, others by their bytes."""
    if not _is_numeric(array.dtype):
        raise TypeError(f"{path} holds {show(array)}: a config takes arrays of numbers or booleans")
    dtype = {"dtype": _dtype_name(array.dtype, path)}
    if 0 < array.size <= _FEW and not jnp.issubdtype(array.dtype, np.complexfloating) and np.isfinite(array).all():
        numbers = (array.astype(np.float64) if jnp.issubdtype(array.dtype, np.floating) else array).tolist()
        if (again := _array_of(numbers, array.dtype)) is not None and again.tobytes() == array.tobytes():
            return {"array": numbers} | dtype
    return {"base64": base64.b64encode(array.tobytes()).decode()} | dtype | {"shape": list(array.shape)}


def _array_of(numbers: Any, dtype: np.dtype[Any]) -> np.ndarray | None:
    """Nested lists of numbers as an array; None for one that the dtype cannot hold, but for rounding fractions."""
    given = np.asarray(numbers)
    if given.dtype.kind not in "biuf" or (given.dtype.kind == "b") != (dtype == np.bool_):
        return None
    with np.errstate(all="ignore"):
        array = given.astype(dtype)
        if jnp.issubdtype(dtype, np.inexact):
            return array if (np.isfinite(array) == np.isfinite(given)).all() else None
        return array if (array.astype(given.dtype) == given).all() else None


def _dtype_name(dtype: np.dtype[Any], path: str) -> str:
    for name in (dtype.name, dtype.str):
        with contextlib.suppress(TypeError):
            if np.dtype(name) == dtype:
                return name
    raise TypeError(f"{path} holds the dtype {dtype}, which has no name of its own: use one of numbers")


def _is_numeric(dtype: np.dtype[Any]) -> bool:
    return jnp.issubdtype(dtype, np.number) or dtype == np.bool_


# Reading


def _read(node: Any, path: str, table: dict[str, Any]) -> Any:
    """The content of a field that plain data stands for; the table has classes and functions by name."""
    if node is None or type(node) in (bool, int, float, str):
        return node
    if isinstance(node, (list, tuple)):
        return tuple(_read(item, f"{path}[{i}]", table) for i, item in enumerate(node))
    if not isinstance(node, Mapping):
        raise TypeError(f"{path}: a config is of dicts, lists, strings, numbers, booleans and None, got {show(node)}")
    tag = next((tag for tag in _KINDS if tag in node), None)
    if tag is None:
        raise ValueError(f"{path}: an object has one of the keys {_listed(_KINDS)}, got {_listed(node)}")
    kind = _KINDS[tag]
    if tag != "class" and node.keys() != {tag, *kind.beside}:
        has = _listed([tag, *kind.beside])
        raise ValueError(f"{path}: an object with {tag!r} has the keys {has}, got {_listed(node)}")
    return kind.read(node, path, table)


def _read_value(node: Mapping[str, Any], path: str, table: dict[str, Any]) -> Any:
    kind = _found(node, "class", path, table)
    fields = {name: _read(inner, f"{path}.{name}", table) for name, inner in node.items() if name != "class"}
    with _noted(path):
        return _built(kind, fields)


def _built(kind: type, fields: dict[str, Any]) -> Any:
    """The value of a class with these fields, checked as its constructor does."""
    if not issubclass(kind, Value):
        return kind(**fields)
    given = _given(kind, (), fields)
    named = {name: given[name] for name in _fields(kind)}
    takes = inspect.signature(kind).parameters
    # A constructor of the class's own that takes other things than its fields is passed by.
    by_name = all(name in takes and takes[name].kind is not inspect.Parameter.VAR_POSITIONAL for name in named)
    return kind(**named) if by_name else _rebuild(kind, given)


def _fields(kind: Any) -> tuple[str, ...]:
    """The names that a value of a class is made of."""
    if not dataclasses.is_dataclass(kind):
        return kind._fields
    return tuple(field.name for field in dataclasses.fields(kind) if field.init)


def _found(node: Mapping[str, Any], tag: str, path: str, table: dict[str, Any]) -> Any:
    name = node[tag]
    if not isinstance(name, str):
        raise TypeError(f"{path}: a {tag} goes by its name, a string, got {show(name)}")
    if name not in table:
        by_last = {_last(other): other for other in reversed(table) if kind_of(table[other]) == tag}
        close = difflib.get_close_matches(_last(name), by_last, 1)
        hint = f" (did you mean {by_last[close[0]]!r}?)" if close else ""
        raise ValueError(
            f"{path}: the {tag} {show(name)} is not registered{hint}. One of your own is known once the module is "
            f"imported that gives it to fn.files.register; a config imports nothing itself"
        )
    is_a = kind_of(table[name])
    if is_a != tag:
        raise ValueError(f'{path}: {name!r} is of kind {is_a}, not {tag}: write {{"{is_a}": "{name}"}}')
    return table[name]


def _last(name: str) -> str:
    """A name without the module or prefix."""
    return name.replace("/", ".").rpartition(".")[2]


def _read_partial(node: Mapping[str, Any], path: str, table: dict[str, Any]) -> Any:
    function, args, keywords = (node[key] for key in ("partial", "args", "keywords"))
    _take(isinstance(args, (list, tuple)), path, "a list of args", args)
    _take(isinstance(keywords, Mapping), path, "keywords by name", keywords)
    function = _read(function, f"{path}.partial", table)
    _take(callable(function), path, "a function as partial", function)
    named = {name: _read(inner, f"{path}.keywords.{name}", table) for name, inner in keywords.items()}
    with _noted(path):
        return functools.partial(function, *_read(args, f"{path}.args", table), **named)


def _read_enum(node: Mapping[str, Any], path: str, table: dict[str, Any]) -> Any:
    members = _found(node, "enum", path, table).__members__
    name = node["member"]
    _take(isinstance(name, str) and name in members, path, f"a member of {node['enum']}, {_listed(members)}", name)
    return members[name]


def _read_dtype(node: Mapping[str, Any], path: str, table: dict[str, Any]) -> np.dtype[Any]:
    name = node["dtype"]
    with contextlib.suppress(TypeError, ValueError, SyntaxError):
        dtype = np.dtype(str(name))
        if name in (dtype.name, dtype.str):
            return dtype
    raise _misfit(path, 'a dtype by its name, such as "float32"', name)


def _read_float(node: Mapping[str, Any], path: str, table: dict[str, Any]) -> float:
    _take(node["float"] in ("nan", "inf", "-inf"), path, 'as float "nan", "inf" or "-inf"', node["float"])
    return float(node["float"])


def _read_complex(node: Mapping[str, Any], path: str, table: dict[str, Any]) -> complex:
    parts: Any = _read(node["complex"], path, table)
    two = isinstance(parts, tuple) and list(map(type, parts)) == [float, float]
    _take(two, path, "two fractions, such as [1.0, 0.0], as complex", parts)
    return complex(*parts)


def _read_set(node: Mapping[str, Any], path: str, table: dict[str, Any]) -> frozenset[Any]:
    _take(isinstance(node["set"], (list, tuple)), path, "a list as set", node["set"])
    return frozenset(_read(node["set"], path, table))


def _read_array(node: Mapping[str, Any], path: str, table: dict[str, Any]) -> _Frozen:
    dtype = _read_numeric(node, path)
    with _noted(path):
        array = _array_of(node["array"], dtype)
    if array is None:
        raise _misfit(path, f"numbers that an array of {dtype} holds", node["array"])
    return _Frozen(array)


def _read_bytes(node: Mapping[str, Any], path: str, table: dict[str, Any]) -> _Frozen:
    dtype, shape = _read_numeric(node, path), node["shape"]
    whole = isinstance(shape, (list, tuple)) and all(type(n) is int and n >= 0 for n in shape)
    _take(whole, path, "a list of whole numbers as shape", shape)
    _take(isinstance(node["base64"], str), path, "a string as base64", node["base64"])
    with _noted(path):
        data = base64.b64decode(node["base64"], validate=True)
    size = math.prod(shape) * dtype.itemsize
    _take(len(data) == size, path, f"{size} bytes in base64 for {dtype}{list(shape)}", f"{len(data)} bytes")
    return _Frozen(np.frombuffer(data, dtype).reshape(shape))


def _read_numeric(node: Mapping[str, Any], path: str) -> np.dtype[Any]:
    dtype = _read_dtype(node, path, {})
    _take(_is_numeric(dtype), path, "an array of numbers or booleans", dtype)
    return dtype


def _read_type(node: Mapping[str, Any], path: str, table: dict[str, Any]) -> type:
    kind = _found({"class": node["type"]}, "class", path, table)
    _take(issubclass(kind, Layer), path, "a class of layers as type", node["type"])
    return kind


class _Kind(NamedTuple):
    read: Callable[[Mapping[str, Any], str, dict[str, Any]], Any]
    beside: tuple[str, ...] = ()  # the keys that it has beside its own


_KINDS = {  # the first of these keys that an object has tells what it is
    "class": _Kind(_read_value),
    "function": _Kind(lambda node, path, table: _found(node, "function", path, table)),
    "partial": _Kind(_read_partial, ("args", "keywords")),
    "type": _Kind(_read_type),
    "enum": _Kind(_read_enum, ("member",)),
    "array": _Kind(_read_array, ("dtype",)),
    "base64": _Kind(_read_bytes, ("dtype", "shape")),
    "dtype": _Kind(_read_dtype),
    "float": _Kind(_read_float),
    "complex": _Kind(_read_complex),
    "set": _Kind(_read_set),
}


# Saying where


@contextlib.contextmanager
def _noted(path: str) -> Generator[None]:
    try:
        yield
    except Exception as error:
        error.add_note(f"at {path}")
        raise


def _take(holds: bool, path: str, takes: str, got: Any) -> None:
    if not holds:
        raise _misfit(path, takes, got)


def _misfit(path: str, takes: str, got: Any) -> ValueError:
    return ValueError(f"{path}: a config takes {takes}, got {show(got)}")


def _listed(keys: Any) -> str:
    return ", ".join(map(repr, keys)) or "none"
