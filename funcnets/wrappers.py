"""Layers around a layer: one child, which keeps its name and its parameters' places, so that adding a wrapper changes
no checkpoint.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp

from funcnets.bound import Carried
from funcnets.compose import Wrapper
from funcnets.layer import Layer
from funcnets.record import Arrays, Kind
from funcnets.rules import chosen, leads, matches
from funcnets.scope import Misfit
from funcnets.shapes import ABSENT, Tree, entry, flat, is_array, join, mapped, near, nested, show, with_entry, within
from funcnets.values import Argument, code


class Residual(Wrapper):
    """y = x + body(x).

    Args:
      body: A layer that keeps the shape of its first input.

    Params: the body's.

    Inputs: x, and what else the body takes (it goes to the body alone) → x's shape.

    Raises:
      ValueError: A body that changes the shape; for a projection where widths differ, write a composite.

    Source: He et al. 2015, Deep residual learning for image recognition.

    Example:
      >>> fn.Residual(jnp.tanh).apply({}, jnp.zeros(2))
      Array([0., 0.], dtype=float32)
    """

    body: Layer | Callable[..., Any]

    def forward(self, m: Any, x: Any, *others: Any, **kwargs: Any) -> Any:
        y = m.body(x, *others, **kwargs)
        if not is_array(y):
            raise TypeError(
                f"Residual adds its input to the body's output, one array, got {show(y)}. A layer that returns losses "
                "or a carry beside it takes a composite that hands them on"
            )
        if y.shape != x.shape:
            raise ValueError(
                f"Residual adds its input to the body's output, so they have one shape; {show(x)} became {show(y)}. "
                "A composite of your own adds a projection of the input where widths differ"
            )
        return x + y


class Remat(Wrapper):
    """The body, with its activations computed again in the backward pass rather than kept: less memory, more work.

    State and keys go through, and outputs are those of the bare body.

    Args:
      body: The layer.
      policy: What to keep all the same, one of `jax.checkpoint_policies`.
      prevent_cse: As in `jax.checkpoint`; False is safe, and faster, inside Repeat and Scan.

    Params: the body's.

    Inputs: those of the body → its output.

    Source: Chen et al. 2016, Training deep nets with sublinear memory cost.

    Example:
      >>> trunk = fn.Repeat(fn.Remat(fn.Residual(fn.Dense(8)), prevent_cse=False), 24)
    """

    body: Layer | Callable[..., Any]
    policy: Callable[..., Any] | None = None
    prevent_cse: bool = True

    def outline(self, m: Any, *inputs: Any, **kwargs: Any) -> Any:
        return m.body(*inputs, **kwargs)

    def forward(self, m: Any, *inputs: Any, **kwargs: Any) -> Any:
        keys = m._scope.keys
        admit = None if keys is None else keys.admitted()

        def body(params: Tree, state: Tree) -> tuple[Any, Carried]:
            return m.body._pure(inputs, kwargs, params, state, None if admit is None else admit(), once=True)

        checkpointed = jax.checkpoint(body, policy=self.policy, prevent_cse=self.prevent_cse)  # pyright: ignore[reportPrivateImportUsage]
        y, carried = checkpointed(m.body.params, m.body._state_or_none())
        m.body._put(carried)
        return y


class Cast(Wrapper):
    """The body computed in another precision: its floating inputs and parameters are cast to `dtype` on the way in.

    States (running statistics) keep their dtype. Whole numbers, keys and booleans pass as they are.

    Args:
      body: The layer.
      dtype: The dtype to compute in.
      output: The dtype that floating outputs are cast to; None leaves them.
      param_dtype: The dtype that the body's floating parameters are stored in; None leaves it as declared.

    Params: the body's.

    Inputs: those of the body → its output.

    Example:
      >>> net = fn.Cast(fn.Dense(4), "bfloat16", output="float32")
      >>> params = net.init(jax.random.key(0), jnp.ones((2, 3)))
      >>> params["kernel"].dtype, net.apply(params, jnp.ones((2, 3))).dtype
      (dtype('float32'), dtype('float32'))
    """

    body: Layer | Callable[..., Any]
    dtype: Any
    output: Any = None
    param_dtype: Any = None

    def __post_init__(self) -> None:
        for name in ("dtype", "output", "param_dtype"):
            held = getattr(self, name)
            if held is not None:
                object.__setattr__(self, name, jnp.dtype(held))

    def forward(self, m: Any, *inputs: Any, **kwargs: Any) -> Any:
        y = m.body(*_cast(inputs, self.dtype), **_cast(kwargs, self.dtype))
        return y if self.output is None else _cast(y, self.output)

    def _seen(self, tree: Tree) -> Tree:
        return _cast(tree, self.dtype)

    def _lift(self, kind: Kind, arrays: Arrays) -> Arrays:
        if self.param_dtype is None or kind == "states":
            return arrays
        return {path: one._replace(what=one.what.stored_as(self.param_dtype)) for path, one in arrays.items()}


def _cast(tree: Tree, dtype: Any) -> Tree:
    def one(x: Any) -> Any:
        return x.astype(dtype) if hasattr(x, "dtype") and jnp.issubdtype(x.dtype, jnp.floating) else x

    return jax.tree.map(one, tree)


class Freeze(Wrapper):
    """The body with parameters that take no gradient. Gradients with respect to its inputs pass.

    It is also a mark: `fn.params.frozen(net)` tells which parameters of a net it holds, and `fn.train` keeps these out
    of the optimiser, whose state they take no memory of, and which does not decay them. States go on moving in
    training, such as running statistics: `fn.rewrite.replace(net, {fn.BatchNorm: {"frozen": True}})` stops those.

    Args:
      body: The layer.
      but: A pattern, or several, of parameters that take a gradient all the same; paths are the body's own.

    Params: the body's.

    Inputs: those of the body → its output.

    Raises:
      ValueError: (at init) a pattern that matches no parameter.

    Source: a bare `jax.lax.stop_gradient` leaves the parameters with the optimiser, where weight decay moves them.

    Example:
      >>> net = fn.Sequential(("encoder", fn.Freeze(fn.Dense(8), but="bias")), ("head", fn.Dense(1)))
      >>> frozen = fn.params.frozen(net)
      >>> [path for path, _ in fn.params.paths(net.init(jax.random.key(0), jnp.ones((1, 2)))) if frozen(path)]
      ['encoder/kernel']
    """

    body: Layer | Callable[..., Any]
    but: str | tuple[str, ...] = ()

    def __post_init__(self) -> None:
        held = self.but
        if isinstance(held, str):
            object.__setattr__(self, "but", (held,))
        elif not isinstance(held, tuple) or not all(isinstance(one, str) for one in held):
            raise TypeError(
                f"Freeze takes but as a pattern of paths or a tuple of them, got {code(held)}: write but='head/**'"
            )

    def forward(self, m: Any, *inputs: Any, **kwargs: Any) -> Any:
        return m.body(*inputs, **kwargs)

    def holds(self, path: str) -> bool:
        """Whether the body's parameter at this path takes no gradient."""
        return not any(matches(pattern, path) for pattern in self.but)

    def _baked(self) -> Layer:
        """What stands in its place once parametrisations in the body are baked in."""
        return self

    def _leading(self, places: frozenset[str]) -> str | None:
        found = any(leads(pattern, place) for pattern in self.but for place in places)
        return f"but={self.but!r}" if found else None

    def _view(self, params: Tree) -> Tree:
        stop = jax.lax.stop_gradient
        return mapped(lambda path, array: stop(array) if self.holds(path) else array, params)

    def _lift(self, kind: Kind, arrays: Arrays) -> Arrays:
        return dict(arrays) if self.but and kind == "params" else arrays  # to be asked in `_check_plan`

    def _check_plan(self, arrays: Arrays, lifted: bool) -> None:
        if self.but:
            shapes = nested({path: one.shapes for path, one in arrays.items()})
            chosen(dict.fromkeys(self.but), [path for path, _ in flat(shapes)], "parameter that Freeze holds")


class Tied(Wrapper):
    """A net in which one parameter is a function of another; see `tie`."""

    body: Layer
    target: str
    to: str
    via: Callable[[Any], Any] | None = None

    def _arguments(self) -> list[Argument]:
        via = [] if self.via is None else [Argument(self.via, "via", ".via")]
        return [Argument(self.body, place=".body"), Argument(self.target), Argument(self.to, "to"), *via]

    def _call(self) -> tuple[str, list[Argument], str]:
        return "tie(", self._arguments(), ")"

    def forward(self, m: Any, *inputs: Any, **kwargs: Any) -> Any:
        return m.body(*inputs, **kwargs)

    def _view(self, params: Tree) -> Tree:
        source = entry(params, self.to)
        if source is ABSENT:
            raise Misfit(f"tie: there is no parameter {self.to!r}, which {self.target!r} is tied to")
        return with_entry(params, self.target, self._through(source))

    def _is_frozen(self, path: str) -> bool:
        return super()._is_frozen(path) and (path != self.to or super()._is_frozen(self.target))

    def _strangers(self, kind: Kind, tree: Tree, path: str) -> Iterator[str]:
        yield from super()._strangers(kind, tree, path)
        if kind == "params" and entry(tree, self.target) is not ABSENT:
            yield join(path, self.target)

    def _leading(self, places: frozenset[str]) -> str | None:
        return next((repr(path) for path in (self.target, self.to) for at in places if within(path, at)), None)

    def _through(self, source: Any) -> Any:
        return source if self.via is None else self.via(source)

    def _lift(self, kind: Kind, arrays: Arrays) -> Arrays:
        if kind == "states":
            return arrays
        if self.target not in arrays or self.to not in arrays:
            return arrays  # it may be met in the other mode; `_check_plan` has the last word
        wanted, source = arrays[self.target].shapes, arrays[self.to].shapes
        for path, shapes in ((self.target, wanted), (self.to, source)):
            if isinstance(shapes, dict):
                raise ValueError(
                    f"tie: {path!r} is no single array but {show(shapes)}, which a layer or parametrisation holds in "
                    "its place: tie the nets first and parametrise the array that stays, or leave it as it is"
                )
        got = jax.eval_shape(self._through, source)
        if got.shape != wanted.shape:
            how = "unchanged" if self.via is None else f"via {code(self.via)}"
            raise ValueError(
                f"tie: {self.target!r} is {show(wanted)}, but {self.to!r}, {show(source)}, {how}, is {show(got)}; "
                "give via= a function between the two"
            )
        return {path: one for path, one in arrays.items() if path != self.target}

    def _check_plan(self, arrays: Arrays, lifted: bool) -> None:
        for path in (self.to, self.target):
            if path not in arrays and not (path == self.target and lifted):
                names = [name for name in arrays if name != self.to]
                raise ValueError(
                    f"tie: the net has no parameter {path!r}{near(path, names)}; it has {', '.join(arrays) or 'none'}"
                )
        if self.target in arrays:
            raise ValueError(f"tie: {self.to!r} is met in training only, so it cannot stand in for {self.target!r}")


def tie(net: Layer, target: str, *, to: str, via: Callable[[Any], Any] | None = None) -> Tied:
    """A net without the parameter at path `target`, which is computed from the one at path `to` instead.

    There is one array, one gradient (the sum of both uses) and one entry in a checkpoint.

    Args:
      net: The net.
      target: The path of the parameter to take out, such as "decoder/head/kernel".
      to: The path of the parameter that it is tied to.
      via: A function from that to the target, such as `jnp.transpose`; None for the same array.

    Raises:
      ValueError: (at init) a path that is not there, or shapes that do not agree.

    Source: Press & Wolf 2017, Using the output embedding to improve language models.
    """
    return Tied(net, target, to, via)
