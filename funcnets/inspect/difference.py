"""What has changed from one net to another, told by layers, fields and wrappers.

Layers are matched as `funcnets.rewrite.migrate` matches them (see `funcnets.rewrite.alignment`), so a layer that only
has another automatic name, since one was put before it, has moved and not changed. Nets are equal just when there is no
change.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from difflib import SequenceMatcher
from typing import Any, Literal, NamedTuple

from funcnets.compose import Composite
from funcnets.layer import Layer
from funcnets.printing import bracketed
from funcnets.rewrite.alignment import Match, Node, aligned, kind_of, own_settings, two_nets
from funcnets.shapes import ABSENT, short
from funcnets.values import code, comparable

What = Literal["added", "removed", "moved", "named", "reordered", "class", "field", "wrapped", "unwrapped"]


class Change(NamedTuple):
    """One thing that two nets differ in.

    Attributes:
      what: "added", "removed" (a layer with all that is in it), "moved" (it has another path), "named" (its name is now
        given, or automatic), "reordered" (the children of a layer), "class" (another kind of layer in its place),
        "field", "wrapped", "unwrapped".
      path: Where, in the second net; in the first for what was removed.
      old: What was there: a layer, a path, names, the content of a field; None for nothing.
      new: What is there now.
      field: The name of the field.
    """

    what: What
    path: str
    old: Any = None
    new: Any = None
    field: str = ""

    def __str__(self) -> str:
        place = self.path or "(the net)"
        if self.what == "field":
            place = f"{self.path}.{self.field}" if self.path else self.field
        show = _SHOWN.get(self.what, code)
        sides = [show(side) for side in (self.old, self.new) if side is not None or self.what == "field"]
        cells = [f"{self.what:<9}", *([] if self.what == "moved" else [place]), " -> ".join(map(_short, sides))]
        return "  ".join(cells)


def _without_body(wrapper: Layer) -> str:
    """A wrapper's own code, with dots in the place of what it stands around."""
    (field,) = wrapper._members()
    body = getattr(wrapper, field)
    opening, arguments, closing = wrapper._call()
    return bracketed(opening, ["..." if one.held is body else one.code for one in arguments], closing)


_SHOWN: dict[str, Callable[[Any], str]] = {
    "moved": str,
    "named": str,
    "reordered": ", ".join,
    "wrapped": _without_body,
    "unwrapped": _without_body,
}


def _short(text: str) -> str:
    return short(" ".join(text.split()), 60)


@dataclasses.dataclass(frozen=True, repr=False)
class Difference:
    """What two nets differ in: false if they are equal; printed, a line for each change.

    Attributes:
      rows: The changes, in the order of the second net.
    """

    rows: tuple[Change, ...]

    def __bool__(self) -> bool:
        return bool(self.rows)

    def __repr__(self) -> str:
        return str(self) or "no difference"

    def __str__(self) -> str:
        return "\n".join(map(str, self.rows))


def diff(net_a: Layer | Callable[..., Any], net_b: Layer | Callable[..., Any]) -> Difference:
    """What has changed from one net to another.

    Args:
      net_a: The net as it was, a layer or function.
      net_b: The net as it is.

    Returns:
      The changes, as `rows`; printed, a line for each. Between equal nets there are none.

    Raises:
      TypeError: Something that is no net, such as parameters.

    Example:
      >>> net = fn.Sequential(fn.Dense(8), jax.nn.relu, fn.Dense(2))
      >>> new = fn.Sequential(fn.Dense(9), jax.nn.relu, fn.Dropout(0.5), fn.Freeze(fn.Dense(2)))
      >>> print(fn.inspect.diff(net, new))
      field      dense_0.features  8 -> 9
      added      dropout_0  Dropout(0.5)
      wrapped    dense_1  Freeze(...)
      >>> bool(fn.inspect.diff(net, net))
      False
    """
    remedy = "fn.inspect.diff(net, other). For two trees of parameters there is fn.params.difference"
    return Difference(tuple(_changes(aligned(*two_nets("diff", net_a, net_b, remedy)))))


def _changes(match: Match) -> Iterator[Change]:
    old, new = match.old, match.new
    if new is None:
        yield from (Change("removed", node.path, old=_whole(node)) for node in (old,) if node)
        return
    if old is None:
        yield Change("added", new.path, new=_whole(new))
        return
    if old.name != new.name:
        yield Change("moved", new.path, old.path, new.path)
    elif old.given != new.given:
        yield Change("named", new.path, *("given" if node.given else "automatic" for node in (old, new)))
    yield from _wrappers(old, new)
    if kind_of(old.layer) != kind_of(new.layer):
        yield Change("class", new.path, old.layer, new.layer)
    else:
        yield from _fields(new.path, old.layer, new.layer)
    if _makes_children(old.layer) or _makes_children(new.layer):
        return  # of its fields, which have been compared
    yield from _order(new.path, match.inside)
    for one in match.inside:
        yield from _changes(one)


def _whole(node: Node) -> Layer:
    return node.around[0] if node.around else node.layer


def _wrappers(old: Node, new: Node) -> Iterator[Change]:
    kinds = [[kind_of(wrapper) for wrapper in node.around] for node in (old, new)]
    for what, i, i_end, j, j_end in SequenceMatcher(None, *kinds, autojunk=False).get_opcodes():
        before, after = old.around[i:i_end], new.around[j:j_end]
        if what == "equal":
            for a, b in zip(before, after, strict=True):
                yield from _fields(new.path, a, b)
        else:
            yield from (Change("unwrapped", new.path, old=wrapper) for wrapper in before)
            yield from (Change("wrapped", new.path, new=wrapper) for wrapper in after)


def _fields(path: str, old: Layer, new: Layer) -> Iterator[Change]:
    mine, theirs = old._settings(), new._settings()
    for name in dict.fromkeys([*_told(old), *_told(new)]):
        a, b = mine.get(name, ABSENT), theirs.get(name, ABSENT)
        if comparable(a) != comparable(b):
            yield Change("field", path, a, b, name)


def _told(layer: Layer) -> list[str]:
    """The fields that are told as such: those that are no children, and those that children are made of."""
    return list(layer._settings() if _makes_children(layer) else own_settings(layer))


def _makes_children(layer: Layer) -> bool:
    return isinstance(layer, Composite) and not layer._members().keys() <= layer._settings().keys()


def _order(path: str, inside: tuple[Match, ...]) -> Iterator[Change]:
    both = [(one.old.number, one.new.name) for one in inside if one.old is not None and one.new is not None]
    before, after = (tuple(name for _, name in row) for row in (sorted(both), both))
    if before != after:
        yield Change("reordered", path, before, after)
