"""The flow of data through a net: a forward pass on shapes, in which every layer's call is a box.

`traced` runs the forward as a plan does, nothing being computed, into a jaxpr. In it each call of a layer is one `jit`
equation whose name is the number of the call, with the layer's own computation, and its children's boxes, inside;
parameters and states are equations without inputs. So whatever is read off the jaxpr (which layer feeds which, how much
is multiplied where) is read off the computation itself.

A wrapper that holds copies (`Repeat`, `Ensemble`) has its child's box once; `copies` says how many it stands for. What
runs over time is in a `scan` equation, as it is when it runs.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from funcnets.layer import Layer
from funcnets.plan import Planning, Sample, on_shapes
from funcnets.record import Kind, Recorder, stand_in
from funcnets.shapes import Tree, is_array, join, specs

_BOX, _HELD = "layer_call_", "held_"  # what the equations of boxes, and of parameters and states, are called


class Box(NamedTuple):
    """One layer's call.

    Attributes:
      number: The number of the call, in the order in which calls begin.
      path: The layer's path. A wrapper's child has the wrapper's.
      layer: The layer.
      parent: The number of the call that this one is in; None for the net's.
      inputs: Specs of what goes in, (inputs, keyword inputs).
      output: Specs of what comes out.
    """

    number: int
    path: str
    layer: Layer
    parent: int | None
    inputs: tuple[tuple[Any, ...], dict[str, Any]]
    output: Any

    @property
    def copies(self) -> int:
        """How many copies of its child's box it stands for."""
        copies = self.layer._copies("states")
        return 1 if copies is None else copies


class Held(NamedTuple):
    """An array that a layer holds, as it meets the flow.

    Attributes:
      kind: Of the parameters, or of the states.
      path: The layer's path.
      array: The array's own path, as the layer sees it.
    """

    kind: Kind
    path: str
    array: str


class Flow(NamedTuple):
    """A traced forward.

    Attributes:
      jaxpr: The whole net's: its one equation is the net's own box.
      boxes: All calls by number. (A loop's body may be traced more than once: the equations say which calls count.)
      held: What the equations without inputs are that stand for parameters and states, by number.
      given: The calls that compute with parameters which a caller gives them.
    """

    jaxpr: Any
    boxes: tuple[Box, ...]
    held: tuple[Held, ...]
    given: frozenset[int] = frozenset()

    def box_of(self, equation: Any) -> Box | None:
        """The call that an equation of a jaxpr is; None for any other equation."""
        number = _number(equation, _BOX)
        return None if number is None else self.boxes[number]

    def held_by(self, equation: Any) -> Held | None:
        """The parameter or state that an equation stands for; None for any other equation."""
        number = _number(equation, _HELD)
        return None if number is None else self.held[number]


def traced(net: Layer, sample: tuple[Any, ...], kwargs: dict[str, Any]) -> Flow:
    """The flow of a net for a sample, in evaluation.

    Args:
      net: The net.
      sample: Its inputs, or their specs.
      kwargs: Its keyword inputs.
    """
    net.plan(*sample, **kwargs)  # raises what a plan raises
    given, pen = Sample((sample, kwargs)), _Pen()

    def forward(arrays: list[Any]) -> Any:
        inputs, named = given.filled(arrays)
        return _arrays(_Boxing(net, "", False, _Noting(pen)).run(inputs, named))

    jaxpr = on_shapes(net, forward, lambda f, arrays: jax.make_jaxpr(f)(arrays), given.specs)
    return Flow(jaxpr, tuple(pen.boxes), tuple(pen.held), frozenset(pen.given))


def _number(equation: Any, prefix: str) -> int | None:
    found = re.fullmatch(rf"{prefix}(\d+)", str(equation.params.get("name", "")))
    return int(found[1]) if found else None


class _Pen:
    """What is noted while the forward is traced."""

    def __init__(self) -> None:
        self.boxes: list[Box] = []
        self.held: list[Held] = []
        self.given: set[int] = set()
        self.open: list[int] = []


class _Noting(Recorder):
    """A plan's recorder that hands a pen on."""

    def __init__(self, pen: _Pen) -> None:
        super().__init__()
        self.notes = _Pens(pen)


class _Pens(dict[Any, Any]):
    """The notes of equal calls, which recorders share: none, as each call has a box of its own, but for the pen."""

    def __init__(self, pen: _Pen) -> None:
        super().__init__()
        self.pen = pen


class _Boxing(Planning):
    """A planned place whose calls are boxes."""

    __slots__ = ()

    @property
    def _pen(self) -> _Pen:
        notes: Any = self.recorder.notes
        return notes.pen

    def _known_by(self, inputs: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        return None

    def run(self, inputs: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        pen, number = self._pen, len(self._pen.boxes)
        parent = pen.open[-1] if pen.open else None
        pen.boxes.append(Box(number, self.path, self.layer, parent, (specs(inputs), specs(kwargs)), None))
        leaves, structure = jax.tree.flatten((inputs, kwargs))
        result: list[Any] = []

        def call(*arrays: Any) -> Any:
            given = iter(arrays)
            filled = [next(given) if is_array(leaf) else leaf for leaf in leaves]
            result.append(super(_Boxing, self).run(*jax.tree.unflatten(structure, filled)))
            return _arrays(result[-1])

        pen.open.append(number)
        try:
            arrays = _boxed(call, f"{_BOX}{number}")(*(leaf for leaf in leaves if is_array(leaf)))
        finally:
            pen.open.pop()
        found = iter(arrays)
        output = jax.tree.map(lambda leaf: next(found) if is_array(leaf) else leaf, result[-1])
        pen.boxes[number] = pen.boxes[number]._replace(output=specs(output))
        return output

    def own_params(self, declared: Tree) -> Tree:
        params = super().own_params(declared)
        if self.given is None:
            return self._marked("params", params)
        if jax.tree.leaves(params):  # another's, which are marked where they come from
            self._pen.given.add(self._pen.open[-1])
        return params

    def own_state(self, declared: Tree) -> Tree:
        return self._marked("states", super().own_state(declared))

    def read_params(self) -> Tree:
        return self._marked("params", super().read_params())

    def read_state(self) -> Tree:
        return self._marked("states", super().read_state())

    def _marked(self, kind: Kind, tree: Tree) -> Tree:
        """Arrays as equations of their own, which say what they are."""
        return jax.tree.map_with_path(lambda at, leaf: self._mark(kind, _path_of(at), jax.typeof(leaf)), tree)

    def _mark(self, kind: Kind, name: str, shape: Any) -> Any:
        self._pen.held.append(Held(kind, self.path, join(self.path, name)))
        return _boxed(lambda: stand_in(shape), f"{_HELD}{len(self._pen.held) - 1}")()


def _path_of(keys: Any) -> str:
    return jax.tree_util.keystr(keys, simple=True, separator="/")


def _arrays(tree: Tree) -> list[Any]:
    return [leaf for leaf in jax.tree.leaves(tree) if is_array(leaf)]


def _boxed(function: Callable[..., Any], name: str) -> Callable[..., Any]:
    function.__name__ = name
    return jax.jit(function, inline=False)
