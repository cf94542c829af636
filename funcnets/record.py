"""What a plan notes: which layer declares which arrays under which name, and every call."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from funcnets.random import Request
from funcnets.shapes import Tree, below, check_name, describe, join, names_of, nested, show

if TYPE_CHECKING:
    from funcnets.layer import Layer

Kind = Literal["params", "states"]
KINDS: tuple[Kind, Kind] = ("params", "states")
Steps = tuple[tuple[str, int | None], ...]


class Declaration:
    """What a leaf declares for one name: one array, or (for a pair of functions) one subtree."""

    @property
    def shapes(self) -> Tree:
        """The spec of one copy."""
        raise NotImplementedError

    @property
    def names(self) -> tuple[str, ...]:
        """The paths below its own of the parameters in it, each of which may start otherwise; "" is itself."""
        raise NotImplementedError

    def stored_as(self, dtype: Any) -> Declaration:
        """The same with its floating arrays in another dtype."""
        raise NotImplementedError

    def initialised_by(self, inits: Mapping[str, Any]) -> Declaration:
        """The same with other initialisers, by the names of what they are for."""
        raise NotImplementedError

    def request(self, steps: Steps) -> Request:
        """The way to draw it, with a key that these steps lead to."""
        raise NotImplementedError


class Declared(NamedTuple):
    """A declaration at its place in a net: the steps lead to its key, through the copies that wrappers make of it."""

    what: Declaration
    steps: Steps

    @property
    def copies(self) -> tuple[int, ...]:
        """The leading axes along which its copies are stacked."""
        return tuple(n for _, n in self.steps if n is not None)

    @property
    def shapes(self) -> Tree:
        return jax.tree.map(lambda one: jax.ShapeDtypeStruct((*self.copies, *one.shape), one.dtype), self.what.shapes)

    def stacked(self, n: int) -> Declared:
        """n copies of it, as a wrapper holds them in its child's place."""
        return self._replace(steps=(("", n), *self.steps))

    def moved(self, old: str, new: str) -> Declared:
        """The same below another place."""
        (first, copies), *rest = self.steps
        return self._replace(steps=((join(new, below(first, old)), copies), *rest))


Arrays = dict[str, Declared]


class Site(NamedTuple):
    """Where a layer declared arrays: the layer, and what it declared by full path."""

    layer: Layer
    arrays: Arrays

    def shapes(self) -> dict[str, Tree]:
        return {path: one.shapes for path, one in self.arrays.items()}

    def side(self) -> tuple[Layer, dict[str, Tree]]:
        return self.layer, self.shapes()


class Call(NamedTuple):
    """One layer's call as the plan saw it: specs in, specs out."""

    path: str
    layer: Layer
    inputs: tuple[Any, ...]
    output: Any
    train_only: bool = False


Span = tuple["Layer", frozenset[tuple[Kind, str]]]
"""A composite, and where it or its children declared something."""


class Mark(NamedTuple):
    """A moment of a recorder: how much it had noted."""

    log: int
    calls: int
    lifted: frozenset[tuple[str, Layer]]


class Note(NamedTuple):
    """All that was noted of one layer's call, to be noted again where an equal layer meets equal inputs."""

    path: str
    root: str  # of the recorder
    sites: list[tuple[Kind, str, Site]]  # what was declared where
    calls: list[Call]
    lifted: frozenset[tuple[str, Layer]]
    spans: dict[str, Span]
    reads_train: bool


class Recorder:
    """Notes what the layers of a planned pass declare below a root; a name met again must declare the same.

    Args:
      root: The path of what it is for.
      outer: The recorder around, where a reader finds what was declared before.
      wrapper: The wrapper that stands between the two, and may change what is declared below it.
    """

    def __init__(self, root: str = "", outer: Recorder | None = None, wrapper: Layer | None = None) -> None:
        self.root = root
        self.notes: dict[Hashable, tuple[Any, Note, Tree]] = {} if outer is None else outer.notes  # trace, note, output
        self.lifted: set[tuple[str, Layer]] = set()  # wrappers that changed what is declared below them
        self.sites: dict[Kind, dict[str, Site]] = {"params": {}, "states": {}}
        self.calls: list[Call] = []
        self.reads_train = False
        self._outer = outer
        self._wrapper = wrapper
        self._above: dict[Kind, set[str]] = {"params": set(), "states": set()}  # every path that has a site below it
        self._log: list[tuple[Kind, str]] = []
        self._spans: dict[str, Span] = {}  # the first composite at each path

    def declare(self, kind: Kind, path: str, layer: Layer, tree: Tree) -> None:
        """A leaf declares a nested dict of declarations, or one."""
        if kind == "states" and not isinstance(tree, dict):
            raise TypeError(f"{path or 'the net'}: states returns a dict of fn.Param by name, got {show(tree)}")
        arrays = {full: Declared(what, ((below(full, self.root), None),)) for full, what in _flat(tree, path)}
        self.add(kind, path, Site(layer, arrays))

    def add(self, kind: Kind, path: str, site: Site) -> None:
        self._log.append((kind, path))
        known = self.sites[kind]
        if path in known:
            if known[path].shapes() != site.shapes():
                raise _disagree(kind, path, known[path].side(), site.side())
            return
        # One name, one subtree: a leaf's arrays do not mingle with those of another layer's children.
        names = names_of(path)
        above = {"/".join(names[:i]) for i in range(len(names))}
        clash = next((place for place in above if place in known), None)
        if clash is None and path in self._above[kind]:
            clash = next(place for place in known if place.startswith(f"{path}/") or not path)
        if clash is not None:
            raise _disagree(kind, path, known[clash].side(), site.side())
        known[path] = site
        self._above[kind] |= above

    def arrays(self, kind: Kind, path: str = "") -> Arrays:
        """All that was declared at and below a path, by full path."""
        known = self.sites[kind]
        if path in known:
            return known[path].arrays
        if path not in self._above[kind] and path != self.root:
            return {}
        inside = f"{path}/" if path else ""
        return {
            full: one for place, site in known.items() if place.startswith(inside) for full, one in site.arrays.items()
        }

    def stand_ins(self, kind: Kind, path: str) -> Tree:
        """Arrays of the declared shapes, for a traced pass in which nothing is computed."""
        found = self.arrays(kind, path)
        if not found and self._outer is not None:
            outside = self._outer.stand_ins(kind, path)
            return outside if self._wrapper is None else one_copy(self._wrapper, kind, outside)
        return nested({below(full, path): jax.tree.map(stand_in, one.shapes) for full, one in found.items()})

    def mark(self) -> Mark:
        """The beginning of a layer's call."""
        return Mark(len(self._log), len(self.calls), frozenset(self.lifted))

    def close(self, mark: Mark, path: str, layer: Layer) -> None:
        """Ends a composite's call; raises if another composite under this name declared other arrays: tied layers are
        the same or declare nothing.
        """
        met = frozenset(self._log[mark.log :])
        if not met:
            return
        first, before = self._spans.setdefault(path, (layer, met))
        if first is not layer and before != met and first != layer:
            lines = [{place: self.sites[kind][place].shapes() for kind, place in span} for span in (before, met)]
            flat = [{full: shape for site in line.values() for full, shape in site.items()} for line in lines]
            raise _disagree("params", path, (first, flat[0]), (layer, flat[1]))

    def merge(self, inner: Recorder, *, but: frozenset[Kind] = frozenset()) -> None:
        """Takes in what a recorder rooted here or further down noted, as its wrapper makes it, except these kinds."""
        here, wrapper = below(inner.root, self.root), inner._wrapper
        for kind in KINDS:
            if kind in but:
                continue
            arrays = {below(full, inner.root): one for full, one in inner.arrays(kind, inner.root).items()}
            lifted = wrapper._lift(kind, arrays) if wrapper else arrays
            if wrapper is not None and lifted is not arrays:
                self.lifted.add((inner.root, wrapper))
            for path, site in inner.sites[kind].items():
                kept: Arrays = {}
                for full in site.arrays:
                    one = lifted.get(below(full, inner.root))
                    if one is not None:
                        kept[full] = one.moved("", here)
                if kept:
                    self.add(kind, path, Site(site.layer, kept))
        self.lifted |= inner.lifted
        self.calls += inner.calls
        self.reads_train |= inner.reads_train

    # What is known of an equal call

    def untouched(self, path: str) -> bool:
        """Whether nothing is declared at, above or below a path, so that what is called there finds nothing."""
        names = names_of(path)
        above = {"/".join(names[:i]) for i in range(len(names) + 1)}
        mine = not any(path in self._above[kind] or above & self.sites[kind].keys() for kind in KINDS)
        return mine and (self._outer is None or self._outer.untouched(path))

    def since(self, mark: Mark, path: str) -> Note:
        """What was noted of the call, at an untouched path, that began at the mark."""
        met = dict.fromkeys(self._log[mark.log :])
        sites: list[tuple[Kind, str, Site]] = [(kind, place, self.sites[kind][place]) for kind, place in met]
        spans = {place: span for place, span in self._spans.items() if f"{place}/".startswith(f"{path}/") or not path}
        lifted = self.lifted - mark.lifted
        return Note(path, self.root, sites, self.calls[mark.calls :], frozenset(lifted), spans, self.reads_train)

    def repeat(self, note: Note, path: str) -> None:
        """Notes the same of an equal call at another path."""

        def moved(place: str) -> str:
            return join(path, below(place, note.path))

        old, new = below(note.path, note.root), below(path, self.root)
        for kind, place, site in note.sites:
            arrays = {moved(full): one.moved(old, new) for full, one in site.arrays.items()}
            self.add(kind, moved(place), Site(site.layer, arrays))
        self.calls += [call._replace(path=moved(call.path)) for call in note.calls]
        self.lifted |= {(moved(root), wrapper) for root, wrapper in note.lifted}
        for place, (layer, met) in note.spans.items():
            self._spans[moved(place)] = layer, frozenset((kind, moved(at)) for kind, at in met)
        self.reads_train |= note.reads_train


def one_copy(wrapper: Layer, kind: Kind, tree: Tree) -> Tree:
    """Arrays as a wrapper holds them, as one of its child's copies has them."""
    if wrapper._copies(kind) is None:
        return tree
    return jax.tree.map(lambda a: a[0] if len(a) else stand_in(jax.ShapeDtypeStruct(a.shape[1:], a.dtype)), tree)


def stand_in(one: Any) -> Any:
    """An array of some shape and dtype, for a traced pass in which nothing is computed."""
    if jnp.issubdtype(one.dtype, jax.dtypes.prng_key):
        return jnp.broadcast_to(jax.random.key(0), one.shape)
    return jnp.zeros(one.shape, one.dtype)


def _flat(tree: Tree, path: str) -> Iterator[tuple[str, Declaration]]:
    if isinstance(tree, Declaration):
        yield path, tree
    elif isinstance(tree, dict):
        for name, inner in tree.items():
            check_name(name, path)
            if isinstance(inner, dict) and not inner:
                raise TypeError(f"{join(path, name)}: an empty dict declares nothing: leave it out")
            yield from _flat(inner, join(path, name))
    else:
        raise TypeError(
            f"{path or 'the net'}: params and states declare each array as fn.Param(shape, initializer), got "
            f"{show(tree)}"
        )


def _disagree(kind: Kind, path: str, *sides: tuple[Layer, dict[str, Tree]]) -> ValueError:
    lines = "\n".join(
        f"  {describe(layer)} declares {', '.join(f'{full} {show(shape)}' for full, shape in shapes.items())}"
        for layer, shapes in sides
    )
    return ValueError(
        f"{path or 'the net'}: two layers disagree on the {kind} under this name:\n{lines}\n"
        "Within one combinator a name stands for one set of arrays (that is how weights are tied). "
        "Give the layers different names, or make them agree."
    )
