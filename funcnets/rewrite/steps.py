"""One step from a net to another that holds its arrays in other places.

A step is a layer in another's place and what makes its arrays of the old one's. Steps are made for the children first
(`within`), and follow each other (`Step.then`). A name stays unless what stands under it has moved, so the paths that
wrappers hold (`tie`, `Freeze`, `with_init`, `edit`) need no change; where one leads to what has moved, nothing below
its wrapper moves.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple

from funcnets.combinators import _Row
from funcnets.compose import Composite, Wrapper
from funcnets.layer import Layer
from funcnets.places import Place, _bare, with_children
from funcnets.record import Kind
from funcnets.rewrite.stacking import copies_of, stack
from funcnets.shapes import Tree, describe, is_empty, join


class Step(NamedTuple):
    """A layer in another's place.

    Attributes:
      layer: The new layer.
      move: Makes its parameters, or its state, of the old one's.
      moved: The paths, relative to the layer, whose arrays go elsewhere, and those where they go.
    """

    layer: Layer
    move: Callable[[Kind, Tree], Tree]
    moved: frozenset[str] = frozenset()

    def then(self, other: Step) -> Step:
        """This step, and then one from its layer; what that moves below a place that this one moved is moved once."""
        if not other.moved and other.layer is self.layer:
            return self
        return Step(other.layer, lambda kind, tree: other.move(kind, self.move(kind, tree)), self.moved | other.moved)


def stay(layer: Layer) -> Step:
    """The step that changes nothing."""
    return Step(layer, lambda kind, tree: tree)


def result(step: Step, params: Tree, state: Tree) -> Any:
    """The net after a step, with its trees as far as they are given."""
    params = None if params is None else step.move("params", params)
    return (step.layer, params) if state is None else (step.layer, params, step.move("states", state))


def within(place: Place, step: Callable[[Place], Step], *, strict: bool = False) -> Step:
    """A layer with a step made for each of its children; one that makes a child itself keeps that."""
    layer = place.layer
    if not isinstance(layer, Composite) or 0 in (layer._copies("params"), layer._copies("states")):
        return stay(layer)
    children, held = place.children(), _in_fields(layer)
    steps = [step(child) if i in held else stay(child.layer) for i, child in enumerate(children)]
    names = [name for name, _ in layer._entries()]
    for name, count in Counter(names).items():
        tied = [i for i in range(len(names)) if names[i] == name]
        if count > 1 and len({steps[i].moved for i in tied}) > 1:  # they would read different arrays
            for i in tied:
                steps[i] = stay(children[i].layer)
    moved = frozenset(join(name, path) for name, one in zip(names, steps, strict=True) for path in one.moved)
    new = [one.layer for one in steps]
    if all(one.layer is child.layer for one, child in zip(steps, children, strict=True)):
        return stay(layer)
    leading = layer._leading(moved) if isinstance(layer, Wrapper) and moved else None
    if leading is not None:
        if not strict:
            return stay(layer)
        raise ValueError(
            f"{place.path or 'the net'}: unroll takes a net in which no path leads into a Repeat, got {leading} of "
            f"{describe(layer)}. Unroll the net without it, and name the copies' own paths"
        )
    if isinstance(layer, _Row) and len(layer) == len(new):
        items = [one._replace(held=_bare(by)) for one, by in zip(layer._items(), new, strict=True)]
        made = layer._of(items)
    else:
        made = with_children(layer, new)
    by_name = dict(reversed(list(zip(names, steps, strict=True))))  # the first layer under a name says what it holds
    return Step(made, lambda kind, tree: _moved(place, by_name, kind, tree), moved)


def _in_fields(layer: Layer) -> set[int]:
    """Which of its children a layer holds in fields, so that others can stand there."""
    own = layer._settings()
    fields = [where for field, where in layer._members().items() if field in own]
    return {i for where in fields for i in ((where,) if isinstance(where, int) else where)}


def _moved(place: Place, steps: dict[str, Step], kind: Kind, tree: Tree) -> Tree:
    layer = place.layer
    if not layer._is_wrapper:
        moved = {name: steps[name].move(kind, held) if name in steps else held for name, held in tree.items()}
        return {name: held for name, held in moved.items() if not is_empty(held) or is_empty(tree[name])}
    move = steps[""].move
    n = layer._copies(kind)
    return move(kind, tree) if n is None else stack(move(kind, one) for one in copies_of(tree, n, place.path))
