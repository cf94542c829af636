"""Copies as layers: each copy of a `Repeat` under a name of its own, as it was before `roll`.

In a `Sequential`, the name that `roll` gave a run tells which layers it was; they stand there again. The copies of any
other `Repeat` stand together in an `Unrolled` under its name.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, Never, cast, overload

from funcnets.combinators import Child, Item, Repeat, Sequential, _Row
from funcnets.layer import Layer
from funcnets.places import Place, as_net, walk
from funcnets.record import KINDS, Kind
from funcnets.rewrite.stacking import copies_of
from funcnets.rewrite.steps import Step, result, stay, within
from funcnets.shapes import ABSENT, Tree, describe, entry, is_empty, join, misfit_error, show, unread


class Unrolled(_Row):
    """What `Repeat` computes, with each copy under a name of its own: x → l₁(x, …) → … → lₙ(x, …).

    The first input is carried from layer to layer; further inputs go to every one (in a `Sequential` they go to the
    first alone).

    Args:
      *children: Layers, functions, or (name, layer) pairs.
      layers: The same as one iterable, after them.

    Params: each child's under its name.

    Inputs: x, and what else the layers take → the output of the last.

    Raises:
      TypeError: Something that is no layer or function.

    Example:
      >>> net, params = fn.rewrite.unroll(fn.Repeat(fn.Dense(3), 2), None)
      >>> net
      Unrolled(Dense(3), Dense(3))
    """

    def __init__(self, *children: Child, layers: Iterable[Child] = ()) -> None:  # type checkers would make up another
        super().__init__(*children, layers=layers)

    def forward(self, m: Any, x: Any, *others: Any, **kwargs: Any) -> Any:
        for layer in m.layers:
            x = layer(x, *others, **kwargs)
        return x


@overload
def unroll(net: Layer, params: Tree, *, state: None = None) -> tuple[Layer, Tree]: ...
@overload
def unroll(net: Layer, params: Tree, *, state: Mapping[str, Any]) -> tuple[Layer, Tree, Tree]: ...


def unroll(net: Layer, params: Tree, *sample: Never, state: Tree = None) -> Any:
    """The net with the copies of each `Repeat` written out, and its parameters unstacked likewise: `roll` undone.

    A run that `roll` named in a `Sequential` becomes its layers again, under their names: automatic ones wherever
    these come out the same. Any other `Repeat`, and one whose layers' names others have by now, becomes an `Unrolled`
    in its place. A `Repeat(shared=True)`, whose copies have the same parameters, stays, and so do copies of a layer
    that a composite makes itself.

    Random numbers and initial values follow the path, so dropout draws other masks, and `init` other values.

    Args:
      net: The net.
      params: Its parameters, or their specs; None for the net alone.
      state: Its state, if that is to be unrolled with it.

    Returns:
      (net, params); with a state given (net, params, state).

    Raises:
      ValueError: Parameters or a state that do not fit the net, as far as this is known without a sample; a path that
        leads into a `Repeat`, or may do so, in a `tie`, a `Freeze` with `but`, a `with_init` or an `edit`.
      TypeError: Something that is no net; a sample, as `roll` takes it, or a state that does not come by name.

    Example:
      >>> net, x = fn.Sequential(("trunk", fn.Repeat(fn.Dense(3), 4))), jnp.ones((2, 3))
      >>> flat, params = fn.rewrite.unroll(net, net.init(jax.random.key(0), x))
      >>> list(params["trunk"])
      ['dense_0', 'dense_1', 'dense_2', 'dense_3']
      >>> flat = fn.rewrite.replace(flat, {"trunk/dense_3": lambda last: fn.Freeze(last)})
    """
    if sample:
        raise TypeError(
            f"unroll takes a net and its parameters, and a state by name, got {show(sample[0])} too: unroll needs no "
            "sample, unroll(net, params), and a state goes in as state=state"
        )
    net = as_net("unroll", net)
    _check_known(net, params, state)
    _check_given(net, params)
    return result(_written_out(Place("", net), strict=True), params, state)


def written_out(net: Layer, params: Tree, state: Tree) -> tuple[Layer, Tree, Tree]:
    """`unroll`, but what it refuses stays as it is."""
    _check_known(net, params, state)
    return cast("tuple[Layer, Tree, Tree]", result(_written_out(Place("", net), strict=False), params, state))


def _check_known(net: Layer, params: Tree, state: Tree) -> None:
    """Raises for entries that nothing in the net can read."""
    for kind, tree in zip(KINDS, (params, state), strict=True):
        strangers = [] if tree is None else list(net._strangers(kind, tree, ""))
        if strangers:
            raise misfit_error(unread(strangers, tree), "params" if kind == "params" else "state")


def _check_given(net: Layer, params: Tree) -> None:
    """Raises for no parameters at all where the layers of a Repeat have some, as far as this is known of a class."""
    if params is None or not is_empty(params):
        return
    repeats = [place for place in walk(Place("", net)) if isinstance(place.layer, Repeat) and not place.layer.shared]
    for place in (inner for repeat in repeats for inner in walk(repeat)):
        if type(place.layer).params is not Layer.params or place.layer._is_bare():
            raise ValueError(
                f"{place.path or 'the net'}: unroll takes the parameters of the net, got none, though "
                f"{describe(place.layer)} has some: give those of net.init(key, *sample), or None for the net alone"
            )


# From copies to layers


def _written_out(place: Place, *, strict: bool) -> Step:
    layer = place.layer
    if isinstance(layer, Repeat) and not layer.shared:
        first = _apart(layer, place.path)
    else:
        first = _spliced(layer, place.path) if isinstance(layer, Sequential) else stay(layer)
    there = place._replace(layer=first.layer)
    return first.then(within(there, lambda child: _written_out(child, strict=strict), strict=strict))


def _apart(repeat: Repeat, path: str) -> Step:
    """The copies of a Repeat, one by one."""
    row = Unrolled(layers=[repeat.body] * repeat.n)
    names = [name for name, _ in row._entries()]

    def move(kind: Kind, tree: Tree) -> Tree:
        copies = zip(names, copies_of(tree, repeat.n, path), strict=True)
        return {name: copy for name, copy in copies if not is_empty(copy)}

    return Step(row, move, frozenset({"", *names}))


def _spliced(row: Sequential, path: str) -> Step:
    """A row in which the layers of each run that `roll` made stand one by one again."""
    uses = Counter(name for name, _ in row._entries())
    items: list[Item] = []
    runs: dict[str, tuple[int, int, list[str]]] = {}  # by name: where it begins, n, and the names in a group
    for item in row._items():
        repeat, name = item.held, item.name or ""
        span = _named_by(name, repeat) if isinstance(repeat, Repeat) and uses[name] == 1 else None
        if span is None or not isinstance(repeat, Repeat) or not uses.keys().isdisjoint(span):
            items.append(item._replace(given=False))
            continue
        body = repeat.body
        if len(span) == repeat.n:
            inside, group = [""], [body] * repeat.n
        else:
            group = [one.held for one in cast(Sequential, body)._items()] * repeat.n
            inside = [name for name, _ in cast(Sequential, body)._entries()]
        runs[name] = len(items), repeat.n, inside
        items += [Item(name, held) for name, held in zip(span, group, strict=True)]
    if not runs:
        return stay(row)
    try:
        made = row._of(items)
    except ValueError:
        return stay(row)  # an automatic name met that of a layer put in since
    names = [name for name, _ in made._entries()]
    there = [name for start, n, inside in runs.values() for name in names[start : start + n * len(inside)]]

    def move(kind: Kind, tree: Tree) -> Tree:
        new = {name: held for name, held in tree.items() if name not in runs}
        for run, (start, n, inside) in runs.items():
            for i, copy in enumerate(copies_of(tree.get(run, {}), n, join(path, run))):
                for j, key in enumerate(inside):
                    held = entry(copy, key)
                    if held is not ABSENT and not is_empty(held):
                        new[names[start + i * len(inside) + j]] = held
        return new

    return Step(made, move, frozenset([*runs, *there]))


# Names of runs


def counted(name: str, n: int) -> list[str] | None:
    """n names that count up from one that ends in a number; None if it does not."""
    found = re.fullmatch("(.*?)([0-9]+)", name)
    if found is None:
        return None
    base, first = found.groups()
    return [f"{base}{int(first) + i:0{len(first)}d}" for i in range(n)]


def span(name: str, n: int) -> str:
    """The name of n layers whose names count up from this one: "block_0" and 12 make "block_0-11"."""
    base, first = cast("re.Match[str]", re.fullmatch("(.*?)([0-9]+)", name)).groups()
    return f"{base}{first}-{int(first) + n - 1:0{len(first)}d}"


def _named_by(name: str, repeat: Repeat) -> list[str | None] | None:
    """The names of the layers that a run's name tells of, None for automatic ones; None if it is no run's."""
    found = re.fullmatch("(.*?[0-9]+)-[0-9]+", name)
    if found is None or repeat.shared or not repeat.n:
        return None
    if name == span(found[1], repeat.n):
        return [*(counted(found[1], repeat.n) or ())]
    size = len(repeat.body) if isinstance(repeat.body, Sequential) else 0
    first = found[1].removeprefix("layers_")
    whole = size > 1 and first.isdecimal() and name == f"layers_{first}-{int(first) + size * repeat.n - 1}"
    return [None for _ in range(size * repeat.n)] if whole else None
