"""The leaves that come with the core: one array, one constant, a function, a pair of functions."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from funcnets.layer import Layer, snake_case
from funcnets.random import Request, made, path_key
from funcnets.record import Declaration, Kind, Steps
from funcnets.scope import Scope
from funcnets.shapes import Tree, entry, flat, is_empty, show, specs, with_entry
from funcnets.signatures import modes_of, wants_of
from funcnets.values import Argument, Value, code

Initializer = Callable[..., jax.Array]
"""Any function (key, shape, dtype) → array; `funcnets.initializers` has the usual ones as values."""


class Param(Layer, Declaration):
    """One array of a layer: its shape, initialiser and dtype.

    A leaf declares its arrays with it. As a child of a composite, `m.w()` is the array itself, under its name.

    Args:
      shape: The shape; a whole number stands for one axis.
      initializer: Any function (key, shape, dtype) → array; the values of `funcnets.initializers`.
      dtype: The dtype it is stored in. Whole numbers take no gradient: among `params` they stop an optimiser, so an
        array of them belongs in `states`, or is a `Constant`.

    Raises:
      TypeError: A shape or an initialiser that cannot be.

    Example:
      >>> scale = fn.Param((3,), fn.initializers.Ones())
      >>> scale.init(jax.random.key(0))
      Array([1., 1., 1.], dtype=float32)
    """

    shape: int | tuple[int, ...]
    initializer: Initializer
    dtype: Any = "float32"

    def __post_init__(self) -> None:
        shape = (self.shape,) if isinstance(self.shape, int) else self.shape
        if not isinstance(shape, tuple) or not all(type(n) is int and n >= 0 for n in shape):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError(f"Param takes a shape of whole numbers, got {self.shape!r}")
        if not callable(self.initializer):
            raise TypeError(
                f"Param takes an initialiser, a function (key, shape, dtype) -> array, got {show(self.initializer)}"
            )
        object.__setattr__(self, "shape", shape)
        object.__setattr__(self, "dtype", jnp.dtype(self.dtype))

    @property
    def shapes(self) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(self.shape, jax.dtypes.canonicalize_dtype(self.dtype))

    @property
    def names(self) -> tuple[str, ...]:
        return ("",)

    def stored_as(self, dtype: Any) -> Param:
        return dataclasses.replace(self, dtype=dtype) if jnp.issubdtype(self.dtype, jnp.floating) else self

    def initialised_by(self, inits: Mapping[str, Initializer]) -> Param:
        return self._with({"initializer": inits[""]}) if inits else self

    def request(self, steps: Steps) -> Request:
        return Request(steps, self.initializer, self.shapes.shape, self.shapes.dtype)

    def forward(self, p: jax.Array) -> jax.Array:
        return p

    def _declares(self, kind: Kind, inputs: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return self if kind == "params" else {}

    def _strangers(self, kind: Kind, tree: Tree, path: str) -> Iterator[str]:
        if kind == "states" and not is_empty(tree):
            yield path

    def _is_bare(self) -> bool:
        return True


class Constant(Layer):
    """An array that never changes: no parameter, no gradient, in no checkpoint; compared by its bytes.

    As a child of a composite, `m.r()` is the array.

    Args:
      value: Numbers, or an array of them, with known contents.

    Example:
      >>> fn.Constant([1.0, 2.0]).apply({})
      Array([1., 2.], dtype=float32)
    """

    value: Any

    def __init__(self, value: Any) -> None:
        self._fill(value=value if isinstance(value, _Frozen) else _Frozen(value))

    def forward(self, p: Tree) -> jax.Array:
        return jnp.asarray(self.value.array)


class _Frozen:
    """A NumPy array that compares by dtype, shape and bytes."""

    __slots__ = ("_mark", "array", "small")

    def __init__(self, value: Any) -> None:
        if isinstance(value, jax.Array) and jnp.issubdtype(value.dtype, jax.dtypes.prng_key):
            raise TypeError("Constant takes numbers, got a PRNG key: pass keys to apply")
        try:
            array = np.array(value)
        except jax.errors.TracerArrayConversionError:
            raise TypeError(
                f"Constant takes an array with known contents, got {show(value)} while JAX traces: make it outside"
            ) from None
        if not isinstance(value, (np.ndarray, np.generic, jax.Array)):
            array = array.astype(jax.dtypes.canonicalize_dtype(array.dtype))  # Python numbers, as JAX takes them
        array.flags.writeable = False
        self.array = array
        self.small = array.nbytes <= 1 << 16  # whether what is known of a net with it may be kept
        self._mark = (array.dtype.name, array.shape, hashlib.sha256(array.tobytes()).digest())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Frozen) and self._mark == other._mark

    def __hash__(self) -> int:
        return hash(self._mark)

    def __repr__(self) -> str:
        if self.array.size > 8:
            return f"<{show(self.array)}>"
        return f"np.array({self.array.tolist()}, {self.array.dtype.name!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        return _Frozen, (self.array,)


# Layers from functions


class Function(Layer):
    """A function as a layer without parameters; any callable that stands for a layer becomes one."""

    function: Callable[..., Any]

    def __post_init__(self) -> None:
        named = modes_of(self.function) if inspect.isfunction(self.function) else ()
        if named:
            raise TypeError(
                f"{function_name(self.function)} names {', '.join(named)}, which a function in a net is not given: "
                "make it a fn.Layer with forward(self, p, x, *, key, train), or fn.pair(init, apply)"
            )

    def _run(self, scope: Scope, inputs: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return self.function(*inputs, **kwargs)

    @property
    def _random_paths(self) -> tuple[str, ...]:
        return ()

    def _call(self) -> tuple[str, list[Argument], str]:
        return code(self.function), [], ""

    def _auto_name(self) -> str:
        return function_name(self.function)


def function_name(function: Any) -> str:
    """The name a function has in a path: its own, `function` for a lambda."""
    while isinstance(function, functools.partial):
        function = function.func
    name: str = getattr(function, "__name__", None) or snake_case(type(function).__name__)
    return "function" if name == "<lambda>" else name


class Pair(Layer):
    make: Callable[..., Tree]
    call: Callable[..., Any]

    def params(self, *inputs: Any, **kwargs: Any) -> Any:
        made = _Made(self.make, inputs, kwargs)
        return {} if made.shapes == {} else made

    def forward(self, p: Tree, *inputs: Any, **kwargs: Any) -> Any:
        return self.call(p, *inputs, **kwargs)

    @property
    def _wants(self) -> Any:
        return self._named

    @functools.cached_property
    def _named(self) -> Any:
        return wants_of(self.call, skip=1)._replace(state=False)

    def _call(self) -> tuple[str, list[Argument], str]:
        return "pair(", [Argument(self.make, place=".make"), Argument(self.call, place=".call")], ")"

    def _is_bare(self) -> bool:
        return True

    def _auto_name(self) -> str:
        return function_name(self.call)


class _Made(Declaration):
    """What a pair's init makes: a subtree, drawn with one key."""

    def __init__(self, make: Callable[..., Tree], inputs: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._make = lambda key: make(key, *inputs, **kwargs)
        self._shapes = specs(jax.eval_shape(self._make, jax.eval_shape(lambda: jax.random.key(0))))
        _check_dicts(self._shapes, function_name(make))

    @property
    def shapes(self) -> Tree:
        return self._shapes

    def stored_as(self, dtype: Any) -> _Made:
        def store(array: jax.Array) -> jax.Array:
            return array.astype(dtype) if jnp.issubdtype(array.dtype, jnp.floating) else array

        return _Made(lambda key: jax.tree.map(store, self._make(key)), (), {})

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(name for name, _ in flat(self._shapes))

    def initialised_by(self, inits: Mapping[str, Initializer]) -> _Made:
        def make(key: jax.Array) -> Tree:
            tree = self._make(key)
            for name, init in inits.items():
                one = entry(self._shapes, name)
                own = path_key(key, name) if name else key
                tree = with_entry(tree, name, made(Request((), init, one.shape, one.dtype), own))
            return tree

        return _Made(make, (), {}) if inits else self

    def request(self, steps: Steps) -> Request:
        return Request(steps, make=self._make)


def _check_dicts(tree: Tree, name: str) -> None:
    if isinstance(tree, dict):
        for inner in tree.values():
            _check_dicts(inner, name)
    elif not isinstance(tree, jax.ShapeDtypeStruct):
        raise TypeError(f"{name} returns {show(tree)}: parameters are nested dicts of arrays, or one array")


def pair(init: Callable[..., Tree], apply: Callable[..., Any]) -> Layer:
    """A layer of two functions.

    Args:
      init: `init(key, *sample)` → its parameters, a nested dict of arrays or one array. It is given shapes, not
        numbers: it reads only `.shape` and `.dtype` of the sample.
      apply: `apply(params, *inputs)` → output; it may name `key` and `train` too, after a `*`.

    Raises:
      TypeError: (at init) parameters that are no dict.

    Example:
      >>> layer = fn.pair(lambda key, x: {"scale": jnp.ones(x.shape[-1])}, lambda p, x: x * p["scale"])
      >>> layer.init(jax.random.key(0), jnp.ones(2))
      {'scale': Array([1., 1.], dtype=float32)}
    """
    return Pair(init, apply)


# What may be a child


def is_child(held: Any) -> bool:
    """Whether a field's content is a child: a layer or a function (an initialiser, a value of another kind, is not)."""
    return isinstance(held, Layer) or (callable(held) and not isinstance(held, (Value, type)))


def as_layer(held: Any) -> Layer:
    """A child as a layer."""
    return held if isinstance(held, Layer) else Function(held)
