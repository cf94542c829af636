"""Shape inference: what a net declares for a sample input, found by running its forward on shapes alone.

`make_plan` traces the forward once in evaluation mode, and once in training mode if some composite asked for the mode.
Nothing is computed; a recorder notes which leaf met which shapes under which name. `init` then draws what was declared,
so it never runs the model, and a child may first be called inside any JAX transform: only shapes are recorded, and
nothing can leak.
"""

from __future__ import annotations

import functools
import math
import sys
from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from funcnets.printing import ruled_page
from funcnets.random import draw
from funcnets.record import KINDS, Arrays, Call, Kind, Mark, Recorder, one_copy, stand_in
from funcnets.scope import Explicit, Scope, explain, now, shapes_of
from funcnets.shapes import (
    Row,
    Tree,
    below,
    describe,
    differences,
    is_array,
    is_empty,
    join,
    misfit_error,
    nested,
    ruled,
    short,
    show,
    spec,
    specs,
    table,
    within,
)
from funcnets.values import code, comparable

if TYPE_CHECKING:
    from funcnets.layer import Layer


@dataclass(frozen=True, eq=False, repr=False)
class Plan:
    """What a net declares for a sample: its arrays by path, and every layer's call with the shapes that went in and
    out.

    Printed, or shown in a notebook, it is a table of the leaves; `funcnets.inspect.summary` has more of it, and
    composites too.

    Attributes:
      layer: The net.
      declared: Its declared arrays by kind ("params", "states") and full path.
      owners: The path of the layer that declared each.
      calls: Every call, in order; those that only training makes come last.
      output: The spec of the output in evaluation.
    """

    layer: Layer
    declared: Mapping[Kind, Mapping[str, Any]]
    owners: Mapping[Kind, Mapping[str, str]]
    calls: tuple[Call, ...]
    output: Any

    @property
    def params(self) -> Tree:
        """The parameters as nested dicts of `jax.ShapeDtypeStruct`."""
        return nested({path: one.shapes for path, one in self.declared["params"].items()})

    @property
    def states(self) -> Tree:
        """The state, likewise."""
        return nested({path: one.shapes for path, one in self.declared["states"].items()})

    def draw(self, kind: Kind, key: Any) -> Tree:
        """The declared arrays with their initial values."""
        declared = self.declared[kind]
        arrays = draw(key, [one.what.request(one.steps) for one in declared.values()])
        return nested(dict(zip(declared, arrays, strict=True)))

    def rows(self) -> list[tuple[str, str, str, int]]:
        """(path, layer, output, parameters) of each leaf, in the order of the calls; ×n for n copies, of all of which
        the parameters are counted.
        """
        sizes: dict[str, int] = {}
        copies: dict[str, str] = {}
        for path, one in self.declared["params"].items():
            owner = self.owners["params"][path]
            sizes[owner] = sizes.get(owner, 0) + _count(one.shapes)
            copies[owner] = "".join(f" ×{n}" for _, n in one.steps if n is not None)
        rows: dict[tuple[str, Layer], tuple[str, str, str, int]] = {}
        known: set[str] = set()
        for call in self.calls:
            if not call.layer._entries() and (call.path, call.layer) not in rows:
                tied = call.path in known and call.path in sizes
                text = " ".join(code(call.layer).split()) + copies.get(call.path, "") + (" (tied)" if tied else "")
                size = 0 if tied else sizes.get(call.path, 0)
                rows[call.path, call.layer] = (call.path, text, show(call.output), size)
                known.add(call.path)
        return list(rows.values())

    def _cells(self, most: int = sys.maxsize) -> list[tuple[str, ...]]:
        total = sum(_count(one.shapes) for one in self.declared["params"].values())
        cells = [("path", "layer", "output", "parameters")]
        for path, layer, output, size in self.rows():
            cells.append((path or "(the net)", short(layer, most), short(output, most), f"{size:,}"))
        return [*cells, ("total", "", short(show(self.output), most), f"{total:,}")]

    def __repr__(self) -> str:
        return ruled(self._cells(44), right=1)

    def _repr_html_(self) -> str:
        return ruled_page(self._cells(), right=1)


def _count(shapes: Tree) -> int:
    return sum(math.prod(one.shape) for one in jax.tree.leaves(shapes))


class Planning(Scope):
    """A place in a net that is planned: parameters are what a recorder notes, arrays stand in for shapes.

    Attributes:
      recorder: Where declarations go.
      given: Parameters of a caller's for this place; None where there are none.
      views: The wrappers on the way here, which may make something of parameters.
    """

    __slots__ = ("given", "recorder", "views")

    def __init__(
        self,
        layer: Layer,
        path: str,
        train: bool,
        recorder: Recorder,
        given: Tree = None,
        views: tuple[Layer, ...] = (),
    ) -> None:
        super().__init__(layer, path, None, None, None, train)
        self.recorder = recorder
        self.given = given
        self.views = views

    def child(self, name: str, layer: Layer) -> Planning:
        given, views = self.given, self.views
        if name:
            given = given.get(name) if isinstance(given, dict) else None
        else:
            given = None if given is None else one_copy(self.layer, "params", given)
            views = (*views, self.layer)
        return type(self)(layer, join(self.path, name), self.train, self.recorder, given, views)

    def beside(self, name: str, layer: Layer, params: Tree) -> Planning:
        return type(self)(layer, join(self.path, name), self.train, self.recorder)

    def _viewed(self, params: Tree) -> Tree:
        for wrapper in self.views:
            params = wrapper._seen(params)
        return params

    def run(self, inputs: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        known = self._known_by(inputs, kwargs)
        if known is not None and known in self.recorder.notes:
            trace, note, types = self.recorder.notes[known]
            if trace == now():
                self.recorder.repeat(note, self.path)
                return jax.tree.map(stand_in, types)
        mark = self.recorder.mark()
        output = self._run_anew(mark, inputs, kwargs)
        types = None if known is None else _types_of(output)
        if types is not None:
            self.recorder.notes[known] = now(), self.recorder.since(mark, self.path), types
        return output

    def _known_by(self, inputs: tuple[Any, ...], kwargs: dict[str, Any]) -> Hashable:
        """What this call is known by if a composite meets it again; None if more than that may bear upon it."""
        if not self.layer._entries() or self.given is not None or not _is_plain((inputs, kwargs)):
            return None
        leaves, structure = jax.tree.flatten((inputs, kwargs))
        types = tuple(jax.typeof(leaf) if isinstance(leaf, jax.Array) else None for leaf in leaves)
        marks = constant_marks([leaf for leaf in leaves if not isinstance(leaf, jax.Array)])
        if marks is None or not self.recorder.untouched(self.path):
            return None
        return self.layer, self.views, self.train, structure, types, marks

    def _run_anew(self, mark: Mark, inputs: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        try:
            output = self._run(inputs, kwargs)
            if self.layer._entries():
                self.recorder.close(mark, self.path, self.layer)
        except Exception as error:
            training = " for training, where an input that the sample lacks has its default" if self.train else ""
            explain(error, self.path, self.layer, inputs, kwargs, f", while shapes are planned{training}")
            raise
        self.recorder.calls.append(Call(self.path, self.layer, specs((*inputs, *kwargs.values())), specs(output)))
        return output

    def _run(self, inputs: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if not self.layer._is_wrapper:
            return self.layer._run(self, inputs, kwargs)
        # A wrapper may change its child's arrays: they are noted apart, and taken over as it makes them.
        outer = self.recorder
        self.recorder = Recorder(self.path, outer, self.layer)
        try:
            output = self.layer._outline(self, inputs, kwargs)
            outer.merge(self.recorder)
        finally:
            self.recorder = outer
        return output

    def run_with(self, inputs: tuple[Any, ...], kwargs: dict[str, Any], explicit: Explicit) -> tuple[Any, Tree]:
        state, train = explicit.state, self.train if explicit.train is None else explicit.train
        given = None if callable(explicit.params) else explicit.params
        # What the caller gives is not this place's own: it is planned apart, compared, and left out.
        apart = Recorder(self.path, self.recorder)
        scope = type(self)(self.layer, self.path, train, apart, self.given, self.views)
        if given is not None:
            scope.given, scope.views = given, ()
        output = scope.run(inputs, kwargs)
        trees: dict[Kind, Tree] = {"params": given, "states": state}
        theirs: frozenset[Kind] = frozenset(kind for kind in KINDS if trees[kind] is not None)
        for kind, tree in trees.items():
            if tree is not None:
                declared = {below(full, self.path): one.shapes for full, one in apart.arrays(kind, self.path).items()}
                rows = fault_rows(self.layer, kind, differences(nested(declared), tree), tree) if declared else []
                if rows:
                    own = "init(key, *sample)" if kind == "params" else "init_state(*sample)"
                    raise ValueError(
                        f"{self.place}: the {kind} given to {describe(self.layer)} do not fit it:\n{table(rows)}\n"
                        f"Give it what its own {own} gives"
                    )
        self.recorder.merge(apart, but=theirs)
        return output, None

    def own_params(self, declared: Tree) -> Tree:
        if not is_empty(declared):
            self.recorder.declare("params", self.path, self.layer, declared)
        if self.given is not None and (is_empty(declared) or not differences(shapes_of(declared), self.given)):
            return self._viewed(self.given)
        return self._viewed(self.recorder.stand_ins("params", self.path))

    def own_key(self, *, both_modes: bool, required: bool) -> Any:
        return self.take_key() if self.train or both_modes else None

    def own_state(self, declared: Tree) -> Tree:
        self.recorder.declare("states", self.path, self.layer, declared)
        return self.recorder.stand_ins("states", self.path)

    def new_state(self, old: Tree, new: Tree) -> None:
        if old == {}:
            return  # set from outside before the first call, which tells the shapes
        rows = differences(specs(old), specs(new))
        if rows or jax.tree.structure(old) != jax.tree.structure(new):
            raise ValueError(
                f"{self.place}: a state keeps its structure and shapes; it was {show(old)}, the new one is {show(new)}"
            )

    def take_key(self) -> jax.Array:
        return jax.random.key(0)

    def mode(self) -> bool:
        self.recorder.reads_train = True
        return self.train

    def read_params(self) -> Tree:
        found = self.recorder.stand_ins("params", self.path)
        if found == {} and not any(call.path == self.path for call in self.recorder.calls):
            raise RuntimeError(
                f"{self.place}: its parameters are read before its first call, which is what tells their shapes. Call "
                f"it "
                "first; to change them on the way in, give a function: m.child(x, params=lambda p: ...)"
            )
        return self._viewed(found)

    def read_state(self) -> Tree:
        return self.recorder.stand_ins("states", self.path)


def _types_of(output: Tree) -> Tree:
    """The types of an output that stand-ins can have in its place; None of any other."""
    if not _is_plain(output) or not all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(output)):
        return None
    types = jax.tree.map(jax.typeof, output)  # a weak type or a sharding is more than a stand-in has
    return types if all(jax.typeof(stand_in(one)) == one for one in jax.tree.leaves(types)) else None


# Making plans


def make_plan(layer: Layer, sample: tuple[Any, ...], kwargs: dict[str, Any]) -> Plan:
    """The plan of a net for a sample; remembered for equal nets and samples."""
    given = Sample((sample, kwargs))
    if given.mark is None or not layer._memoable:
        return _plan(layer, given)
    return _remembered(layer, given, tuple(map(_size, layer._axis_names)))


def _size(axis_name: str) -> int | None:
    """The size of a named axis; None where none is bound."""
    try:
        return jax.lax.axis_size(axis_name)
    except NameError:
        return None


class Sample:
    """Inputs as a plan sees them: arrays as their specs, all else as it is. In a memo they are compared by their mark.

    Attributes:
      mark: None if the inputs hold something else than specs and plain constants in Python's own containers: that may
        hold tracers, or be equal where a plan is not.
    """

    def __init__(self, inputs: Tree) -> None:
        leaves, self._structure = jax.tree.flatten(inputs)
        self.leaves = [spec(leaf) for leaf in leaves]
        marks = constant_marks(self.leaves) if _is_plain(inputs) else None
        self.mark: Hashable = None if marks is None else (self._structure, marks)

    def filled(self, arrays: Iterable[Any]) -> Any:
        """The inputs with these for the arrays."""
        given = iter(arrays)
        return jax.tree.unflatten(self._structure, [next(given) if is_array(leaf) else leaf for leaf in self.leaves])

    @property
    def specs(self) -> list[Any]:
        return [leaf for leaf in self.leaves if is_array(leaf)]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sample) and self.mark == other.mark

    def __hash__(self) -> int:
        return hash(self.mark)


def constant_marks(leaves: list[Any]) -> Hashable:
    """What specs and plain constants are compared by in a memo; None if there is something else."""
    if all(isinstance(leaf, (jax.ShapeDtypeStruct, bool, int, float, complex, str)) for leaf in leaves):
        x64: bool = jax.config.read("jax_enable_x64")
        return (x64, *(leaf if isinstance(leaf, jax.ShapeDtypeStruct) else comparable(leaf) for leaf in leaves))
    return None


def _is_plain(tree: Tree) -> bool:
    """Whether a tree's containers are Python's own, which hold nothing beside their entries."""
    if type(tree) is dict:
        return all(map(_is_plain, tree.values()))
    if type(tree) in (tuple, list):
        return all(map(_is_plain, tree))
    return tree is None or isinstance(tree, _PLAIN)


_PLAIN = (jax.Array, jax.ShapeDtypeStruct, np.ndarray, np.generic, bool, int, float, complex, str)


@functools.lru_cache(maxsize=128)
def _remembered(layer: Layer, sample: Sample, axis_sizes: tuple[int | None, ...]) -> Plan:
    return _plan(layer, sample)


def _plan(layer: Layer, sample: Sample) -> Plan:
    recorder, output = _pass(layer, sample, train=False)
    calls = tuple(recorder.calls)
    if recorder.reads_train:
        training, _ = _pass(layer, sample, train=True)
        met = {call.path for call in calls}
        calls += tuple(call._replace(train_only=True) for call in training.calls if call.path not in met)
        recorder.merge(training)
    for call in calls:
        if call.layer._is_wrapper:
            arrays = recorder.arrays("params", call.path)
            below_it = {below(full, call.path): one for full, one in arrays.items()}
            try:
                call.layer._check_plan(below_it, (call.path, call.layer) in recorder.lifted)
            except Exception as error:
                explain(error, call.path, call.layer, call.inputs, {}, ", while shapes are planned")
                raise
    declared: dict[Kind, Mapping[str, Any]] = {}
    owners: dict[Kind, Mapping[str, str]] = {}
    for kind in KINDS:
        arrays: Arrays = recorder.arrays(kind)
        declared[kind] = MappingProxyType(arrays)
        owners[kind] = MappingProxyType(
            {full: place for place, site in recorder.sites[kind].items() for full in site.arrays}
        )
    return Plan(layer, MappingProxyType(declared), MappingProxyType(owners), calls, output)


def _pass(layer: Layer, sample: Sample, *, train: bool) -> tuple[Recorder, Any]:
    recorder = Recorder()
    seen: list[Any] = []

    # Made anew each time: JAX does not run a function again that it has seen with these shapes.
    def forward(arrays: list[Any]) -> None:
        inputs, kwargs = sample.filled(arrays)
        seen.append(specs(Planning(layer, "", train, recorder).run(inputs, kwargs)))

    on_shapes(layer, forward, jax.eval_shape, sample.specs)
    return recorder, seen[-1]


def on_shapes(layer: Layer, forward: Callable[..., Any], trace: Callable[..., Any], arrays: list[Any]) -> Any:
    """`trace(forward, arrays)`, with the axes bound that the layer reduces over and nothing around binds."""
    free = [name for name in layer._axis_names if _size(name) is None]
    for name in free:  # axes of a vmap or mesh that will be around the net when it runs
        forward = jax.vmap(forward, in_axes=None, out_axes=None, axis_name=name, axis_size=1)
    try:
        return trace(forward, arrays)
    except Exception as error:
        if free:
            error.add_note(
                f"planned with size 1 for the axes {', '.join(free)}, which nothing around binds; where that cannot "
                "serve, call init and plan inside the jax.vmap or jax.shard_map that does"
            )
        raise


def all_differences(layer: Layer, params: Tree, inputs: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Row] | None:
    """How params differ from what the net declares for these inputs; None if the inputs do not even plan."""
    try:
        rows = differences(make_plan(layer, inputs, kwargs).params, params)
    except (ValueError, TypeError, RuntimeError):
        return None  # what stopped the pass is then the best that can be said
    return fault_rows(layer, "params", rows, params)


def check_tree(plan: Plan, kind: Kind, tree: Tree) -> None:
    """Raises for parameters, or a state, that are not those of a plan; what children hold that its sample does not
    meet may be there.
    """
    declared = plan.params if kind == "params" else plan.states
    rows = fault_rows(plan.layer, kind, differences(declared, tree), tree)
    if rows:
        raise misfit_error(rows, "params" if kind == "params" else "state")


def fault_rows(layer: Layer, kind: Kind, rows: list[Row], tree: Tree) -> list[Row]:
    """The differences that are faults: an extra entry is one if nothing reads it, no child that these inputs do not
    meet either.
    """
    strangers = list(layer._strangers(kind, tree, ""))
    unread = {row.path for row in rows if any(within(row.path, path) for path in strangers)}
    faults = [row for row in rows if row.what != "extra" or row.path in unread]
    return [row._replace(what="unread") if row.what == "extra" else row for row in faults]
