"""From one net value to another: find layers in a net, and replace them.

Nets never change; these functions return new ones. A layer is spoken of by the pattern of its path (see
`funcnets.rules`), by its class, or by an equal layer or function. Where wrappers stand around a layer (Remat,
Residual, ...), which add no name, a path leads to the outermost of them, as `net.at(path)` does; fields given for a
path are those of the outermost that has them.

Names stay as they are: where a new layer in a row would be named otherwise, the row keeps the old names as given ones,
so the parameters of what was not replaced still fit. (Functions have none, and go by their own names.) A field whose
default makes a child, as those of `fn.Attention` do, holds the default again once its child is that very one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple, cast

from funcnets.bound import Bound
from funcnets.compose import Composite
from funcnets.layer import Apply, Init, Layer
from funcnets.leaves import Function, as_layer, is_child
from funcnets.rules import chosen, matches
from funcnets.shapes import describe, join, near, show
from funcnets.values import code, fields_of

What = str | type[Layer] | Layer | Callable[..., Any]
"""What layers are spoken of by: a pattern of paths, a class, an equal layer, or the function that a layer is."""
New = Layer | Callable[[Layer], Any] | Mapping[str, Any]
"""What a layer is replaced by: another layer, a function from the old one to the new, or new values of its fields."""


class Place(NamedTuple):
    """A layer at its place in a net.

    Attributes:
      path: Its path.
      layer: The layer.
      around: The wrappers around it, which have the same path.
    """

    path: str
    layer: Layer
    around: tuple[Layer, ...] = ()

    def children(self) -> list[Place]:
        """The places of its children."""
        around = (*self.around, self.layer) if self.layer._is_wrapper else ()
        return [Place(join(self.path, name), child, around) for name, child in self.layer._entries()]


def walk(place: Place) -> Iterator[Place]:
    """A place and all below it, parents first."""
    yield place
    for child in place.children():
        yield from walk(child)


def as_net(owner: str, net: Any) -> Layer:
    """What a function of nets was given for one, a layer or function, as a layer; raises for anything else."""
    if not is_child(net) or isinstance(net, (Bound, Init, Apply)):
        got = f"the class {net.__name__}" if isinstance(net, type) else show(net)
        raise TypeError(
            f"{owner} takes a net first, a layer or function, got {got}: give the layer itself, {owner}(net, ...), "
            "before its parameters"
        )
    return as_layer(net)


def find(net: Layer, what: What | tuple[What, ...] | list[What]) -> dict[str, Layer]:
    """The layers of a net that a pattern, a class, or an equal layer or function speaks of, by path.

    Args:
      net: The net.
      what: A pattern such as "**/dense_0", a class, a layer, or a function; or several of these.

    Returns:
      {path: layer}, in the order of the net; empty where there is none. Where a wrapper and its child both answer, the
      wrapper.

    Raises:
      TypeError: Something that is no net, or that speaks of no layers.

    Example:
      >>> net = fn.Sequential(fn.Dense(8), jax.nn.relu, ("head", fn.Dense(2)))
      >>> fn.rewrite.find(net, fn.Dense)
      {'dense_0': Dense(8), 'head': Dense(2)}
    """
    several = _several(what)
    for one in several:
        _check_what("find", one)
    found: dict[str, Layer] = {}
    for place in walk(Place("", as_net("find", net))):
        if any(_speaks_of(one, place) for one in several):
            found.setdefault(place.path, place.layer)
    return found


def _several(what: Any) -> tuple[Any, ...]:
    return tuple(what) if isinstance(what, (tuple, list)) else (what,)


def _check_what(owner: str, what: Any) -> None:
    """Raises for what cannot speak of layers."""
    if not isinstance(what, (str, type)) and not is_child(what):
        raise TypeError(
            f"{owner} takes layers by a pattern of paths, a class of layers, an equal layer or a function, or several "
            f"of these, got {code(what)}: find(net, '**/dense_0'), find(net, Dense)"
        )


def _speaks_of(what: Any, place: Place) -> bool:
    if isinstance(what, str):
        return not place.around and matches(what, place.path)
    if isinstance(what, type):
        return isinstance(place.layer, what)
    return place.layer == as_layer(what)


def replace(net: Layer, changes: Mapping[What | tuple[What, ...], New]) -> Layer:
    """A net with other layers in the places that rules speak of.

    Children are replaced before the layers that hold them, and each layer by the first rule that speaks of it.

    Args:
      net: The net.
      changes: From a pattern, class, layer or function, or a tuple of several, to a layer, a function old layer → new
        layer, or a mapping from fields of the layer to new values.

    Raises:
      ValueError: A rule that speaks of no layer, or names a field that the layer does not have.
      TypeError: Something that is no net; a replacement that is no layer or function.

    Example:
      >>> net = fn.Sequential(fn.Dense(8), jax.nn.relu, fn.Dense(2))
      >>> fn.rewrite.replace(net, {"dense_1": {"features": 5}, jax.nn.relu: lambda _: jax.nn.gelu})
      Sequential(Dense(8), jax.nn.gelu, Dense(5))
    """
    net = as_net("replace", net)
    if not isinstance(changes, Mapping):
        raise TypeError(
            f"replace takes a mapping from layers to what stands in their place, got {show(changes)}: "
            "replace(net, {'head': fn.Dense(5)})"
        )
    single: dict[Any, New] = {}
    for what, by in changes.items():
        for one in _several(what):
            _check_what("replace", one)
            if single.setdefault(one, by) is not by:
                raise ValueError(
                    f"the rule for {code(one)} does nothing, as another before it is for that too: keep one"
                )
    places: dict[str, list[Place]] = {}
    for place in walk(Place("", net)):
        places.setdefault(place.path, []).append(place)
    # Raises for a rule that speaks of none.
    there = lambda what, path: any(_speaks_of(what, place) for place in places[path])  # noqa: E731
    chosen(single, places, "layer", there, must_fit=lambda what: True)

    def change(place: Place, new: Layer) -> Layer:
        for what, by in single.items():
            if isinstance(what, str) and isinstance(by, Mapping):
                if matches(what, place.path) and _is_meant(by, place):
                    return _with_fields(new, by, place.path)
            elif _speaks_of(what, place):
                return _changed(new, by, place.path)
        return new

    return rebuilt(Place("", net), change)


def _is_meant(fields: Mapping[str, Any], place: Place) -> bool:
    """Whether fields given for a path are this layer's: the outermost there that has them, or else the innermost."""
    having = [layer for layer in (*place.around, place.layer) if fields.keys() <= layer._settings().keys()]
    return having == [place.layer] or (not having and not place.layer._is_wrapper)


def _changed(layer: Layer, by: New, path: str) -> Layer:
    if isinstance(by, Layer):
        return by
    if isinstance(by, Mapping):
        return _with_fields(layer, by, path)
    wanted = (
        f"{path or 'the net'}: a replacement is a layer, a function old layer -> new layer, or new values of fields"
    )
    if not callable(by):
        raise TypeError(f"{wanted}, got {show(by)}")
    if isinstance(by, type) and issubclass(by, Layer) and not by._is_wrapper:
        raise TypeError(f"{wanted}, got the class {by.__name__}: write {by.__name__}(...) for that layer in its place")
    try:
        new = cast(Callable[[Layer], Any], by)(layer)
    except TypeError as error:  # a function of arrays, most likely
        raise TypeError(
            f"{wanted}; {code(by)} of {describe(layer)} raised a TypeError. For {code(by)} itself in place of a layer, "
            f"write lambda _: {code(by)}"
        ) from error
    if not is_child(new):
        raise TypeError(
            f"{wanted}; {code(by)} returned {new!r}. For a function in place of a layer, write lambda _: the_function"
        )
    return as_layer(new)


def _with_fields(layer: Layer, fields: Mapping[str, Any], path: str) -> Layer:
    known = layer._settings()
    unknown = [name for name in fields if name not in known]
    if unknown:
        raise ValueError(
            f"{path or 'the net'}: {describe(layer)} has no field {unknown[0]!r}{near(unknown[0], known)}; it has "
            f"{', '.join(known) or 'none'}"
        )
    return layer._with(fields)


# Rebuilding


def rebuilt(place: Place, change: Callable[[Place, Layer], Layer]) -> Layer:
    """A layer with all that is in it changed, and then itself: change(old, old with new children) → new."""
    layer = place.layer
    if not isinstance(layer, Composite):
        return change(place, layer)
    children = place.children()
    new = [rebuilt(child, change) for child in children]
    same = all(a.layer is b for a, b in zip(children, new, strict=True))
    return change(place, layer if same else with_children(layer, new))


def with_children(net: Composite, children: list[Layer]) -> Layer:
    """A composite with other children in the places of its own, under the same names."""
    old = net._entries()
    names = [name for name, _ in old]
    parts = net._parts()
    for named in (False, True):  # names are given where automatic ones would come out otherwise
        changed: dict[str, Any] = {}
        for field, where in net._members().items():
            places = (where,) if isinstance(where, int) else where
            if not named and all(children[i] is old[i][1] for i in places):
                continue
            if isinstance(where, int):
                changed[field] = None if _makes(net, field, children[where]) else _bare(children[where])
            else:
                items = zip(cast(tuple[Any, ...], parts[field]), where, strict=True)
                changed[field] = tuple(_item(item, names[i], children[i], named) for item, i in items)
        try:
            new = net._with_parts(changed)
        except ValueError:
            if named:
                raise
            continue  # an automatic name met a given one
        pairs = zip(old, new._entries(), strict=True)
        if all(a == b or (isinstance(f, Function) and isinstance(g, Function)) for (a, f), (b, g) in pairs):
            break
    return new


def _makes(net: Composite, field: str, child: Layer) -> bool:
    """Whether a composite makes this very child by itself, where the field has its default of None."""
    if not any(one.name == field and one.default is None for one in fields_of(type(net))):
        return False
    try:
        alone = net._with({field: None})
    except (TypeError, ValueError):
        return False  # beside its other fields it takes no None
    where = alone._members().get(field)
    return isinstance(where, int) and alone._entries()[where][1] == child


def _item(item: Any, name: str, child: Layer, named: bool) -> Any:
    return (name, _bare(child)) if named or isinstance(item, tuple) else _bare(child)


def _bare(layer: Layer) -> Any:
    """A layer as it is written: a function as itself."""
    return layer.function if isinstance(layer, Function) else layer
