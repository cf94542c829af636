"""Parameters as functions of other arrays: weight normalisation, spectral normalisation, and one's own.

A *parametrisation* stands in the place of one parameter of one layer. It is a leaf of its own kind: `decompose` says
which arrays are held instead, given the parameter's initial value, so that the net starts out as it would without;
`forward` computes the parameter from them at each call. The two are each other's inverse:

    forward(decompose(w)) == w                      for what the parametrisation can express

A forward may name `state`, `key` and `train` as that of any leaf, and declares its state in `states(self, w)`. A
decompose that draws names a `key`, one of the parameter's own: `def decompose(self, w, *, key)`. The value w is drawn
as it is without a parametrisation. Names of arrays that are held but not learned stand in `fixed`.

The usual ones are in `funcnets.parametrizations`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, overload

import jax
import jax.numpy as jnp

from funcnets.compose import Composite, Wrapper
from funcnets.initializers import Zeros
from funcnets.layer import Layer
from funcnets.leaves import Param
from funcnets.places import Place, rebuilt, walk
from funcnets.plan import Plan
from funcnets.random import Request, as_key, draw, made, path_key
from funcnets.record import Arrays, Declaration, Declared, Kind, Steps
from funcnets.rules import matches
from funcnets.scope import explain
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
    within,
    without_entry,
)
from funcnets.signatures import wants_of
from funcnets.values import Argument, code
from funcnets.wrappers import Freeze, Tied


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

    Attributes:
      fixed: Names of arrays that are held and take no gradient; `fn.params.frozen` tells of them.
    """

    fixed: ClassVar[tuple[str, ...]] = ()

    @classmethod
    def _check_author(cls) -> None:
        super()._check_author()
        decompose = cls.__dict__.get("decompose")
        if decompose is None:
            return
        takes = wants_of(decompose, skip=1).inputs
        try:
            takes.bind(None)
        except TypeError:
            raise TypeError(
                f"{cls.__name__}.decompose takes {takes} after self: it is given the parameter's value, and a key if "
                "it names one after a *: def decompose(self, w, *, key)"
            ) from None

    def decompose(self, *args: Any, **kwargs: Any) -> dict[str, jax.Array]:
        """The arrays that are held in the parameter's place, for its initial value: `decompose(self, w)`."""
        raise NotImplementedError(f"{type(self).__name__} has no decompose: write def decompose(self, w)")

    def _decomposed(self, w: Any, key: Any) -> dict[str, jax.Array]:
        return self.decompose(w, key=key) if _draws(type(self)) else self.decompose(w)

    def params(self, w: Any) -> dict[str, Param]:
        held: Any = jax.eval_shape(self._decomposed, w, _key_spec())
        if not isinstance(held, dict) or any(isinstance(one, dict) for one in held.values()):
            raise TypeError(
                f"{self!r}.decompose returns {show(held)}: it takes a parameter apart into a dict of arrays"
            )
        return {name: Param(one.shape, Zeros(), one.dtype) for name, one in held.items()}


@functools.cache
def _draws(kind: type[Parametrization]) -> bool:
    return wants_of(kind.decompose, skip=1).key


@functools.cache
def _key_spec() -> Any:
    return jax.eval_shape(lambda: jax.random.key(0))


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

    def _arguments(self) -> list[Argument]:
        if all(name.isidentifier() for name, _ in self.by):
            return [Argument(self.body, place=".body"), *(Argument(how, name) for name, how in self.by)]
        return [Argument(self.body, place=".body"), Argument(dict(self.by))]

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
        targets = {name: declared[name].shapes for name, _ in self.by}
        for name, shapes in targets.items():
            if isinstance(shapes, dict):
                raise ValueError(
                    f"{describe(self.body)}: {name or 'its parameters'} is no single array but {show(shapes)}, which "
                    "its init makes as a whole: write it as an fn.Layer, whose params declare each array"
                )
        return targets

    def outline(self, m: Any, *inputs: Any, **kwargs: Any) -> Any:
        targets = self._targets(inputs, kwargs)
        for name, how in self.by:
            wanted, path = targets[name], join(m._scope.path, name)
            try:
                how._declares("params", (wanted,), {})
                states = how._declares("states", (wanted,), {})
            except Exception as error:  # before its own plan, which does not know where it stands
                explain(error, path, how, (wanted,), {}, ", while shapes are planned")
                raise
            try:
                got = how.plan(wanted).output
            except Exception as error:
                error.add_note(f"for the parameter {path or '(the net itself)'} of {describe(self.body)}")
                raise
            if getattr(got, "shape", None) != wanted.shape:
                raise ValueError(f"{how!r} gives {show(got)} for the parameter {name!r}, which is {show(wanted)}")
            if states:
                m._scope.beside(name, how, ABSENT).own_state(states)
        return m.body(*inputs, **kwargs)

    def forward(self, m: Any, *inputs: Any, **kwargs: Any) -> Any:
        targets, params = self._targets(inputs, kwargs), m.params
        for name, how in self.by:
            held = entry(params, name)
            if how.fixed and isinstance(held, dict):
                fixed = {inner: held[inner] for inner in how.fixed if inner in held}
                held = {**held, **jax.lax.stop_gradient(fixed)}
            w = m._scope.beside(name, how, held).run((targets[name],), {})
            params = with_entry(params, name, w)
        return m.body(*inputs, params=params, **kwargs)

    def holds(self, path: str) -> bool:
        return any(path == join(name, fixed) for name, how in self.by for fixed in how.fixed)

    def _lift(self, kind: Kind, arrays: Arrays) -> Arrays:
        if kind == "states":
            return arrays
        by, lifted = dict(self.by), dict(arrays)
        for path in by.keys() & arrays.keys():
            lifted[path] = arrays[path]._replace(what=Decomposed(arrays[path].what, by[path]))
        return lifted

    def _strangers(self, kind: Kind, tree: Tree, path: str) -> Iterator[str]:
        if kind == "states" and isinstance(tree, dict):
            names = {names_of(name)[0] for name, how in self.by if how._wants.state}
            tree = {name: inner for name, inner in tree.items() if name not in names}
        yield from super()._strangers(kind, tree, path)


class Decomposed(Declaration):
    """What a parametrisation holds in the place of a declared parameter.

    Attributes:
      what: The parameter's own declaration.
      how: The parametrisation.
    """

    def __init__(self, what: Declaration, how: Parametrization) -> None:
        self.what, self.how = what, how

    @property
    def shapes(self) -> Tree:
        return jax.eval_shape(self.how._decomposed, self.what.shapes, _key_spec())

    @property
    def has_state(self) -> bool:
        return self.how._wants.state

    def computed(self, path: str, params: Tree, state: Tree, copies: tuple[int, ...]) -> Any:
        """The parameter at this path in evaluation, each copy of it.

        Raises:
          ValueError: Arrays that it cannot be computed from.
        """
        held, state = entry(params, path), entry({} if state is None else state, path) if self.has_state else {}
        self._check(path, held, state, copies)

        def one(each: tuple[Tree, Tree]) -> Any:
            return _computed(self.how, self.what.shapes, *each)

        return _each(one, len(copies), (held, state))

    def taken_apart(self, w: jax.Array, key: Any, steps: Steps) -> Tree:
        """What is held in the place of a parameter that has the value w, stacked by the copies of the steps.

        Args:
          w: The value.
          key: The key of the whole net, from which the steps lead to that of each copy.
          steps: As in `request`, whose draw is taken apart likewise.
        """
        return _apart([(self, w, steps)], key)[0]

    def _one(self, w: Any, key: jax.Array) -> Tree:
        return self.how._decomposed(w, path_key(key, "decompose"))

    def _check(self, path: str, held: Tree, state: Tree, copies: tuple[int, ...]) -> None:
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
        return Request(steps, make=lambda key: self._one(made(whole, key), key))


def taken_apart(declared: Mapping[str, Declared], params: Tree, key: Any) -> Tree:
    """Parameters with what is held in the place of some, whose declarations are given by path."""
    several = [(one.what, entry(params, path), one.steps) for path, one in declared.items()]
    for path, held in zip(declared, _apart(several, key), strict=True):
        params = with_entry(params, path, held)
    return params


def _apart(several: Sequence[tuple[Any, jax.Array, Steps]], key: Any) -> list[Tree]:
    """What is held for each (declaration, value, steps); all keys are found at once."""
    kind = jax.random.key_impl(as_key(key))

    def one(what: Decomposed, w: jax.Array, words: jax.Array) -> Tree:
        def each(copy: tuple[jax.Array, jax.Array]) -> Tree:
            return what._one(copy[0], jax.random.wrap_key_data(copy[1], impl=kind))

        return _each(each, words.ndim - 1, (w, words))

    drawn = draw(key, [Request(steps, make=jax.random.key_data) for _, _, steps in several])
    return [one(what, w, words) for (what, w, _), words in zip(several, drawn, strict=True)]


# Compiled, as a pass that computes it usually is, which rounds otherwise than step by step.
@functools.partial(jax.jit, static_argnums=(0, 1))
def _computed(how: Parametrization, w: jax.ShapeDtypeStruct, held: Tree, state: Tree) -> Any:
    return how.apply(held, w, state=state)[0]


def _each(function: Callable[[Any], Any], axes: int, arrays: Any) -> Any:
    """The function of each copy along the first axes, one by one: so the bits do not depend on how many there are."""
    for _ in range(axes):
        function = functools.partial(jax.lax.map, function)
    return function(arrays)


def parametrize(net: Layer, by: Mapping[Any, Parametrization], *sample: Any, **kwargs: Any) -> Layer:
    """A net with the parameters that patterns speak of computed from other arrays.

    `fn.rewrite.migrate(net, parametrized, params, key, x)` carries parameters that were trained before over to it.

    Args:
      net: The net.
      by: From patterns of parameter paths, such as "**/kernel", to parametrisations; a layer class stands for the
        kernels of its layers, the parameters with two axes or more, `fn.params.of(net, fn.Dense, "bias")` for others.
      *sample: Inputs of the net, or their specs, by which it is known which parameters there are.

    Raises:
      ValueError: A pattern that matches no parameter, or one that others are tied to by `fn.tie`.

    Example:
      >>> net = fn.Sequential(fn.Dense(8), jax.nn.relu, ("head", fn.Dense(2)))
      >>> x = jnp.ones((1, 3))
      >>> parametrized = fn.parametrize(net, {"head/kernel": fn.WeightNorm()}, x)
      >>> parametrized["head"]
      Parametrized(Dense(2), kernel=WeightNorm())
      >>> trained = net.init(jax.random.key(0), x)
      >>> params, _ = fn.rewrite.migrate(net, parametrized, trained, jax.random.key(1), x)
      >>> params["head"]["kernel"]["direction"] is trained["head"]["kernel"]
      True
    """
    plan = net.plan(*sample, **kwargs)
    found = _by_rules(net, plan, by)
    _check_tied(net, found)
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


def _check_tied(net: Layer, found: Mapping[str, Parametrization]) -> None:
    """Raises for the source of a tie, which its reader sees as it is held."""
    for place in walk(Place("", net)):
        if isinstance(place.layer, Tied):
            source, target = join(place.path, place.layer.to), join(place.path, place.layer.target)
            if source in found:
                raise ValueError(
                    f"{source}: {target!r} is tied to it by fn.tie, and reads one array, not those that "
                    f"{found[source]!r} holds. Leave it out, with patterns of the others or the function lambda path: "
                    f"path != {source!r} and ...; or untie the two, with the net without tie and the parameters with "
                    f"an entry {target!r} of its own"
                )


def _by_rules(net: Layer, plan: Plan, rules: Mapping[Any, Parametrization]) -> dict[str, Parametrization]:
    """The parametrisation that rules give each parameter that they speak of; a class speaks of kernels alone."""
    from funcnets.params.patterns import by_rules, roots  # the import of the package stays short

    if not isinstance(rules, Mapping):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise TypeError(
            f"parametrize takes a mapping from patterns to parametrisations, got {show(rules)}: "
            "{'**/kernel': fn.WeightNorm()}"
        )
    declared = {path: _parameter(one) for path, one in plan.declared["params"].items()}

    def is_kernel(path: str) -> bool:
        return len(getattr(declared[path], "shape", ())) > 1

    several = (one for key in rules for one in (key if isinstance(key, tuple) else (key,)))
    for kind in (one for one in several if isinstance(one, type) and issubclass(one, Layer)):
        if not any(is_kernel(path) and within(path, at) for at in roots(net, kind) for path in declared):
            raise ValueError(
                f"the class {code(kind)} stands for the kernels of its layers, the parameters with two axes or "
                f"more, and these have none: fn.params.of(net, {code(kind)}) stands for all their parameters"
            )
    return by_rules(declared, rules, net, is_kernel)


def _parameter(one: Declared) -> Tree:
    """The spec of one copy of a declared parameter, whatever is held in its place."""
    return one.what.what.shapes if isinstance(one.what, Decomposed) else one.what.shapes


@overload
def bake(net: Layer, params: Tree, *sample: Any, state: None = None, **kwargs: Any) -> tuple[Layer, Tree]: ...
@overload
def bake(
    net: Layer, params: Tree, *sample: Any, state: Mapping[str, Any], **kwargs: Any
) -> tuple[Layer, Tree, Tree]: ...


def bake(
    net: Layer, params: Tree, *sample: Any, state: Tree = None, **kwargs: Any
) -> tuple[Layer, Tree] | tuple[Layer, Tree, Tree]:
    """The net without its parametrisations, and its parameters as they were computed last.

    Args:
      net: The net. One that `fn.rewrite.lora` has adapted is no longer frozen by it.
      params: Its parameters.
      *sample: Inputs of the net, or their specs, that meet all that is parametrised.
      state: Its state; needed if a parametrisation has one.

    Returns:
      (net, params); with a state given (net, params, state). In evaluation the new net computes what the old one does.

    Raises:
      ValueError: Parameters that are not the net's, or of a layer that the sample does not meet; a state that is
        needed; a `Freeze` whose `but` speaks of arrays that are held in a parameter's place.

    Example:
      >>> net, x = fn.Parametrized(fn.Dense(3), kernel=fn.WeightNorm()), jnp.ones((2, 4))
      >>> plain, params = fn.bake(net, net.init(jax.random.key(0), x), x)
      >>> plain, params["kernel"].shape
      (Dense(3), (4, 3))
    """
    plain, params, left = baked(Parametrization, net.plan(*sample, **kwargs), params, state)
    return (plain, params) if state is None else (plain, params, left)


def baked(kind: type[Parametrization], plan: Plan, params: Tree, state: Tree) -> tuple[Layer, Tree, Tree]:
    """A plan's net without the parametrisations of a kind, its parameters as they were computed last, and its state."""
    met: set[str] = set()
    for path, one in plan.declared["params"].items():
        if not isinstance(one.what, Decomposed) or not isinstance(one.what.how, kind):
            continue
        params = with_entry(params, path, one.what.computed(path, params, state, one.copies))
        state = without_entry(state, path) if one.what.has_state else state
        met.add(path)
    net = Place("", plan.layer)
    _check_met(net, kind, met, params)
    held = [path for path, _ in flat(plan.params)]
    left = [path for path in held if not any(within(path, one) for one in met)]

    def change(place: Place, layer: Layer) -> Layer:
        if isinstance(layer, Parametrized):
            others = {name: how for name, how in layer.by if not isinstance(how, kind)}
            return layer if len(others) == len(layer.by) else Parametrized(layer.body, others) if others else layer.body
        new = layer._baked() if isinstance(layer, Freeze) else layer
        if isinstance(new, Freeze):
            _check_but(new, place.path, held, [*left, *met])
        return new

    return rebuilt(net, change), params, state


def _check_met(net: Place, kind: type[Parametrization], met: set[str], params: Tree) -> None:
    """Raises for parameters of a parametrised layer that the plan did not meet: their shapes are not known."""
    for place in walk(net):
        for name, how in place.layer.by if isinstance(place.layer, Parametrized) else ():
            path = join(place.path, name)
            if isinstance(how, kind) and path not in met and entry(params, path) is not ABSENT:
                raise ValueError(
                    f"{path}: the sample does not meet {describe(place.layer)}, whose parameters are given, "
                    f"{show(entry(params, path))}: give a sample that the layer is called for, one that its parameters "
                    "were made with. Where no sample meets all layers, bake such a layer by itself, with its own inputs"
                )


def _check_but(freeze: Freeze, root: str, before: list[str], after: list[str]) -> None:
    """Raises for a pattern that speaks of nothing but what a parametrisation held."""
    inside = [[below(path, root) for path in paths if within(path, root)] for paths in (before, after)]
    for pattern in freeze.but:
        found, left = ([path for path in paths if matches(pattern, path)] for paths in inside)
        if found and not left:
            whole = next(path for path in inside[1] if within(found[0], path))
            raise ValueError(
                f"{root or 'the net'}: but={pattern!r} of {describe(freeze)} speaks of {found[0]!r}, which is baked "
                f"into {whole!r}. Say first whether all of that learns: but={f'{whole}/**' if whole else '**'!r} if "
                "so, or else leave the pattern out"
            )
