"""Depth as data: equal layers in a row as one `Repeat`.

A net written layer by layer compiles each of them. `roll` finds the runs of equal layers and holds each as one layer
with its arrays stacked, so that depth costs no compile time; `funcnets.rewrite.unrolling` writes every copy out again,
to be replaced, frozen or looked at by itself:

    unroll(*roll(net, params, x)) == unroll(net, params)

A run goes under a name that tells which layers it was: "block_0-11" was block_0 to block_11, and "layers_0-5" the first
six layers of the row, in equal groups. All other layers keep their names, and so their parameters.
(Functions have none, and go by their own names.)
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any, NamedTuple, overload

import jax

from funcnets.combinators import Item, Repeat, Sequential, _Row
from funcnets.compose import Composite, Wrapper
from funcnets.layer import Layer
from funcnets.places import Place, as_net, find
from funcnets.plan import Plan, check_tree
from funcnets.record import Call, Kind
from funcnets.rewrite.stacking import check_alike, stack
from funcnets.rewrite.steps import Step, result, within
from funcnets.rewrite.unrolling import Unrolled, counted, span
from funcnets.shapes import Tree, below, is_array, is_empty, join


@overload
def roll(net: Layer, params: Tree, *sample: Any, state: None = None, **kwargs: Any) -> tuple[Layer, Tree]: ...
@overload
def roll(
    net: Layer, params: Tree, *sample: Any, state: Mapping[str, Any], **kwargs: Any
) -> tuple[Layer, Tree, Tree]: ...


def roll(net: Layer, params: Tree, *sample: Any, state: Tree = None, **kwargs: Any) -> Any:
    """The net with each run of equal layers in a row as one `Repeat`, and its parameters stacked likewise.

    It computes the same, and compiles one layer for a run of any length. A run is two or more equal layers of a
    `Sequential`, or equal groups of them (Conv, BatchNorm, relu, Conv, BatchNorm, relu), that keep shape and dtype and
    hold arrays or other layers. It goes under the names of its first and last layer, "block_0-11"; groups under their
    numbers in the row, "layers_3-8", their layers named anew. An `Unrolled` of equal layers is a `Repeat` again.

    Left as they are: layers with given names, unless these count up ("block 0", "block 1"; in groups all names are
    automatic); layers tied by name; a row whose layers a composite calls one by one; a run into which a path leads that
    a `tie`, a `Freeze` with `but`, a `with_init` or an `edit` around it holds. A pattern leads there if it names a
    layer of it, or may do so ("dense_1/*", a function of paths); "**/kernel" names none. Of an `edit`, a class, a layer
    or `**` does.

    Random numbers and initial values follow the path, so dropout draws other masks, and `init` other values.

    A net of one's own may hold the run under another name; `fn.params.rename` moves the parameters, and a state, there.

    Args:
      net: The net.
      params: Its parameters, or their specs; None for the net alone.
      *sample: Inputs of the net, or their specs: they tell which layers keep shape and dtype.
      state: Its state, if that is to be rolled with it.

    Returns:
      (net, params); with a state given (net, params, state).

    Raises:
      ValueError: Parameters or a state that do not fit the net; a net whose forward reads the parameters of layers in a
        run by their names, so that it cannot be rolled; equal layers whose arrays differ in dtype.
      TypeError: Something that is no net.

    Example:
      >>> net = fn.Sequential(fn.Dense(8), *[fn.Residual(fn.Dense(8))] * 12, ("head", fn.Dense(2)))
      >>> x = jnp.ones((4, 3))
      >>> rolled, params = fn.rewrite.roll(net, net.init(jax.random.key(0), x), x)
      >>> rolled
      Sequential(Dense(8), ('dense_1-12', Repeat(Residual(Dense(8)), 12)), ('head', Dense(2)))
      >>> fn.rewrite.unroll(rolled, params)[0] == net
      True
      >>> own = fn.Sequential(fn.Dense(8), ("trunk", fn.Repeat(fn.Residual(fn.Dense(8)), 12)), ("head", fn.Dense(2)))
      >>> own.apply(fn.params.rename(params, {"dense_1-12": "trunk"}), x).shape
      (4, 2)
    """
    net = as_net("roll", net)
    plan = net.plan(*sample, **kwargs)
    trees: dict[Kind, Tree] = {"params": params, "states": state}
    for kind, tree in trees.items():
        if tree is not None:
            check_tree(plan, kind, tree)
    step = _rolled(Place("", net), _Calls(plan))
    if step.moved:
        _check_planned(step.layer, sample, kwargs)
    return result(step, params, state)


def _check_planned(rolled: Layer, sample: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Raises for a net in which some forward asked for what has gone elsewhere."""
    try:
        rolled.plan(*sample, **kwargs)
    except Exception as error:
        runs = ", ".join(map(repr, find(rolled, Repeat)))
        first = str(error).partition("\n")[0]
        raise ValueError(
            "roll takes a net that computes the same with copies in the place of equal layers, but with those at "
            f"{runs} this one cannot be planned ({type(error).__name__}: {first}). A forward in it reads one of the "
            "layers by name, as in m.trunk.params['dense_1']: let it call the layers, m.trunk(x), or roll other parts"
        ) from error


# From layers to copies


class _Calls:
    """The calls of a plan, by place and layer."""

    def __init__(self, plan: Plan) -> None:
        self._calls: dict[tuple[str, Layer], list[Call]] = {}
        for call in plan.calls:
            self._calls.setdefault((call.path, call.layer), []).append(call)

    def of(self, place: Place) -> list[Call]:
        return self._calls.get((place.path, place.layer), [])

    def keep(self, first: Place, last: Place) -> bool:
        """Whether what goes into the first comes out of the last, in shape and dtype, at each call."""
        pairs = zip(self.of(first), self.of(last), strict=True)
        return all(_alike(a.inputs[0], b.output) for a, b in pairs)


def _alike(a: Tree, b: Tree) -> bool:
    leaves = jax.tree.leaves(a)
    return (
        jax.tree.structure(a) == jax.tree.structure(b) and all(map(is_array, leaves)) and leaves == jax.tree.leaves(b)
    )


class _Run(NamedTuple):
    """n equal groups in a row: where they begin, how many layers each has, and the name for all."""

    start: int
    size: int
    n: int
    name: str


_Around = tuple[tuple[str, Wrapper], ...]  # wrappers, with their paths


def _rolled(place: Place, calls: _Calls, around: _Around = ()) -> Step:
    around = (*around, (place.path, place.layer)) if isinstance(place.layer, Wrapper) else around
    inner = within(place, lambda child: _rolled(child, calls, around))
    old, new = place.layer, inner.layer
    if not isinstance(old, _Row) or not isinstance(new, _Row) or type(old) not in (Sequential, Unrolled):
        return inner
    children, times = place.children(), len(calls.of(place))
    counts = Counter(old._entries())
    if not times or any(
        len(calls.of(child)) != times * counts[entry] for child, entry in zip(children, old._entries(), strict=True)
    ):
        return inner
    if isinstance(old, Unrolled):
        bare = all(not item.given for item in old._items())
        equal = len({*old}) == len({*new}) == 1 and calls.keep(children[0], children[0])
        free = not _is_led_to(place, ["", *(name for name, _ in old._entries())], around)
        return inner.then(_joined_whole(new, place.path)) if bare and equal and free else inner
    found = _runs(old, list(zip(old, new, strict=True)), children, calls)
    runs = [run for run in found if not _is_led_to(place, [*_from(old, run), *_to(old, run)], around)]
    return inner.then(_joined(old, new, runs, place.path)) if runs else inner


def _is_led_to(place: Place, names: list[str], around: _Around) -> bool:
    """Whether a path that a wrapper holds leads to one of these places in a layer."""
    paths = [join(place.path, name) for name in names]
    return any(wrapper._leading(frozenset(below(path, at) for path in paths)) is not None for at, wrapper in around)


def _runs(old: _Row, layers: list[tuple[Layer, Layer]], children: list[Place], calls: _Calls) -> list[_Run]:
    """The runs of a row; from each layer on the longest, in the smallest groups."""
    names = [name for name, _ in old._entries()]
    uses = Counter(names)
    bare = [not item.given for item in old._items()]
    alone = [  # tied to no other, and called with one input
        uses[name] == 1 and all(len(call.inputs) == 1 for call in calls.of(child))
        for name, child in zip(names, children, strict=True)
    ]

    def run(i: int, size: int) -> _Run:
        group = slice(i, i + size)
        n = 1
        if layers[i] != layers[i + size] or not any(_is_worth(layer) for layer, _ in layers[group]):
            return _Run(i, size, n, "")
        if not all(alone[group]) or not calls.keep(children[i], children[i + size - 1]):
            return _Run(i, size, n, "")
        while layers[group] == layers[i + n * size : i + (n + 1) * size]:
            end = i + (n + 1) * size
            named = all(bare[i:end]) if size > 1 else names[i:end] == counted(names[i], n + 1)
            if not (named and all(alone[i:end])):
                break
            n += 1
        if n == 1:
            return _Run(i, size, n, "")
        name = f"layers_{i}-{i + n * size - 1}" if size > 1 else span(names[i], n)
        return _Run(i, size, 1 if name in uses else n, name)

    runs: list[_Run] = []
    i = 0
    while i < len(names):
        found = [run(i, size) for size in range(1, (len(names) - i) // 2 + 1)]
        best = max((one for one in found if one.n > 1), key=lambda one: one.n * one.size, default=None)
        if best is not None:
            runs.append(best)
        i += 1 if best is None else best.n * best.size
    return runs


def _is_worth(layer: Layer) -> bool:
    """Whether a layer holds arrays or other layers."""
    kind = type(layer)
    declares = kind.params is not Layer.params or kind.states is not Layer.states or layer._is_bare()
    return declares or isinstance(layer, Composite)


def _from(row: _Row, run: _Run) -> list[str]:
    """The names of a run's layers."""
    return [name for name, _ in row._entries()][run.start : run.start + run.n * run.size]


def _to(row: _Row, run: _Run) -> list[str]:
    """The paths of its copies' layers."""
    if run.size == 1:
        return [run.name]
    group = Sequential(*(item.held for item in row._items()[run.start : run.start + run.size]))
    return [join(run.name, name) for name, _ in group._entries()]


def _joined(old: _Row, row: _Row, runs: list[_Run], path: str) -> Step:
    """A row with each run as one layer."""
    items = row._items()
    made: list[Item] = []
    at = 0
    for start, size, n, name in runs:
        group = [item.held for item in items[start : start + size]]
        body = Sequential(*(item.held for item in old._items()[start : start + size]))
        body = body._of(one._replace(held=by) for one, by in zip(body._items(), group, strict=True))
        made += [*items[at:start], Item(name, Repeat(body if size > 1 else group[0], n), given=True)]
        at = start + n * size
    made += items[at:]
    places, to = [_from(old, run) for run in runs], [_to(old, run) for run in runs]
    moved = frozenset(name for there in places for name in there)

    def move(kind: Kind, tree: Tree) -> Tree:
        new = {name: held for name, held in tree.items() if name not in moved}
        for (_, size, n, name), there, paths in zip(runs, places, to, strict=True):
            for j in range(size):
                check_alike({join(path, at): tree.get(at, {}) for at in there[j::size]})
            groups = [there[i * size : (i + 1) * size] for i in range(n)]
            if size > 1:
                keys = [below(inner, name) for inner in paths]
                pairs = [zip(keys, group, strict=True) for group in groups]
                copies = [{key: tree[at] for key, at in pair if at in tree} for pair in pairs]
            else:
                copies = [tree.get(at, {}) for (at,) in groups]
            stacked = stack(copies)
            new |= {} if is_empty(stacked) else {name: stacked}
        return new

    return Step(row._of(made), move, moved.union(*to))


def _joined_whole(row: _Row, path: str) -> Step:
    """The Repeat of a row of equal layers."""
    names = [name for name, _ in row._entries()]

    def move(kind: Kind, tree: Tree) -> Tree:
        check_alike({join(path, name): tree.get(name, {}) for name in names})
        return stack(tree.get(name, {}) for name in names)

    return Step(Repeat(row._items()[0].held, len(row)), move, frozenset({"", *names}))
