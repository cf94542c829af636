"""Layers made of layers: in a row, side by side, over and over.

Each is a composite and knows no concrete layer. The laws: `Sequential()` is the identity; `Sequential(a, Sequential(b,
c))` computes what `Sequential(a, b, c)` does; `Repeat(body, n)` computes what n bodies in a row do, `Ensemble(body,
n)` what n of them beside each other do, on parameters stacked along a leading axis.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Any, ClassVar, NamedTuple, Self, overload

import jax
import jax.numpy as jnp

from funcnets.bound import Bound, Carried
from funcnets.compose import Composite, Wrapper, check_children
from funcnets.layer import Layer
from funcnets.leaves import as_layer
from funcnets.record import Kind
from funcnets.scope import Keys, Misfit
from funcnets.shapes import Tree, describe, show, specs
from funcnets.values import Argument

Child = Layer | Callable[..., Any] | tuple[str, Layer | Callable[..., Any]]
"""What a combinator takes: a layer, a function, or either with a name, ("head", Dense(10))."""


class Item(NamedTuple):
    """One of the children in a row.

    Attributes:
      name: Its name; None for a function that was given none, and goes by its own.
      held: The layer or function.
      given: Whether the name is written out even where it is the automatic one.
    """

    name: str | None
    held: Layer | Callable[..., Any]
    given: bool = False


class _Row(Composite):
    """A composite that takes its children one by one.

    A row of some of them, or with another among them, is again a value of its kind: `net[1:3]`, `net.append(layer)`,
    `net.insert(0, layer)`. The others keep their names there, and so their parameters.
    """

    layers: tuple[Child, ...]

    def __init__(self, *children: Child, layers: Iterable[Child] = ()) -> None:
        self._fill(layers=check_children(type(self).__name__, (*children, *layers)))

    def _arguments(self) -> list[Argument]:
        return [Argument(layer, place=f"[{i}]") for i, layer in enumerate(self.layers)]

    def __len__(self) -> int:
        return len(self.layers)

    def __bool__(self) -> bool:
        return True  # a net without layers is a net all the same

    def __iter__(self) -> Iterator[Layer]:
        return (as_layer(item.held) for item in self._items())

    @overload
    def __getitem__(self, which: int | str) -> Layer: ...
    @overload
    def __getitem__(self, which: slice) -> Self: ...
    def __getitem__(self, which: int | str | slice) -> Layer | Self:
        """A child by number or name; of a slice, the row of these children under the names that they have."""
        return self._of(self._items()[which]) if isinstance(which, slice) else super().__getitem__(which)

    def append(self, child: Child) -> Self:
        """The row with one more child at its end; see `insert`."""
        return self.insert(len(self), child)

    def insert(self, index: int, child: Child) -> Self:
        """The row with one more child before the one of this number; the others keep their names.

        Args:
          index: From 0 to the number of children; from the end if negative, as in a list.
          child: A layer, a function, or a (name, layer) pair. A layer without a name takes the first automatic one
            that is free.

        Raises:
          IndexError: A number that is beyond the row.
          ValueError: A name that another child has.
        """
        owner, items = type(self).__name__, self._items()
        if not isinstance(index, int) or isinstance(index, bool) or not -len(items) <= index <= len(items):
            raise IndexError(f"{owner} has {len(items)} children, so none goes in at {index!r}")
        (child,) = check_children(owner, (child,))
        names = [name for name, _ in self._entries()]
        if isinstance(child, tuple):
            name, held = child
            if name in names:
                raise ValueError(
                    f"{describe(self)} has a child {name!r} already: give the new one another name. To tie the two, "
                    f"build the {owner} with both"
                )
            new = Item(name, held, given=True)
        else:
            kind = as_layer(child)._auto_name()
            free = next(f"{kind}_{i}" for i in range(len(names) + 1) if f"{kind}_{i}" not in names)
            new = Item(free if isinstance(child, Layer) else None, child)
        at = index % len(items) if index < 0 else index
        return self._of([*items[:at], new, *items[at:]])

    def _items(self) -> list[Item]:
        where = self._members().get("layers", ())
        names = [self._entries()[i][0] for i in where] if isinstance(where, tuple) else []
        return [
            Item(name, item[1], given=True)
            if isinstance(item, tuple)
            else Item(name if isinstance(item, Layer) else None, item)
            for name, item in zip(names, self.layers, strict=True)
        ]

    def _of(self, items: Iterable[Item]) -> Self:
        """The same kind of row of other children; names are written out where automatic ones would not be the same."""
        items = list(items)
        uses = Counter(item.name for item in items)
        counts: Counter[str] = Counter()
        layers: list[Child] = []
        for name, held, given in items:
            kind = as_layer(held)._auto_name()
            automatic = name is None or (name == f"{kind}_{counts[kind]}" and uses[name] == 1 and not given)
            counts[kind] += automatic
            layers.append(held if automatic or name is None else (name, held))
        return self._with({"layers": tuple(layers)})


class Sequential(_Row):
    """y = lₙ(… l₂(l₁(x))): one layer after the other. `Sequential()` is the identity.

    All inputs go to the first layer, its one output to the second, and so on; an output that is a tuple goes on as one
    tuple. An input that every layer needs is a composite's to hand out.

    Args:
      *children: Layers, functions, or (name, layer) pairs.
      layers: The same as one iterable, after them.

    Params: each child's under its name.

    Inputs: those of the first layer → the output of the last.

    Raises:
      TypeError: Something that is no layer or function, such as a list of layers.
      ValueError: A name that cannot be, or a given one that is also automatic.

    Example:
      >>> net = fn.Sequential(fn.Dense(256), jax.nn.relu, ("head", fn.Dense(10)))
      >>> params = net.init(jax.random.key(0), jnp.ones((2, 20)))
      >>> list(params)
      ['dense_0', 'head']

      A part of it, or one with another layer, is a net too, in which the layers keep their names and parameters:

      >>> top = net[1:]
      >>> top
      Sequential(jax.nn.relu, ('head', Dense(10)))
      >>> y = top.apply({"head": params["head"]}, jnp.ones((2, 256)))
      >>> net.insert(0, fn.Dense(64))
      Sequential(('dense_1', Dense(64)), Dense(256), jax.nn.relu, ('head', Dense(10)))
    """

    def __init__(self, *children: Child, layers: Iterable[Child] = ()) -> None:  # type checkers would make up another
        super().__init__(*children, layers=layers)

    def forward(self, m: Any, *inputs: Any, **kwargs: Any) -> Any:
        if not m.layers:
            return inputs[0] if len(inputs) == 1 else inputs
        first, *others = m.layers
        x = first(*inputs, **kwargs)
        for layer in others:
            x = layer(x)
        return x


class Each(_Row):
    """(y₁, …, yₙ) with yᵢ = lᵢ(xᵢ): the i-th layer on the i-th input.

    Args:
      *children: Layers, functions, or (name, layer) pairs.
      layers: The same as one iterable, after them.

    Params: each child's under its name.

    Inputs: n inputs or, from two layers on, one tuple of n (as another layer returns it) → a tuple of n outputs.

    Raises:
      TypeError: Something that is no layer or function; another number of inputs than layers.

    Example:
      >>> encoder = fn.Dense(8)
      >>> siamese = fn.Each(("encoder", encoder), ("encoder", encoder))   # one name: one set of weights
      >>> list(siamese.init(jax.random.key(0), jnp.ones((2, 5)), jnp.ones((2, 5))))
      ['encoder']
    """

    def __init__(self, *children: Child, layers: Iterable[Child] = ()) -> None:
        super().__init__(*children, layers=layers)

    def forward(self, m: Any, *inputs: Any) -> tuple[Any, ...]:
        if len(inputs) == 1 and len(self.layers) > 1 and isinstance(inputs[0], tuple):
            inputs = inputs[0]
        if len(inputs) != len(self.layers):
            raise TypeError(
                f"Each has {len(self.layers)} layers, so it takes {len(self.layers)} inputs, got {len(inputs)}: "
                f"{show(inputs)}. For one input to all of them, fn.Parallel"
            )
        return tuple(layer(x) for layer, x in zip(m.layers, inputs, strict=True))


class Parallel(_Row):
    """y = merge(l₁(x), …, lₙ(x)): the same inputs to every branch, and the outputs merged.

    Args:
      *branches: Layers, functions, or (name, layer) pairs.
      merge: "concat" along the last axis, "sum" or "mean" of equal shapes, "stack" along a new first axis, "tuple", or
        a function (or layer) that is called with the outputs one by one.
      layers: The branches as one iterable, after them.

    Params: each branch's under its name; those of a merging layer under "merge".

    Inputs: any → the merged outputs.

    Raises:
      TypeError: Something that is no layer or function.
      ValueError: An unknown merge; outputs that cannot be merged (nothing is broadcast).

    Example:
      >>> net = fn.Parallel(fn.Dense(3), fn.Dense(4))
      >>> net.plan(jnp.ones((2, 5))).output.shape
      (2, 7)
    """

    layers: tuple[Child, ...]
    merge: Any = "concat"

    def __init__(self, *branches: Child, merge: Any = "concat", layers: Iterable[Child] = ()) -> None:
        self._fill(layers=check_children("Parallel", (*branches, *layers)), merge=merge)

    def __post_init__(self) -> None:
        check_merge(self)

    def forward(self, m: Any, *inputs: Any, **kwargs: Any) -> Any:
        return merged(m, [branch(*inputs, **kwargs) for branch in m.layers])

    def _arguments(self) -> list[Argument]:
        return super()._arguments() + ([] if self.merge == "concat" else [Argument(self.merge, "merge", ".merge")])


def check_merge(layer: Any) -> None:
    """Raises unless the field `merge` of a layer with branches holds a way to merge."""
    if not callable(layer.merge) and not isinstance(layer.merge, Layer) and layer.merge not in _MERGES:
        raise ValueError(
            f"{type(layer).__name__} merges by {', '.join(map(repr, _MERGES))} or a function of the outputs, got "
            f"merge={layer.merge!r}. Write merge='concat' for outputs side by side along the last axis"
        )


def merged(m: Any, outputs: list[Any]) -> Any:
    """The outputs of a layer's first children as one, in the way that its field `merge` says."""
    layer, how = m._scope.layer, m._scope.layer.merge
    if not isinstance(how, str):
        return m.merge(*outputs)
    alike, merge = _MERGES[how]
    if alike is not None and len({(alike(y.shape), y.dtype) for y in outputs}) > 1:
        names = [name for name, _ in layer._entries()]
        lines = "\n".join(f"  {name}: {show(y)}" for name, y in zip(names, outputs, strict=True))
        takes = "that agree in all but the last axis" if how == "concat" else "of one shape"
        remedy = "Make them alike, or take merge='tuple' or a function"
        raise ValueError(f"merge={how!r} takes outputs {takes} and of one dtype, got\n{lines}\n{remedy}")
    return merge(outputs)


def _sum(outputs: list[Any]) -> Any:
    return functools.reduce(jnp.add, outputs)


_MERGES: dict[str, tuple[Callable[[tuple[int, ...]], Any] | None, Callable[[list[Any]], Any]]] = {
    "concat": (lambda shape: shape[:-1], lambda outputs: jnp.concatenate(outputs, axis=-1)),
    "sum": (lambda shape: shape, _sum),
    "mean": (lambda shape: shape, lambda outputs: _sum(outputs) / len(outputs)),
    "stack": (lambda shape: shape, jnp.stack),
    "tuple": (None, tuple),
}


# Copies of one layer


class _Copies(Wrapper):
    """A wrapper that runs its child many times over, each time with a key of its own."""

    _seen_inside: ClassVar[bool] = True

    @property
    def _random_paths(self) -> tuple[str, ...]:
        return ()  # the keys of the copies are their own passes'


def copy_keys_of(child: Bound) -> Callable[[Any], Keys | None]:
    """The keys of copy i of a child, to be made inside the loop; None in a pass without a key."""
    scope = child._scope
    return (lambda i: None) if scope.keys is None else scope.keys.copies(scope.layer, scope.path)


def _check_stacked(layer: Layer, place: str, n: int, params: Tree, state: Tree) -> None:
    for what, tree in (("parameters", params), ("state", state)):
        if any(jnp.shape(leaf)[:1] != (n,) for leaf in jax.tree.leaves(tree)):
            make = "net.init(key, *sample)" if what == "parameters" else "net.init_state(*sample)"
            raise Misfit(
                f"{place}: {describe(layer)} takes {what} stacked along a first axis of {n}, got {show(specs(tree))}. "
                f"Make them with {make} of this very net"
            )


class Repeat(_Copies):
    """n copies of a body in a row: x → body₁ → … → bodyₙ, each with parameters, state and keys of its own.

    The first input is carried from copy to copy; further inputs go to every copy (in a `Sequential` of n bodies they
    would go to the first alone). The arrays are stacked along a leading axis of n under the body's own name, whether it
    runs as a `lax.scan`, which compiles the body once, or as a loop.

    Args:
      body: The layer to repeat.
      n: The number of copies.
      scan: Whether to run as a scan (compile time independent of n) or unrolled.
      shared: Whether all copies share one set of parameters; states and keys remain per copy.

    Params: the body's, with a leading axis of n unless shared.

    States: the body's, with a leading axis of n.

    Inputs: x, and what else the body takes → x's shape and dtype.

    Raises:
      ValueError: An n that is no whole number; a body that changes shape or dtype; arrays stacked for another n.

    Source: the shared form is that of ALBERT (Lan et al. 2020). Flax's `nn.scan` takes an axis and a split of
      randomness for each collection instead, and Equinox a vmapped constructor and a scan by hand.

    Example:
      >>> block = fn.Residual(fn.Sequential(fn.LayerNorm(), fn.Dense(8), jax.nn.gelu))
      >>> fn.Repeat(block, 12).plan(jnp.ones((2, 8))).params["dense_0"]["kernel"].shape
      (12, 8, 8)
    """

    body: Layer | Callable[..., Any]
    n: int
    scan: bool = True
    shared: bool = False

    def __post_init__(self) -> None:
        _check_count("Repeat", "n", self.n)

    def _copies(self, kind: Kind) -> int | None:
        return None if kind == "params" and self.shared else self.n

    def outline(self, m: Any, x: Any, *others: Any, **kwargs: Any) -> Any:
        return self._kept(x, m.body(x, *others, **kwargs))

    def forward(self, m: Any, x: Any, *others: Any, **kwargs: Any) -> Any:
        params, state, keys = m.body.params, m.body._state_or_none(), copy_keys_of(m.body)
        own = {} if self.shared else params
        _check_stacked(self, m._scope.place, self.n, own, state)

        def copy(x: Any, each: tuple[Any, Tree, Tree]) -> tuple[Any, Carried]:
            i, one, state = each
            y, carried = m.body._pure(
                (x, *others), kwargs, params if self.shared else one, state, keys(i), index=i, count=self.n
            )
            return self._kept(x, y), carried

        numbers = jnp.arange(self.n) if m.body._counted else None
        if self.scan or not self.n:
            x, carried = jax.lax.scan(copy, x, (numbers, own, state), length=self.n)
        else:
            each: list[Carried] = []
            for i in range(self.n):
                x, one = copy(x, jax.tree.map(lambda a: a[i], (numbers, own, state)))  # noqa: B023
                each.append(one)
            carried = jax.tree.map(lambda *copies: jnp.stack(copies), *each)
        m.body._put(carried)
        return x

    def _kept(self, x: Any, y: Any) -> Any:
        if jax.tree.structure(x) != jax.tree.structure(y) or jax.tree.leaves(specs(x)) != jax.tree.leaves(specs(y)):
            raise ValueError(
                f"{describe(self)}: each copy's output is the next one's input, so the body keeps shape and dtype; "
                f"{show(x)} became {show(y)}. A layer that changes them stands before or after it"
            )
        return y


class Ensemble(_Copies):
    """(y₁, …, yₙ) with yᵢ = layerᵢ(x): n copies of a layer beside each other on the same inputs.

    Outputs, parameters and states are stacked along a leading axis of n; each copy has keys of its own. It runs as a
    `jax.vmap`, by which convolutions become grouped ones: those are slow on CPUs.

    Args:
      layer: The layer.
      n: The number of copies.

    Params: the layer's, with a leading axis of n.

    States: the layer's, with a leading axis of n.

    Inputs: those of the layer → its output with a leading axis of n.

    Raises:
      ValueError: An n that is no whole number; arrays stacked for another n.

    Example:
      >>> net = fn.Ensemble(fn.Sequential(fn.Dense(8), jax.nn.relu, fn.Dense(1)), 5)
      >>> net.plan(jnp.ones((2, 3))).output.shape
      (5, 2, 1)
    """

    layer: Layer | Callable[..., Any]
    n: int

    def __post_init__(self) -> None:
        _check_count("Ensemble", "n", self.n)

    def _copies(self, kind: Kind) -> int:
        return self.n

    def outline(self, m: Any, *inputs: Any, **kwargs: Any) -> Any:
        return jax.tree.map(lambda y: jnp.broadcast_to(y, (self.n, *y.shape)), m.layer(*inputs, **kwargs))

    def forward(self, m: Any, *inputs: Any, **kwargs: Any) -> Any:
        params, state, keys = m.layer.params, m.layer._state_or_none(), copy_keys_of(m.layer)
        _check_stacked(self, m._scope.place, self.n, params, state)

        def member(i: Any, params: Tree, state: Tree) -> tuple[Any, Carried]:
            return m.layer._pure(inputs, kwargs, params, state, keys(i), index=i, count=self.n)

        numbers = jnp.arange(self.n) if m.layer._counted else None
        y, carried = jax.vmap(member, axis_size=self.n)(numbers, params, state)
        m.layer._put(carried)
        return y


def _check_count(kind: str, name: str, n: object) -> None:
    if not isinstance(n, int) or isinstance(n, bool) or n < 0:
        raise ValueError(
            f"{kind} takes {name} as a whole number, at least 0, got {show(n)}. It comes after the layer: "
            f"{kind}(layer, 3)"
        )
