"""Which layer of one net became which layer of another.

Two nets are gone through from their roots, and the children of two layers that belong together are matched in turn:

1. by a name that both have, and that is given in one of them: what is named is meant;
2. in order, so that as many layers as possible are equal, then as many as possible of one class, the more alike the
   better, and then as many as possible of one name;
3. what is left, across the order: equal layers, and then equal names.

Wrappers (Remat, Freeze, Repeat, ...), which add no name, do not count: a layer is what stands in them. A layer is
matched with one in the same parent only: what has been put into a new composite, or taken out of one, is a new layer.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import Any, NamedTuple

from funcnets.combinators import Repeat
from funcnets.compose import Composed, Composite
from funcnets.layer import Layer
from funcnets.leaves import Function, as_layer, is_child
from funcnets.shapes import below, join, names_of, show
from funcnets.values import comparable


class Node(NamedTuple):
    """A layer at its place in a net, without the wrappers around it.

    Attributes:
      path: Its path.
      name: Its name, the last of the path.
      given: Whether the name was given to it.
      number: Its place among its siblings.
      layer: The layer.
      around: The wrappers, the outermost first.
      children: What is in it.
      form: Something that is equal for layers that are equal but for wrappers in them.
    """

    path: str
    name: str
    given: bool
    number: int
    layer: Layer
    around: tuple[Layer, ...]
    children: tuple[Node, ...]
    form: Hashable

    def walk(self) -> Iterator[Node]:
        """Itself and all in it."""
        yield self
        for child in self.children:
            yield from child.walk()


class Match(NamedTuple):
    """Two layers that belong together; None where there is none.

    Attributes:
      old: The layer of the first net.
      new: That of the second.
      inside: The matches of what is in the two, in the order of the second.
    """

    old: Node | None
    new: Node | None
    inside: tuple[Match, ...] = ()

    def walk(self) -> Iterator[Match]:
        """Itself and all in it."""
        yield self
        for match in self.inside:
            yield from match.walk()


def two_nets(who: str, a: Any, b: Any, remedy: str) -> tuple[Layer, Layer]:
    """Two nets, layers or functions, as layers; raises for anything else."""
    for net in (a, b):
        if not is_child(net):
            raise TypeError(f"{who} takes two nets, layers or functions, got {show(net)}: {remedy}")
    return as_layer(a), as_layer(b)


def aligned(old: Layer, new: Layer) -> Match:
    """The layers of two nets, matched."""
    return _match(_node(old, "", "", True, 0), _node(new, "", "", True, 0))


def path_map(match: Match) -> Callable[[str], str | None]:
    """From paths in the first net, of layers or arrays, to those in the second; None for what has no place there."""
    assert match.old is not None
    there = {node.path for node in match.old.walk()}
    became: dict[str, str] = {}
    for one in match.walk():
        if one.old is not None and one.new is not None:
            became.setdefault(one.old.path, one.new.path)

    def moved(path: str) -> str | None:
        names = names_of(path)
        above = ("/".join(names[:i]) for i in reversed(range(len(names) + 1)))
        owner = next(place for place in above if place in there)  # the root is
        return join(became[owner], below(path, owner)) if owner in became else None

    return moved


def are_repeated(old: Node, new: Node) -> bool:
    """Whether layers that stood several times in the first net, alone or as a group, are copies in the second."""
    mine, theirs = _alone(old), _alone(new)
    fewer = {form for form, n in mine.items() if n > 1 and theirs[form] < n}
    repeated = [node for node in new.walk() if _is_repeat(node)]
    return any(
        node.form in fewer or (node.children and all(child.form in fewer for child in node.children))
        for node in repeated
    )


def _alone(node: Node) -> Counter[Hashable]:
    """How often there is each layer that no Repeat holds."""
    if _is_repeat(node):
        return Counter()
    return sum(map(_alone, node.children), Counter([node.form]))


def _is_repeat(node: Node) -> bool:
    return any(isinstance(wrapper, Repeat) and not wrapper.shared for wrapper in node.around)


# What is matched


def _node(layer: Layer, path: str, name: str, given: bool, number: int) -> Node:
    around: list[Layer] = []
    while layer._is_wrapper:
        around.append(layer)
        layer = layer._entries()[0][1]
    entries = zip(layer._entries(), _given(layer), strict=True)
    children = tuple(
        _node(child, join(path, called), called, mine, i) for i, ((called, child), mine) in enumerate(entries)
    )
    return Node(path, name, given, number, layer, tuple(around), children, _form(layer, children))


def _given(layer: Layer) -> list[bool]:
    """Whether the name of each child was given."""
    given = [True] * len(layer._entries())
    if isinstance(layer, Composite):
        parts = layer._parts()
        for field, where in layer._members().items():
            if isinstance(where, tuple):
                for item, i in zip(parts[field], where, strict=True):
                    given[i] = isinstance(item, tuple)
    return given


def _form(layer: Layer, children: tuple[Node, ...]) -> Hashable:
    if not children:
        return layer
    inside = tuple((child.name, child.form) for child in children)
    return kind_of(layer), comparable(tuple(own_settings(layer).items())), inside


def kind_of(layer: Layer) -> tuple[type, Any]:
    """What a layer is: its class, and the function if one says what it computes."""
    return type(layer), comparable(layer.function) if isinstance(layer, (Composed, Function)) else None


def own_settings(layer: Layer) -> dict[str, Any]:
    """What a layer is made of beside its children, by name."""
    return {name: held for name, held in layer._settings().items() if name not in layer._members()}


# Matching


def _match(old: Node, new: Node) -> Match:
    row = _row(old.children, new.children)
    partner = {b: a for a, b in row.items()}
    after = [-1]  # for each old child, the new one that it comes after, if it is gone
    for i in range(len(old.children)):
        after.append(row.get(i, after[-1]))
    found = [(j, 1, Match(None, node)) for j, node in enumerate(new.children) if j not in partner]
    found += [(after[i + 1], 2, Match(node, None)) for i, node in enumerate(old.children) if i not in row]
    found += [(j, 0, _match(old.children[i], new.children[j])) for i, j in row.items()]
    return Match(old, new, tuple(match for *_, match in sorted(found, key=lambda one: one[:2])))


def _row(old: Sequence[Node], new: Sequence[Node]) -> dict[int, int]:
    """Which of some siblings became which."""
    row: dict[int, int] = {}

    def left() -> tuple[list[Node], list[Node]]:
        taken = set(row.values())
        return [a for a in old if a.number not in row], [b for b in new if b.number not in taken]

    def pair_by(mark: Callable[[Node], Hashable], may: Callable[[Node, Node], bool]) -> None:
        mine, theirs = left()
        for a in mine:
            b = next((b for b in theirs if mark(a) == mark(b) and may(a, b)), None)
            if b is not None:
                row[a.number] = b.number
                theirs.remove(b)

    pair_by(lambda node: node.name, lambda a, b: a.given or b.given)
    row |= _in_order(*left())
    pair_by(lambda node: node.form, lambda a, b: not isinstance(a.layer, Function))
    pair_by(lambda node: node.name, lambda a, b: True)
    return row


Score = tuple[int, ...]


def _in_order(old: list[Node], new: list[Node]) -> dict[int, int]:
    """The best matching that keeps the order."""
    zero: Score = (0, 0, 0, 0, 0)
    best: list[list[Score]] = [[zero] * (len(new) + 1) for _ in range(len(old) + 1)]  # of what comes from there on
    scores = [[_likeness(a, b) for b in new] for a in old]
    for i in reversed(range(len(old))):
        for j in reversed(range(len(new))):
            best[i][j] = max(best[i + 1][j], best[i][j + 1])
            score = scores[i][j]
            if score is not None:
                best[i][j] = max(best[i][j], _sum(score, best[i + 1][j + 1]))
    row: dict[int, int] = {}
    i = j = 0
    while i < len(old) and j < len(new):
        score = scores[i][j]
        if score is not None and best[i][j] == _sum(score, best[i + 1][j + 1]):
            row[old[i].number] = new[j].number
            i, j = i + 1, j + 1
        elif best[i][j] == best[i + 1][j]:
            i += 1
        else:
            j += 1
    return row


def _sum(a: Score, b: Score) -> Score:
    return tuple(x + y for x, y in zip(a, b, strict=True))


def _likeness(a: Node, b: Node) -> Score | None:
    """How well two layers match, in order of weight: equal, of one class, alike, an equal function, of one name."""
    named = int(a.name == b.name)
    if a.form == b.form:
        return (0, 0, 0, 1, named) if isinstance(a.layer, Function) else (1, 0, 0, 0, named)
    one_kind = type(a.layer) is type(b.layer) and a.layer._auto_name() == b.layer._auto_name()
    if not one_kind or (a.given and b.given) or isinstance(a.layer, Function):
        return None  # names that were given to both tell them apart
    inside = Counter(child.form for child in a.children) & Counter(child.form for child in b.children)
    mine, theirs = own_settings(a.layer), own_settings(b.layer)
    alike = sum(comparable(mine[name]) == comparable(theirs[name]) for name in mine.keys() & theirs.keys())
    return 0, 1, inside.total() + alike, 0, named
