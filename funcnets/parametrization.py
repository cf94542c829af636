"""Parameters as functions of other arrays: weight normalisation, spectral normalisation, and one's own.

A *parametrisation* stands in the place of one parameter of one layer. It is a leaf of its own kind: `decompose` says
which arrays are held instead, given the parameter's initial value, so that the net starts out as it would without;
`forward` computes the parameter from them at each call. The two are each other's inverse:

    forward(decompose(w)) == w                      for what the parametrisation can express

A forward may name `state`, `key` and `train` as that of any leaf, and declares its state in `states(self, w)`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from funcnets.compose import Composite, Wrapper
from funcnets.initializers import Zeros
from funcnets.layer import Layer
from funcnets.layers.fields import check_whole, refusal
from funcnets.layers.promotion import at_least_float32
from funcnets.leaves import Param
from funcnets.places import Place, find, rebuilt, replace, walk
from funcnets.random import Request, made
from funcnets.record import Arrays, Declaration, Kind, Steps
from funcnets.rules import chosen
from funcnets.shapes import (
    ABSENT,
    Tree,
    below,
    describe,
    entry,
    flat,
    join,
    names_of,
    near,
    show,
    with_entry,
    without_entry,
)
from funcnets.values import call_code, code


class Parametrization(Layer):
    """One parameter as a function of other arrays; a subclass defines `decompose` and `forward`.

    Example:
      >>> class Positive(fn.Parametrization):
      ...     def decompose(self, w):
      ...         return {"log": jnp.log(w)}
      ...     def forward(self, p, w):  # w is the parameter's shape and dtype
      ...         return jnp.exp(p["log"])
      >>> net = fn.Parametrized(fn.LayerNorm(), scale=Positive())
      >>> net.init(jax.random.key(0), jnp.ones(2))["scale"]
      {'log': Array([0., 0.], dtype=float32)}
    """

    def decompose(self, w: jax.Array) -> dict[str, jax.Array]:
        """The arrays that are held in the parameter's place, for its initial value."""
        raise NotImplementedError(f"{type(self).__name__} has no decompose: write def decompose(self, w)")

    def params(self, w: Any) -> dict[str, Param]:
        held: Any = jax.eval_shape(self.decompose, w)
        if not isinstance(held, dict) or any(isinstance(one, dict) for one in held.values()):
            raise TypeError(
                f"{self!r}.decompose returns {show(held)}: it takes a parameter apart into a dict of arrays"
            )
        return {name: Param(one.shape, Zeros(), one.dtype) for name, one in held.items()}


class Parametrized(Wrapper):
    """A layer with some of its parameters computed from other arrays.

    Args:
      body: The layer, a leaf.
      by: (name, parametrisation) pairs; the name of one in nested parameters is a path, "gate/kernel".
      **named: The same by keyword.

    Params: the layer's, with those that the parametrisation holds under the name of each parametrised one.

    States: the parametrisations', under the parameters' names.

    Inputs: those of the layer → its output. Parameters that are read or given from outside, `m.child.params` or
      `m.child(x, params=...)`, are the arrays that are held.

    Raises:
      TypeError: A layer made of layers (parametrise those in it), or something that is no parametrisation.
      ValueError: (at init) a parameter that the layer does not have, or a parametrisation that gives another shape.

    Example:
      >>> net = fn.Parametrized(fn.Dense(3), kernel=fn.WeightNorm())
      >>> params = net.init(jax.random.key(0), jnp.ones((2, 4)))
      >>> jax.tree.map(jnp.shape, params)
      {'bias': (3,), 'kernel': {'direction': (4, 3), 'scale': (3,)}}
    """

    body: Layer
    by: tuple[tuple[str, Parametrization], ...]

    def __init__(
        self,
        body: Layer,
        by: Mapping[str, Parametrization] | tuple[tuple[str, Parametrization], ...] = (),
        **named: Parametrization,
    ) -> None:
        self._fill(body=body, by=tuple({**dict(by), **named}.items()))

    def __post_init__(self) -> None:
        if isinstance(self.body, Parametrized):  # one after the other is both at once
            inner, new = self.body, dict(self.by)
            twice = [name for name, _ in inner.by if name in new]
            if twice:
                raise ValueError(f"{describe(inner)} has a parametrised {twice[0]!r} already: leave out one of the two")
            object.__setattr__(self, "body", inner.body)
            object.__setattr__(self, "by", (*inner.by, *self.by))
        object.__setattr__(self, "by", tuple(sorted(self.by, key=lambda pair: pair[0])))
        if not isinstance(self.body, Layer) or isinstance(self.body, Composite):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError(
                f"Parametrized takes one layer that has the parameters itself, got {code(self.body)}. In a net, "
                "fn.parametrize(net, {'path/kernel': ...}, sample) puts it where it belongs"
            )
        for name, how in self.by:
            if not isinstance(how, Parametrization):  # pyright: ignore[reportUnnecessaryIsInstance]
                raise TypeError(f"Parametrized takes parametrisations by name, got {name}={code(how)}: fn.WeightNorm()")

    def _settled(self) -> None:
        self._set_children([("", self.body)], {"body": 0})

    def _arguments(self) -> list[str]:
        if all(name.isidentifier() for name, _ in self.by):
            return [code(self.body), *(f"{name}={code(how)}" for name, how in self.by)]
        return [code(self.body), call_code("dict", [code(self.by)])]

    @property
    def _random_paths(self) -> tuple[str, ...]:
        own = (join(name, path) for name, how in self.by for path in how._random_paths)
        return (*super()._random_paths, *own)

    def _targets(self, inputs: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        """The declared parameters that are parametrised."""
        declared = dict(flat(self.body._declares("params", inputs, kwargs)))
        for name, _ in self.by:
            if name not in declared:
                raise ValueError(
                    f"{describe(self.body)} has no parameter {name!r}{near(name, declared)}; it has "
                    f"{', '.join(declared) or 'none'} for these inputs"
                )
        return {name: declared[name].shapes for name, _ in self.by}

    def outline(self, m: Any, *inputs: Any, **kwargs: Any) -> Any:
        targets = self._targets(inputs, kwargs)
        for name, how in self.by:
            wanted, got = targets[name], how.plan(targets[name]).output
            if getattr(got, "shape", None) != wanted.shape:
                raise ValueError(f"{how!r} gives {show(got)} for the parameter {name!r}, which is {show(wanted)}")
            states = how._declares("states", (wanted,), {})
            if states:
                m._scope.beside(name, how, ABSENT).own_state(states)
        return m.body(*inputs, **kwargs)

    def forward(self, m: Any, *inputs: Any, **kwargs: Any) -> Any:
        targets, params = self._targets(inputs, kwargs), m.params
        for name, how in self.by:
            held = entry(params, name)
            w = m._scope.beside(name, how, held).run((targets[name],), {})
            params = with_entry(params, name, w)
        return m.body(*inputs, params=params, **kwargs)

    def _lift(self, kind: Kind, arrays: Arrays) -> Arrays:
        if kind == "states":
            return arrays
        by = dict(self.by)
        return {
            path: one._replace(what=Decomposed(one.what, by[path])) if path in by else one
            for path, one in arrays.items()
        }

    def _strangers(self, kind: Kind, tree: Tree, path: str) -> Iterator[str]:
        if kind == "states" and isinstance(tree, dict):
            names = {names_of(name)[0] for name, how in self.by if how._wants.state}
            tree = {name: inner for name, inner in tree.items() if name not in names}
        yield from super()._strangers(kind, tree, path)


class Decomposed(Declaration):
    """What a parametrisation holds in the place of a declared parameter."""

    def __init__(self, what: Declaration, how: Parametrization) -> None:
        self.what, self.how = what, how

    @property
    def shapes(self) -> Tree:
        return jax.eval_shape(self.how.decompose, self.what.shapes)

    @property
    def has_state(self) -> bool:
        return self.how._wants.state

    def computed(self, path: str, params: Tree, state: Tree, copies: tuple[int, ...]) -> Any:
        """The parameter at this path, each copy of it, as it is computed in evaluation."""
        held, own = entry(params, path), entry({} if state is None else state, path) if self.has_state else {}
        self._check(path, held, own, copies)
        return _of_each(lambda held, own: self.how.apply(held, self.what.shapes, state=own)[0], copies)(held, own)

    def taken_apart(self, w: Any, copies: tuple[int, ...]) -> Tree:
        """What is held in the place of a parameter, of each copy of it."""
        return _of_each(self.how.decompose, copies)(w)

    def _check(self, path: str, held: Tree, state: Tree, copies: tuple[int, ...]) -> None:
        """Raises for what it cannot be computed from."""
        shapes = jax.tree.map(lambda one: (*copies, *one.shape), self.shapes)
        if not isinstance(held, dict) or jax.tree.map(jnp.shape, held) != shapes:
            raise ValueError(
                f"{path}: {self.how!r} holds {show(self.shapes)}{f' in {copies} copies' if copies else ''} in the "
                f"parameter's place, got {show(held)}. Give the parameters of this very net"
            )
        if self.has_state and state is ABSENT:
            raise ValueError(f"{path}: {self.how!r} carries state: give it too, state=state")
        if any(jnp.shape(one)[: len(copies)] != copies or jnp.ndim(one) > 1 + len(copies) for one in state.values()):
            raise ValueError(
                f"{path}: one parameter with a state for each of several copies, {show(state)}, has no single value: a "
                "shared body of Repeat keeps its parametrisation"
            )

    @property
    def names(self) -> tuple[str, ...]:
        return self.what.names

    def stored_as(self, dtype: Any) -> Decomposed:
        return Decomposed(self.what.stored_as(dtype), self.how)

    def initialised_by(self, inits: Mapping[str, Any]) -> Decomposed:
        return Decomposed(self.what.initialised_by(inits), self.how)

    def request(self, steps: Steps) -> Request:
        whole = self.what.request(steps)
        return Request(steps, make=lambda key: self.how.decompose(made(whole, key)))


def _of_each(function: Callable[..., Any], copies: tuple[int, ...]) -> Callable[..., Any]:
    """A function of one copy as one of all, which are stacked along leading axes."""
    for _ in copies:
        function = jax.vmap(function)
    return function


def parametrize(net: Layer, by: Mapping[str, Parametrization], *sample: Any, **kwargs: Any) -> Layer:
    """A net with the parameters that patterns speak of computed from other arrays.

    Args:
      net: The net.
      by: From patterns of parameter paths, such as "**/kernel", to parametrisations.
      *sample: Inputs of the net, or their specs, by which it is known which parameters there are.

    Raises:
      ValueError: A pattern that matches no parameter.

    Example:
      >>> net = fn.Sequential(fn.Dense(8), jax.nn.relu, ("head", fn.Dense(2)))
      >>> fn.parametrize(net, {"head/kernel": fn.WeightNorm()}, jnp.ones((1, 3)))["head"]
      Parametrized(Dense(2), kernel=WeightNorm())
    """
    plan = net.plan(*sample, **kwargs)
    found = chosen(by, plan.declared["params"], "parameter")
    places: dict[str, dict[str, Parametrization]] = {}
    for path, how in found.items():
        owner = plan.owners["params"][path]
        places.setdefault(owner, {})[below(path, owner)] = how
    layers: dict[str, list[Layer]] = {}
    for place in walk(Place("", net)):
        if place.path in places and not place.layer._is_wrapper:
            layers.setdefault(place.path, []).append(place.layer)
    for path, several in layers.items():
        if any(layer != several[0] for layer in several):
            raise ValueError(
                f"{path}: {' and '.join(map(repr, several))} share these parameters by name, and would each see the "
                "arrays that a parametrisation holds: give the reader the computed array in a composite instead"
            )

    def change(place: Place, new: Layer) -> Layer:
        named = None if place.layer._is_wrapper else places.get(place.path)
        return new if named is None else Parametrized(new, named)

    return rebuilt(Place("", net), change)


def bake(net: Layer, params: Tree, *sample: Any, state: Tree = None, **kwargs: Any) -> Any:
    """The net without its parametrisations, and its parameters as they were computed last.

    Args:
      net: The net.
      params: Its parameters.
      *sample: Inputs of the net, or their specs.
      state: Its state; needed if a parametrisation has one.

    Returns:
      (net, params); with a state given (net, params, state). In evaluation the new net computes what the old one does.

    Example:
      >>> net, x = fn.Parametrized(fn.Dense(3), kernel=fn.WeightNorm()), jnp.ones((2, 4))
      >>> plain, params = fn.bake(net, net.init(jax.random.key(0), x), x)
      >>> plain, params["kernel"].shape
      (Dense(3), (4, 3))
    """
    plan = net.plan(*sample, **kwargs)
    for path, one in plan.declared["params"].items():
        if not isinstance(one.what, Decomposed):
            continue
        params = with_entry(params, path, one.what.computed(path, params, state, one.copies))
        state = without_entry(state, path) if one.what.has_state else state
    plain = replace(net, {Parametrized: lambda layer: layer._entries()[0][1]}) if find(net, Parametrized) else net
    return (plain, params) if state is None else (plain, params, state)


# The usual ones


class WeightNorm(Parametrization):
    """w = scale · direction / ‖direction‖, with one length for each entry of an axis.

    A parameter that starts out as 0 has no direction, and becomes NaN.

    Args:
      axis: The axis whose entries have a length each: the last, an output's; None for one length of the whole.

    Params (in the parameter's place):
      direction: the parameter's shape
      scale: (size of the axis,); () for the whole

    Source: Salimans & Kingma 2016, Weight normalization. As PyTorch's `parametrizations.weight_norm`, whose dim=0 is
      the output axis there; the length starts out as that of the parameter.

    Example:
      >>> fn.WeightNorm().decompose(jnp.array([[3.0, 0.0], [4.0, 2.0]]))["scale"]
      Array([5., 2.], dtype=float32)
    """

    axis: int | None = -1

    def __post_init__(self) -> None:
        _check_axis_field(self, none=True)

    def decompose(self, w: jax.Array) -> dict[str, jax.Array]:
        _check_axis(self, w, self.axis)
        last = -1 if self.axis is None else self.axis
        squares = _sum_in_order(jnp.square(at_least_float32(jnp.moveaxis(w, last, -1)).reshape(-1, w.shape[last])))
        lengths = jnp.sqrt(_sum_in_order(squares) if self.axis is None else squares)
        return {"direction": w, "scale": lengths.astype(w.dtype)}

    def forward(self, p: dict[str, jax.Array], w: jax.ShapeDtypeStruct) -> jax.Array:
        direction, scale = at_least_float32(p["direction"]), at_least_float32(p["scale"])
        axes = tuple(i for i in range(direction.ndim) if self.axis is None or i != self.axis % direction.ndim)
        norm = jnp.sqrt(jnp.square(direction).sum(axes, keepdims=True))
        return (direction * (scale.reshape(norm.shape) / norm)).astype(p["direction"].dtype)


class SpectralNorm(Parametrization):
    """w = weight / σ, with σ = uᵀ · weight · v, an estimate of the largest singular value.

    The parameter is taken as a matrix (axis, all others). In training u and v, which are state, take some steps of the
    power iteration before they are used; no gradient passes through them. In evaluation they stay as they are.

    Args:
      iterations: Steps of the power iteration a call.
      axis: The axis of the matrix's rows: the last, an output's.
      epsilon: The least length that u and v are divided by.

    Params (in the parameter's place):
      weight: the parameter's shape

    States:
      u: (size of the axis,)
      v: (product of the other axes,)

    Source: Miyato et al. 2018, Spectral normalization for GANs. As PyTorch's `parametrizations.spectral_norm`, except
      that there u and v have taken 15 steps before the first call; here a net that is evaluated before it has been
      trained sees the singular value through random vectors.

    Example:
      >>> net, x = fn.Parametrized(fn.Dense(3), kernel=fn.SpectralNorm(iterations=50)), jnp.ones((2, 4))
      >>> params, state = net.init(jax.random.key(0), x), net.init_state(x)
      >>> y, state = net.apply(params, x, state=state, train=True)
      >>> plain, params, state = fn.bake(net, params, x, state=state)
      >>> float(jnp.linalg.norm(params["kernel"], 2).round(3))
      1.0
    """

    iterations: int = 1
    axis: int = -1
    epsilon: float = 1e-12

    def __post_init__(self) -> None:
        _check_axis_field(self, none=False)
        check_whole(self, "iterations", "It is the steps of the power iteration a call; one is usual")

    def decompose(self, w: jax.Array) -> dict[str, jax.Array]:
        _check_axis(self, w, self.axis)
        return {"weight": w}

    def states(self, w: jax.ShapeDtypeStruct) -> dict[str, Param]:
        _check_axis(self, w, self.axis)
        rows = w.shape[self.axis]
        return {"u": Param((rows,), _unit, w.dtype), "v": Param((math.prod(w.shape) // rows,), _unit, w.dtype)}

    def forward(
        self, p: dict[str, jax.Array], w: jax.ShapeDtypeStruct, *, state: dict[str, jax.Array], train: bool
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        weight = at_least_float32(p["weight"])
        matrix = jnp.moveaxis(weight, self.axis, 0).reshape(weight.shape[self.axis], -1)
        fixed = jax.lax.stop_gradient(matrix)
        u, v = state["u"].astype(weight.dtype), state["v"].astype(weight.dtype)
        if train:
            for _ in range(self.iterations):
                u = self._normalised(fixed @ v)
                v = self._normalised(u @ fixed)
            state = {"u": u.astype(state["u"].dtype), "v": v.astype(state["v"].dtype)}
        return (weight / (u @ matrix @ v)).astype(p["weight"].dtype), state

    def _normalised(self, x: jax.Array) -> jax.Array:
        return x / jnp.maximum(jnp.sqrt(jnp.square(x).sum()), self.epsilon)


def _sum_in_order(x: jax.Array) -> jax.Array:
    """The sum over the first axis, one by one, so that initial values have the same bits however they are compiled."""
    return jax.lax.scan(lambda total, row: (total + row, None), jnp.zeros_like(x[0]), x)[0]


def _unit(key: jax.Array, shape: tuple[int, ...], dtype: Any) -> jax.Array:
    x = at_least_float32(jax.random.normal(key, shape, dtype))
    return (x / jnp.sqrt(jnp.square(x).sum())).astype(dtype)


def _check_axis_field(how: WeightNorm | SpectralNorm, *, none: bool) -> None:
    if type(how.axis) is not int and not (none and how.axis is None):
        takes = "as a whole number or None" if none else "as a whole number"
        raise refusal(how, "axis", takes, "The axis of a kernel's outputs is the last, -1")


def _check_axis(how: Parametrization, w: Any, axis: int | None) -> None:
    if axis is not None and not -w.ndim <= axis < w.ndim:
        raise ValueError(f"{how!r} takes a parameter that has an axis {axis}, got {show(w)}: name another axis")
