"""Composites: layers made of layers, with a forward function in plain Python.

    @fn.compose(hidden=fn.Dense(256), out=fn.Dense(10))
    def mlp(m, x):
        return m.out(jax.nn.relu(m.hidden(x)))

or, with fields of its own, a class:

    class Mlp(fn.Composite):
        hidden: fn.Layer
        out: fn.Layer = fn.Dense(10)

        def forward(self, m, x):
            return m.out(jax.nn.relu(m.hidden(x)))

`m` is the composite at its place in a running net (`funcnets.bound.Bound`): its attributes are the children, bound to
their parameters, and `m.train`, `m.key()`, `m.params`, `m.state`. A child called twice is the same child: one set of
parameters. Every field that holds a layer or a function is a child of that name. In a tuple of layers, or of (name,
layer) pairs, a given name is kept, and the others are named by their class and a count: `dense_0`, `dense_1`. All
other fields are hyperparameters.
"""

from __future__ import annotations

import functools
import inspect
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, ClassVar

from funcnets.bound import Bound
from funcnets.layer import Layer
from funcnets.leaves import as_layer, function_name, is_child
from funcnets.record import Arrays, Kind
from funcnets.scope import Scope
from funcnets.shapes import Tree, check_name, describe, join, near, show
from funcnets.signatures import Wants, check_arity, modes_of, wants_of
from funcnets.values import Argument, Value, code

_RESERVED = ("train", "key", "params", "state")


def _check_forward(forward: Any, owner: str) -> None:
    """Raises for a forward that would have the mode, a key or a state as arguments, as a leaf's does."""
    named = modes_of(forward) if inspect.isfunction(forward) else []
    if named:
        instead = {"train": "m.train", "key": "m.key()", "state": "m.state"}
        raise TypeError(
            f"{owner} is a composite, whose forward has {', '.join(named)} from m: write "
            f"{', '.join(instead[name] for name in named)}"
        )


class Composite(Layer):
    """A layer with children; a subclass writes `forward(self, m, *inputs)`, and its annotated names are its fields.

    Fields that hold layers or functions are children. In forward, m is the composite with its parameters:

    - `m.name(x)` calls a child; `m.name` of another field is its value.
    - `m.train` is the mode, `m.key()` a key for randomness of one's own (another at each call).
    - `m.params` and `m.state` are the composite's own parameters and state, `m.child.params` and `m.child.state` a
      child's. A state may be set.
    - `m.child(x, params=..., state=..., key=..., train=...)` gives a child others than the pass's; with a state it
      returns (y, new state).

    Example:
      >>> class Encoder(fn.Composite):
      ...     mean: fn.Layer
      ...     log_var: fn.Layer
      ...     def forward(self, m, x):
      ...         mean, deviation = m.mean(x), jnp.exp(m.log_var(x) / 2)
      ...         return mean + deviation * jax.random.normal(m.key(), mean.shape) if m.train else mean
      >>> net, x = Encoder(fn.Dense(2), fn.Dense(2)), jnp.ones((3, 5))
      >>> params = net.init(jax.random.key(0), x)
      >>> net.apply(params, x, key=jax.random.key(1), train=True).shape
      (3, 2)
    """

    @classmethod
    def _check_author(cls) -> None:
        for name in ("params", "states"):
            if name in cls.__dict__:
                raise TypeError(
                    f"{cls.__name__} is a composite and declares {name}: its arrays are its children's; for one of "
                    f"its own, "
                    "a field that holds fn.Param(shape, initializer)"
                )
        if "forward" in cls.__dict__:
            _check_forward(cls.__dict__["forward"], cls.__name__)

    def forward(self, m: Any, *inputs: Any, **kwargs: Any) -> Any:
        raise NotImplementedError(f"{type(self).__name__} has no forward: write def forward(self, m, x)")

    def _parts(self) -> Mapping[str, Any]:
        """What holds the children, by name: the settings, unless children are made of them."""
        return self._settings()

    def _with_parts(self, changed: Mapping[str, Any]) -> Layer:
        """The same composite with other children; one that makes its children gives another that holds them."""
        made = [name for name in changed if name not in self._settings()]
        if made:
            raise TypeError(
                f"{describe(self)} makes its child {made[0]!r} itself, and has no field to hold another: replace or "
                f"wrap the whole {type(self).__name__}, or change its fields"
            )
        return self._with(changed)

    def _settled(self) -> None:
        super()._settled()
        self._set_children(*_name_children(self))

    def _set_children(self, entries: list[tuple[str, Layer]], members: dict[str, int | tuple[int, ...]]) -> None:
        by_name: dict[str, list[Layer]] = {}
        for name, layer in entries:
            by_name.setdefault(name, []).append(layer)
        object.__setattr__(self, "_children", (tuple(entries), members, by_name))

    def _entries(self) -> tuple[tuple[str, Layer], ...]:
        if "_children" not in self.__dict__:
            raise TypeError(
                f"{type(self).__name__} has an __init__ of its own, which makes no children: a composite's children "
                "are its annotated fields, `hidden: fn.Layer`; what depends on a width is built by a function that "
                "returns the composite"
            )
        return self.__dict__["_children"][0]

    def _members(self) -> dict[str, int | tuple[int, ...]]:
        return self.__dict__["_children"][1]

    def _run(self, scope: Scope, inputs: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        try:
            output = self.forward(Bound(scope), *inputs, **kwargs)
        except TypeError:
            check_arity(scope, self._wants.inputs, inputs, kwargs)  # if that is what it is, told better
            raise
        if isinstance(output, Bound):
            raise TypeError(
                f"{scope.place}: forward returns the layer {output!r} itself: return what it gives, m.name(x)"
            )
        return output

    def _strangers(self, kind: Kind, tree: Tree, path: str) -> Iterator[str]:
        if not isinstance(tree, dict):
            yield path
            return
        for name, inner in tree.items():
            layers: list[Layer] = self.__dict__["_children"][2].get(name, [])
            place = join(path, str(name))
            # Under a name that is shared, one layer may read what another does not.
            refused = [list(layer._strangers(kind, inner, place)) for layer in layers]
            yield from (p for p in refused[0] if all(p in others for others in refused)) if refused else [place]

    def _freezes(self) -> bool:
        return self._freezes_below

    @functools.cached_property
    def _freezes_below(self) -> bool:
        return any(layer._freezes() for _, layer in self._entries())

    def _is_frozen(self, path: str) -> bool:
        first, _, rest = path.partition("/")
        readers = self.__dict__["_children"][2].get(first, [])
        return bool(readers) and all(layer._is_frozen(rest) for layer in readers)

    @property
    def _random_paths(self) -> tuple[str, ...]:
        return self._paths_below

    @functools.cached_property
    def _paths_below(self) -> tuple[str, ...]:
        inner = ((name, path) for name, layer in self._entries() for path in layer._random_paths)
        return tuple(dict.fromkeys(join(name, path) for name, path in inner))

    def __getitem__(self, which: int | str) -> Layer:
        """A child by number or name."""
        if not isinstance(which, (int, str)):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError(f"a child is reached by its number or name, got {which!r}")
        return self._child(which)[1]

    def __setitem__(self, which: object, new: object) -> None:
        raise TypeError(
            f"{describe(self)} cannot be changed in place: values never change. Make a new one: "
            f"fn.rewrite.replace(net, {{{which!r}: layer}}), with the child's path"
        )

    def at(self, path: str) -> Layer:
        """The layer at a path such as "encoder/dense_0"."""
        here: Layer = self
        for name in path.split("/") if path else []:
            here = here._child(name)[1]
        return here


class Wrapper(Composite):
    """A composite with one child that it stands in for: it adds no name to a path, and is called by its child's name.

    A wrapper whose forward needs numbers says in `outline` what it computes as far as shapes go. One that changes its
    child's arrays says how:

    - `_copies(kind)`: it holds that many copies, stacked along a leading axis.
    - `_seen(tree)`: the child sees its parameters so, array by array; any part of them is given.
    - `_lift(kind, arrays)` and `_view(params)`, each the other's inverse: it declares and holds other arrays than the
      child, whose parameters are a function of them all.
    - `holds(path)`: the child's parameter at this path takes no gradient.
    - `_leading(places)`: it holds a path, or a pattern, that leads to one of these places in its child, or may do so.
    """

    _is_wrapper: ClassVar[bool] = True

    def _settled(self) -> None:
        owner, parts = type(self).__name__, self._parts()
        for name in parts:
            _check_field(name, owner)
        layers = [
            name
            for name, held in parts.items()
            if isinstance(held, Layer) or (isinstance(held, tuple) and _holds_layer(held))
        ]
        name = layers[0] if layers else next((name for name, held in parts.items() if is_child(held)), None)
        if name is None or not is_child(getattr(self, name)):
            held = code(next(iter(parts.values()))) if parts else "no field"
            raise TypeError(f"{owner} is a wrapper, which takes a layer or function, got {held}")
        if len(layers) > 1:
            raise TypeError(f"{owner} is a wrapper, which has one child, and got {len(layers)}; subclass fn.Composite")
        self._set_children([("", as_layer(getattr(self, name)))], {name: 0})

    def holds(self, path: str) -> bool:
        """Whether the child's parameter at this path takes no gradient here."""
        return False

    def _freezes(self) -> bool:
        return type(self).holds is not Wrapper.holds or super()._freezes()

    def _is_frozen(self, path: str) -> bool:
        return self.holds(path) or self._entries()[0][1]._is_frozen(path)

    def _leading(self, places: frozenset[str]) -> str | None:
        """What it holds, as code, that leads to one of these places in its child, so that none can go elsewhere."""
        return None

    def _outline(self, scope: Scope, inputs: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return self.outline(Bound(scope), *inputs, **kwargs)

    def _view(self, params: Tree) -> Tree:
        return self._seen(params)

    def _lift(self, kind: Kind, arrays: Arrays) -> Arrays:
        n = self._copies(kind)
        return arrays if n is None else {path: one.stacked(n) for path, one in arrays.items()}

    def outline(self, m: Any, *inputs: Any, **kwargs: Any) -> Any:
        """The forward as far as shapes go, with a child that stands for any of its copies."""
        return self.forward(m, *inputs, **kwargs)

    def _child(self, which: int | str) -> tuple[str, Layer]:
        inner = self._entries()[0][1]
        if which == 0 and not inner._entries():
            return self._entries()[0]
        return inner._child(which)

    def _strangers(self, kind: Kind, tree: Tree, path: str) -> Iterator[str]:
        return self._entries()[0][1]._strangers(kind, tree, path)

    def _is_bare(self) -> bool:
        return self._entries()[0][1]._is_bare()

    def _auto_name(self) -> str:
        return self._entries()[0][1]._auto_name()


# Names


def _name_children(net: Composite) -> tuple[list[tuple[str, Layer]], dict[str, int | tuple[int, ...]]]:
    found: list[tuple[str | None, Layer]] = []  # None: to be named
    members: dict[str, int | tuple[int, ...]] = {}
    owner = type(net).__name__
    for name, held in net._parts().items():
        _check_field(name, owner)
        items = list(_items(held, f"{owner}.{name}"))
        if is_child(held):
            members[name] = len(found)
            found.append((name, as_layer(held)))
        elif items:
            members[name] = tuple(range(len(found), len(found) + len(items)))
            found += items
    for name, _ in found:
        if name is not None:
            check_name(name, owner)
            _check_field(name, owner)
    return _with_names(found, owner), members


def _items(held: Any, where: str) -> Iterator[tuple[str | None, Layer]]:
    """The layers of a tuple of layers or (name, layer) pairs; nothing for a hyperparameter."""
    if not isinstance(held, tuple) or not _holds_layer(held):
        return
    if _is_pair(held):
        raise TypeError(
            f"{where} holds the one pair {code(held)}: name a layer by its field, or write a tuple of pairs"
        )
    for item in held:
        if is_child(item):
            yield None, as_layer(item)
        elif _is_pair(item):
            yield item[0], as_layer(item[1])
        else:
            raise TypeError(
                f"{where} takes layers and (name, layer) pairs, got {code(item)}: a group of layers in it would be "
                f"lost; "
                "make it one layer, fn.Sequential(...) or a composite of its own"
            )


def _is_pair(item: Any) -> bool:
    return isinstance(item, tuple) and len(item) == 2 and isinstance(item[0], str) and is_child(item[1])


def _holds_layer(held: Any) -> bool:
    return is_child(held) or (isinstance(held, tuple) and any(map(_holds_layer, held)))


def _check_field(name: str, owner: str) -> None:
    if name in _RESERVED or name.startswith("_"):
        raise ValueError(
            f"{owner}: the name {name!r} is taken: {', '.join(_RESERVED)} and names with a leading _ are the pass's "
            f"own on m"
        )


def _with_names(found: list[tuple[str | None, Layer]], owner: str) -> list[tuple[str, Layer]]:
    given = {name: layer for name, layer in found if name is not None}
    counts: Counter[str] = Counter()
    entries: list[tuple[str, Layer]] = []
    for name, layer in found:
        if name is None:
            kind = layer._auto_name()
            name = f"{kind}_{counts[kind]}"
            counts[kind] += 1
            if name in given:
                raise ValueError(
                    f"{owner}: the name {name!r} is given to {describe(given[name])} and is also the automatic name of "
                    f"{describe(layer)}. Give one of them another name: (name, layer)"
                )
        entries.append((name, layer))
    return entries


def check_children(owner: str, children: tuple[Any, ...]) -> tuple[Any, ...]:
    """The children that a combinator was called with; raises for what cannot be one."""
    for child in children:
        held = child[1] if isinstance(child, (list, tuple)) and len(child) == 2 and isinstance(child[0], str) else child
        if isinstance(held, type) and issubclass(held, Value):
            raise TypeError(f"{owner} takes layers, got the class {held.__name__}: write {held.__name__}(...)")
        if isinstance(held, tuple) and len(held) == 2 and isinstance(held[1], str):
            raise TypeError(f"{owner} takes names as (name, layer), got {show(held)}: put the name first")
        if isinstance(held, (list, tuple)):
            raise TypeError(
                f"{owner} takes its layers one by one, and names as (name, layer), got {show(child)}: write "
                f"{owner}(*layers)"
            )
        if not is_child(held):
            raise TypeError(
                f"{owner} takes layers, functions, and (name, layer) pairs, got {show(child)}: give the function "
                f"itself, jax.nn.relu, neither its name nor what it returns; leave None out"
            )
    return children


# Composites from functions


class Composed(Composite):
    """A composite of a forward function and named parts; made by `compose`."""

    function: Callable[..., Any]
    parts: tuple[tuple[str, Any], ...]

    def __init__(self, function: Callable[..., Any], parts: Iterable[tuple[str, Any]] = (), **changed: Any) -> None:
        known = dict(parts)
        unknown = sorted(changed.keys() - known.keys())
        if unknown:
            listed = ", ".join(known) or "none"
            raise TypeError(
                f"{function_name(function)} has no part {unknown[0]!r}{near(unknown[0], known)}; it has {listed}"
            )
        self._fill(function=function, parts=tuple({**known, **changed}.items()))

    def __post_init__(self) -> None:
        if not callable(self.function) or isinstance(self.function, Value):
            raise TypeError(f"compose decorates a forward function (m, *inputs), got {code(self.function)}")
        _check_forward(self.function, function_name(self.function))
        if {"function", "parts"} & dict(self.parts).keys():
            raise ValueError("a part cannot be named 'function' or 'parts', which the composite itself has")

    @property
    def __wrapped__(self) -> Callable[..., Any]:
        return self.function

    def forward(self, m: Any, *inputs: Any, **kwargs: Any) -> Any:
        return self.function(m, *inputs, **kwargs)

    def __getattr__(self, name: str) -> Any:
        parts: dict[str, Any] = dict(self.__dict__.get("parts", ()))
        if name in parts:
            return parts[name]
        raise AttributeError(
            f"{function_name(self.__dict__.get('function'))} has no part {name!r}{near(name, parts)}; "
            f"it has {', '.join(parts) or 'none'}"
        )

    def _call(self) -> tuple[str, list[Argument], str]:
        parts = [Argument(held, name, f".{name}") for name, held in self.parts]
        return "compose(", parts, f")({code(self.function)})"

    @property
    def _wants(self) -> Wants:
        return wants_of(self.function, skip=1)

    def _settings(self) -> Mapping[str, Any]:
        return dict(self.parts)

    def _with(self, changed: Mapping[str, Any]) -> Composed:
        return super()._with({"parts": tuple({**dict(self.parts), **changed}.items())})

    def _hyperparameters(self) -> tuple[str, ...]:
        return tuple(name for name, _ in self.parts)

    def _auto_name(self) -> str:
        return function_name(self.function)


def compose(*functions: Any, **parts: Any) -> Callable[[Callable[..., Any]], Composed]:
    """A decorator that makes a composite of a forward function `(m, *inputs)` and its parts.

    Parts that are layers or functions are children, `m.name(...)`; all others are hyperparameters, `m.name`; what else
    m has (`m.train`, `m.key()`, `m.state`, ...) is told at `Composite`. A forward
    defined again is another one to JAX: a factory therefore dresses a function of the module,
    `fn.compose(...)(forward)`. Given a composite, it dresses the same forward with these parts.

    Args:
      **parts: The children and hyperparameters by name.

    Raises:
      TypeError: Used without parentheses, or on something else than a function.
      ValueError: A name that cannot be.

    Example:
      >>> @fn.compose(hidden=fn.Dense(256), out=fn.Dense(10))
      ... def mlp(m, x):
      ...     return m.out(jax.nn.relu(m.hidden(x)))
      >>> params = mlp.init(jax.random.key(0), jnp.ones((2, 20)))
      >>> params["out"]["kernel"].shape
      (256, 10)
    """
    if functions:
        raise TypeError("compose takes its parts by name: @fn.compose(hidden=fn.Dense(256)) above def forward(m, x)")

    def decorate(forward: Callable[..., Any]) -> Composed:
        return Composed(forward.function if isinstance(forward, Composed) else forward, parts.items())

    return decorate
